"""`rwml redact --dry-run`: what the policy of this version would hide in what is stored.

It shows what would be changed, and where, but never a value itself: of each only the first
character and the length, and around it the text that is left. Nothing is written. Source: ours.
"""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

import typer
from rich.table import Table

from rwml.cli.output import JsonFlag, StoreOption, emit, no_trajectory, printable, render, track
from rwml.errors import UsageError
from rwml.redaction import Finding, Redaction
from rwml.schema import Trajectory
from rwml.store import open_store

EXAMPLES = 20
"""Values shown where nothing else is said (ours)."""


@dataclass
class _Preview:
    """What was found so far."""

    limit: int
    records: int = 0
    changed: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    examples: list[dict[str, str]] = field(default_factory=list)

    def add(self, trajectory: str, root: str, finding: Finding) -> None:
        """Counts a value, and keeps it as an example while there is room."""
        self.kinds[finding.kind] += 1
        if len(self.examples) < self.limit:
            path = ".".join(part for part in (root, finding.path) if part)
            found = {**finding._asdict(), "path": path}
            self.examples.append({"trajectory": trajectory, **found})


def redact(
    store: StoreOption,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be hidden; change nothing.")
    ] = False,
    trajectory: Annotated[str | None, typer.Option(help="Only the trajectory of this id.")] = None,
    source: Annotated[str | None, typer.Option(help="Only this source (tau2:retail).")] = None,
    personal_data: Annotated[
        bool | None,
        typer.Option(
            "--personal-data/--secrets-only",
            help="Look for personal data too; by default everywhere but in benchmarks.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(help="Values shown as examples.", min=0)] = EXAMPLES,
    json: JsonFlag = False,
) -> None:
    """Show what redaction would hide in a store: how much of each kind, and where.

    Recording hides it before anything is stored; this shows what an earlier version, another
    policy, or none at all left there. What must go is removed with 'rwml forget'.

    Example: rwml redact --dry-run --store sqlite:///rwml.db --limit 5
    """
    if not dry_run:
        raise UsageError(
            "what is stored is not rewritten: preview it with --dry-run, and remove it with "
            "'rwml forget'"
        )
    policy = Redaction(personal_data=personal_data)
    preview = _Preview(limit)
    trajectories = 0
    with open_store(store, create=False) as opened:
        total = opened.counts(id=trajectory, source=source).trajectories
        if trajectory is not None and not total:
            raise UsageError(f"no trajectory {trajectory!r} in {opened.url}")
        if source is not None and not total:
            raise UsageError(no_trajectory(opened, source))
        found = opened.trajectories(id=trajectory, source=source)
        for stored in track(found, label="redact", total=total):
            _look_at(stored, policy, preview)
            trajectories += 1
    result = {
        "trajectories": trajectories,
        "records": preview.records,
        "records_changed": preview.changed,
        "kinds": dict(sorted(preview.kinds.items())),
        "examples": preview.examples,
    }
    emit(result, as_json=json, text="" if json else _describe(preview))


def _look_at(stored: Trajectory, policy: Redaction, preview: _Preview) -> None:
    place = ["", ""]
    session = policy.for_source(stored.source).session(
        key=secrets.token_bytes(32), report=lambda finding: preview.add(place[0], place[1], finding)
    )
    place[0] = policy.session(key=secrets.token_bytes(32)).id(stored.id)  # it may hold a value
    for root, body in _bodies(stored):
        place[1] = root
        preview.records += 1
        preview.changed += session.json(body) is not body


def _bodies(stored: Trajectory) -> Iterator[tuple[str, str]]:
    """The bodies of a trajectory as they are stored, and where each is in the whole."""
    yield "", stored.model_dump_json(exclude={"steps"}, exclude_defaults=True)
    for step in stored.steps:
        yield f"steps.{step.index}", step.model_dump_json(exclude_defaults=True)


def _describe(preview: _Preview) -> str:
    if not preview.changed:
        return f"nothing to hide in {preview.records} records"
    kinds = Table("kind", "values", box=None)
    kinds.columns[1].justify = "right"
    for kind, number in preview.kinds.most_common():
        kinds.add_row(kind, str(number))
    lines = [
        printable(
            f"{example['trajectory']}  {example['path']}\n"
            f"    ...{_one_line(example['before'])}[{example['masked'] or 'the whole'}"
            f" -> {example['pseudonym']}]{_one_line(example['after'])}..."
        )
        for example in preview.examples
    ]
    changed = f"{preview.changed} of {preview.records} records would change; nothing was changed"
    return render(kinds, "", *lines, *([""] if lines else []), changed)


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)
