"""What may change in a record: derived from the data model, so that the result is one again.

Roles, statuses, numbers and times are structure: they stay. Texts are cleaned, ids keep telling
values apart, and what the model leaves open (arguments, schemas, metadata) is cleaned with its
keys. Derived once per model, so a new field of the model is cleaned without a word here.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from enum import Enum, auto
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, JsonValue


class Part(Enum):
    """What a place in a record is."""

    STRUCTURE = auto()
    TEXT = auto()
    ID = auto()
    OPEN = auto()  # any JSON
    OPEN_OBJECT = auto()  # any JSON object
    FIELDS = auto()
    ITEMS = auto()


class Plan(NamedTuple):
    """A place in a record, and what is in it.

    Attributes:
        part: what it is.
        fields: of `Part.FIELDS`, by name.
        items: of `Part.ITEMS`.
    """

    part: Part
    fields: Mapping[str, Plan] = types.MappingProxyType({})
    items: Plan | None = None


STRUCTURE, TEXT, ID, OPEN = (Plan(p) for p in (Part.STRUCTURE, Part.TEXT, Part.ID, Part.OPEN))


@functools.cache
def plan_of(model: type[BaseModel]) -> Plan:
    """The plan of a model of the data model."""
    fields = {
        name: _plan(field.annotation, name=name) for name, field in model.model_fields.items()
    }
    return Plan(Part.FIELDS, types.MappingProxyType(fields))


def _plan(annotation: Any, *, name: str) -> Plan:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _plan(arguments[0], name=name)
    if origin in (Union, types.UnionType):
        plans = [_plan(a, name=name) for a in arguments if a is not type(None)]
        return plans[0] if all(plan == plans[0] for plan in plans) else OPEN
    if origin in (tuple, list):
        return Plan(Part.ITEMS, items=_plan(arguments[0], name=name))
    if origin in (dict, Mapping):
        return Plan(Part.OPEN_OBJECT)
    if annotation is str:
        return ID if name == "id" or name.endswith("_id") else TEXT
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return plan_of(annotation)
    if annotation is JsonValue or annotation is Any:
        return OPEN
    return STRUCTURE if not _may_be_text(annotation) else OPEN


def _may_be_text(annotation: Any) -> bool:
    """Of what the model does not spell out: literals, numbers and times are no texts."""
    if get_origin(annotation) is not None:  # Literal, and containers unknown here
        return not all(isinstance(value, str) for value in get_args(annotation))
    return not isinstance(annotation, type)
