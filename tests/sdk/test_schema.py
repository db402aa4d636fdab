"""The data model: nothing is lost on the wire, results pair by id, windows hold H turns."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue, ValidationError

from rwml import Message, Outcome, RwmlError, Step, Tool, ToolCall, Trajectory
from rwml.errors import MissingExtraError, SchemaError

text = st.text(st.characters(codec="utf-8"), max_size=30)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
arguments = st.dictionaries(text, json_values, max_size=3)
not_objects = st.one_of(
    text.filter(str.strip), st.sampled_from(["[1]", '{"a":', '{"a": NaN}', '{"a": 1e999}', "null"])
).filter(lambda raw: not _is_object(raw))
calls = st.one_of(
    st.builds(ToolCall, id=text, name=text, arguments=arguments),
    st.builds(ToolCall, id=text, name=text, raw_arguments=not_objects),
)
messages = st.builds(
    Message,
    role=st.sampled_from(["system", "developer", "user", "assistant", "tool"]),
    content=st.none() | text,
    tool_calls=st.lists(calls, max_size=3).map(tuple),
    tool_call_id=st.none() | text,
    name=st.none() | text,
    reasoning=st.none() | text.filter(bool),
)


def _is_object(raw: str) -> bool:
    try:
        value = json.loads(raw, parse_constant=lambda _: math.inf)
    except ValueError:
        return False
    return isinstance(value, dict) and "1e999" not in raw and "NaN" not in raw


def tool_step(index: int, *, calls: int = 1, status: str = "ok") -> Step:
    ids = [f"{index}-{n}" for n in range(calls)]
    return Step(
        index=index,
        action=Message(
            role="assistant", tool_calls=tuple(ToolCall(id=i, name="look") for i in ids)
        ),
        observation=tuple(
            Message(role="tool", content=f"seen {i}", tool_call_id=i) for i in reversed(ids)
        ),
        kind="tool",
        status=status,  # type: ignore[arg-type]
    )


@given(messages)
def test_message_round_trip(message: Message) -> None:
    assert Message.from_openai(message.to_openai()) == message
    assert Message.from_openai(json.loads(json.dumps(message.to_openai()))) == message
    assert Message.model_validate_json(message.model_dump_json()) == message


@given(not_objects)
def test_malformed_arguments_are_kept_as_they_came(raw: str) -> None:
    wire = {"id": "1", "type": "function", "function": {"name": "f", "arguments": raw}}
    call = ToolCall.from_openai(wire)
    assert (call.arguments, call.raw_arguments) == ({}, raw)
    assert call.to_openai() == wire


@pytest.mark.parametrize(
    "raw", ['{"a": ' + "[" * 195 + "]" * 195 + "}", '{"a": "\\ud800"}', "[" * 100_000]
)
def test_arguments_that_no_store_could_give_back_are_kept_raw(raw: str) -> None:
    call = ToolCall.from_openai({"id": "1", "function": {"name": "f", "arguments": raw}})
    assert call.raw_arguments == raw
    step = Step(index=0, action=Message(role="assistant", tool_calls=(call,)))
    assert Step.model_validate_json(step.model_dump_json()) == step


@pytest.mark.parametrize("empty", ["", "  ", None, {}])
def test_no_arguments_is_an_empty_object(empty: object) -> None:
    call = ToolCall.from_openai({"id": "1", "function": {"name": "f", "arguments": empty}})
    assert (call.arguments, call.raw_arguments) == ({}, None)


@pytest.mark.parametrize(
    "wire",
    [
        {"role": "robot", "content": "x"},
        {"content": "x"},
        "hello",
        {"role": "assistant", "tool_calls": ["x"]},
        {"role": "assistant", "tool_calls": [{"function": "x"}]},
        {"role": "tool", "tool_call_id": 5},
    ],
)
def test_what_is_no_message_is_a_schema_error(wire: object) -> None:
    with pytest.raises(SchemaError):
        Message.from_openai(wire)  # type: ignore[arg-type]


def test_content_parts_keep_text_and_name_the_rest() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image_url"}, "b", {"type": "text"}]
    assert Message.from_openai({"role": "user", "content": parts}).content == "a[image_url]b"
    one = {"role": "user", "content": {"type": "text", "text": "a"}}
    assert Message.from_openai(one).content == "a"


def test_tool_round_trip_and_refusal() -> None:
    tool = Tool(name="look", description="Looks.", parameters={"type": "object"})
    assert Tool.from_openai(tool.to_openai()) == tool
    with pytest.raises(SchemaError):
        Tool.from_openai({"type": "web_search"})


def test_models_are_frozen_and_refuse_unknown_fields() -> None:
    message = Message(role="user", content="x")
    with pytest.raises(ValidationError):
        message.content = "y"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Message(role="user", contents="x")  # type: ignore[call-arg]


def test_infinite_logprobs_survive_json() -> None:
    step = Step(index=0, action=Message(role="assistant"), token_ids=(1,), logprobs=(-math.inf,))
    assert Step.model_validate_json(step.model_dump_json()) == step


@given(st.permutations(range(4)))
def test_results_pair_by_id_whatever_their_order(order: list[int]) -> None:
    step = tool_step(0, calls=4)
    shuffled = step.model_copy(update={"observation": tuple(step.observation[n] for n in order)})
    trajectory = Trajectory(source="s", steps=(shuffled,))
    (transition,) = trajectory.transitions()
    assert [m.tool_call_id for m in transition.next_state] == ["0-0", "0-1", "0-2", "0-3"]


def test_orphan_results_come_last_and_are_counted() -> None:
    stray = Message(role="tool", content="?", tool_call_id="nobody's")
    step = tool_step(0, calls=2)
    step = step.model_copy(update={"observation": (stray, *step.observation)})
    assert step.orphans() == 1
    assert step.ordered_observation()[-1] == stray


@given(st.integers(0, 6), st.integers(0, 8))
def test_history_window_holds_the_last_turns(length: int, history: int) -> None:
    initial = (Message(role="system", content="rules"), Message(role="user", content="go"))
    trajectory = Trajectory(
        source="s", initial=initial, steps=tuple(tool_step(n) for n in range(length))
    )
    found = list(trajectory.transitions(history=history))
    assert [t.index for t in found] == list(range(length))
    for place, transition in enumerate(found):
        past = trajectory.steps[max(0, place - history) : place]
        expected = [m for step in past for m in (step.action, *step.observation)]
        assert transition.context == (*initial, *expected)
        assert len(transition.context) == 2 + 2 * min(place, history)


def test_only_known_next_states_are_transitions() -> None:
    steps = [tool_step(n, status=s) for n, s in enumerate(["ok", "error", "interrupted"])]
    pending = Step(index=3, action=Message(role="assistant", content="done"))
    trajectory = Trajectory(id="t", source="s", steps=(*steps, pending))
    assert [t.id for t in trajectory.transitions()] == ["t/0/0", "t/1/0"]
    with pytest.raises(SchemaError):
        next(trajectory.transitions(history=-1))


def test_tool_of_a_transition() -> None:
    def called(*names: str) -> str | None:
        calls = tuple(ToolCall(id=str(n), name=name) for n, name in enumerate(names))
        step = tool_step(0).model_copy(
            update={"action": Message(role="assistant", tool_calls=calls)}
        )
        return next(Trajectory(source="s", steps=(step,)).transitions()).tool

    assert (called("a"), called("a", "a"), called("a", "b"), called()) == ("a", "a", None, None)


def test_a_missing_reward_is_not_zero() -> None:
    assert Outcome().reward is None
    assert Outcome().success is None


def test_errors_survive_a_process_boundary() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(MissingExtraError("langgraph", "langchain_core")))
    assert isinstance(error, RwmlError)
    assert isinstance(error, ImportError)
    assert str(error) == "this needs the module 'langchain_core': install 'rwml[langgraph]'"


def test_json_value_is_what_metadata_takes() -> None:
    value: dict[str, JsonValue] = {"a": [1, None, {"b": "c"}]}
    trajectory = Trajectory(source="s", metadata=value)
    assert Trajectory.model_validate_json(trajectory.model_dump_json()) == trajectory
