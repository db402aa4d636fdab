"""Builds the `rwml` program from entry points and maps errors to exit codes.

Entry points of the group ``rwml.commands`` name a function, or a `typer.Typer` with commands of
its own; a dot in the name makes a group (``record.tau2`` is ``rwml record tau2``). So the sdk
reaches no other package, and anybody can add a command; environments bring theirs (see
`rwml.cli.environments`). Exit codes: 0 done, 1 checked and found wanting, 2 wrong usage or missing
extra, 3 infrastructure.
"""

from __future__ import annotations

import os
import sys
import traceback
from importlib.metadata import entry_points, version
from typing import Annotated

import typer

from rwml.cli.environments import ENVIRONMENT_GROUPS
from rwml.cli.plugins import load_or_explain, make_typer
from rwml.errors import RwmlError

ENTRY_POINT_GROUP = "rwml.commands"

LOCAL_PRICES = ("LITELLM_LOCAL_MODEL_COST_MAP", "True")
"""Without it, importing LiteLLM asks the network for a list of prices, which no command needs."""
GROUP_HELP = {
    "record": "Record trajectories of an agent in an environment.",
    "eval": "Evaluate a model, or an agent in an environment.",
}


def build_app() -> typer.Typer:
    """The program with every installed command; one that cannot load says so when it is called."""
    app = make_typer("Learn a world model from the traffic of LLM agents, and serve it back.")
    app.callback()(_program)
    groups: dict[str, typer.Typer] = {}
    for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda e: e.name):
        group, _, name = entry.name.rpartition(".")
        if group and group not in groups:
            groups[group] = _add_group(app, group)
        parent = groups[group] if group else app
        what = f"command {entry.name!r} ({entry.value})"
        command, settings = load_or_explain(what, entry.load)
        if isinstance(command, typer.Typer):
            parent.add_typer(command, name=name)
            continue
        parent.command(name=name, context_settings=settings)(command)
    for group in sorted(ENVIRONMENT_GROUPS.keys() - groups.keys()):
        _add_group(app, group)
    return app


def main() -> None:
    """Entry point of the console script: errors of rwml become one line and an exit code."""
    os.environ.setdefault(*LOCAL_PRICES)
    try:
        build_app()()
    except RwmlError as error:
        print(f"rwml: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception:  # noqa: BLE001 - a bug: exit code 1 would read as "found wanting"
        traceback.print_exc()
        sys.exit(RwmlError.exit_code)


def _add_group(app: typer.Typer, name: str) -> typer.Typer:
    made = make_typer(GROUP_HELP.get(name, ""), cls=ENVIRONMENT_GROUPS.get(name))
    app.add_typer(made, name=name)
    return made


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"rwml {version('rwml')}")
        raise typer.Exit


def _program(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    """What comes before a command; the help text is the program's own."""
