"""Finders of personal data that others wrote: a small protocol, and Microsoft Presidio behind it.

A detector is told one text and says where something is, and of which kind. It sees texts without
their secrets. Nothing is downloaded here: models are the user's to install. Source: the interface
of presidio-analyzer; the protocol is ours.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from rwml.extras import require
from rwml.redaction.edits import PLACEHOLDER

KINDS = {
    "EMAIL_ADDRESS": "EMAIL",
    "PHONE_NUMBER": "PHONE",
    "CREDIT_CARD": "CARD",
    "IBAN_CODE": "IBAN",
}
"""Presidio's names of what has a kind here; its other names stay."""
MIN_SCORE = 0.5
"""How sure Presidio must be (ours)."""


class Detector(Protocol):
    """Finds personal data in a text."""

    def __call__(self, text: str) -> Iterable[tuple[int, int, str]]:
        """Start, end and kind (``PERSON``) of what was found, in any order; may overlap."""
        ...


class PresidioDetector:
    """Finds what an analyzer of Presidio finds.

    Args:
        analyzer: a ``presidio_analyzer.AnalyzerEngine``; None for one with the patterns and check
            digits that Presidio brings for `language`, without a language model. With a model
            (names, places), make the engine yourself and pass it.
        language: of the texts.
        entities: Presidio's names of what is looked for; None for all it knows.
        min_score: how sure it must be, from 0 to 1.

    Raises:
        MissingExtraError: presidio-analyzer is not installed.
    """

    def __init__(
        self,
        analyzer: Any = None,
        *,
        language: str = "en",
        entities: Sequence[str] | None = None,
        min_score: float = MIN_SCORE,
    ) -> None:
        self._analyzer = _pattern_engine(language) if analyzer is None else analyzer
        self._language = language
        self._entities = None if entities is None else list(entities)
        self._min_score = min_score

    def __call__(self, text: str) -> Iterable[tuple[int, int, str]]:
        """What the analyzer finds, by our kinds."""
        results = self._analyzer.analyze(
            text=text,
            language=self._language,
            entities=self._entities,
            score_threshold=self._min_score,
        )
        for result in results:
            kind: str = result.entity_type
            yield result.start, result.end, KINDS.get(kind, kind)


def detect(detector: Detector, text: str) -> list[tuple[int, int, str]]:
    """What a detector finds outside of placeholders: in order, the longest where several overlap.

    Raises:
        ValueError: it names a place that is not in the text.
    """
    hidden = [match.span() for match in PLACEHOLDER.finditer(text)]
    spans: list[tuple[int, int, str]] = []
    for start, end, kind in detector(text):
        if not 0 <= start <= end <= len(text):
            raise ValueError("a detector named a place that is not in the text")
        for left, right in _outside(start, end, hidden):
            spans.append((left, right, _as_kind(kind)))
    chosen: list[tuple[int, int, str]] = []
    for start, end, kind in sorted(spans, key=lambda span: (span[0], -span[1])):
        start = max(start, chosen[-1][1] if chosen else 0)  # what is left of one that overlaps
        if start < end:
            chosen.append((start, end, kind))
    return chosen


def _outside(start: int, end: int, hidden: Sequence[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    """The parts of a span that are not hidden already."""
    for left, right in hidden:
        if left < end and right > start:
            if start < left:
                yield start, left
            start = right
    if start < end:
        yield start, end


def _as_kind(name: str) -> str:
    kind = re.sub(r"[^A-Z0-9_]", "_", name.upper())[:40]
    return kind if kind[:1].isalpha() else f"X_{kind}"


@functools.cache  # it takes seconds to make
def presidio_detector() -> PresidioDetector:
    """The detector of the engine ``presidio``."""
    return PresidioDetector()


def _pattern_engine(language: str) -> Any:
    """An engine of Presidio's pattern recognizers over a tokenizer that needs no model."""
    require("presidio", "presidio_analyzer", "spacy")
    import spacy  # pyright: ignore[reportMissingImports]
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry  # pyright: ignore[reportMissingImports]
    from presidio_analyzer.nlp_engine import SpacyNlpEngine  # pyright: ignore[reportMissingImports]

    engine = SpacyNlpEngine(models=[{"lang_code": language, "model_name": "blank"}])
    engine.nlp = {language: spacy.blank(language)}
    registry = RecognizerRegistry(supported_languages=[language])
    registry.load_predefined_recognizers(languages=[language])
    return AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=[language])
