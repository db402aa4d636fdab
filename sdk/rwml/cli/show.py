"""`rwml show`: one trajectory as it is stored."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from json import loads
from typing import Annotated

import typer

from rwml.cli.output import JsonFlag, StoreOption, emit, printable
from rwml.errors import UsageError
from rwml.schema import Message, Step, Trajectory
from rwml.store import Store, open_store

LISTED_IDS = 100
"""Trajectories listed where none is named (ours)."""
SHOWN_IDS = 5
"""Ids listed where a prefix fits several (ours)."""


def show(
    store: StoreOption,
    trajectory: Annotated[
        str | None,
        typer.Argument(help="Id, or a prefix that only one id has; without it, ids are listed."),
    ] = None,
    width: Annotated[
        int, typer.Option(help="Characters shown of a text; 0 for all of it.", min=0)
    ] = 400,
    json: JsonFlag = False,
) -> None:
    """Show a trajectory: what was asked, what the agent did, what came back. Or list their ids.

    Texts are shortened, unless --json asks for the stored record.

    Example: rwml show 3f2a --store sqlite:///rwml.db
    """
    with open_store(store, create=False) as opened:
        if trajectory is None:
            _list(opened, json)
            return
        found = _find(opened, trajectory)
    text = "" if json else "\n".join(_describe(found, width))
    emit(loads(found.model_dump_json()), as_json=json, text=text)


def _list(store: Store, as_json: bool) -> None:
    total = store.counts().trajectories
    listed = [
        {"id": t.id, "source": t.source, "steps": len(t.steps), "status": t.outcome.status}
        for t in islice(store.trajectories(), LISTED_IDS)
    ]
    lines = [printable("  ".join(str(value) for value in row.values())) for row in listed]
    if total > len(listed):
        lines.append(f"... and {total - len(listed)} more")
    emit({"trajectories": listed, "total": total}, as_json=as_json, text="\n".join(lines))


def _find(store: Store, wanted: str) -> Trajectory:
    """The trajectory of this id, or the only one whose id begins so.

    Raises:
        UsageError: there is none, or there are several.
    """
    exact = next(store.trajectories(id=wanted), None)
    if exact is not None:
        return exact
    ids = store.find_ids(wanted, limit=SHOWN_IDS + 1)
    if len(ids) > 1:
        names = ", ".join(map(printable, ids[:SHOWN_IDS])) + (", ..." if ids[SHOWN_IDS:] else "")
        raise UsageError(f"several trajectories begin with {wanted!r}: {names}")
    found = next(store.trajectories(id=ids[0]), None) if ids else None
    if found is None:
        raise UsageError(f"no trajectory {wanted!r} in {store.url}")
    return found


def _describe(trajectory: Trajectory, width: int) -> Iterator[str]:
    outcome = trajectory.outcome
    judged = {True: "success", False: "failed", None: "not judged"}[outcome.success]
    header = {
        "trajectory": trajectory.id,
        "source": trajectory.source,
        "task": trajectory.task_id,
        "split": trajectory.split,
        "started": trajectory.started_at and trajectory.started_at.isoformat(),
        "tools": ", ".join(tool.name for tool in trajectory.tools),
        "outcome": f"{outcome.status}, {judged}"
        + ("" if outcome.reward is None else f", reward {outcome.reward:g}"),
    }
    for name, value in header.items():
        if value:
            yield f"{name:>10} {printable(value)}"
    for message in trajectory.initial:
        yield from _message(message, width)
    for step in trajectory.steps:
        yield ""
        yield _heading(step)
        for message in (step.action, *step.ordered_observation()):
            yield from _message(message, width)


def _heading(step: Step) -> str:
    again = f", attempt {step.attempt}" if step.attempt else ""
    facts = [step.status, step.kind and f"answered by {step.kind}", step.model]
    if step.latency_s is not None:
        facts.append(f"{step.latency_s:.2f} s")
    return printable(f"step {step.index}{again}: " + ", ".join(fact for fact in facts if fact))


def _message(message: Message, width: int) -> Iterator[str]:
    answers = f" {message.tool_call_id}" if message.tool_call_id else ""
    for part, text in (("reasoning", message.reasoning), ("", message.content)):
        if text:
            label = f"{message.role}{answers}{' ' + part if part else ''}"
            yield _labelled(label, _shorten(text, width))
    for call in message.tool_calls:
        arguments = _shorten(call.arguments_text, width)
        yield _labelled("calls", f"{call.name}({arguments}) as {call.id}")


def _labelled(label: str, text: str) -> str:
    return f"{printable(label):>10} " + printable(text).replace("\n", "\n" + " " * 11)


def _shorten(text: str, width: int) -> str:
    if not width or len(text) <= width:
        return text
    return f"{text[:width]} ... ({len(text)} characters)"
