"""Tools in words: what a model is told, and what is read back from its reply."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("langchain_core")

from langchain_core.messages import (
    AIMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.runnables import RunnableLambda

from rwml_adapters.tools_as_text import (
    ToolsAsText,
    parse_reply,
    render_call,
    render_tools,
)

CALL = '{"name": "look", "arguments": {"id": "7"}}'
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("reply", "text", "calls"),
    [
        (CALL, "", [("look", {"id": "7"})]),
        (f"  {CALL}\n", "", [("look", {"id": "7"})]),
        (f"```json\n{CALL}\n```", "", [("look", {"id": "7"})]),
        (f"```\n{CALL}\n```", "", [("look", {"id": "7"})]),
        (f"<tool_call>{CALL}</tool_call>", "", [("look", {"id": "7"})]),
        (f"Let me see.\n<tool_call>\n{CALL}\n</tool_call>", "Let me see.", [("look", {"id": "7"})]),
        (f"<tool_call>{CALL}", "", [("look", {"id": "7"})]),
        (
            f"<tool_call>{CALL}</tool_call>\n<tool_call>{CALL}</tool_call>",
            "",
            [("look", {"id": "7"})] * 2,
        ),
        ('{"name": "look", "parameters": {"id": 7}}', "", [("look", {"id": 7})]),
        ('{"name": "look", "arguments": "{\\"id\\": 7}"}', "", [("look", {"id": 7})]),
        ('{"name": "look"}', "", [("look", {})]),
        ('{"name": "look", "arguments": null}', "", [("look", {})]),
        ('{"name": "look", "arguments": [1]}', "", [("look", None)]),
        ('{"name": "look", "arguments": "id=7"}', "", [("look", None)]),
        ('<tool_call>{"name": "look", "arguments": {"id": }</tool_call>', "", [("look", None)]),
        ("Hello, who are you?", "Hello, who are you?", []),
        ('{"name": "Ann", "age": 7}', '{"name": "Ann", "age": 7}', []),
        ('{"name": 7, "arguments": {}}', '{"name": 7, "arguments": {}}', []),
        ("```python\nprint(1)\n```", "```python\nprint(1)\n```", []),
        ("<tool_call>I would rather not</tool_call>",) * 2 + ([],),
        ("", "", []),
        ("{" * 5000, "{" * 5000, []),
    ],
)
def test_calls_are_read_where_models_write_them(
    reply: str, text: str, calls: list[tuple[str, dict | None]]
) -> None:
    said, found = parse_reply(reply)
    assert said == text
    assert [(call.name, call.arguments) for call in found] == calls


@given(
    name=st.text(min_size=1),
    arguments=st.dictionaries(st.text(), json_values, max_size=4),
    frame=st.sampled_from(["{}", "```json\n{}\n```", "<tool_call>\n{}\n</tool_call>"]),
    lead=st.sampled_from(["", "Let me see.\n"]),
)
def test_what_is_rendered_is_read_back(name: str, arguments: dict, frame: str, lead: str) -> None:
    bare = frame == "{}"
    reply = frame.replace("{}", render_call(name, arguments))
    said, (call,) = parse_reply(reply if bare else lead + reply)
    assert said == ("" if bare else lead.strip())
    assert (call.name, call.arguments) == (name, arguments)


@given(text=st.text())
def test_no_reply_breaks_the_parser_or_is_lost(text: str) -> None:
    said, calls = parse_reply(text)
    assert calls or said == text


def test_the_model_sees_words_only_and_its_answer_becomes_a_call() -> None:
    heard: list = []

    def model(messages: list) -> AIMessage:
        heard.extend(messages)
        return AIMessage(content=f"```json\n{CALL}\n```", id="m1")

    answer = ToolsAsText(RunnableLambda(model), TOOLS).invoke(
        [
            SystemMessage(content="Be kind."),
            AIMessage(content="Hi!"),
            HumanMessage(content="Look at 6."),
            AIMessage(content="", tool_calls=[{"name": "look", "args": {"id": "6"}, "id": "a"}]),
            ToolMessage(content="six", tool_call_id="a"),
            ToolMessage(content="more", tool_call_id="b"),
        ]
    )
    assert [message.type for message in heard] == ["system", "ai", "human", "ai", "human"]
    assert heard[0].content == f"Be kind.\n\n{render_tools(TOOLS)}"
    assert json.loads(heard[3].content) == {"name": "look", "arguments": {"id": "6"}}
    assert heard[4].content == "Tool result: six\nTool result: more"
    assert answer.tool_calls[0]["name"] == "look"
    assert answer.tool_calls[0]["args"] == {"id": "7"}
    assert answer.content == ""


def test_several_calls_and_a_text_survive_the_round_trip_as_words() -> None:
    calls = [{"name": "look", "args": {"id": str(n)}, "id": str(n)} for n in range(2)]
    for shown in (calls, calls[:1]):
        (_, told) = ToolsAsText(RunnableLambda(lambda _: AIMessage(content="")), TOOLS).to_text(
            [AIMessage(content="One moment.", tool_calls=shown)]
        )
        said, found = parse_reply(str(told.content))
        assert said == "One moment."
        assert [call.arguments for call in found] == [call["args"] for call in shown]
