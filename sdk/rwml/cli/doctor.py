"""`rwml doctor`: what a store holds, whether a model could learn from it, and if not, why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

import typer

from rwml.cli.output import JsonFlag, StoreOption, emit, printable
from rwml.diagnosis import Finding, diagnose, find_versions, look_at_environment
from rwml.errors import StoreError
from rwml.store import Counts, open_store


def doctor(store: StoreOption, json: JsonFlag = False) -> None:
    """Check a store: what it holds, what is pending, what is wrong and why.

    Exit code 1 when it holds nothing to learn from, or an error was found. Nothing is changed. Run
    it with the Python and the environment of the agent: it looks at both.

    Example: rwml doctor --store sqlite:///rwml.db
    """
    try:
        opened = open_store(store, create=False)
    except StoreError as error:
        reasons = [each.text for each in look_at_environment(store, is_empty=True)]
        raise type(error)("; ".join([str(error), *reasons])) from error
    with opened:
        counts = opened.counts()
        findings = diagnose(opened, counts)
    ok = counts.transitions > 0 and all(each.status != "error" for each in findings)
    result = {
        **asdict(counts),
        "ok": ok,
        "findings": [asdict(each) for each in findings],
        "versions": find_versions(),
    }
    emit(result, as_json=json, text=_describe(counts, findings))
    if not ok:
        raise typer.Exit(1)


def _describe(counts: Counts, findings: Iterable[Finding]) -> str:
    lines = [f"{name:>14} {value}" for name, value in asdict(counts).items()]
    for each in findings:
        lines.append(f"{each.status:>14} {each.name}: {printable(each.text)}")
        if each.hint:
            lines.append(f"{'':>14} {printable(each.hint)}")
    return "\n".join(lines)
