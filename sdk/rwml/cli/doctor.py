"""`rwml doctor`: what a store holds, and whether a model could learn from it."""

from __future__ import annotations

from dataclasses import asdict

import typer

from rwml.cli.output import JsonFlag, StoreOption, emit
from rwml.store import open_store


def doctor(store: StoreOption, json: JsonFlag = False) -> None:
    """Check a store: what it holds, what is pending, what is wrong.

    Exit code 1 when it holds no transition.

    Example: rwml doctor --store sqlite:///rwml.db
    """
    with open_store(store, create=False) as opened:
        counts = opened.counts()
    ok = counts.transitions > 0
    text = "\n".join(f"{name:>14} {value}" for name, value in asdict(counts).items())
    hint = "" if ok else "\nno transition yet: record an agent, say with 'rwml record tau2'"
    emit({**asdict(counts), "ok": ok}, as_json=json, text=text + hint)
    if not ok:
        raise typer.Exit(1)
