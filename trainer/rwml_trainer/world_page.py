"""One HTML file of predictions next to what happened: the best, the worst and the most changed.

Recorded texts are hostile until proven otherwise: everything is escaped by Jinja, control
characters and lone surrogates are spelled out, long texts are cut, and a content security policy
lets nothing run or load but the page's own style.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import JsonValue

from rwml.cli.output import printable
from rwml.extras import require
from rwml.files import whole_file
from rwml_trainer.dataset.splitting import hash_share
from rwml_trainer.world_eval import Answer, Scored, describe

SHOWN = 20
"""Examples of each section (ours)."""
LONGEST = 4_000
"""Characters of a text that are shown (ours)."""
TURNS = 2
"""Messages of a prompt that are shown, from its end (ours)."""
_FOLDER = Path(__file__).parent / "pages"


class Part(NamedTuple):
    """A text as it is shown, and how many characters before and after were left out."""

    text: str
    cut_front: int = 0
    cut_back: int = 0


class Shown(NamedTuple):
    """A predictor's answer with a line about it."""

    title: str
    text: Part


class Turn(NamedTuple):
    """A message of a prompt."""

    role: str
    text: Part


class Example(NamedTuple):
    """A row with the answers that are shown beside the truth."""

    id: str
    kind: str
    tool: str | None
    truth: Part
    answers: list[Shown]
    turns: list[Turn]


class Section(NamedTuple):
    """Examples under a heading."""

    title: str
    examples: list[Example]


def write_page(path: Path, scored: Sequence[Scored], report: Mapping[str, JsonValue]) -> None:
    """Writes the page, whole or not at all.

    Args:
        path: of the HTML file; a former one is replaced.
        scored: predictors on the same rows, in the order in which they came to be: the last one's
            best and worst predictions are shown, and where it changed most from the one before,
            where that is a model too.
        report: what `evaluate` returns.

    Raises:
        MissingExtraError: Jinja is not installed.
    """
    require("train", "jinja2")
    import jinja2
    from markupsafe import Markup

    style = (_FOLDER / "world.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    template = environment.from_string((_FOLDER / "world.html").read_text(encoding="utf-8"))
    html = template.render(
        style=Markup(style),  # noqa: S704  # our own file
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; "
        f"form-action 'none'",
        summary=_summary(scored, report),
        sections=_sections(scored, report),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, mode=0o666) as temporary:
        temporary.write_text(html, encoding="utf-8")


def _sections(scored: Sequence[Scored], report: Mapping[str, JsonValue]) -> list[Section]:
    after = scored[-1]
    ranked = sorted(range(len(after.rows)), key=lambda place: _rank(after, place))
    sections = [
        Section(f"Best of {after.name}", _examples(ranked[:SHOWN], [after])),
        Section(f"Worst of {after.name}", _examples(ranked[: -SHOWN - 1 : -1], [after])),
    ]
    compared = report.get("compared")
    names = compared[1:] if isinstance(compared, list) else []
    for before in (each for each in scored if each.name in names):
        places = sorted(
            (place for place in ranked if _change(after, before, place) != (0.0, 0.0)),
            key=lambda place: _change(after, before, place),
            reverse=True,
        )
        title = f"Most changed from {before.name} to {after.name}"
        sections.append(Section(title, _examples(places[:SHOWN], [before, after])))
    return sections


def _rank(scored: Scored, place: int) -> tuple[float, float, float]:
    """Smaller is better: by reward, then gap; equals in an order that has no meaning."""
    return -scored.rewards[place], _gap(scored, place), hash_share(scored.rows[place]["id"])


def _change(after: Scored, before: Scored, place: int) -> tuple[float, float]:
    gaps = [_gap(after, place), _gap(before, place)]
    moved = 0.0 if gaps[0] == gaps[1] else abs(gaps[0] - gaps[1])
    return abs(after.rewards[place] - before.rewards[place]), moved


def _gap(scored: Scored, place: int) -> float:
    """Mean gap over the seeds; infinite where one had no next state."""
    gaps = [answer.gap for answer in scored.answers[place]]
    known = [gap for gap in gaps if gap is not None]
    return math.fsum(known) / len(known) if len(known) == len(gaps) else math.inf


def _examples(places: Sequence[int], scored: Sequence[Scored]) -> list[Example]:
    examples = []
    for place in places:
        row = scored[0].rows[place]
        turns = [
            Turn(message["role"], _end(message["content"])) for message in row["prompt"][-TURNS:]
        ]
        examples.append(
            Example(
                id=_start(row["id"]).text,
                kind=row["kind"],
                tool=None if row["tool"] is None else _start(row["tool"]).text,
                truth=_start(row["next_state"]),
                answers=[_shown(each, place) for each in scored],
                turns=turns,
            )
        )
    return examples


def _shown(scored: Scored, place: int) -> Shown:
    """A predictor's first answer to a row."""
    answers = scored.answers[place]
    answer: Answer = answers[0]
    seeds = f", the first of {len(answers)}" if len(answers) > 1 else ""
    reward = f"reward {answer.reward:.2f}"
    if answer.prediction is None or answer.gap is None:
        return Shown(f"{scored.name}{seeds}: {reward}, no next state", _start(answer.completion))
    return Shown(f"{scored.name}{seeds}: {reward}, gap {answer.gap:.3f}", _start(answer.prediction))


def _summary(scored: Sequence[Scored], report: Mapping[str, JsonValue]) -> dict[str, Any]:
    lines = []
    for each in scored:
        figures: Any = report[each.name]
        low, high = figures["reward_ci95"]
        lines.append(
            {
                "name": each.name,
                "interval": f"{low:.3f} to {high:.3f}",
                "gap": _number(figures["gap_quantiles"]["p50"]),
                **{
                    key: _number(figures[key])
                    for key in ("reward", "skill", "format_rate", "exact")
                },
            }
        )
    comparisons: Any = report["comparisons"]
    told = [describe(comparison) for comparison in comparisons]
    keys = ("rows", "tasks", "split", "best_trivial")
    return {"predictors": lines, "comparisons": told} | {
        key: str(report[key]).replace("_", "-") if key == "split" else report[key] for key in keys
    }


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _start(text: str) -> Part:
    return Part(printable(text[:LONGEST]), cut_back=max(0, len(text) - LONGEST))


def _end(text: str) -> Part:
    cut = max(0, len(text) - LONGEST)
    return Part(printable(text[cut:]), cut_front=cut)
