"""The content field of chat messages: its text, and references to what is no text.

Images, audio and files are never stored: a reference says what was there, how large it was and its
hash, so that two of them can be told apart. This module must not import anything of rwml.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from pydantic import BaseModel, ConfigDict

_TEXTS = ("text", "input_text", "output_text")
_DATA_KEYS = ("data", "file_data", "base64", "bytes")
_REFERENCE_KEYS = ("url", "file_id", "file_uri", "id")
_MEDIA_KEYS = ("media_type", "mime_type", "format")

SIMULATED_MARK = "[rwml: simulated] "
"""How a text begins that a world model said in place of a tool (ours). It stands in the text, so
that every recorder sees it, of whatever framework and behind whatever gateway."""
NOT_RUN_MARK = "[rwml: not run] "
"""How a text begins that tells an agent that its call was held back (ours)."""


class Frozen(BaseModel):
    """Base of the data model: immutable, and unknown fields are an error, not a silent loss."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Part(Frozen):
    """A part of a message that is no text (an image, a file): what it was, never its bytes.

    Attributes:
        type: as the provider calls it (``image_url``, ``input_audio``, ``file``, ...).
        media_type: such as ``image/png``, where known.
        sha256: of the bytes where they were in the message, else of the URL or id in hex.
        size: number of bytes; None where the message only refers to them.
    """

    type: str
    media_type: str | None = None
    sha256: str | None = None
    size: int | None = None


def is_simulated(text: str | None) -> bool:
    """Whether a world model said it, and no tool or person."""
    return (text or "").startswith(SIMULATED_MARK)


def is_real(text: str | None) -> bool:
    """Whether it is what came back: neither simulated, nor told in place of a call."""
    return not (text or "").startswith((SIMULATED_MARK, NOT_RUN_MARK))


def content_text(content: object) -> str | None:
    """Text of a content field: a string, or parts of which the text ones are joined.

    Other parts (images, files) are named by their type, so that their place is not lost.
    """
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, Iterable):
        return str(content)
    texts: list[str] = []
    for part in _each(content):
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping):
            kind = _kind(part)
            texts.append(str(part.get("text") or "") if kind in _TEXTS else f"[{kind}]")
    return "".join(texts)


def content_parts(content: object) -> tuple[Part, ...]:
    """References to the parts of a content field that are no text, in order.

    OpenAI's (``image_url``, ``input_audio``, ``file``), Anthropic's (``source``) and LangChain's
    standard blocks are understood; of others the type is kept.
    """
    if content is None or isinstance(content, str) or not isinstance(content, Iterable):
        return ()
    return tuple(
        _reference(part)
        for part in _each(content)
        if isinstance(part, Mapping) and _kind(part) not in _TEXTS
    )


def well_formed(text: str) -> str:
    """The text with halves of surrogate pairs replaced, which no database stores."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def join(pieces: Iterable[str]) -> str:
    """The pieces as one text; others may run meanwhile, however long it becomes."""
    text = ""
    for piece in pieces:
        text += piece  # grown in place by CPython, where a join stops all for 10 ms and more
    return text


def _each(content: Iterable[Any]) -> Iterable[Any]:
    return [content] if isinstance(content, Mapping) else content


def _kind(part: Mapping[str, Any]) -> str:
    return str(part.get("type", "part"))


def _reference(part: Mapping[str, Any]) -> Part:
    kind = _kind(part)
    places = list(_places(part, kind))
    media = _first(places, _MEDIA_KEYS)
    data = _first(places, _DATA_KEYS)
    if data is not None:
        return _of_data(kind, media, data)
    reference = _first(places, _REFERENCE_KEYS)
    if isinstance(reference, str) and reference[:5].lower() == "data:":
        head, _, body = reference[5:].partition(",")
        encoded = head.lower().endswith(";base64")
        named = head.split(";", 1)[0] or None
        return _of_data(kind, named or media, body if encoded else unquote_to_bytes(body))
    if reference is None:
        return Part(type=kind, media_type=_text(media))
    return Part(type=kind, media_type=_text(media), sha256=_hash(_bytes(reference)))


def _places(part: Mapping[str, Any], kind: str) -> Iterator[Mapping[str, Any]]:
    """Where providers put what a part holds: in it, under its type, or under ``source``."""
    for key in (kind, "source", "file", "image_url", "input_audio"):
        inner = part.get(key)
        if isinstance(inner, Mapping):
            yield inner
        elif isinstance(inner, str):
            yield {"url": inner}
    yield part


def _first(places: list[Mapping[str, Any]], keys: tuple[str, ...]) -> object:
    found = (place[key] for place in places for key in keys if place.get(key))
    return next(found, None)


def _of_data(kind: str, media: object, data: object) -> Part:
    raw = _bytes(data)
    if isinstance(data, str):
        with contextlib.suppress(ValueError):  # not what it says: its text is what is hashed
            raw = base64.b64decode(data, validate=True)
    return Part(type=kind, media_type=_text(media), sha256=_hash(raw), size=len(raw))


def _bytes(value: object) -> bytes:
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    text = value if isinstance(value, str) else json.dumps(value, default=str, sort_keys=True)
    return text.encode("utf-8", "surrogatepass")


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
