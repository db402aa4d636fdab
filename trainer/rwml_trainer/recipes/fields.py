"""What the sections of a recipe are made of: settings with an origin, thresholds of the gap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from rwml.schema import Kind

ORIGIN = "origin"
"""Key of a field's ``json_schema_extra`` under which the origin of its default stands."""

Gap = Annotated[float, Field(gt=0, le=2)]


def _form(value: object) -> str:
    if isinstance(value, Mapping):
        return "by kind"
    return "word" if isinstance(value, str) else "number"


Threshold = Annotated[
    Annotated[Gap, Tag("number")]
    | Annotated[dict[Kind, Gap], Field(min_length=1), Tag("by kind")]
    | Annotated[Literal["calibrated"], Tag("word")],
    Discriminator(_form),
]
"""A threshold of the gap; a table of them by who answers (``tool``, ``user``, ``environment``); or
"calibrated": found from the data by `rwml_trainer.calibration`."""


def setting(default: Any, origin: str, **limits: Any) -> Any:
    """A field with a default and where that comes from."""
    return Field(default=default, json_schema_extra={ORIGIN: origin}, **limits)


class Section(BaseModel):
    """A part of a recipe: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
