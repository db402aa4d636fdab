"""`rwml.capture`: whole trajectories in or out, and opted-out tools leave nothing behind."""

import json
import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwml import Message, Step, ToolCall, Trajectory
from rwml.capture import NOT_RECORDED, NOT_RECORDED_KEY, UNKNOWN_TOOL, Capture
from rwml.errors import UsageError
from rwml.testing import make_trajectory

CANARY = "canary-7f3a9c"
SKIP = Capture(skip_tools=["get_salary"])


def header(id: str = "a", **metadata) -> Trajectory:
    return Trajectory(id=id, source="shop", metadata=metadata)


def call(id: str = "1", name: str = "get_salary") -> ToolCall:
    return ToolCall(id=id, name=name, arguments={"of": CANARY})


def action(*calls: ToolCall) -> Message:
    return Message(role="assistant", tool_calls=calls)


def result(id: str | None = "1", name: str | None = None, text: str = CANARY) -> Message:
    return Message(role="tool", content=text, tool_call_id=id, name=name)


def user(text: str = CANARY) -> Message:
    return Message(role="user", content=text)


def test_everything_is_taken_by_default() -> None:
    assert all(Capture().takes(header(str(n))) for n in range(100))
    whole = make_trajectory(1)
    assert Capture().hide_header(whole) is whole
    assert all(Capture().hide(step) is step for step in whole.steps)


def test_a_share_is_taken() -> None:
    capture = Capture(sample=0.25)
    taken = sum(capture.takes(header(str(n))) for n in range(4000))
    assert 850 < taken < 1150  # five standard deviations
    assert not any(Capture(sample=0).takes(header(str(n))) for n in range(100))


def test_a_thread_is_taken_whole() -> None:
    capture = Capture(sample=0.5)
    for thread in ("7", "", 7, 8):
        answers = {capture.takes(header(f"run-{n}", thread_id=thread)) for n in range(50)}
        assert len(answers) == (2 if thread == "" else 1)
    same = [capture.takes(header("x", thread_id=name)) for name in ("7", 7)]
    assert same[0] == same[1]


