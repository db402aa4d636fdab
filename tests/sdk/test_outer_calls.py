"""`rwml.outer_calls`: which calls another recorder of the process sees further out."""

import time

from rwml.outer_calls import OuterCalls
from rwml.schema import Message, ToolCall


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
    assert covered == [True, False, True]
