"""Snapshots: what was there at the time of the call, whatever is done to it later."""

import copy
import gc
import json
from typing import Any

import pytest

pytest.importorskip("langgraph")

from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from rwml.serialisation import LARGE_CHARS
from rwml_adapters.langchain.messages import to_message
from rwml_adapters.langchain.snapshots import Snapshots, freeze

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def spoil(value: Any) -> None:
    """Changes every list and dict in a value."""
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, dict | list):
            spoil(item)
    if isinstance(value, dict):
        value["spoilt"] = True
    else:
        value.append("spoilt")


@given(st.lists(JSON) | st.dictionaries(st.text(), JSON))
def test_a_copy_is_equal_and_shares_nothing_that_changes(value: Any) -> None:
    before = copy.deepcopy(value)
    taken = freeze(value)
    assert taken == before
    spoil(value)
    assert taken == before


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def shared(depth: int) -> Any:
    """As many lists as it has levels, and two to the power of that many ways through them."""
    value: Any = []
    for _ in range(depth):
        value = [value, value]
    return value


def cycle() -> Any:
    value: Any = {}
    value["self"] = [value, value]
    return value


@pytest.mark.parametrize(
    "value",
    [Hostile(), {Hostile(): Hostile()}, nested(10_000), shared(50), cycle(), {1: 2, None: {3}},
     (n for n in range(3)), {"x": (1, [2])}, b"bytes", float("nan"), 10**400, "\ud800"],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_whatever_it_is_it_becomes_something_that_can_be_stored(value: Any) -> None:
    json.dumps(freeze(value), default=lambda leaf: leaf.decode())


def test_a_message_is_looked_at_once_until_it_is_changed() -> None:
    taken = Snapshots()
    action = AIMessage("hm", tool_calls=[{"id": "1", "name": "look", "args": {"x": 1}}])
    result = ToolMessage("seen", tool_call_id="1")
    for message in (action, result):
        assert taken.of(message) is taken.of(message)
    first = taken.of(action)
    action.tool_calls = [{"id": "1", "name": "look", "args": {"x": 2}, "type": "tool_call"}]
    assert to_message(taken.of(action)).tool_calls[0].arguments == {"x": 2}
    assert to_message(first).tool_calls[0].arguments == {"x": 1}
    action.content = "well"
    assert to_message(taken.of(action)).content == "well"
    before = taken.of(result)
    result.status = "error"
    assert (taken.of(result).is_error, before.is_error) == (True, False)


def test_a_message_that_is_gone_is_not_mistaken_for_one_in_its_place() -> None:
    taken = Snapshots()
    for number in range(2_000):
        message = HumanMessage("yes", id=str(number))
        assert taken.of(message).fields["id"] == str(number)
        del message
    gc.collect()
    assert len(taken) == 0


def test_a_known_history_is_extended_and_a_changed_one_is_not() -> None:
    taken = Snapshots()
    talk: list[BaseMessage] = [HumanMessage(str(number)) for number in range(4)]
    first, history = taken.of_all(talk[:2])
    second, history = taken.of_all(talk, history)
    assert [each.fields["content"] for each in second] == ["0", "1", "2", "3"]
    assert second[:2] == first  # the same objects
    assert len(first) == 2
    talk[1].content = "changed"
    third, history = taken.of_all(talk, history)
    assert [each.fields["content"] for each in third] == ["0", "changed", "2", "3"]
    fourth, _ = taken.of_all(talk[1:], history)
    assert [each.fields["content"] for each in fourth] == ["changed", "2", "3"]


def test_offered_tools_are_recognised_and_copied() -> None:
    taken = Snapshots()
    tools = [{"name": "look", "parameters": {"type": "object"}}]
    first = taken.of_tools(tools)
    assert first is not None
    assert taken.of_tools(tools) is first
    tools[0]["parameters"]["type"] = "string"  # type: ignore[index]
    assert first.copies[0]["parameters"] == {"type": "object"}
    tools.append({"name": "more"})
    assert taken.of_tools(tools) is not first
    assert taken.of_tools([]) is None


def test_a_large_text_is_taken_as_it_is() -> None:
    text = "ü" * (LARGE_CHARS + 1)  # of which validation would make UTF-8
    for message in (ToolMessage(text, tool_call_id="c"), HumanMessage(text)):
        assert to_message(Snapshots().of(message)).content is text