@given(st.text(min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_takes_what_a_smaller_one_takes(id: str, one: float, other: float) -> None:
    small, large = sorted((one, other))
    if Capture(sample=small).takes(header(id)):
        assert Capture(sample=large).takes(header(id))


def test_every_process_gives_the_same_answer() -> None:
    code = (
        "import json, rwml\n"
        "from rwml.capture import Capture\n"
        "c = Capture(sample=0.5)\n"
        "names = [str(n) for n in range(64)]\n"
        "print(json.dumps([c.takes(rwml.Trajectory(id=n, source='shop')) for n in names]))\n"
    )
    environment = {"PYTHONHASHSEED": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    here = [Capture(sample=0.5).takes(header(str(n))) for n in range(64)]
    assert json.loads(done.stdout) == here
    assert len(set(here)) == 2


def test_tenants_and_sources_opt_out() -> None:
    capture = Capture(skip_tenants={"acme", "7"}, skip_sources=["litellm"])
    assert not capture.takes(header(tenant="acme"))
    assert not capture.takes(header(tenant=7))
    assert capture.takes(header(tenant="globex"))
    assert capture.takes(header())
    assert not capture.takes(Trajectory(source="litellm"))


def test_a_skipped_tool_leaves_its_name_only() -> None:
    step = Step(
        index=0,
        action=Message(role="assistant", content="One moment.", tool_calls=(call(),)),
        observation=(result(name="get_salary"),),
        kind="tool",
        status="ok",
        token_ids=(1, 2),
        logprobs=(-0.1, -0.2),
        metadata={"mine": 1},
    )
    hidden = SKIP.hide(step)
    assert CANARY not in hidden.model_dump_json()
    assert hidden.action.tool_calls == (ToolCall(id="1", name="get_salary"),)
    assert hidden.action.content == "One moment."
    assert hidden.observation == (result(name="get_salary", text=NOT_RECORDED),)
    assert (hidden.token_ids, hidden.logprobs) == (None, None)  # the arguments, as numbers
    assert hidden.metadata == {"mine": 1, NOT_RECORDED_KEY: ["get_salary"]}
    assert (hidden.status, hidden.kind, hidden.index) == ("ok", "tool", 0)


def test_malformed_arguments_are_hidden_too() -> None:
    raw = ToolCall(id="1", name="get_salary", raw_arguments="{" + CANARY)
    assert CANARY not in SKIP.hide(Step(index=0, action=action(raw))).model_dump_json()


def test_other_tools_of_the_same_step_stay() -> None:
    step = Step(
        index=0,
        action=action(call("1"), call("2", "get_order")),
        observation=(result("2", text="order"), result("1")),
        token_ids=(1,),
    )
    hidden = SKIP.hide(step)
    assert [m.content for m in hidden.observation] == ["order", NOT_RECORDED]
    assert hidden.action.tool_calls[1] == call("2", "get_order")
    untouched = step.model_copy(update={"action": action(call("2", "get_order"))})
    untouched = untouched.model_copy(update={"observation": (result("2"),)})
    assert SKIP.hide(untouched) is untouched


@pytest.mark.parametrize(
    "observation",
    [
        (result(None),),  # of whatever call
        (result("late"),),  # of a call of an earlier step, and no name
        (result("1", "renamed"),),
        (result("other", "get_salary"),),
        (user(),),  # an agent that gets its results as plain text
        (Message(role="system", content=CANARY),),
        (result("2", "get_order", "order"), user()),
    ],
)
def test_what_may_be_its_result_is_hidden(observation: tuple[Message, ...]) -> None:
    bare = call().model_copy(update={"arguments": {}})
    step = Step(index=0, action=action(bare, call("2", "get_order")), observation=observation)
    shown = SKIP.hide(step).model_copy(update={"action": action(bare)})
    assert CANARY not in shown.model_dump_json()


def test_what_cannot_be_its_result_stays() -> None:
    step = Step(index=0, action=action(call()), observation=(result(), user("next question")))
    assert SKIP.hide(step).observation[1] == user("next question")
    named = Step(index=0, action=action(), observation=(result("late", "get_order"),))
    assert SKIP.hide(named) is named
    nameless = Step(index=0, action=action(), observation=(result("late"),))
    assert SKIP.hide(nameless).metadata == {NOT_RECORDED_KEY: [UNKNOWN_TOOL]}


def test_a_history_in_the_header_is_hidden_too() -> None:
    whole = Trajectory(
        source="shop",
        initial=(
            user("hello"),
            action(call("1"), call("2", "get_order")),
            result("2", text="order"),
            result("1"),
            action(call("1", "get_order")),  # ids that begin anew with each answer
            result("1"),
            user("thanks"),
        ),
        steps=(Step(index=0, action=action(call())),),
    )
    hidden = SKIP.hide_header(whole)
    shown = [m.content for m in hidden.initial]
    # the second result of id 1 may belong to either call: hidden rather than shown
    assert shown == ["hello", None, "order", NOT_RECORDED, None, NOT_RECORDED, "thanks"]
    assert hidden.metadata == {NOT_RECORDED_KEY: ["get_salary"]}
    assert CANARY not in hidden.model_copy(update={"initial": ()}).model_dump_json()
    assert SKIP.hide_header(make_trajectory(1)) == make_trajectory(1)


names = st.sampled_from(["get_salary", "get_order"])
ids = st.sampled_from(["", "1", "2"])
messages = st.lists(
    st.one_of(
        st.builds(user),
        st.builds(action, st.builds(call, ids, names)),
        st.builds(action, st.builds(call, ids, names), st.builds(call, ids, names)),
        st.builds(result, st.one_of(st.none(), ids), st.one_of(st.none(), names)),
    ),
    max_size=8,
)


@given(messages)
def test_no_argument_and_no_named_result_gets_through(history: list[Message]) -> None:
    hidden = SKIP.hide_header(Trajectory(source="shop", initial=tuple(history)))
    assert [m.role for m in hidden.initial] == [m.role for m in history]
    for before, after in zip(history, hidden.initial, strict=True):
        assert (before.name, before.tool_call_id) == (after.name, after.tool_call_id)
        assert not any(c.arguments for c in after.tool_calls if c.name == "get_salary")
        if after.name == "get_salary":
            assert after.content == NOT_RECORDED
    assert SKIP.hide_header(hidden).initial == hidden.initial


def test_it_can_be_sent_to_another_process() -> None:
    capture = Capture(sample=0.5, skip_tenants=["a"], skip_tools={"b"})
    again = pickle.loads(pickle.dumps(capture))
    assert again == capture == Capture(sample=0.5, skip_tenants=("a",), skip_tools=("b", "b"))
    assert len({again, capture}) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"sample": -0.1},
        {"sample": 1.1},
        {"sample": float("nan")},
        {"sample": "0.5"},
        {"sample": True},
        {"sample": None},
        {"skip_tools": "get_salary"},  # would be ten tools of one letter
        {"skip_tools": [1]},
        {"skip_tenants": [""]},
        {"skip_sources": [{}]},
        {"skip_sources": None},
    ],
)
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Capture(**wrong)
