"""What an engine cannot do is refused, and what asks for nothing is left out."""

from typing import Any

import pytest

pytest.importorskip("transformers")

from rwml_trainer.serving.capabilities import CANNOT, EngineName, can_do, fit
from rwml_trainer.serving.request_body import FIELDS, BadRequestError

MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
# The engine ignores these; LiteLLM, in front of it, does not.
LITELLMS_OWN = {"stream_options", "user"}


def fitted(*, engine: EngineName = "transformers", shows_tools=True, **fields):
    return fit({"messages": MESSAGES, **fields}, engine=engine, tools=shows_tools)


def test_the_table_has_every_field_that_the_engine_says_it_ignores():
    from transformers.cli.serving.chat_completion import UNUSED_CHAT_COMPLETION_FIELDS

    ignored = (UNUSED_CHAT_COMPLETION_FIELDS & FIELDS) - LITELLMS_OWN
    assert ignored <= CANNOT["transformers"].keys()
    assert not can_do("transformers") & ignored


def test_the_table_names_fields_that_there_are():
    for engine, cannot in CANNOT.items():
        assert cannot.keys() <= FIELDS
        assert can_do(engine) | cannot.keys() == FIELDS


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("n", True),
        ("logprobs", True),
        ("logprobs", 1),
        ("top_logprobs", 3),
        ("stop", "x"),
        ("stop", ["x"]),
        ("tool_choice", "required"),
        ("tool_choice", {"type": "function", "function": {"name": "look"}}),
        ("parallel_tool_calls", False),
        ("presence_penalty", 0.5),
        ("frequency_penalty", -1),
        ("response_format", {"type": "json_object"}),
        ("reasoning_effort", "low"),
        ("functions", [{"name": "look"}]),
        ("function_call", "auto"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(field, value):
    with pytest.raises(BadRequestError, match=f"cannot do '{field}'") as refused:
        fitted(**{field: value})
    assert refused.value.field == field


@pytest.mark.parametrize("value", [0, 17, 10**6, 1.5, True, "2"])
def test_one_request_gets_few_answers(value):
    with pytest.raises(BadRequestError, match="'n' is a number from 1 to 16"):
        fitted(engine="vllm", n=value)
    assert fitted(engine="vllm", n=16)["n"] == 16


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 1),
        ("logprobs", False),
        ("stop", []),
        ("stop", None),
        ("tool_choice", "auto"),
        ("parallel_tool_calls", True),
        ("presence_penalty", 0.0),
        ("frequency_penalty", 0),
        ("response_format", {"type": "text"}),
        ("function_call", None),
    ],
)
def test_what_asks_for_nothing_is_left_out(field, value):
    assert fitted(**{field: value}) == {"messages": MESSAGES}


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", 0), ("seed", 7), ("max_tokens", 3), ("stream", True), ("tools", TOOLS)],
)
def test_what_it_can_do_passes(field, value):
    assert fitted(**{field: value})[field] == value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("stop", ["x"]),
        ("tools", TOOLS),
        ("tool_choice", "required"),
        ("parallel_tool_calls", False),
        ("presence_penalty", 0.5),
        ("frequency_penalty", -1),
        ("response_format", {"type": "json_object"}),
        ("logit_bias", {"5": -100}),
    ],
)
def test_vllm_does_what_transformers_does_not(field, value):
    assert fitted(engine="vllm", **{field: value})[field] == value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("functions", [{"name": "look"}]),
        ("function_call", "auto"),
        ("reasoning_effort", "low"),
    ],
)
def test_what_vllm_takes_without_effect_is_refused(field, value):
    with pytest.raises(BadRequestError, match=rf"\(vllm\) cannot do '{field}'"):
        fitted(engine="vllm", **{field: value})
    with pytest.raises(BadRequestError, match="shows it no tools"):
        fitted(engine="vllm", shows_tools=False, tools=TOOLS)


def test_tools_need_a_template_that_shows_them():
    with pytest.raises(BadRequestError, match="shows it no tools"):
        fitted(shows_tools=False, tools=TOOLS)
    assert fitted(shows_tools=False, tools=[], tool_choice="auto") == {"messages": MESSAGES}


def test_a_logit_bias_is_told_in_the_numbers_that_the_engine_takes():
    assert repr(fitted(logit_bias={"5": -100, "6": 0.5})["logit_bias"]) == "{'5': -100.0, '6': 0.5}"


@pytest.mark.parametrize(
    "value", [[5], {"a": 1}, {"5": "1"}, {"5": True}, {"5": None}, 3, {"5": 10**400}]
)
def test_a_logit_bias_that_is_none_is_refused(value):
    with pytest.raises(BadRequestError, match="must map token ids to numbers"):
        fitted(logit_bias=value)
