"""`rwml record NAME` and `rwml eval NAME`, made of an environment's factory.

Factories are announced in the entry-point group ``rwml.environments``, or named as
``module:factory``. One is imported when its command is called or its help is asked for, so the
program starts as quickly however many there are. A command of the group ``rwml.commands`` with the
same name comes first.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, ClassVar, cast

from typer.core import TyperGroup

from rwml.cli.evaluate import evaluate
from rwml.cli.plugins import Command, as_click, load_or_explain
from rwml.cli.record import record
from rwml.environments import Environment, Factory
from rwml.errors import RwmlError, UsageError
from rwml.references import load_reference

ENVIRONMENT_GROUP = "rwml.environments"


class EnvironmentGroup(TyperGroup):
    """A group that has a command for every environment, besides those it was given."""

    run: ClassVar[Command]
    verb: ClassVar[str]
    example: ClassVar[str]

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of all commands, in order."""
        return sorted({*super().list_commands(ctx), *_announced()})

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command by its name.

        Raises:
            UsageError: there is none; it names those that there are.
        """
        given = super().get_command(ctx, cmd_name)
        if given is not None:
            return given
        load = _announced().get(cmd_name)
        if load is None and ":" in cmd_name:
            load = functools.partial(load_reference, cmd_name)
        if load is None:
            if cmd_name.startswith("-"):
                return None  # an option: click knows better what is wrong with it
            known = ", ".join(self.list_commands(ctx)) or "none is installed"
            raise UsageError(
                f"no environment {cmd_name!r}: use one of {known}, or name a factory as "
                f"module:factory"
            )
        run = type(self).run
        example = f"rwml {type(self).verb} {cmd_name} {type(self).example}"
        command, settings = load_or_explain(
            f"environment {cmd_name!r}",
            lambda: make_command(_factory(load()), run=run, example=example),
        )
        return as_click(command, settings, name=cmd_name)


class _RecordGroup(EnvironmentGroup):
    run = staticmethod(record)
    verb = "record"
    example = "--store sqlite:///rwml.db --tasks 20"


class _EvalGroup(EnvironmentGroup):
    run = staticmethod(evaluate)
    verb = "eval"
    example = "--out eval --trials 4"


ENVIRONMENT_GROUPS: dict[str, type[EnvironmentGroup]] = {
    group.verb: group for group in (_RecordGroup, _EvalGroup)
}


def make_command(factory: Factory, *, run: Command, example: str) -> Command:
    """A command whose options are the factory's, and then those that every environment has.

    Args:
        factory: makes the environment from its options.
        run: takes a function that makes the environment, and the other options.
        example: how the command is called.

    Raises:
        RwmlError: the factory is none, or one of its options is not annotated or is taken.
    """
    own = _parameters(factory)
    _, *shared = inspect.signature(run, eval_str=True).parameters.values()
    taken = {parameter.name for parameter in shared}
    for parameter in own:
        if parameter.name in taken:
            raise RwmlError(f"its option {parameter.name!r} is one that every environment has")

    def command(**given: Any) -> None:
        options = {parameter.name: given.pop(parameter.name) for parameter in own}
        run(_maker(factory, options), **given)

    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *shared)
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer's
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__doc__ = _help(factory, run, example)
    return command


def _factory(loaded: object) -> Factory:
    if not callable(loaded):
        raise RwmlError(f"it must be a function that makes an environment, not {loaded!r}")
    return cast("Factory", loaded)


def _announced() -> dict[str, Callable[[], object]]:
    return {entry.name: entry.load for entry in entry_points(group=ENVIRONMENT_GROUP)}


def _maker(factory: Factory, options: dict[str, Any]) -> Callable[[], Environment]:
    return functools.partial(factory, **options)


def _parameters(factory: Factory) -> list[inspect.Parameter]:
    """The factory's parameters with what their annotations mean; the return's is not looked at."""
    found = inspect.signature(factory).parameters.values()
    for parameter in found:
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            raise RwmlError(f"its parameter {parameter.name!r} cannot become an option")
        if parameter.annotation is parameter.empty:
            raise RwmlError(f"its option {parameter.name!r} has no annotation")
    texts = {parameter.name: parameter.annotation for parameter in found}
    holder = type("Options", (), {"__annotations__": texts})
    names = vars(sys.modules[factory.__module__])
    meant = inspect.get_annotations(holder, globals=names, eval_str=True)
    return [parameter.replace(annotation=meant[parameter.name]) for parameter in found]


def _help(factory: Factory, run: Command, example: str) -> str:
    return "\n\n".join([*_paragraphs(factory), *_paragraphs(run), f"Example: {example}"])


def _paragraphs(function: Callable[..., Any]) -> list[str]:
    """What a docstring says before its sections."""
    found: list[str] = []
    for paragraph in (inspect.getdoc(function) or "").split("\n\n"):
        if paragraph.startswith(("Args:", "Raises:", "Returns:", "Example")):
            break
        found.append(paragraph)
    return [paragraph for paragraph in found if paragraph]
