"""What a reader of logs makes of a file: model calls, tool results, whole episodes, and rejects.

Plain values without behaviour. A reject names its place and a reason, never the record's text: the
text is somebody's traffic and may be what made the record unreadable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from pydantic import JsonValue

from rwml.assemble import Completion
from rwml.errors import SchemaError
from rwml.schema import Message, Tool, Trajectory


@dataclass(frozen=True, kw_only=True)
class Record:
    """One JSON value of a file.

    Attributes:
        value: as parsed.
        line: number of its line, from 1; None in a document that spans lines.
        element: number in the list that it is an element of, from 1.
        size: bytes of the line or list that it is from, where these were counted.
    """

    value: JsonValue
    line: int | None = None
    element: int | None = None
    size: int = 0


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """Something in a file that could not be read; place as in `Record`.

    Attributes:
        reason: one line, without the record's text.
    """

    reason: str
    line: int | None = None
    element: int | None = None


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A record that is neither a model call nor a tool's: an HTTP span, a chain, a score."""


@dataclass(frozen=True, kw_only=True)
class ToolRun:
    """What a tool answered, from a record of its own.

    Attributes:
        call_id: of the call that it answers.
        message: the tool message; None where only the failure is known.
        failed: whether the tool failed.
        trace_id: of the trace in which it ran.
        thread_id: of the conversation in which it ran.
        started_at: when it was called.
    """

    call_id: str
    message: Message | None
    failed: bool
    trace_id: str | None = None
    thread_id: str | None = None
    started_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A whole conversation, as fine-tuning files hold them."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    failed_calls: frozenset[str] = frozenset()


Found = Completion | ToolRun | Conversation | Trajectory | Skipped | Rejected
"""What a reader yields; a trajectory is taken as it is, with its own id and source."""
Reader = Callable[[Iterable[Record | Rejected]], Iterator[Found]]
"""Reads one format: records in, what they hold out. It raises nothing."""


@dataclass(frozen=True, kw_only=True)
class FileFormat:
    """A format that another package brings, by an entry point of the group ``rwml.formats``.

    Attributes:
        read: reads a whole file; is given what to tell the progress to, in bytes of the file. It
            raises a `UsageError` where nothing of the file can be read, and rejects what cannot.
        recognises: whether a document, or the first record of a file, is in this format.
    """

    read: Callable[[Path, Callable[[int], object]], Iterator[Found]]
    recognises: Callable[[Mapping[str, JsonValue]], bool]


def read_each(
    records: Iterable[Record | Rejected], parse: Callable[[JsonValue], Iterable[Found]]
) -> Iterator[Found]:
    """Parses records one by one; what cannot be parsed is rejected with its place."""
    for record in records:
        if isinstance(record, Rejected):
            yield record
            continue
        for found in guarded(lambda value=record.value: parse(value)):
            if isinstance(found, Rejected):
                found = replace(found, line=record.line, element=record.element)
            yield found


def guarded(parse: Callable[[], Iterable[Found]], *, within: str = "") -> Iterator[Found]:
    """What `parse` finds; where it raises, a reject that says why.

    Args:
        within: names the part of the record, in front of the reason.
    """
    try:
        yield from parse()
    except SchemaError as error:
        yield Rejected(reason=f"{within}{' '.join(str(error).split())}")
    except RecursionError:
        yield Rejected(reason=f"{within}nested too deeply")
    except Exception as error:  # noqa: BLE001 - a file may hold anything, and its text stays out
        yield Rejected(reason=f"{within}of an unknown shape ({type(error).__name__})")
