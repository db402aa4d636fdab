"""`rwml.assemble`: the transitions behind a stream of completions, whatever happened to it.

The property tests build a world of conversations and note each transition as it is made; the
assembler sees only the completions.
"""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwml.assemble import Assembler, AssemblyStats, Completion, Hasher, assemble
from rwml.assemble.ordering import in_order
from rwml.errors import UsageError
from rwml.records import HeaderRecord
from rwml.schema import Message, Step, Tool, ToolCall, Trajectory

KEY = b"a test's key"
START = datetime(2026, 1, 1, tzinfo=UTC)
Triple = tuple[str, str, str]
"""Context, action, next state, each as text."""


def system(text: str = "You help.") -> Message:
    return Message(role="system", content=text)


def user(text: str) -> Message:
    return Message(role="user", content=text)


def says(text: str) -> Message:
    return Message(role="assistant", content=text)


def calls(*ids: str) -> Message:
    made = tuple(ToolCall(id=name, name="look", arguments={"at": name}) for name in ids)
    return Message(role="assistant", tool_calls=made)


def result(id: str, text: str = "seen") -> Message:
    return Message(role="tool", content=text, tool_call_id=id)


def ordered(action: Message, observation: tuple[Message, ...]) -> tuple[Message, ...]:
    place = {call.id: number for number, call in enumerate(action.tool_calls)}
    return tuple(sorted(observation, key=lambda m: place.get(m.tool_call_id or "", len(place))))


def triple(context: tuple[Message, ...], action: Message, state: tuple[Message, ...]) -> Triple:
    return repr(context), repr(action), repr(state)


def triples(trajectories: list[Trajectory]) -> list[Triple]:
    return [
        triple(transition.context, transition.action, transition.next_state)
        for trajectory in trajectories
        for transition in trajectory.transitions()
    ]


@dataclass(eq=False)
class Asked:
    """An observation of an action: the request that showed it, and who answered it first."""

    request: tuple[Message, ...]
    context: tuple[Message, ...]
    answered: bool = False


@dataclass(eq=False)
class Taken:
    """An action of the world: the request before it, and the context its trajectory gives it."""

    request: tuple[Message, ...]
    context: tuple[Message, ...]
    action: Message
    asked: list[Asked] = field(default_factory=list)


