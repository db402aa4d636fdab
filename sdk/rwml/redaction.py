"""Redaction at the one boundary before disk: no secret reaches a store.

This version knows secrets (keys, tokens, private keys, passwords in connection strings). It works
on the JSON of a record, so it reaches every string in it: arguments, results, errors, schemas,
metadata and dict keys. It fails closed: what cannot be redacted is not written, and counted.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel, JsonValue

Redactor = Callable[[str], str]
"""Takes a text and returns it without what must not be stored."""

Model = TypeVar("Model", bound=BaseModel)

_SECRETS = re.compile(
    r"""
      (?P<private_key>-----BEGIN[ A-Z]*PRIVATE\ KEY-----.*?(?:-----END[ A-Z]*PRIVATE\ KEY-----|\Z))
    | (?P<aws_key>\b(?:AKIA|ASIA)[0-9A-Z]{16}\b)
    | (?P<api_key>\b(?:sk|pk|rk)-[A-Za-z0-9_\-]{16,}
        |\bgh[pousr]_[A-Za-z0-9]{20,}|\bhf_[A-Za-z0-9]{20,}|\bxox[abprs]-[A-Za-z0-9-]{10,}
        |\bAIza[0-9A-Za-z_\-]{35})
    | (?P<jwt>\beyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]+)
    | (?<=[Bb]earer\ )(?P<bearer>[A-Za-z0-9._~+/\-]{12,}=*)
    | (?<=://)(?P<credentials>[^\s/:@"']{1,256}:[^\s/@"']{1,256})(?=@)
    """,
    re.VERBOSE | re.DOTALL,
)


def redact_secrets(text: str) -> str:
    """Replaces each secret by its kind, such as ``<API_KEY>`` (kinds and patterns: ours)."""
    return _SECRETS.sub(lambda match: f"<{(match.lastgroup or 'secret').upper()}>", text)


def redact_model(model: Model, redact: Redactor) -> Model:
    """A copy of `model` in which `redact` was applied to every string, dict keys included.

    Raises:
        Exception: whatever `redact` raised, or a validation error where it broke the shape.
    """
    clean = _walk(model.model_dump(mode="json"), redact)
    return type(model).model_validate_json(json.dumps(clean))  # as it is read from the store


def redact_id(id: str, redact: Redactor) -> str:
    """An id without what must not be stored; different ids stay different."""
    clean = redact(id)
    return clean if clean == id else f"{clean}-{hashlib.sha256(id.encode()).hexdigest()[:12]}"


def _walk(value: JsonValue, redact: Redactor) -> JsonValue:
    if isinstance(value, str):
        return redact(_well_formed(value))
    if isinstance(value, list):
        return [_walk(item, redact) for item in value]
    if isinstance(value, dict):
        clean: dict[str, JsonValue] = {}
        for key, item in value.items():
            name = redact(_well_formed(key))
            while name in clean:  # two keys that look alike now: both values are kept
                name += "_"
            clean[name] = _walk(item, redact)
        return clean
    return value


def _well_formed(text: str) -> str:
    """The text with halves of surrogate pairs replaced, which no database stores."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
