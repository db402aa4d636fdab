"""The formats that can be read, and which of them a file is in.

Other packages bring theirs by entry points of the group ``rwml.formats``, each a `FileFormat`. One
that cannot be loaded is an error only where it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, suppress
from importlib.metadata import entry_points
from itertools import islice
from pathlib import Path
from typing import Literal, TypeGuard, get_args

from pydantic import JsonValue

from rwml.errors import MissingExtraError, SchemaError, UsageError
from rwml.ingest.genai import read_otel
from rwml.ingest.items import FileFormat, Reader, Record
from rwml.ingest.langfuse import read_langfuse
from rwml.ingest.langsmith import read_langsmith
from rwml.ingest.openai_jsonl import read_openai_jsonl
from rwml.ingest.openinference import read_openinference
from rwml.ingest.otlp import Attributes, spans_in
from rwml.ingest.records import read_records

LogFormat = Literal["otel", "openinference", "langfuse", "langsmith", "openai-jsonl"]
"""A format of ours by its name."""
FORMAT_GROUP = "rwml.formats"
_SNIFFED_RECORDS = 200


def reader_of(format: LogFormat) -> Reader:
    """The reader of a format."""
    readers: dict[LogFormat, Reader] = {
        "otel": read_otel,
        "openinference": read_openinference,
        "langfuse": read_langfuse,
        "langsmith": read_langsmith,
        "openai-jsonl": read_openai_jsonl,
    }
    return readers[format]


def is_ours(name: str) -> TypeGuard[LogFormat]:
    """Whether a format is one that is read here, record by record."""
    return name in get_args(LogFormat)


def known_formats() -> tuple[str, ...]:
    """Names of all formats, those of other packages last."""
    others = {entry.name for entry in entry_points(group=FORMAT_GROUP)}
    return (*get_args(LogFormat), *sorted(others))


def load_format(name: str) -> FileFormat:
    """A format of another package.

    Raises:
        UsageError: there is none of this name, or it cannot be loaded.
        MissingExtraError: it needs a package that is not installed.
    """
    for entry in entry_points(group=FORMAT_GROUP, name=name):
        try:
            found = entry.load()
        except MissingExtraError:
            raise
        except Exception as error:
            raise UsageError(f"the format {name!r} cannot be loaded: {error}") from error
        if isinstance(found, FileFormat):
            return found
        raise UsageError(f"the format {name!r} ({entry.value}) is no rwml.ingest.FileFormat")
    raise UsageError(f"no format {name!r}: use one of {', '.join(known_formats())}")


def sniff(path: Path) -> str:
    """The format of a file, by its first records.

    Raises:
        UsageError: the file cannot be read, or is in none of the formats.
    """
    spans = False
    with closing(read_records(path)) as records:
        for record in islice(records, _SNIFFED_RECORDS):
            if not isinstance(record, Record):
                continue
            found = _recognise(record.value) or _others_recognise(record.value)
            if found == "spans":
                spans = True
            elif found is not None:
                return found
    if spans:  # of other things so far
        return "otel"
    known = ", ".join(known_formats())
    raise UsageError(f"cannot tell the format of {path}: name it with --format ({known})")


def _recognise(value: JsonValue) -> LogFormat | Literal["spans"] | None:
    if not isinstance(value, Mapping):
        return None
    if "run_type" in value:
        return "langsmith"
    if isinstance(value.get("observations"), list) or (
        isinstance(value.get("type"), str) and ("traceId" in value or "trace_id" in value)
    ):
        return "langfuse"
    if "request" in value or isinstance(value.get("messages"), list) or "custom_id" in value:
        return "openai-jsonl"
    return _conventions(value)


def _others_recognise(value: JsonValue) -> str | None:
    if not isinstance(value, Mapping):
        return None
    for entry in entry_points(group=FORMAT_GROUP):
        with suppress(UsageError, MissingExtraError):
            if load_format(entry.name).recognises(value):
                return entry.name
    return None


def _conventions(value: JsonValue) -> LogFormat | Literal["spans"] | None:
    found: Literal["spans"] | None = None
    try:
        for span in spans_in(value):
            about = Attributes(span.get("attributes") if isinstance(span, Mapping) else None)
            if about.begins("openinference.", "llm.input_messages.", "llm.output_messages."):
                return "openinference"
            if about.begins("gen_ai.", "traceloop.", "llm.prompts.", "llm.request."):
                return "otel"
            found = "spans"
    except SchemaError:
        pass
    return found