class World:
    """Conversations that grow by random moves; `truth` is what was really observed."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.completions: list[Completion] = []
        self.taken: list[Taken] = []
        self.truth: set[Triple] = set()
        self.steps = 0
        self._named = 0

    def name(self) -> str:
        self._named += 1
        return f"n{self._named}"

    def grow(self, move: str) -> None:
        if move == "retry" and self.completions:
            again = self.chance.choice(self.completions)
            self._send(again.messages, again.response)
        elif move == "begin" or not self.taken:
            # two agents, two tasks: the same first request comes back
            request = (system(self.chance.choice("AB")), user(self.chance.choice("xy")))
            self._answer(request, request)
        else:
            self._go_on(move)

    def _go_on(self, move: str) -> None:
        before = self.chance.choice(self.taken[-4:] if move == "next" else self.taken)
        if before.asked and (move != "fork" or self.chance.random() < 0.5):
            asked = self.chance.choice(before.asked)  # the same request again
        elif move == "fail" and before.asked:
            return
        else:
            asked = self._observe(before, cut=move == "cut")
        if move == "fail":
            self._send(asked.request, None)
            return
        context = asked.request if asked.answered else asked.context
        asked.answered = True
        self._answer(asked.request, context)

    def _observe(self, before: Taken, *, cut: bool) -> Asked:
        ids = [call.id for call in before.action.tool_calls]
        self.chance.shuffle(ids)
        came = tuple(result(name, self.name()) for name in ids) or (user(self.name()),)
        if ids and self.chance.random() < 0.2:
            came = (*came, user(self.name()))
        context = before.context if not before.asked else before.request
        self.truth.add(triple(context, before.action, ordered(before.action, came)))
        request = (*before.request, before.action, *came)
        if cut and not before.asked:
            kept = before.request[-1:] if before.request[-1].role != "system" else ()
            summary = (user(f"So far: {self.name()}"),) if self.chance.random() < 0.5 else ()
            request = (before.request[0], *summary, *kept, before.action, *came)
        asked = Asked(request=request, context=(*context, before.action, *came))
        if before.asked:
            self.steps += 1  # the action begins a second trajectory
        before.asked.append(asked)
        return asked

    def _answer(self, request: tuple[Message, ...], context: tuple[Message, ...]) -> None:
        if self.chance.random() < 0.6:
            action = calls(*(self.name() for _ in range(self.chance.randint(1, 3))))
        else:
            action = says(self.name())
        self.steps += 1
        self.taken.append(Taken(request=request, context=context, action=action))
        self._send(request, action)

    def _send(self, request: tuple[Message, ...], response: Message | None) -> None:
        started_at = START + timedelta(seconds=len(self.completions))
        self.completions.append(
            Completion(messages=request, response=response, started_at=started_at)
        )


MOVES = ("begin", "next", "next", "next", "fork", "retry", "fail", "cut", "cut")


@st.composite
def worlds(draw: st.DrawFn, moves: tuple[str, ...] = MOVES) -> World:
    world = World(random.Random(draw(st.integers(0, 2**32))))
    for move in draw(st.lists(st.sampled_from(moves), min_size=1, max_size=40)):
        world.grow(move)
    return world


def shuffled(world: World) -> list[Completion]:
    return world.chance.sample(world.completions, len(world.completions))


def check_whole(found: list[Trajectory]) -> None:
    assert len({trajectory.id for trajectory in found}) == len(found)
    for trajectory in found:
        assert [step.index for step in trajectory.steps] == list(range(len(trajectory.steps)))
        assert trajectory.steps
        assert trajectory.steps[-1].status == "pending" or not trajectory.steps[-1].orphans()
        assert all(step.observation for step in trajectory.steps[:-1])


@given(worlds())
@settings(deadline=None, max_examples=200)
def test_the_transitions_are_those_of_the_world(world: World) -> None:
    found = list(assemble(shuffled(world), key=KEY, source="test"))
    check_whole(found)
    got = triples(found)
    assert set(got) == world.truth
    assert len(got) == len(world.truth)
    assert sum(len(trajectory.steps) for trajectory in found) == world.steps


@given(worlds())
@settings(deadline=None, max_examples=50)
def test_arrival_feeding_twice_and_other_processes_change_nothing(world: World) -> None:
    first = list(assemble(world.completions, key=KEY, source="test"))
    twice = shuffled(world) + shuffled(world)
    again = list(assemble(twice, key=KEY, source="test"))
    assert sorted(again, key=lambda t: t.id) == sorted(first, key=lambda t: t.id)


@given(worlds(moves=("begin", "next", "next", "fork", "retry")))
@settings(deadline=None, max_examples=100)
def test_online_the_order_of_arrival_does_not_matter(world: World) -> None:
    assembler = Assembler(key=KEY, source="test")
    found = written(assembler, shuffled(world))
    check_whole(found)
    got = triples(found)
    assert set(got) == world.truth
    assert len(got) == len(world.truth)
    assert all(assembler.add(completion) == [] for completion in world.completions)


@given(worlds(), st.integers(1, 4), st.integers(0, 8))
@settings(deadline=None, max_examples=100)
def test_bounded_memory_never_makes_up_a_transition(world: World, kept: int, window: int) -> None:
    found = list(assemble(shuffled(world), key=KEY, source="test", kept=kept, window=window))
    acted = {(action, state) for _, action, state in world.truth}
    assert {(action, state) for _, action, state in triples(found)} <= acted


@given(worlds())
@settings(deadline=None, max_examples=50)
def test_each_message_is_hashed_once_per_request(world: World) -> None:
    assembler = Assembler(key=KEY, source="test")
    for completion in world.completions:
        assembler.add(completion)
    received = sum(len(c.messages) + (c.response is not None) for c in world.completions)
    assert assembler.stats.hashed == received


def written(assembler: Assembler, completions: list[Completion]) -> list[Trajectory]:
    """What a store holds after the records of the completions were written."""
    headers: dict[str, Trajectory] = {}
    steps: dict[str, dict[int, Step]] = {}
    for completion in completions:
        for record in assembler.add(completion):
            if isinstance(record, HeaderRecord):
                headers[record.trajectory.id] = record.trajectory
            else:
                steps.setdefault(record.trajectory_id, {})[record.step.index] = record.step
    assert set(headers) == set(steps)
    return [
        header.model_copy(update={"steps": tuple(steps[name][n] for n in sorted(steps[name]))})
        for name, header in headers.items()
    ]


def ask(*messages: Message, answer: Message | None, **more: Any) -> Completion:
    return Completion(messages=messages, response=answer, **more)


def run(*completions: Completion) -> tuple[list[Trajectory], AssemblyStats]:
    assembler = Assembler(key=KEY, source="test")
    return written(assembler, list(completions)), assembler.stats


def states(trajectory: Trajectory) -> list[tuple[str | None, ...]]:
    return [tuple(m.content for m in step.ordered_observation()) for step in trajectory.steps]


def test_a_conversation() -> None:
    start = (system(), user("look"))
    later = (*start, calls("a", "b"), result("b", "B"), result("a", "A"))
    tools = (Tool(name="look"),)
    (found,), stats = run(
        ask(*start, answer=calls("a", "b"), tools=tools, model="m", thread_id="t"),
        ask(*later, answer=says("done"), thread_id="t", tools=(*tools, Tool(name="more"))),
    )
    assert found.initial == start
    assert [tool.name for tool in found.tools] == ["look", "more"]
    assert found.metadata == {"thread_id": "t"}
    assert states(found) == [("A", "B"), ()]
    assert [(step.kind, step.status) for step in found.steps] == [("tool", "ok"), (None, "pending")]
    assert found.steps[0].model == "m"
    assert stats == AssemblyStats(completions=2, hashed=9)


def test_an_echo_may_lack_reasoning_space_and_layout() -> None:
    answer = Message(
        role="assistant", content=" hm \n", reasoning="let me see", tool_calls=calls("a").tool_calls
    )
    echo = Message(role="assistant", content="hm", tool_calls=calls("a").tool_calls, name="bot")
    (found,), _ = run(
        ask(user("q"), answer=answer), ask(user("q"), echo, result("a"), answer=says("done"))
    )
    assert states(found) == [("seen",), ()]
    assert found.steps[0].action == answer


def test_threads_and_system_prompts_do_not_mix() -> None:
    def one(prompt: str, thread: str | None) -> list[Completion]:
        start = (system(prompt), user("q"))
        reply = user(f"{prompt}{thread}")
        return [
            ask(*start, answer=says("?"), thread_id=thread),
            ask(*start, says("?"), reply, answer=says("!"), thread_id=thread),
        ]

    pairs = [one("A", "1"), one("A", "2"), one("B", "1"), one("A", None)]
    found, stats = run(*(pair[0] for pair in pairs), *(pair[1] for pair in pairs))
    assert [states(t) for t in found] == [[(c,), ()] for c in ("A1", "A2", "B1", "ANone")]
    assert (stats.branches, stats.unlinked) == (0, 0)


def test_a_failed_call_is_no_step_but_tells_what_came_back() -> None:
    (found,), stats = run(
        ask(user("q"), answer=calls("a")),
        ask(user("q"), calls("a"), result("a"), answer=None),
    )
    assert states(found) == [("seen",)]
    assert found.steps[0].status == "ok"
    assert stats.failed == 1


def test_asked_again_with_more_messages_the_observation_grows() -> None:
    history = (user("q"), calls("a"), result("a"))
    (found,), _ = run(
        ask(user("q"), answer=calls("a")),
        ask(*history, answer=None),
        ask(*history, user("go on"), answer=says("done"), failed_calls=frozenset({"a"})),
    )
    assert states(found) == [("seen", "go on"), ()]
    assert found.steps[0].status == "error"


def test_a_cut_history_is_linked_by_its_tail() -> None:
    start = (system(), user("old"), says("old"), user("q"))
    cut = (system(), user("Summary."), calls("a"), result("a"))
    found, stats = run(
        ask(*start, answer=calls("a")),
        ask(*cut, answer=None),
        ask(*cut, answer=says("done")),
        ask(*cut, says("done"), user("thanks"), answer=says("bye")),
    )
    assert [states(t) for t in found] == [[("seen",), ("thanks",), ()]]
    assert found[0].steps[1].action == says("done")
    assert (stats.relinked, stats.unlinked) == (1, 1)  # the first answer was never seen


def test_an_ambiguous_tail_is_not_guessed() -> None:
    def start(task: str) -> tuple[Message, ...]:
        return (system(), user(task))

    found, stats = run(
        ask(*start("x"), answer=calls("call_0")),
        ask(*start("y"), answer=calls("call_0")),
        ask(system(), user("Summary."), calls("call_0"), result("call_0"), answer=says("done")),
    )
    assert [states(t) for t in found] == [[()], [()], [()]]
    assert stats.ambiguous == 1


def test_another_system_prompt_is_another_agent_even_with_the_same_tail() -> None:
    found, stats = run(
        ask(system("A"), user("q"), answer=calls("call_0")),
        ask(system("B"), calls("call_0"), result("call_0"), answer=says("done")),
    )
    assert [states(t) for t in found] == [[()], [()]]
    assert stats.unlinked == 1


def test_an_action_that_was_not_recorded_leaves_a_gap_not_a_wrong_pair() -> None:
    history = (user("q"), calls("a"), result("a", "A"), calls("b"), result("b", "B"))
    found, stats = run(ask(user("q"), answer=calls("a")), ask(*history, answer=says("done")))
    assert [states(t) for t in found] == [[("A",)], [()]]
    assert found[1].initial == history
    assert stats.unlinked == 1


def test_an_answer_to_a_prefilled_one_observes_nothing() -> None:
    found, stats = run(
        ask(user("q"), answer=says("Once")), ask(user("q"), says("Once"), answer=says("upon"))
    )
    assert [states(t) for t in found] == [[()], [()]]
    assert stats.unlinked == 1


def test_a_late_first_action_begins_the_trajectory() -> None:
    history = (user("q"), calls("a"), result("a"))
    (found,), stats = run(
        ask(*history, answer=says("done")),
        ask(*history, says("done"), user("more"), answer=None),
        ask(user("q"), answer=calls("a")),
    )
    assert found.initial == (user("q"),)
    assert states(found) == [("seen",), ("more",)]
    assert stats.late == 1


def test_a_late_action_in_between_gets_its_observation() -> None:
    start = (user("q"),)
    second = (*start, calls("a"), result("a", "A"))
    third = (*second, calls("b"), result("b", "B"))
    found, stats = run(
        ask(*start, answer=calls("a")),
        ask(*third, answer=says("done")),
        ask(*second, answer=calls("b")),
    )
    assert [states(t) for t in found] == [[("A",), ("B",)], [()]]
    assert stats.late == 1


def test_memory_is_bounded_and_closing_is_counted() -> None:
    closed: list[str] = []
    assembler = Assembler(key=KEY, source="test", kept=3, closed=closed.append)
    for number in range(10):
        assembler.add(ask(user(str(number)), answer=says("a")))
        assembler.add(ask(user(str(number)), says("?"), user("b"), answer=says("c")))
        assert len(assembler) <= 3
    assert assembler.stats.evicted == len(closed) == 17


def test_digests_need_the_key() -> None:
    message, other = Hasher(b"1").message(user("secret")), Hasher(b"2").message(user("secret"))
    assert message != other
    assert Hasher(b"1").message(user("secret")) == message
    one = list(assemble([ask(user("q"), answer=says("a"))], key=b"1", source="test"))
    two = list(assemble([ask(user("q"), answer=says("a"))], key=b"2", source="test"))
    assert one[0].id != two[0].id


@pytest.mark.parametrize("text", ["x", "\u00e9\ud800\udc00\U0001f600", " a\n"])
def test_a_long_text_is_hashed_in_pieces_to_the_same_digest(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    message = Message(role="user").model_copy(update={"content": 100 * text, "name": "n"})
    whole = Hasher(KEY).message(message)
    monkeypatch.setattr("rwml.assemble.digests._PIECE_CHARS", 7)
    assert Hasher(KEY).message(message) == whole


def test_equal_times_and_no_times_are_put_after_what_they_answer() -> None:
    start = (user("q"),)
    chain = [ask(*start, answer=says("0"))]
    for number in range(5):
        before = chain[-1]
        assert before.response is not None
        history = (*before.messages, before.response, user(f"u{number}"))
        chain.append(ask(*history, answer=says(f"{number + 1}")))
    for dated in (chain, [replace(c, started_at=START) for c in chain]):
        (found,) = assemble(dated[::-1], key=KEY, source="test")
        assert [step.action.content for step in found.steps] == ["0", "1", "2", "3", "4", "5"]


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(UsageError):
        Assembler(key=b"", source="test")
    with pytest.raises(UsageError):
        Assembler(key=bytes(65), source="test")
    with pytest.raises(UsageError):
        Assembler(key=KEY, source="test", kept=0)
    with pytest.raises(UsageError):
        assemble([], key=KEY, source="test", window=-1)


def test_long_requests_are_held_back_by_their_length() -> None:
    taken = 0

    def arriving() -> Iterator[Completion]:
        nonlocal taken
        for number in range(20):
            taken += 1
            yield ask(user("x" * 1000), answer=says(f"{number}"))

    ordered = in_order(arriving(), Hasher(KEY), window=None, window_chars=5000)
    next(ordered)
    assert taken == 6
    assert len(list(ordered)) == 19


def test_a_closed_trajectory_is_freed_at_once() -> None:
    assembler = Assembler(key=KEY, source="test", kept=1)
    question = user("once")
    is_alive = weakref.ref(question)
    gc.disable()
    try:
        assembler.add(ask(question, answer=says("a")))
        del question
        assert is_alive() is not None
        assembler.add(ask(user("twice"), answer=says("b")))
        assert is_alive() is None
    finally:
        gc.enable()
