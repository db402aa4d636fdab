"""Detectors of others: the protocol, and Presidio's real pattern recognizers behind it."""

from collections.abc import Iterable

import pytest

from rwml.errors import MissingExtraError, RedactionError
from rwml.redaction import PresidioDetector, Redaction

KEY = b"k" * 32
NAMES = ("Ann Lee", "Bob", "Lee")


def find_names(text: str) -> Iterable[tuple[int, int, str]]:
    for name in NAMES:
        start = text.find(name)
        while start >= 0:
            yield start, start + len(name), "PERSON"
            start = text.find(name, start + 1)


def test_what_a_detector_finds_is_numbered_like_the_rest() -> None:
    session = Redaction(detectors=[find_names]).session(key=KEY)
    assert (
        session.text("Ann Lee and Bob, ann@example.com") == "<PERSON_1> and <PERSON_2>, <EMAIL_1>"
    )
    assert session.text("for Bob") == "for <PERSON_2>"
    body = '{"index":0,"action":{"role":"user","content":"Bob","name":"Ann Lee"}}'
    assert session.json(body) == (
        '{"index":0,"action":{"role":"user","content":"<PERSON_2>","name":"<PERSON_1>"}}'
    )


def test_a_detector_does_not_see_secrets_nor_what_is_hidden() -> None:
    seen: list[str] = []

    def all_of_it(text: str) -> Iterable[tuple[int, int, str]]:
        seen.append(text)
        yield 0, len(text), "any thing"

    session = Redaction(detectors=[all_of_it]).session(key=KEY)
    secret = "sk-proj-Zq8vR2xLw9TnB4mKd7Yc"
    clean = session.text(f"key {secret} of ann@example.com")
    assert clean == "<ANY_THING_1><API_KEY><ANY_THING_2><EMAIL_1>"
    assert not any(secret in text or "ann@" in text for text in seen)
    assert session.text(clean) == clean


def test_personal_data_switched_off_switches_detectors_off() -> None:
    policy = Redaction(detectors=[find_names])
    assert policy.for_source("tau2:retail").session(key=KEY).text("Bob") == "Bob"


def test_a_place_that_is_not_there_is_an_error() -> None:
    session = Redaction(detectors=[lambda text: [(0, len(text) + 1, "X")]]).session(key=KEY)
    with pytest.raises(RedactionError):
        session.text("canary")


def test_a_missing_engine_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rwml.extras.find_spec", lambda name: None)
    for make in (lambda: Redaction(engine="presidio"), PresidioDetector):
        with pytest.raises(MissingExtraError, match=r"rwml\[presidio\]"):
            make()


def test_presidio_patterns_without_a_model() -> None:
    pytest.importorskip("presidio_analyzer", reason="needs presidio-analyzer")
    session = Redaction(engine="presidio").session(key=KEY)
    text = "the server 203.0.113.7 mails ann@example.com, card 4111 1111 1111 1111"
    assert session.text(text) == "the server <IP_ADDRESS_1> mails <EMAIL_1>, card <CARD_1>"
    assert session.text("203.0.113.7") == "<IP_ADDRESS_1>"


def test_an_analyzer_of_ones_own() -> None:
    presidio = pytest.importorskip("presidio_analyzer", reason="needs presidio-analyzer")
    pattern = presidio.Pattern(name="badge", regex=r"\bB-\d{4}\b", score=0.9)
    badge = presidio.PatternRecognizer(supported_entity="BADGE", patterns=[pattern])

    class Analyzer:
        """The recognizer alone: an engine would ask it the same way."""

        def analyze(self, *, text, language, entities, score_threshold):
            assert (language, entities, score_threshold) == ("en", None, 0.5)
            return badge.analyze(text, ["BADGE"])

    session = Redaction(detectors=[PresidioDetector(Analyzer())]).session(key=KEY)
    assert session.text("badge B-1234 of B-9999") == "badge <BADGE_1> of <BADGE_2>"
