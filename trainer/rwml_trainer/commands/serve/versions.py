"""`rwml serve add | promote | rollback | list`: the versions of a serving folder."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rwml.cli.output import JsonFlag, emit, say
from rwml.cli.shares import read_share
from rwml.errors import ServingError, UsageError
from rwml_trainer.commands.build import RecipeOption
from rwml_trainer.commands.merge import StageOption
from rwml_trainer.commands.serve.gates import Gates, in_words
from rwml_trainer.commands.serve.listing import Listing, read_traffic
from rwml_trainer.commands.serve.options import ServingOption
from rwml_trainer.recipes import load_recipe

if TYPE_CHECKING:
    from rwml_trainer.serving.registry import Order, Outcome, Registry

POLL_S = 0.2
TIMEOUT_S = 900.0
"""For an engine to come up, with its checks (ours)."""
TimeoutOption = Annotated[float, typer.Option("--timeout", help="Seconds to wait for it.")]


def add(
    run: Annotated[Path, typer.Argument(help="RUN or RUN@STEP, or a model folder.")],
    serving: ServingOption,
    name: Annotated[
        str | None, typer.Option("--name", help="NAME or NAME@STEP; the run's by default.")
    ] = None,
    stage: StageOption = "trained",
    json: JsonFlag = False,
) -> None:
    """Add a version to a serving folder: checked, merged and hashed, not served yet.

    Example: rwml serve add runs/second --name retail --serving runs/first/serving
    """
    from rwml.extras import require
    from rwml_trainer.serving.registry import Registry
    from rwml_trainer.serving.versions import add_version, find_source

    require("serve", "torch", "transformers", "peft", "jinja2")
    source, stage = find_source(run, stage)
    added = add_version(Registry(serving), source, name=name, stage=stage, notify=say)
    emit(
        {"version": added.id, "folder": added.folder, "weights": added.weights},
        as_json=json,
        text=f"{added.id} in {added.folder}",
    )


def promote(
    version: Annotated[str, typer.Argument(help="NAME@STEP.")],
    serving: ServingOption,
    gate: Annotated[
        Path | None,
        typer.Option("--gate", help="Dataset whose held-out rows it must not predict worse."),
    ] = None,
    recipe: RecipeOption = "demo",
    rows: Annotated[
        int | None, typer.Option(help="Held-out rows, or tool calls, at most.", min=1)
    ] = None,
    gate_tools: Annotated[
        str | None,
        typer.Option("--gate-tools", help="Store (URL) whose tool calls it must not get worse."),
    ] = None,
    gate_agent: Annotated[
        str | None,
        typer.Option(
            "--gate-agent",
            help="Environment of 'rwml eval', with its options, at which it must not be worse.",
        ),
    ] = None,
    tasks: Annotated[
        int | None, typer.Option(help="Of --gate-agent, the first ones; all by default.", min=1)
    ] = None,
    canary: Annotated[
        str | None,
        typer.Option("--canary", help="Only try it, on a share of new conversations, such as 5%."),
    ] = None,
    timeout: TimeoutOption = TIMEOUT_S,
    json: JsonFlag = False,
) -> None:
    """Make a version the one that its name means, once the running server has checked it.

    With --canary the name stays, and the version answers a share of the conversations that begin.
    The server takes it back when it is shown to fail more often; 'rwml serve rollback' ends it.

    Example: rwml serve promote retail@200 --serving runs/first/serving
    """
    from rwml_trainer.serving.registry import Registry

    share = None if canary is None else _part(canary)
    registry = Registry(serving)
    _need_server(serving)
    gates = Gates(
        tools=gate_tools,
        next_states=gate,
        agent=gate_agent,
        rows=rows,
        tasks=tasks,
        recipe=load_recipe(recipe, {"evaluation.rows": rows}),
    )
    figures: dict[str, Any] = {}
    asked_at = datetime.now(UTC)
    alias = registry.read().aliases.get(version.partition("@")[0])
    for name, found in gates.passed(registry, version):
        figures[name] = found
        if found["verdict"] == "worse":
            text = f"{version} is not promoted: {in_words(name, found)}"
            emit({"ok": False, "message": text, **figures}, as_json=json, text=text)
            raise typer.Exit(1)
    kind = "promote" if share is None else "canary"
    compared_with = alias.current if alias is not None and figures else None
    order = registry.order(
        kind, version, share=share, asked_at=asked_at, compared_with=compared_with
    )
    _report(_follow(registry, order, timeout), json=json, gates=figures)


def rollback(
    name: Annotated[str, typer.Argument(help="NAME.")],
    serving: ServingOption,
    timeout: TimeoutOption = TIMEOUT_S,
    json: JsonFlag = False,
) -> None:
    """End what is tried on a name; else make it mean the version again that it meant before.

    Example: rwml serve rollback retail --serving runs/first/serving
    """
    from rwml_trainer.serving.registry import Registry

    registry = Registry(serving)
    _need_server(serving)
    _report(_follow(registry, registry.order("rollback", name), timeout), json=json)


def show(serving: ServingOption, json: JsonFlag = False) -> None:
    """List the versions of a serving folder, what each name means, and the traffic of each.

    Example: rwml serve list --serving runs/first/serving
    """
    from rwml_trainer.serving.registry import Registry
    from rwml_trainer.serving.server import is_running

    runs = is_running(serving)
    contents = Registry(serving).read()
    listing = Listing(contents, read_traffic(serving) if runs else None, is_running=runs)
    text = listing.text() if contents.versions else "no version was added yet"
    emit(listing.as_json(), as_json=json, text=text)


def _part(text: str) -> float:
    share = read_share(text, "--canary")
    if share == 1:
        raise UsageError("--canary is a part of the conversations: promote without it for all")
    return share


def _need_server(serving: Path) -> None:
    from rwml_trainer.serving.server import is_running

    if not is_running(serving):
        raise UsageError(f"no server runs on {serving}: start it with 'rwml serve'")


def _follow(registry: Registry, order: Order, timeout_s: float) -> Outcome:
    """Waits for the server to say what became of an order."""
    from rwml_trainer.serving.server import is_running

    say(f"{order.kind} to {order.version}: the server starts and checks it")
    name = order.version.partition("@")[0]
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        outcome = registry.read().aliases[name].outcome
        if outcome is not None and outcome.ticket == order.ticket:
            return outcome
        if not is_running(registry.folder):
            raise ServingError(f"the server ended before {order.version} was checked: see its log")
        time.sleep(POLL_S)
    raise ServingError(f"{order.version} was not checked in {timeout_s:g} s; see 'list' later")


def _report(outcome: Outcome, *, json: bool, gates: Mapping[str, Any] | None = None) -> None:
    """Says what became of an order, and exits accordingly."""
    gates = gates or {}
    shown = "; ".join(
        [outcome.message, *(in_words(name, figures) for name, figures in gates.items())]
    )
    emit({**outcome.model_dump(mode="json"), **gates}, as_json=json, text=shown)
    if not outcome.ok:
        raise typer.Exit(1 if outcome.found_wanting else 3)
