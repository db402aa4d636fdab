"""Parses lines of OpenAI chat JSONL that log a call without parsing their whole history.

Every request repeats the one before. `rwml.assemble.LineReader` knows its text, so that of a line
only what is new is parsed, made into messages and hashed. It must never decide what a line means or
whether it is refused: a line that it cannot read is parsed as every other is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import JsonValue

from rwml.assemble import Hasher, LineReader
from rwml.errors import SchemaError
from rwml.ingest.chat import read_tools, to_openai
from rwml.ingest.records import parse_json
from rwml.schema import Message, Tool

logger = logging.getLogger("rwml")

KEPT_HISTORIES = 4_000
"""Conversations whose text is recognised, the least recently read go first (ours)."""
KEPT_BYTES = 40 * 2**20
"""Memory that they may take together, roughly (ours)."""
_ANSWERS = (b'"response"', b'"choices"')
_END_BYTES = 2048

Wire = Mapping[str, Any]


class CallLines:
    """Parses lines. Not for several threads.

    Args:
        hasher: the assembler's.
        share: returns a message that is equal, if one is known.
    """

    def __init__(self, hasher: Hasher, *, share: Callable[[Message], Message]) -> None:
        self._share = share
        self._has_warned = False
        self._reader = LineReader(
            hasher,
            response="response",
            read_message=self._message,
            read_answer=self._answer,
            is_failed=_is_failed,
            repeated={"tools": _tools_or_none, "functions": _tools_or_none},
            kept=KEPT_HISTORIES,
            kept_bytes=KEPT_BYTES,
        )

    def parse(self, line: bytes) -> JsonValue:
        """Parses a line; as `parse_json`, but for two things.

        In the place of a list of messages there may be a `History`, and in that of tools a tuple of
        them.
        """
        if _may_be_call(line):
            try:
                return self._reader.read_in_place(line)
            except ValueError:
                pass  # what is wrong is found and told as in any line
            except Exception:  # noqa: BLE001 - a fault of ours, told; the line is read all the same
                self._warn()
        return parse_json(line)

    def _warn(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning("rwml: a line could only be read slowly; please report", exc_info=True)

    def _message(self, wire: Wire) -> Message:
        found = [Message.from_openai(plain) for plain in to_openai(wire)]
        if len(found) != 1:
            raise SchemaError("not one message but several, or none")
        return self._share(found[0])

    def _answer(self, wire: Wire) -> Message | None:
        """An answer that is a bare message, as `read_answer` reads it."""
        if "role" not in wire or "messages" in wire:
            return None
        message = self._message(wire)
        return message if message.role == "assistant" else None


def _may_be_call(line: bytes) -> bool:
    """Whether a line has an answer beside its messages; looks first where that is likely."""
    places = (line[:_END_BYTES], line[-_END_BYTES:], line)
    return any(name in place for place in places for name in _ANSWERS)


def _is_failed(wire: Wire) -> bool:
    return any(plain.get("failed") for plain in to_openai(wire))


def _tools_or_none(wire: object) -> tuple[Tool, ...] | None:
    return read_tools(wire) or None
