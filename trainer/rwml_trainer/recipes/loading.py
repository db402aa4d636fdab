"""Finds a recipe by name or path, applies overrides, and says what is wrong with it.

In a file a setting may carry its origin: ``tau_d = {value = 0.2, from = "app. B.1"}``.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, JsonValue, ValidationError

from rwml.errors import RecipeError
from rwml_trainer.recipes.fields import ORIGIN
from rwml_trainer.recipes.schema import Recipe

_FOLDER = Path(__file__).parent
_WITH_ORIGIN = {"value", "from"}
SNAPSHOT = "started.json"
"""What a training writes first into its run folder; its recipe repeats the run."""


@dataclass(frozen=True)
class Resolved:
    """A recipe, and where each of its values comes from.

    Attributes:
        recipe: the checked recipe.
        origins: dotted key to a paper section, "ours", the file that set it, or "command line".
    """

    recipe: Recipe
    origins: dict[str, str]

    def table(self) -> dict[str, dict[str, JsonValue]]:
        """Each dotted key with its ``value`` and ``origin``, in the order of the schema."""
        values = dict(_flat(self.recipe.model_dump(mode="json")))
        return {k: {"value": value, "origin": self.origins[k]} for k, value in values.items()}


def recipe_names() -> list[str]:
    """Names of the recipes that come with rwml."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load_recipe(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Loads a recipe; see `resolve_recipe`."""
    return resolve_recipe(name, overrides).recipe


def resolve_recipe(name: str, overrides: Mapping[str, Any] | None = None) -> Resolved:
    """Loads a recipe, with the origin of each value.

    Args:
        name: name of a shipped recipe, path of a TOML file, or a run folder, whose recipe is used
            again.
        overrides: dotted keys to values, such as ``{"grpo.steps": 8}``; None values are skipped.

    Raises:
        RecipeError: no such recipe, not TOML, an unknown key, or a value out of range.
    """
    values, told, path = _read(name)
    for key, value in (overrides or {}).items():
        if value is not None:
            _set(values, key, value)
            told[key] = "command line"
            section, _, setting = key.rpartition(".")
            if section and setting == "steps":  # steps that are asked for win over epochs
                _set(values, f"{section}.epochs", None)
                told[f"{section}.epochs"] = "command line"
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{path}: {_explain(error)}") from error
    in_file = {key for key, _ in _flat(values)}
    defaults = origins_of(Recipe)

    def origin(key: str) -> str:
        whole = key.rpartition(".")[0]  # of a table that is one setting
        return told.get(key) or told.get(whole) or (str(path) if key in in_file else defaults[key])

    return Resolved(recipe, {key: origin(key) for key, _ in _flat(recipe.model_dump(mode="json"))})


def origins_of(model: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """Dotted keys of a recipe's settings to the origin of their defaults.

    Raises:
        RecipeError: a setting does not say where its default comes from.
    """
    found: dict[str, str] = {}
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        extra = field.json_schema_extra
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= origins_of(field.annotation, f"{key}.")
        elif isinstance(extra, dict) and extra.get(ORIGIN):
            found[key] = str(extra[ORIGIN])
        elif not field.is_required():
            raise RecipeError(f"the default of {key} has no origin: make it with setting()")
    return found


def origins_after(origins: Mapping[str, str], before: Recipe, after: Recipe) -> dict[str, str]:
    """Origins of a recipe's values after some were filled in from a dataset.

    Args:
        origins: of the values of `before`; empty where they are not known.
        before: the recipe as it was asked for.
        after: the recipe as it is run.
    """
    if not origins:
        return {}
    asked = dict(_flat(before.model_dump(mode="json")))
    settled = _flat(after.model_dump(mode="json"))
    return {
        key: origins.get(key, "ours") if key in asked and asked[key] == value else "the dataset"
        for key, value in settled
    }


def _read(name: str) -> tuple[dict[str, Any], dict[str, str], Path]:
    """Plain values of a recipe, the origins that it tells, and its path."""
    path = _FOLDER / f"{name}.toml"
    if not path.is_file():
        path = Path(name)
    if path.is_dir() and (path / SNAPSHOT).is_file():
        return _read_snapshot(path / SNAPSHOT)
    if not path.is_file():
        raise RecipeError(
            f"no recipe {name!r}: name one of {', '.join(recipe_names())}, a TOML file, or a run"
        )
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not TOML: {error}") from error
    told: dict[str, str] = {}
    values = _without_origins(values, told)
    values.setdefault("name", path.stem)
    return values, told, path


def _read_snapshot(path: Path) -> tuple[dict[str, Any], dict[str, str], Path]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        origins = told.get("origins", {})
        return dict(told["recipe"]), {str(k): str(v) for k, v in origins.items()}, path
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecipeError(f"{path} holds no recipe: name another run") from error


def _without_origins(values: dict[str, Any], told: dict[str, str], at: str = "") -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and set(value) == _WITH_ORIGIN:
            told[f"{at}{key}"] = str(value["from"])
            plain[key] = value["value"]
        elif isinstance(value, dict):
            plain[key] = _without_origins(value, told, f"{at}{key}.")
        else:
            plain[key] = value
    return plain


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


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
