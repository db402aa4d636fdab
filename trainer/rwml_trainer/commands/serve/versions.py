"""`rwml serve add | promote | rollback | list`: the versions of a serving folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from rwml.cli.output import JsonFlag, emit, render, say, stdout_to_stderr
from rwml.errors import ServingError, UsageError
from rwml_trainer.commands.build import RecipeOption
from rwml_trainer.commands.merge import StageOption
from rwml_trainer.commands.serve.options import ServingOption
from rwml_trainer.recipes import Recipe, load_recipe

if TYPE_CHECKING:
    from rwml_trainer.serving.registry import Order, Outcome, Registry

POLL_S = 0.2
TIMEOUT_S = 900.0
"""For an engine to come up, with its checks (ours)."""
TimeoutOption = Annotated[float, typer.Option("--timeout", help="Seconds to wait for it.")]


def add(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run, or a model folder.")],
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
    from rwml_trainer.serving.versions import add_version

    require("serve", "torch", "transformers", "peft", "jinja2")
    added = add_version(Registry(serving), run, name=name, stage=stage, notify=say)
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
    rows: Annotated[int | None, typer.Option(help="Held-out rows at most.", min=1)] = None,
    timeout: TimeoutOption = TIMEOUT_S,
    json: JsonFlag = False,
) -> None:
    """Make a version the one that its name means, once the running server has checked it.

    Example: rwml serve promote retail@200 --serving runs/first/serving
    """
    from rwml_trainer.serving.registry import Registry

    registry = Registry(serving)
    _need_server(serving)
    figures = None
    if gate is not None:
        figures = _compare(registry, version, gate, load_recipe(recipe, {"evaluation.rows": rows}))
        if figures["verdict"] == "worse":
            text = f"{version} predicts worse: {figures['difference']:.3f} {figures['ci95']}"
            emit({"ok": False, "message": text, "gate": figures}, as_json=json, text=text)
            raise typer.Exit(1)
    outcome = _follow(registry, registry.order("promote", version), timeout)
    _report(outcome, json=json, gate=figures)


def rollback(
    name: Annotated[str, typer.Argument(help="NAME.")],
    serving: ServingOption,
    timeout: TimeoutOption = TIMEOUT_S,
    json: JsonFlag = False,
) -> None:
    """Make a name mean the version again that it meant before.

    Example: rwml serve rollback retail --serving runs/first/serving
    """
    from rwml_trainer.serving.registry import Registry

    registry = Registry(serving)
    _need_server(serving)
    _report(_follow(registry, registry.order("rollback", name), timeout), json=json)


def show(serving: ServingOption, json: JsonFlag = False) -> None:
    """List the versions of a serving folder, and which one each name means.

    Example: rwml serve list --serving runs/first/serving
    """
    from rwml_trainer.serving.registry import Registry
    from rwml_trainer.serving.server import is_running

    contents = Registry(serving).read()
    current = {alias.current: name for name, alias in contents.aliases.items()}
    runs = is_running(serving)
    table = Table()
    for heading in ("version", "means", "added", "from"):
        table.add_column(heading, overflow="fold")
    for version in contents.versions.values():
        means = current.get(version.id, "")
        table.add_row(version.id, means, f"{version.added_at:%Y-%m-%d %H:%M}", version.source)
    state = "served now" if runs else "not served now"
    emit(
        {
            "running": runs,
            "aliases": {
                name: {"current": alias.current, "former": list(alias.former)}
                for name, alias in contents.aliases.items()
            },
            "versions": [
                version.model_dump(mode="json") | {"id": version.id}
                for version in contents.versions.values()
            ],
        },
        as_json=json,
        text=render(table, state) if contents.versions else "no version was added yet",
    )


def _compare(registry: Registry, wanted: str, gate: Path, recipe: Recipe) -> dict[str, Any]:
    """How well a version predicts beside the current one."""
    from rwml.extras import require
    from rwml_trainer.serving.quality import compare_versions

    require("train", "torch", "transformers", "sentence_transformers", "rouge_score", "pyarrow")
    contents = registry.read()
    alias = contents.aliases.get(wanted.partition("@")[0])
    candidate = contents.versions.get(wanted)
    if alias is None or candidate is None:
        raise UsageError(f"there is no version {wanted!r}: add it with 'rwml serve add RUN'")
    current = contents.versions[alias.current]
    say(f"predicting held-out rows of {gate} with {wanted} and {alias.current}")
    with stdout_to_stderr():
        return compare_versions(gate, candidate=candidate, current=current, recipe=recipe)


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


def _report(outcome: Outcome, *, json: bool, gate: dict[str, Any] | None = None) -> None:
    """Says what became of an order, and exits accordingly."""
    shown = (
        outcome.message if gate is None else f"{outcome.message}; next states: {gate['verdict']}"
    )
    told = outcome.model_dump(mode="json")
    emit(told if gate is None else {**told, "gate": gate}, as_json=json, text=shown)
    if not outcome.ok:
        raise typer.Exit(1 if outcome.found_wanting else 3)
