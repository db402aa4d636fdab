"""Commands from entry points: one that cannot load says so when it is called, and harms no other.

Nothing here may raise while the program is built: the reason of a broken plug-in is the answer to
its own command, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from rwml.errors import MissingExtraError, RwmlError, UsageError

Command = Callable[..., None]
Loaded = Command | typer.Typer
"""A command, or a group that has commands of its own."""


def make_typer(text: str, **settings: Any) -> typer.Typer:
    """A program or group with our settings."""
    return typer.Typer(
        help=text,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        **settings,
    )


def load_or_explain(what: str, load: Callable[[], Loaded]) -> tuple[Loaded, dict[str, Any]]:
    """A command and its context settings; one that raises the reason where it cannot be loaded.

    Args:
        what: names it in the reason.
        load: imports or makes the command.
    """
    try:
        command = load()
        as_click(command, {}, name="command")  # its parameters can be read
        return command, {}
    except Exception as error:  # noqa: BLE001 - one broken plug-in must not take the other commands with it
        reason = RwmlError(f"{what} cannot be loaded: {error}")
        failure = error if isinstance(error, MissingExtraError | UsageError) else reason

        def broken() -> None:
            raise failure

        broken.__doc__ = f"Broken: {error}"
        # Whatever its arguments, the reason is the answer.
        return broken, {"allow_extra_args": True, "ignore_unknown_options": True}


def as_click(command: Loaded, settings: dict[str, Any], *, name: str) -> Any:
    """The command of typer's own kind, outside any group."""
    if isinstance(command, typer.Typer):
        return typer.main.get_command(command)
    alone = make_typer("")
    alone.command(name=name, context_settings=settings)(command)
    return typer.main.get_command(alone)
