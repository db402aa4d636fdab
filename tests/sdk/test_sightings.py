"""A call that a client and its gateway recorded counts once, and nothing else is left out."""

from collections.abc import Iterator

import pytest

from rwml import Recorder, Transition
from rwml.sightings import Sightings
from rwml.testing import memory_store


def told(source: str, *, order: str = "1", call_id: str = "c1") -> list[Transition]:
    """A tool call and an answer to a user, as one recorder saw them."""
    call = {"id": call_id, "function": {"name": "get_order", "arguments": {"id": order}}}
    with memory_store() as store, Recorder(store=store) as recorder:
        with recorder.trajectory(source=source, messages=[{"role": "user", "content": "hi"}]) as t:
            t.act({"role": "assistant", "tool_calls": [call]})
            t.observe({"role": "tool", "tool_call_id": call_id, "content": "shipped"})
            t.act({"role": "assistant", "content": "It is shipped."})
            t.observe({"role": "user", "content": "Thanks!"})
        assert recorder.flush(30)
        return list(store.transitions())


def test_the_gateways_copy_is_the_twin() -> None:
    seen = Sightings(told("langgraph") + told("litellm"))
    assert [seen.has_twin_of(each) for each in told("litellm")] == [True, True]
    assert not any(seen.has_twin_of(each) for each in told("langgraph"))


@pytest.mark.parametrize("other", [{"call_id": "c2"}, {"order": "2"}])
def test_calls_that_only_look_alike_are_two(other: dict[str, str]) -> None:
    seen = Sightings(told("langgraph"))
    call, _ = told("litellm", **other)
    assert not seen.has_twin_of(call)


def test_another_answer_to_the_same_action_is_another_transition() -> None:
    call, _ = told("litellm")
    changed = call.next_state[0].model_copy(update={"content": "lost"})
    assert not Sightings(told("langgraph")).has_twin_of(
        call.model_copy(update={"next_state": (changed,)})
    )


def test_gateways_alone_have_no_twins() -> None:
    def twice() -> Iterator[Transition]:
        yield from told("litellm")
        yield from told("litellm")

    assert not any(map(Sightings(twice()).has_twin_of, twice()))
