"""Templates of the ``paper`` profile: shipped as TOML files, each replaceable by a user's own.

A template has the texts of a system and a user message with placeholders, and two tasks: ``rwml``
asks for reflection before the prediction, ``sft`` for the prediction alone. Nothing here knows
what a transition is.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from string import Template as Placeholders
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from rwml.errors import RecipeError

PLACEHOLDERS = frozenset(
    ("instruction", "tools", "user_information", "history", "past", "observation", "action", "task")
)
"""``past`` is the history without its last message, which is the ``observation``."""
Task = Literal["rwml", "sft"]
_SHIPPED = Path(__file__).parent / "shipped"
_SECTION_BREAK = re.compile(r"\n{2,}")


class Template(BaseModel):
    """One question.

    Attributes:
        system: system message; left out where it comes out empty.
        user: user message.
        rwml: the task that asks for reasoning and prediction.
        sft: the task that asks for the prediction alone (WM SFT).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    system: str = ""
    user: str
    rwml: str
    sft: str

    @field_validator("system", "user")
    @classmethod
    def _known_placeholders(cls, text: str) -> str:
        parts = Placeholders(text)
        unknown = sorted(set(parts.get_identifiers()) - PLACEHOLDERS)
        if unknown or not parts.is_valid():
            wrong = f"${unknown[0]}" if unknown else "a lone $ (write $$)"
            known = ", ".join(f"${name}" for name in sorted(PLACEHOLDERS))
            raise ValueError(f"{wrong} is no placeholder: use {known}")
        return text

    @field_validator("user")
    @classmethod
    def _shows_the_action(cls, text: str) -> str:
        if not {"action", "task"} <= set(Placeholders(text).get_identifiers()):
            raise ValueError("the user message must hold $action and $task")
        return text

    def fill(self, values: Mapping[str, str], *, task: Task) -> tuple[str, str]:
        """System and user message; sections whose placeholders are all empty are left out."""
        filled = {**values, "task": self.rwml if task == "rwml" else self.sft}
        return _fill(self._sections[0], filled), _fill(self._sections[1], filled)

    def read(self, name: str, *, system: str, user: str) -> str | None:
        """What stood for a placeholder in filled texts: `fill` the other way round.

        Exact where the value does not hold the template's own headings.

        Args:
            name: of a placeholder that has a section, with a heading, of its own.
            system: filled system message.
            user: filled user message.

        Returns:
            None where the template has no such section, or it was left out.
        """
        for sections, text in zip(self._sections, (system, user), strict=True):
            for place, (section, names) in enumerate(sections):
                if names == {name}:
                    after = sections[place + 1 :]
                    ends = [head for rest in after for head in self._heads(rest)]
                    return _read_section(section.template, name, text, ends)
        return None

    def _heads(self, section: _Section) -> tuple[str, ...]:
        """How a section may begin."""
        template = section[0].template
        if template.startswith(("$task", "${task}")):
            return self.rwml, self.sft
        found = Placeholders.pattern.finditer(template)
        first = next((m.start() for m in found if m["named"] or m["braced"]), len(template))
        return (_plain(template[:first]),)

    @cached_property
    def _sections(self) -> tuple[list[_Section], list[_Section]]:
        return _parse(self.system), _parse(self.user)


class Templates(BaseModel):
    """The two questions: after an action towards users and tools, and in a text environment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    agent: Template
    environment: Template

    def of(self, kind: str) -> Template:
        """The template for next states of a kind."""
        return self.environment if kind == "environment" else self.agent


def load_templates(folder: Path | None = None) -> Templates:
    """The shipped templates, or those of a folder that replace them.

    Args:
        folder: holds ``agent.toml``, ``environment.toml``, or both.

    Raises:
        RecipeError: it holds neither, or one that cannot be used.
    """
    if folder is None:
        return _shipped()
    names = [name for name in Templates.model_fields if (folder / f"{name}.toml").is_file()]
    if not names:
        raise RecipeError(f"{folder} holds no template: put agent.toml or environment.toml there")
    return _shipped().model_copy(update={n: _read(folder / f"{n}.toml") for n in names})


@lru_cache(maxsize=1)
def _shipped() -> Templates:
    found = {name: _read(_SHIPPED / f"{name}.toml") for name in Templates.model_fields}
    return Templates(**found)


def _read(path: Path) -> Template:
    try:
        return Template.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RecipeError(f"{path}: {where}: {first['msg']}") from error
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} is no template: {error}") from error


_Section = tuple[Placeholders, frozenset[str]]


def _parse(text: str) -> list[_Section]:
    sections = [Placeholders(part) for part in _SECTION_BREAK.split(text) if part]
    return [(section, frozenset(section.get_identifiers())) for section in sections]


def _plain(literal: str) -> str:
    return literal.replace("$$", "$")


def _read_section(template: str, name: str, text: str, ends: list[str]) -> str | None:
    """The value of a section's one placeholder; `ends` are the beginnings of later sections."""
    before, after = map(_plain, re.split(rf"\$(?:\{{{name}\}}|{name}\b)", template, maxsplit=1))
    found = 0 if text.startswith(before) else text.find(f"\n\n{before}") + 2
    if not before or not text.startswith(before, found):
        return None
    start = found + len(before)
    stops = (text.rfind(f"\n\n{end}") for end in ends if end)
    stop = next((stop for stop in stops if stop >= start), len(text))
    return text[start:stop].removesuffix(after).strip()


def _fill(sections: list[_Section], values: Mapping[str, str]) -> str:
    kept = [
        section.substitute(values).strip()
        for section, names in sections
        if not names or any(values[name] for name in names)
    ]
    return "\n\n".join(text for text in kept if text)
