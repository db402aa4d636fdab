"""What LiteLLM tells of calls, read as messages: Responses API, Anthropic's messages, callers."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwml.assemble import Hasher
from rwml.schema import Message, ToolCall
from rwml_adapters.litellm import anthropic_api
from rwml_adapters.litellm.caller import read_caller, served_version
from rwml_adapters.litellm.reading import Call, Skipped, read_call
from rwml_adapters.litellm.responses_api import (
    Histories,
    canonical_id,
    read_answer,
    read_items,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TEXT = st.text(max_size=20)
NAME = st.text(alphabet="abc_0", min_size=1, max_size=8)
OUTPUT_ITEM = st.one_of(
    st.builds(
        lambda text: {"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]},
        TEXT,
    ),
    st.builds(
        lambda name, call_id, value: {
            "type": "function_call",
            "id": "fc",
            "call_id": call_id,
            "name": name,
            "arguments": json.dumps({"at": value}),
        },
        *(NAME, NAME, TEXT),
    ),
    st.builds(
        lambda texts: {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": text} for text in texts],
        },
        st.lists(TEXT, max_size=3),
    ),
    st.just({"type": "web_search_call", "id": "ws"}),
)


def read(kwargs: dict[str, Any], response: Any = None, **more: Any) -> Call | Skipped:
    histories = more.pop("histories", None) or Histories()
    return read_call(kwargs, response, NOW, NOW, histories=histories, **more)


@given(output=st.lists(OUTPUT_ITEM, min_size=1, max_size=6))
def test_an_answer_reads_the_same_when_it_comes_back_as_history(output: list[Any]) -> None:
    hasher = Hasher(b"k")
    answer = read_answer(output)
    told = read_items([{"role": "user", "content": "q"}, *output, {"role": "user", "content": "r"}])
    if all(item["type"] == "reasoning" for item in output):
        assert [m.role for m in told] == ["user", "user"]
        return
    assert [m.role for m in told] == ["user", "assistant", "user"]
    assert hasher.message(told[1]) == hasher.message(answer)


def test_items_of_the_responses_api() -> None:
    found = read_items(
        [
            {"type": "message", "role": "developer", "content": "d"},
            {"role": "user", "content": [{"type": "input_text", "text": "see "}, {"type": "x"}]},
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "not json"},
            {"type": "custom_tool_call", "call_id": "2", "name": "g", "input": "raw"},
            {"type": "function_call_output", "call_id": "1", "output": {"a": 1}},
            {"type": "custom_tool_call_output", "call_id": "2", "output": "out"},
            {"type": "mcp_approval_response", "approve": True},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
            "nonsense",
        ],
        instructions="s",
    )
    assert [(m.role, m.content) for m in found] == [
        ("system", "s"),
        ("developer", "d"),
        ("user", "see [x]"),
        ("assistant", None),
        ("tool", '{"a": 1}'),
        ("tool", "out"),
        ("user", "[mcp_approval_response]"),
        ("assistant", "no"),
    ]
    assert found[3].tool_calls == (
        ToolCall(id="1", name="f", raw_arguments="not json"),
        ToolCall(id="2", name="g", raw_arguments="raw"),
    )
    assert [m.tool_call_id for m in found[4:6]] == ["1", "2"]
    assert read_items("q") == (Message(role="user", content="q"),)
    assert read_answer([]) == Message(role="assistant")


def test_messages_of_anthropic() -> None:
    wire = [
        {"role": "user", "content": "q"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "I look"},
                {"type": "tool_use", "id": "t", "name": "look", "input": {"at": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t", "content": "gone", "is_error": True},
                {
                    "type": "tool_result",
                    "tool_use_id": "u",
                    "content": [{"type": "text", "text": "x"}],
                },
                {"type": "text", "text": "and?"},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "v"}]},
    ]
    found = anthropic_api.read_messages(wire, system=[{"type": "text", "text": "s"}])
    assert [(m.role, m.content, m.tool_call_id) for m in found] == [
        ("system", "s", None),
        ("user", "q", None),
        ("assistant", "I look", None),
        ("tool", "gone", "t"),
        ("tool", "x", "u"),
        ("user", "and?", None),
        ("tool", None, "v"),
    ]
    assert found[2].tool_calls == (ToolCall(id="t", name="look", arguments={"at": 1}),)
    assert found[2].reasoning == "hm"
    assert anthropic_api.failed_calls(wire) == {"t"}


def wrapped(inner: str) -> str:
    text = f"litellm:custom_llm_provider:openai;model_id:m;response_id:{inner}"
    return "resp_" + base64.b64encode(text.encode()).decode()


def test_histories_are_found_by_every_name_of_a_response_and_are_bounded() -> None:
    assert canonical_id(wrapped("resp_1")) == "resp_1"
    assert canonical_id("resp_1") == "resp_1"
    known = Histories(kept=2, kept_chars=100)
    history = (Message(role="user", content="q"),)
    known.remember([wrapped("resp_1"), "encrypted", None], history)
    assert known.find("resp_1") == known.find("encrypted") == history
    known.remember(["resp_2"], history)
    assert [known.find(name) is None for name in ("resp_1", "encrypted", "resp_2")] == [
        True,
        False,
        False,
    ]
    known.remember(["resp_3"], (Message(role="user", content="x" * 200),))
    assert known.find("resp_3") is None


def response(output: list[Any], *, name: str = "resp_1", status: str = "completed") -> Any:
    usage = {"input_tokens": 3, "output_tokens": 4}
    return {"id": name, "output": output, "status": status, "usage": usage}


def test_a_response_that_names_another_gets_its_history() -> None:
    histories = Histories()
    call = {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"}
    asked: dict[str, Any] = {
        "call_type": "aresponses",
        "messages": [{"role": "user", "content": "q"}],
    }
    tools = [{"type": "function", "name": "look", "parameters": {}}, {"type": "web_search"}]
    first = read(
        {**asked, "optional_params": {"instructions": "s", "tools": tools}},
        response([call]),
        histories=histories,
    )
    assert isinstance(first, Call)
    (one,) = first.completions
    assert [m.role for m in one.messages] == ["system", "user"]
    assert [tool.name for tool in one.tools] == ["look"]
    assert one.usage is not None
    assert (one.usage.prompt_tokens, one.usage.completion_tokens) == (3, 4)
    result = {"type": "function_call_output", "call_id": "c", "output": "found"}
    follow = {
        "call_type": "aresponses",
        "messages": [result],
        "instructions": "s",
        "previous_response_id": "resp_1",
    }
    second = read(follow, response([], name="resp_2"), histories=histories)
    assert isinstance(second, Call)
    (two,) = second.completions
    assert [m.role for m in two.messages] == ["system", "user", "assistant", "tool"]
    assert not second.forgotten
    lost = read({**follow, "previous_response_id": "resp_0"}, response([]), histories=histories)
    assert isinstance(lost, Call)
    assert lost.forgotten
    assert lost.completions[0].metadata["history_unknown"] is True
    unfinished = read(asked, response([call], status="queued"), histories=histories)
    assert isinstance(unfinished, Call)
    assert unfinished.completions[0].response is None


def test_a_conversation_that_the_server_keeps_goes_on() -> None:
    histories = Histories()
    asked: dict[str, Any] = {"call_type": "responses", "conversation": {"id": "conv_1"}}
    text = [{"type": "message", "role": "assistant", "content": "a"}]
    for name, question, known in (("resp_1", "q", ["q"]), ("resp_2", "r", ["q", "a", "r"])):
        asked["messages"] = [{"role": "user", "content": question}]
        call = read(asked, response(text, name=name), histories=histories)
        assert isinstance(call, Call)
        assert [m.content for m in call.completions[0].messages] == known
        assert not call.forgotten


@pytest.mark.parametrize(
    ("kwargs", "reason"),
    [
        ({"call_type": "aembedding", "messages": [{"role": "user"}]}, "aembedding"),
        ({"call_type": "acompletion", "messages": []}, "acompletion without messages"),
        (
            {"call_type": "acompletion", "litellm_no_upstream_llm_call": True},
            "refused by the proxy",
        ),
        (
            {
                "call_type": "acompletion",
                "messages": [{"role": "user", "content": "ping"}],
                "litellm_params": {"metadata": {"tags": ["litellm-internal-health-check"]}},
            },
            "health check",
        ),
        (
            {
                "call_type": "completion",
                "messages": [{"role": "user", "content": "redacted-by-litellm"}],
            },
            "message logging is off",
        ),
    ],
)
def test_what_is_not_recorded_says_why(kwargs: dict[str, Any], reason: str) -> None:
    assert read(kwargs) == Skipped(reason)


def test_the_proxys_word_about_a_caller_counts_more_than_the_requests() -> None:
    claimed = {"tenant": "other", "session_id": "s", "user_api_key": "sk-secret"}
    assert read_caller({"litellm_params": {"metadata": claimed}}).tenant == "other"
    known = {**claimed, "user_api_key_team_alias": "acme", "user_api_key_hash": "88dc28d0f030c55e"}
    headers = {"X-RWML-Call": "a;store=0123456789abcdef", "authorization": "Bearer sk-secret"}
    caller = read_caller(
        {
            "user": "u",
            "litellm_params": {"metadata": known, "proxy_server_request": {"headers": headers}},
        }
    )
    assert caller.metadata == {"thread_id": "s", "tenant": "acme", "user": "u"}
    assert caller.client_call is not None
    assert (caller.client_call.id, caller.client_call.store) == ("a", "0123456789abcdef")
    assert caller.scope != read_caller({"litellm_params": {"metadata": claimed}}).scope
    assert "secret" not in repr(caller)


@pytest.mark.parametrize(
    ("about", "version"),
    [
        ({"model_info": {"id": "1", "rwml_version": "world@3"}}, "world@3"),
        ({"model_info": {"id": "1"}}, None),
        ({"model_info": None}, None),
        ({}, None),
    ],
)
def test_a_gateway_of_ours_says_which_version_it_asked(about: Any, version: str | None) -> None:
    assert served_version({"litellm_params": {"metadata": about}}) == version
