"""Conversations and the versions that they keep."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwml_trainer.serving.conversations import Conversations, conversation_of
from rwml_trainer.serving.trials import Candidate

MANY = 4_000


def candidate(share: float, trial: str = "first", version: str = "world@2") -> Candidate:
    return Candidate(version=version, share=share, trial=trial, since=datetime.now(UTC))


def place(known: Conversations, number: int, tried: Candidate | None, current: str = "world@1"):
    return known.place("world", b"%d" % number, current=current, candidate=tried)


def said(*messages: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in messages]}


def identity(request: dict[str, Any], *, session: bytes = b"", key: str = "k") -> bytes:
    return conversation_of(request, session=session, key=key)


def test_a_share_of_new_conversations_is_drawn_and_keeps_its_version() -> None:
    known, tried = Conversations(), candidate(0.05)
    first = [place(known, n, tried).version for n in range(MANY)]
    assert first.count("world@2") / MANY == pytest.approx(0.05, abs=0.012)
    assert [place(known, n, tried).version for n in range(MANY)] == first
    counted = known.trial(tried)
    assert counted.candidate.conversations == first.count("world@2")
    assert counted.current.conversations == first.count("world@1")


def test_what_was_known_before_a_trial_stays_where_it_is() -> None:
    known, tried = Conversations(), candidate(0.9)
    for n in range(100):
        place(known, n, None)
    assert {place(known, n, tried).version for n in range(100)} == {"world@1"}
    assert known.trial(tried).current.conversations == 0


def test_another_share_moves_nobody_and_counts_anew() -> None:
    known, little, more = Conversations(), candidate(0.2), candidate(0.8, "second")
    before = [place(known, n, little).version for n in range(200)]
    assert [place(known, n, more).version for n in range(200)] == before
    assert known.trial(more).candidate.conversations == 0
    after = [place(known, n, more).version for n in range(200, 400)]
    assert known.trial(more).candidate.conversations == after.count("world@2") > 100


def test_the_end_of_a_trial_and_a_promotion_move_all() -> None:
    for current in ("world@1", "world@2"):
        known = Conversations()
        for n in range(100):
            place(known, n, candidate(0.5))
        assert {place(known, n, None, current).version for n in range(100)} == {current}


def test_a_forgotten_conversation_is_drawn_alike() -> None:
    known, tried = Conversations(limit=1), candidate(0.5)
    first = [place(known, n, tried).version for n in range(100)]
    assert [place(known, n, tried).version for n in range(100)] == first
    assert set(first) == {"world@1", "world@2"}


def test_a_conversation_fails_once() -> None:
    known, tried = Conversations(), candidate(0.5)
    places = [place(known, n, tried) for n in range(20)]
    for _ in range(3):
        for each in places:
            each.fail()
    counted = known.trial(tried)
    assert counted.candidate.failed == counted.candidate.conversations > 0
    assert counted.current.failed == counted.current.conversations > 0


@given(system=st.text(), answer=st.text(), session=st.binary(min_size=1))
def test_a_conversation_is_what_its_client_says_or_how_it_began(
    system: str, answer: str, session: bytes
) -> None:
    first = said(("user", "hi"))
    later = said(("system", system), ("user", "hi"), ("assistant", answer), ("user", "and?"))
    assert identity(first) == identity(later)
    assert identity(first) != identity(said(("user", "ho")))
    assert identity(first, session=session) == identity(said(), session=session)
    assert identity(first) != identity(first, session=session)
    assert identity(first, session=session) != identity(first, session=session, key="other")
