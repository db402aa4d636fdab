"""Builds the `rwml` program from entry points and maps errors to exit codes.

Entry points of the group ``rwml.commands`` name a function; a dot in the name makes a group
(``record.tau2`` is ``rwml record tau2``). So the sdk reaches no other package, and anybody can add
a command. Exit codes: 0 done, 1 checked and found wanting, 2 wrong usage or missing extra,
3 infrastructure.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points, version
from typing import Annotated, Any

import typer

from rwml.errors import MissingExtraError, RwmlError

ENTRY_POINT_GROUP = "rwml.commands"

GROUP_HELP = {
    "record": "Record trajectories of an agent on a benchmark.",
    "eval": "Evaluate a model.",
}


def build_app() -> typer.Typer:
    """The program with every installed command; one that cannot load says so when it is called."""
    app = _typer("Learn a world model from the traffic of LLM agents, and serve it back.")
    app.callback()(_program)
    groups: dict[str, typer.Typer] = {}
    for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda e: e.name):
        group, _, name = entry.name.rpartition(".")
        if group and group not in groups:
            groups[group] = _typer(GROUP_HELP.get(group, ""))
            app.add_typer(groups[group], name=group)
        parent = groups[group] if group else app
        command, settings = _load(entry)
        parent.command(name=name, context_settings=settings)(command)
    return app


def main() -> None:
    """Entry point of the console script: errors of rwml become one line and an exit code."""
    try:
        build_app()()
    except RwmlError as error:
        print(f"rwml: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception:  # noqa: BLE001 - a bug: exit code 1 would read as "found wanting"
        traceback.print_exc()
        sys.exit(RwmlError.exit_code)


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


def _typer(text: str) -> typer.Typer:
    return typer.Typer(
        help=text,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )


def _load(entry: EntryPoint) -> tuple[Callable[..., None], dict[str, Any]]:
    try:
        command = entry.load()
        alone = _typer("")
        alone.command()(command)
        typer.main.get_command(alone)  # its parameters can be read
        return command, {}
    except Exception as error:  # noqa: BLE001 - one broken plug-in must not take the other commands with it
        reason = RwmlError(f"command {entry.name!r} ({entry.value}) cannot be loaded: {error}")
        failure = error if isinstance(error, MissingExtraError) else reason

        def broken() -> None:
            raise failure

        broken.__doc__ = f"Broken: {error}"
        # Whatever its arguments, the reason is the answer.
        return broken, {"allow_extra_args": True, "ignore_unknown_options": True}
