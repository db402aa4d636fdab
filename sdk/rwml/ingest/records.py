"""A file of JSON lines, or one JSON document, as a stream of records in bounded memory.

Lines are parsed one by one. A document, or a line that is longer than `RECORD_BYTES`, is parsed
element by element where it is a list or holds a known one, which needs the extra ``ingest``. Files
may be compressed by gzip. What cannot be read is rejected with its place; nothing else is raised
but errors of the disk.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

from pydantic import JsonValue
from pydantic_core import from_json

from rwml.errors import UsageError
from rwml.extras import require
from rwml.ingest.items import Record, Rejected

RECORD_BYTES = 16 * 2**20
"""A record that is longer is rejected: it and what is made of it must fit in memory (ours)."""
_HEAD_BYTES = 64 * 1024
_BUFFER_BYTES = 64 * 1024
_FILE_BYTES = 1024 * 1024
_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_TORN = (EOFError, gzip.BadGzipFile, zlib.error)
"""What a compressed file raises where it is not whole."""
_LISTS = (
    "item",
    "resourceSpans.item.scopeSpans.item.spans.item",
    "resource_spans.item.scope_spans.item.spans.item",
    "observations.item",
    "runs.item",
    "data.item",
)
"""Where documents hold their records, as ijson writes paths."""
_PAGES = ("data", "runs")
"""Lists around which APIs put no more than a cursor."""

_Stream = io.BufferedReader | gzip.GzipFile
Parse = Callable[[bytes], JsonValue]
"""Parses a line; raises what `parse_json` does."""
Moved = Callable[[int], object]
"""Is told how many bytes of the file were read so far."""


def read_records(
    path: Path, *, moved: Moved | None = None, parse: Parse | None = None
) -> Generator[Record | Rejected, None, None]:
    """Streams the records of a file.

    Args:
        path: of JSON lines or one JSON document, plain or compressed by gzip.
        moved: is told the progress, in bytes of the file as it lies on disk.
        parse: parses a line that is a record; None for `parse_json`.

    Raises:
        UsageError: the file cannot be opened.
        MissingExtraError: it is a document, and ``rwml[ingest]`` is not installed.
    """
    try:
        raw = path.open("rb", buffering=0)
        packed = raw.read(len(_GZIP)) == _GZIP
        raw.seek(0)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    stream: Any = gzip.GzipFile(fileobj=raw) if packed else io.BufferedReader(raw, _FILE_BYTES)
    with raw, stream:
        try:
            for record in _records(stream, parse or parse_json):
                yield record
                if moved is not None:
                    moved(raw.tell())
        except _TORN:
            yield Rejected(reason="the compressed file is torn: what follows is lost")


def parse_json(data: bytes | str) -> JsonValue:
    """Parses JSON, also with halves of surrogate pairs, as Python and JavaScript write them.

    Raises:
        ValueError: it is none.
        RecursionError: it is nested too deeply.
    """
    try:
        return from_json(data)
    except ValueError:
        return json.loads(data)


def _records(stream: _Stream, parse: Parse) -> Iterator[Record | Rejected]:
    number = 0
    is_begun = False
    while line := stream.readline(RECORD_BYTES + 1):
        number += 1
        line = line.removeprefix(_BOM) if number == 1 else line
        if len(line) > RECORD_BYTES and not line.endswith(b"\n"):
            rest = _Joined(line, stream.readline, ends=lambda part: part.endswith(b"\n"))
            yield from _elements(rest, line[:_HEAD_BYTES], line=number)
            rest.skip()
        elif not line.isspace():
            if not is_begun and _goes_on(line):
                yield from _document(line, stream)
                return
            yield from _parsed(line, parse, line=number)
            is_begun = True


def _goes_on(line: bytes) -> bool:
    """Whether a first line is JSON only together with the next ones."""
    line = line.strip()
    if line[:1] not in (b"{", b"[") or line[-1:] not in (b"{", b"[", b",", b":"):
        return False
    try:
        from_json(line)
    except ValueError:
        return True
    return False


def _document(begun: bytes, stream: _Stream) -> Iterator[Record | Rejected]:
    """A document: whole where it is small, so that what stands beside its list is known too."""
    data = begun + _read(stream, RECORD_BYTES + 1 - len(begun))
    if len(data) <= RECORD_BYTES:
        found = list(_parsed(data, parse_json, line=None))
        if not (len(found) == 1 and isinstance(found[0], Rejected) and found[0].element is None):
            yield from found
            return
    yield from _elements(_Joined(data, stream.read), data[:_HEAD_BYTES], line=None)


def _read(stream: _Stream, size: int) -> bytes:
    """So many bytes, or as many as there are before the end or a tear."""
    data = bytearray()
    try:
        while len(data) < size and (part := stream.read1(size - len(data))):
            data += part
    except _TORN:
        pass  # raised again by the next read
    return bytes(data)


def _parsed(data: bytes, parse: Parse, *, line: int | None) -> Iterator[Record | Rejected]:
    try:
        value = parse(data)
    except RecursionError:
        yield Rejected(reason="nested too deeply", line=line)
        return
    except ValueError:
        yield Rejected(reason="not JSON", line=line)
        return
    if isinstance(value, dict):
        value = next((value[key] for key in _PAGES if isinstance(value.get(key), list)), value)
    if isinstance(value, list):
        for place, element in enumerate(value, 1):
            yield _record(element, line, place, size=len(data))
    else:
        yield _record(value, line, None, size=len(data))


def _record(
    value: JsonValue, line: int | None, element: int | None, *, size: int
) -> Record | Rejected:
    if isinstance(value, dict):
        return Record(value=value, line=line, element=element, size=size)
    return Rejected(reason="not a JSON object", line=line, element=element)


def _elements(stream: _Joined, head: bytes, *, line: int | None) -> Iterator[Record | Rejected]:
    """The elements of the list in a document, parsed one at a time."""
    require("ingest", "ijson")
    import ijson

    where = _where(head)
    if where is None:
        reason = f"not JSON, or longer than {RECORD_BYTES >> 20} MiB"
        yield Rejected(reason=reason, line=line)
        return
    place = 0
    lost: str | None = None
    try:
        for value in ijson.items(stream, where, buf_size=_BUFFER_BYTES, use_float=True):
            place += 1
            size, stream.given = stream.given, 0
            yield _record(value, line, place, size=size)
    except _TooLongError:
        lost = f"longer than {RECORD_BYTES >> 20} MiB"
    except (ijson.JSONError, ValueError, RecursionError, *_TORN):
        lost = "not JSON"
    if lost is not None:
        reason = f"{lost}: what follows is lost"
        yield Rejected(reason=reason, line=line, element=place + 1)


def _where(head: bytes) -> str | None:
    """The path of the records in a document of which the beginning is known."""
    import ijson

    try:
        for path, event, _ in ijson.parse(io.BytesIO(head)):
            if event == "start_map" and path in _LISTS:
                return path
    except (ijson.JSONError, ValueError):  # the beginning alone is never whole
        pass
    return None


class _TooLongError(Exception):
    """An element is longer than a record may be."""


class _Joined:
    """What was read of a stream, then the rest of it; gives up on an element that is too long.

    Attributes:
        given: bytes that were given since it was last set to 0.
    """

    def __init__(
        self,
        begun: bytes,
        more: Callable[[int], bytes],
        *,
        ends: Callable[[bytes], bool] = lambda part: False,
    ) -> None:
        self._begun = io.BytesIO(begun)
        self._more = more
        self._ends = ends
        self._ended = False
        self.given = 0

    def read(self, size: int = _BUFFER_BYTES) -> bytes:
        if size == 0 or self._ended:  # ijson asks for nothing first, to see bytes
            return b""
        if self.given > RECORD_BYTES + 2 * _BUFFER_BYTES:
            self.given = 0
            raise _TooLongError
        part = self._begun.read(size)
        if not part:
            part = self._more(size)
            self._ended = not part or self._ends(part)
        self.given += len(part)
        return part

    def skip(self) -> None:
        """Goes to the end."""
        self._begun.seek(0, io.SEEK_END)
        while not self._ended:
            self.given = 0
            self.read()
