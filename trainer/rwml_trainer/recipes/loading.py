"""Finds a recipe by name or path, applies overrides, and says what is wrong with it."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from rwml.errors import RecipeError
from rwml_trainer.recipes.schema import Recipe

_FOLDER = Path(__file__).parent


def recipe_names() -> list[str]:
    """Names of the recipes that come with rwml."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load_recipe(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Loads a recipe.

    Args:
        name: name of a shipped recipe, or path of a TOML file.
        overrides: dotted keys to values, such as ``{"grpo.steps": 8}``; None values are skipped.

    Raises:
        RecipeError: no such recipe, not TOML, an unknown key, or a value out of range.
    """
    path = _FOLDER / f"{name}.toml"
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        raise RecipeError(
            f"no recipe {name!r}: name one of {', '.join(recipe_names())}, or a TOML file"
        )
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not TOML: {error}") from error
    values.setdefault("name", path.stem)
    for key, value in (overrides or {}).items():
        if value is not None:
            _set(values, key, value)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{path}: {_explain(error)}") from error


def _set(values: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, key = dotted.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            return  # no section: the schema will say so
    values[key] = value


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden":
        return f"{where}: {first['msg']} (got {first.get('input')!r})"
    known = sorted(_keys_at(first["loc"][:-1]))
    close = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
    return f"unknown key {where!r}: {hint}"


def _keys_at(place: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Recipe
    for part in place:
        annotation = model.model_fields[str(part)].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    return list(model.model_fields)
