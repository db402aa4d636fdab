"""A record as JSON text, made and read without stopping the program for long.

Pydantic serialises in one call, which holds the interpreter's lock: tens of milliseconds for a tool
result of ten megabytes; so does `json`, both ways. Such texts are encoded and decoded in pieces
here, and other threads run in between.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from pydantic import JsonValue
from pydantic_core import PydanticSerializationError, from_json, to_json

from rwml.content import join, well_formed
from rwml.redaction import redact_model
from rwml.schema import Message, Step, Trajectory

Record = TypeVar("Record", Step, Trajectory)

LARGE_CHARS = 256 * 1024
"""Longer texts are encoded in pieces (ours)."""
PIECE_CHARS = 64 * 1024
"""Characters of a piece: less than a millisecond each (ours)."""
_FLAT = 150
"""So many brackets cannot nest deeper than a reader takes (pydantic-core: 200)."""
_INSIDE_TEXT = re.compile(
    r"""(?:
        [^"\\]++
      | \\[^u]
      | \\u[dD][89abAB]..\\u....  # a pair of surrogates is one character
      | \\u(?![dD][89abAB])....
    )*+""",
    re.VERBOSE | re.DOTALL,
)
"""As much of the JSON of a text as can be decoded apart from the rest."""
_FLAT_LIST = re.compile(r'\[(?:[^\[\]{}"]++|"(?:[^"\\]++|\\.)*+")*+\]', re.DOTALL)
_ESCAPE_CHARS = 6
_DECODER = json.JSONDecoder()


def dump(record: Record) -> tuple[Record, str]:
    """The JSON of a step, or of a trajectory without its steps, as a store holds it.

    Returns:
        The record as it can be stored (lone surrogates, which no database takes, are replaced),
        and its JSON.

    Raises:
        ValueError: it is nested too deeply to be read again.
    """
    if isinstance(record, Trajectory):
        exclude, is_large = {"steps"}, _are_large(record.initial)
    else:
        exclude, is_large = None, _are_large((record.action, *record.observation))
    if is_large:
        plain = record.model_dump(mode="json", exclude=exclude, exclude_defaults=True)
        return record, join(_pieces(plain))
    try:
        encoded = record.__pydantic_serializer__.to_json(
            record, exclude=exclude, exclude_defaults=True
        )
    except PydanticSerializationError:
        record = redact_model(record, None)
        return record, record.model_dump_json(exclude=exclude, exclude_defaults=True)
    if encoded.count(b"{") + encoded.count(b"[") > _FLAT:
        from_json(encoded)
    return record, encoded.decode()


def make_message(content: str | None, **fields: Any) -> Message:
    """A message; of a large text no validation makes UTF-8, 30 ms in one call for 10 MB."""
    if _is_large(content):
        return Message(**fields).model_copy(update={"content": content})
    return Message(content=content, **fields)


def without_large_texts(step: Step) -> Step:
    """The step with nothing in the place of its large texts."""
    return step.model_copy(
        update={
            "action": _shortened(step.action),
            "observation": tuple(map(_shortened, step.observation)),
        }
    )


def _shortened(message: Message) -> Message:
    if not _are_large((message,)):
        return message
    calls = (
        call.model_copy(update={"raw_arguments": None}) if _is_large(call.raw_arguments) else call
        for call in message.tool_calls
    )
    return message.model_copy(
        update={
            "content": None if _is_large(message.content) else message.content,
            "reasoning": None if _is_large(message.reasoning) else message.reasoning,
            "tool_calls": tuple(calls),
        }
    )


def _are_large(messages: Iterable[Message]) -> bool:
    for message in messages:  # of every record: no call per text
        if message.content is not None and len(message.content) > LARGE_CHARS:
            return True
        if message.reasoning is not None and len(message.reasoning) > LARGE_CHARS:
            return True
        for call in message.tool_calls:
            if call.raw_arguments is not None and len(call.raw_arguments) > LARGE_CHARS:
                return True
    return False


def _is_large(text: str | None) -> bool:
    return text is not None and len(text) > LARGE_CHARS


def text_pieces(text: str) -> Iterator[str]:
    """The JSON of a text, in pieces between which other threads run."""
    yield '"'
    for start in range(0, len(text), PIECE_CHARS):
        # ASCII only: of any other text the database's driver makes UTF-8 in one call.
        yield json.dumps(well_formed(text[start : start + PIECE_CHARS]))[1:-1]
        if len(text) > PIECE_CHARS:
            time.sleep(0)  # whoever waits for the interpreter's lock gets it
    yield '"'


def read_lists(encoded: str, at: int = 0) -> tuple[Any, int]:
    """Reads JSON that is made of lists, item by item, and a large text in it piece by piece.

    Args:
        encoded: the JSON.
        at: where the value begins.

    Returns:
        The value, and the place after it.

    Raises:
        json.JSONDecodeError: it is no JSON.
    """
    if encoded[at : at + 1] == '"':
        return _read_text(encoded, at)
    if encoded[at : at + 1] != "[" or _FLAT_LIST.match(encoded, at, at + PIECE_CHARS):
        return _DECODER.raw_decode(encoded, at)
    items: list[Any] = []
    at = _after_gap(encoded, at + 1)
    if encoded[at : at + 1] == "]":
        return items, at + 1
    while True:
        item, at = read_lists(encoded, at)
        items.append(item)
        at = _after_gap(encoded, at)
        mark = encoded[at : at + 1]
        if mark == "]":
            return items, at + 1
        if mark != ",":
            raise json.JSONDecodeError("a list goes on or ends here", encoded, at)
        at = _after_gap(encoded, at + 1)


def _read_text(encoded: str, at: int) -> tuple[str, int]:
    place = at + 1
    end = _end_of_piece(encoded, place)
    if encoded[end : end + 1] == '"':
        return _DECODER.raw_decode(encoded, at)
    text = ""
    while encoded[place : place + 1] != '"':
        end = _end_of_piece(encoded, place)
        if end == place:  # half a pair of surrogates, which stands alone
            end = min(place + _ESCAPE_CHARS, len(encoded))
        if end == place:
            raise json.JSONDecodeError("a text is cut off", encoded, at)
        text += json.loads(f'"{encoded[place:end]}"')  # in place, as in `join`
        place = end
        time.sleep(0)  # whoever waits for the interpreter's lock gets it
    return text, place + 1


def _end_of_piece(encoded: str, at: int) -> int:
    found = _INSIDE_TEXT.match(encoded, at, at + PIECE_CHARS)
    return at if found is None else found.end()


def _after_gap(encoded: str, at: int) -> int:
    while encoded[at : at + 1].isspace():
        at += 1
    return at


def _pieces(value: JsonValue) -> Iterator[str]:
    if isinstance(value, str):
        yield from text_pieces(value)
    elif isinstance(value, dict):
        mark = "{"
        for name, item in value.items():
            yield mark
            yield from _pieces(name)
            yield ":"
            yield from _pieces(item)
            mark = ","
        yield "}" if value else "{}"
    elif isinstance(value, list):
        mark = "["
        for item in value:
            yield mark
            yield from _pieces(item)
            mark = ","
        yield "]" if value else "[]"
    else:
        yield to_json(value, inf_nan_mode="strings").decode()
