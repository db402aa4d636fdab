"""Masks tool results: the values of a JSON answer are replaced by their schema (RWML app. C.1).

A model that predicts tool results should learn what shape comes back and when an error does, not
the rows of somebody's database. `mask_to_schema` is deterministic, its output does not depend on
leaf values of equal type, and whatever it changes parses as JSON. What is no JSON is never changed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, NoReturn

from pydantic import JsonValue

_DATA_KEY = re.compile(
    r"""
      ^\#?\d+$                    # 42, #42
    | \d{4,}                      # order_10293, #W2611340, 2024-05-20
    | @                           # an e-mail address
    | ^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-  # a UUID
    | ^(?=.*\d)[0-9a-fA-F]{8,}$  # a hash
    """,
    re.VERBOSE,
)
"""Object keys that are data (ids, dates, addresses), not names of properties (rule: ours)."""
_NUMBERED = re.compile(r"^(.*?)\d+$", re.DOTALL)
_MIN_NUMBERED = 3
"""From so many keys on, ``HAT001, HAT002, HAT003`` that hold objects are data (rule: ours)."""
_STARTS_LIKE_JSON = re.compile(r"\s*(?:\{\s*[\"}]|\[\s*[\[{\"\d\-\]])")
_WHOLE_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)

Outcome = Literal["schema", "text", "truncated"]
"""What masking made of a text: its schema; nothing, since it is no JSON; nothing, since its end is
missing."""


class Masked(NamedTuple):
    """A text after masking, and what masking made of it."""

    text: str
    outcome: Outcome


def mask_to_schema(text: str) -> str:
    """Turns a JSON text into the JSON text of its OpenAPI-style schema.

    Objects become ``{"type":"object","properties":{...}}``; keys that look like data (ids, dates,
    e-mail addresses) become ``additionalProperties``; the items of an array share one merged
    schema; several types at one place become ``anyOf``, null among them. A bare scalar is JSON
    too: ``51.08`` becomes ``{"type":"number"}``, ``true`` a boolean, ``"abc"`` in its quotes a
    string; ``abc`` without them is text. A number in quotes is a string. Text that is not JSON
    (status messages, errors, truncated JSON, ``NaN``) comes back unchanged.

    Source: RWML app. C.1; merging, map keys and scalars are ours.
    """
    return mask(text).text


def mask(text: str) -> Masked:
    """As `mask_to_schema`, and tells what was done, so that truncated results can be counted."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        schema = _shape(value).schema()
        masked = json.dumps(schema, separators=(",", ":"), ensure_ascii=False)
        masked.encode()  # a key may hold a lone surrogate, which nothing downstream can store
        return Masked(masked, "schema")
    except (ValueError, RecursionError):
        return Masked(text, "truncated" if _is_cut(text) else "text")


def _is_cut(text: str) -> bool:
    """Whether a text that is no JSON begins like an object or array that never ends."""
    if not _STARTS_LIKE_JSON.match(text):
        return False
    outside, quote, _ = _WHOLE_STRING.sub("", text).partition('"')
    opened = sum(map(outside.count, "{[")) - sum(map(outside.count, "}]"))
    return bool(quote) or opened > 0


@dataclass
class _Shape:
    """What was seen at one place of a JSON value; merging shapes is associative."""

    scalars: set[str] = field(default_factory=set)
    properties: dict[str, _Shape] | None = None
    values: _Shape | None = None
    is_array: bool = False
    items: _Shape | None = None

    def merge(self, other: _Shape) -> _Shape:
        """Takes in what `other` saw, keeping the order in which properties first appeared."""
        self.scalars |= other.scalars
        if other.properties is not None:
            mine = {} if self.properties is None else self.properties
            for key, shape in other.properties.items():
                mine[key] = mine[key].merge(shape) if key in mine else shape
            self.properties = mine
        self.values = _merged(self.values, other.values)
        self.is_array = self.is_array or other.is_array
        self.items = _merged(self.items, other.items)
        return self

    def schema(self) -> dict[str, JsonValue]:
        """The OpenAPI-style schema of what was seen."""
        options: list[JsonValue] = []
        if self.properties is not None:
            options.append(self._object_schema(self.properties))
        if self.is_array:
            items = self.items.schema() if self.items else {}
            options.append({"type": "array", "items": items})
        scalars = self.scalars - ({"integer"} if "number" in self.scalars else set())
        options.extend({"type": name} for name in sorted(scalars))
        if len(options) == 1 and isinstance(options[0], dict):
            return options[0]
        return {"anyOf": options}

    def _object_schema(self, properties: dict[str, _Shape]) -> dict[str, JsonValue]:
        schema: dict[str, JsonValue] = {"type": "object"}
        if properties or self.values is None:
            schema["properties"] = {key: shape.schema() for key, shape in properties.items()}
        if self.values is not None:
            schema["additionalProperties"] = self.values.schema()
        return schema


def _shape(value: JsonValue) -> _Shape:
    if isinstance(value, dict):
        shape = _Shape(properties={})
        numbered = _has_numbered_keys(value)
        for key, item in value.items():
            if numbered or _DATA_KEY.search(key):
                shape.values = _merged(shape.values, _shape(item))
            elif shape.properties is not None:
                shape.properties[key] = _shape(item)
        return shape
    if isinstance(value, list):
        shape = _Shape(is_array=True)
        for item in value:
            shape.items = _merged(shape.items, _shape(item))
        return shape
    return _Shape(scalars={_scalar_type(value)})


def _has_numbered_keys(value: dict[str, JsonValue]) -> bool:
    """Whether the keys differ in their last number alone, and each holds an object or array."""
    if len(value) < _MIN_NUMBERED or not all(isinstance(v, dict | list) for v in value.values()):
        return False
    found = [_NUMBERED.match(key) for key in value]
    return all(found) and len({match[1] for match in found if match}) == 1


def _merged(first: _Shape | None, second: _Shape | None) -> _Shape | None:
    if first is None or second is None:
        return first or second
    return first.merge(second)


def _scalar_type(value: str | int | float | bool | None) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    return "number" if isinstance(value, float) else "string"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
