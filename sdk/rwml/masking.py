"""Masks tool results: the values of a JSON answer are replaced by their schema (RWML app. C.1).

A model that predicts tool results should learn what shape comes back and when an error does, not
the rows of somebody's database. `mask_to_schema` is deterministic, its output does not depend on
leaf values of equal type, and whatever it changes parses as JSON.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import NoReturn

from pydantic import JsonValue

_DATA_KEY = re.compile(
    r"""
      ^\#?\d+$                    # 42, #42
    | \d{4,}                      # order_10293, #W2611340, 2024-05-20
    | @                           # an e-mail address
    | ^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-  # a UUID
    """,
    re.VERBOSE,
)
"""Object keys that are data (ids, dates, addresses), not names of properties (rule: ours)."""


def mask_to_schema(text: str) -> str:
    """Turns a JSON text into the JSON text of its OpenAPI-style schema.

    Objects become ``{"type":"object","properties":{...}}``; keys that look like data (ids, dates,
    e-mail addresses) become ``additionalProperties``; the items of an array share one merged
    schema; several types at one place become ``anyOf``. A bare scalar is JSON too: ``51.08``
    becomes ``{"type":"number"}``. Text that is not JSON (status messages, errors, truncated JSON,
    ``NaN``) comes back unchanged.

    Source: RWML app. C.1; merging, map keys and scalars are ours.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        schema = _shape(value).schema()
        masked = json.dumps(schema, separators=(",", ":"), ensure_ascii=False)
        masked.encode()  # a key may hold a lone surrogate, which nothing downstream can store
        return masked
    except (ValueError, RecursionError):
        return text


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
        for key, item in value.items():
            if _DATA_KEY.search(key):
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
