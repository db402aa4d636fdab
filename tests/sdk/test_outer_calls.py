"""`rwml.outer_calls`: which calls another recorder of the process sees further out."""

import gc
import time

import pytest

from rwml import outer_calls
from rwml.outer_calls import Enrichment, OuterCalls
from rwml.schema import Message, Step, ToolCall, Usage


def request(*texts: str, role: str = "user") -> list[Message]:
    return [Message(role="system", content="s")] + [
        Message(role=role, content=text)  # type: ignore[arg-type]
        for text in texts
    ]


def test_a_call_within_an_outer_one_is_covered() -> None:
    calls = OuterCalls()
    before = time.time()
    calls.enter("1", request("q"))
    calls.enter("1", request("another"))
    within = time.time()
    assert calls.covers(request("q"), started=within)
    assert not calls.covers(request("q"), started=before - 1)
    assert not calls.covers(request("another"), started=within)
    assert not calls.covers(request("q", "r"), started=within)
    calls.leave("1")
    calls.leave("unknown")
    assert calls.covers(request("q"), started=within)  # told of late
    assert not calls.covers(request("q"), started=time.time() + 1)


def test_what_libraries_change_on_the_way_does_not_matter() -> None:
    made = (ToolCall(id="c", name="look"),)
    outer = [
        Message(role="system", content="s"),
        Message(role="assistant", content="[thinking]", tool_calls=made, name="bot"),
        Message(role="user", content="see [image] "),
    ]
    inner = [
        Message(role="developer", content="s"),
        Message(role="assistant", tool_calls=made),
        Message(role="user", content="see [image_url]"),
    ]
    calls = OuterCalls()
    calls.enter("1", outer)
    assert calls.covers(inner, started=time.time())
    other = inner[1].model_copy(update={"tool_calls": (ToolCall(id="d", name="look"),)})
    assert not calls.covers([inner[0], other, inner[2]], started=time.time())


def test_memory_is_bounded() -> None:
    calls = OuterCalls(kept=2)
    for number in range(4):
        calls.enter(str(number), request(str(number % 3)))
    covered = [calls.covers(request(text), started=time.time()) for text in "012"]
    assert covered == ["3", None, "2"]


def test_an_enrichment_is_taken_once_and_told_to_listeners() -> None:
    calls = OuterCalls()
    told: list[tuple[str, Enrichment]] = []
    stop = calls.on_enrich(lambda name, enrichment: told.append((name, enrichment)))
    calls.enter("1", request("q"))
    assert calls.take("1") is None
    assert calls.covers(request("q"), started=time.time()) == "1"
    assert calls.enrich("1", model="first", token_ids=(1, 2))
    assert calls.enrich("1", model="second", usage=Usage(prompt_tokens=3))
    expected = Enrichment(model="first", token_ids=(1, 2), usage=Usage(prompt_tokens=3))
    assert told[-1] == ("1", expected)
    assert calls.take("1") == expected
    assert calls.take("1") is None
    calls.leave("1")
    stop()
    assert calls.enrich("1", latency_s=1.0)
    assert len(told) == 2
    assert not calls.enrich("unknown", model="m")


def test_a_step_gets_what_it_lacks_and_keeps_what_it_has() -> None:
    step = Step(index=0, action=Message(role="assistant", content="a"), model="mine")
    filled = Enrichment(model="other", token_ids=(1,), logprobs=(-0.5,)).fill(step)
    assert (filled.model, filled.token_ids, filled.logprobs) == ("mine", (1,), (-0.5,))
    assert Enrichment(model="other").fill(step) is step


def test_equal_calls_at_the_same_time_are_not_mixed_up() -> None:
    calls = OuterCalls()
    calls.enter("1", request("q"))
    first = time.time()
    assert calls.covers(request("q"), started=first) == "1"
    calls.enrich("1", model="m", token_ids=(1,))
    calls.enter("2", request("q"))
    assert calls.covers(request("q"), started=time.time()) == "2"  # the first one has its own
    calls.enter("3", request("q"))
    named = calls.covers(request("q"), started=time.time())
    assert named in ("2", "3")
    calls.enrich(named or "", model="m", token_ids=(2,))
    assert calls.take("1") == Enrichment(model="m", token_ids=(1,))
    assert calls.take(named or "") == Enrichment(model="m")  # whose tokens they are is not known


def test_enrichments_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outer_calls, "KEPT_ENRICHMENTS", 2)
    calls = OuterCalls()
    for number in range(3):
        calls.enter(str(number), request(str(number)))
        calls.enrich(str(number), model="m")
    assert [calls.take(str(number)) is None for number in range(3)] == [True, False, False]


def test_a_listener_is_held_no_longer_than_its_object_and_only_once() -> None:
    class Outer:
        heard = 0

        def listen(self, name: str, enrichment: Enrichment) -> None:
            type(self).heard += 1

    calls, outer = OuterCalls(), Outer()
    calls.on_enrich(outer.listen)
    calls.on_enrich(outer.listen)
    calls.enter("1", request("q"))
    calls.enrich("1", model="m")
    assert Outer.heard == 1
    del outer
    gc.collect()
    calls.enrich("1", model="m")
    assert Outer.heard == 1


def test_of_a_long_text_both_ends_are_looked_at() -> None:
    calls = OuterCalls()
    text = "a" * 100_000
    calls.enter("1", request(text))
    assert calls.covers(request(text), started=time.time()) == "1"
    for other in ("b" + text[1:], text[:-1] + "b"):
        assert calls.covers(request(other), started=time.time()) is None
