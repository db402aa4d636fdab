"""`rwml serve`: runs behind an OpenAI-compatible endpoint, their versions, and their keys.

``rwml serve RUN`` is ``rwml serve start RUN``: whatever is no command of the group goes to it. A
run in a folder that is called like a command is ``./promote``.
"""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

from rwml.cli.plugins import make_typer
from rwml_trainer.commands.serve.keys import add_key, list_keys, revoke_key
from rwml_trainer.commands.serve.start import start
from rwml_trainer.commands.serve.versions import add, promote, rollback, show

__all__ = ["serve"]


class _StartsByDefault(TyperGroup):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts the command in that is left out."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["start", *args]
        return super().parse_args(ctx, args)


serve = make_typer(
    "Serve runs on loopback, behind a gateway with keys, until Ctrl+C or SIGTERM.\n\n"
    "Example: rwml serve runs/retail --port 8000",
    cls=_StartsByDefault,
)
serve.command("start")(start)
serve.command("add")(add)
serve.command("promote")(promote)
serve.command("rollback")(rollback)
serve.command("list")(show)
_keys = make_typer("Keys of a gateway: shown once, stored as hashes.")
_keys.command("add")(add_key)
_keys.command("list")(list_keys)
_keys.command("revoke")(revoke_key)
serve.add_typer(_keys, name="keys")
