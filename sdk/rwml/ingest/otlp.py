"""OTLP-JSON: spans and their attributes, whatever conventions these follow.

Source: the OpenTelemetry protocol's JSON encoding (lowerCamelCase names, hex ids, 64-bit integers
as text); protobuf's own JSON (snake_case, base64 ids) is read too. Attributes are decoded when they
are asked for: most spans of a trace are none of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import JsonValue

from rwml.assemble import Completion
from rwml.errors import SchemaError
from rwml.ingest.chat import json_or_none, read_time, seconds_between, text_or_none
from rwml.ingest.items import Found, guarded
from rwml.schema import Message, Provenance

Wire = Mapping[str, Any]

_INTERRUPTS = ("GraphInterrupt", "GraphBubbleUp", "ParentCommand", "NodeInterrupt")
"""LangGraph's control flow, which instrumentations report as errors."""
_CONVERSATION_KEYS = ("thread_id", "session_id", "conversation_id")


class Attributes:
    """Attributes of a span or event, decoded when they are asked for."""

    def __init__(self, wire: object) -> None:
        if isinstance(wire, Mapping):  # as the SDKs print spans
            self._raw: dict[str, Any] = {str(key): value for key, value in wire.items()}
            self._plain = True
        else:
            pairs = wire if isinstance(wire, list) else ()
            self._raw = {str(p.get("key")): p.get("value") for p in pairs if isinstance(p, Mapping)}
            self._plain = False

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __contains__(self, name: object) -> bool:
        return name in self._raw

    def get(self, *names: str) -> JsonValue:
        """The value of the first name that is there; None where there is none."""
        for name in names:
            if name in self._raw:
                value = self._raw[name]
                found = value if self._plain else _decode(value)
                if found is not None:
                    return found
        return None

    def text(self, *names: str) -> str | None:
        """As `get`, of those that are texts or numbers and not empty."""
        return next((text for name in names if (text := text_or_none(self.get(name)))), None)

    def parsed(self, *names: str) -> Any:
        """As `get`, where the value may be the JSON text of what is meant."""
        value = self.get(*names)
        return json_or_none(value) if isinstance(value, str) else value

    def begins(self, *prefixes: str) -> bool:
        """Whether there is a name that begins so."""
        return any(name.startswith(prefixes) for name in self._raw)

    def tree(self, prefix: str) -> list[Any]:
        """Names like ``prefix.0.role`` as a list of nested dicts, in order of the numbers."""
        root: dict[str, Any] = {}
        for name in self._raw:
            if not name.startswith(prefix + "."):
                continue
            *path, last = name[len(prefix) + 1 :].split(".")
            node = root
            for part in path:
                inner = node.setdefault(part, {})
                if not isinstance(inner, dict):  # a value and what is below it: the value counts
                    break
                node = inner
            else:
                node.setdefault(last, self.get(name))
        return numbered(root)


def numbered(node: object) -> list[Any]:
    """The values under the numbers of a dict, in their order."""
    if not isinstance(node, dict):
        return []
    numbers = sorted(int(key) for key in node if key.isascii() and key.isdigit() and len(key) < 10)
    return [node[str(number)] for number in numbers if str(number) in node]


@dataclass(frozen=True, kw_only=True)
class Span:
    """A span, as far as it is needed.

    Attributes:
        failed: its status is an error.
        problem: message of its exception or status.
        interrupted: the exception is LangGraph's control flow, not a failure.
    """

    trace_id: str | None
    span_id: str | None
    parent_id: str | None
    started_at: datetime | None
    latency_s: float | None
    attributes: Attributes
    events: tuple[tuple[str, Attributes], ...]
    failed: bool
    problem: str
    interrupted: bool


def read_spans(value: JsonValue, read_span: Callable[[Span], Iterable[Found]]) -> Iterator[Found]:
    """What a record's spans hold; a span that cannot be read is rejected alone.

    Args:
        value: an export request with ``resourceSpans``, or one span.
        read_span: what a span holds.

    Raises:
        SchemaError: it is neither.
    """
    for place, wire in enumerate(spans_in(value), 1):
        yield from guarded(lambda wire=wire: read_span(to_span(wire)), within=f"span {place}: ")


def spans_in(value: JsonValue) -> Iterator[object]:
    """The spans of an export request, as they came; a span alone is itself.

    Raises:
        SchemaError: it is neither.
    """
    if not isinstance(value, Mapping):
        raise SchemaError("no OTLP object")
    resources = _first(value, "resourceSpans", "resource_spans")
    if resources is None:
        if "resourceLogs" in value or "resourceMetrics" in value:
            raise SchemaError("OTLP logs or metrics: only spans are read")
        if _first(value, "spanId", "span_id") is None:
            raise SchemaError("no OTLP spans")
        yield value
        return
    for resource in _objects(resources):
        scopes = _first(resource, "scopeSpans", "scope_spans", "instrumentationLibrarySpans")
        for scope in _objects(scopes):
            spans = scope.get("spans")
            yield from spans if isinstance(spans, list) else ()


def to_span(wire: object) -> Span:
    """A span of the JSON encoding.

    Raises:
        SchemaError: it is no object.
    """
    if not isinstance(wire, Mapping):
        raise SchemaError("not an object")
    start = read_time(_first(wire, "startTimeUnixNano", "start_time_unix_nano"))
    end = read_time(_first(wire, "endTimeUnixNano", "end_time_unix_nano"))
    events = tuple(
        (str(event.get("name")), Attributes(event.get("attributes")))
        for event in _objects(wire.get("events"))
    )
    status = wire.get("status")
    status = status if isinstance(status, Mapping) else {}
    raised = next((about for name, about in events if name == "exception"), Attributes(None))
    kind = raised.text("exception.type") or ""
    return Span(
        trace_id=text_or_none(_first(wire, "traceId", "trace_id")),
        span_id=text_or_none(_first(wire, "spanId", "span_id")),
        parent_id=text_or_none(_first(wire, "parentSpanId", "parent_span_id")),
        started_at=start,
        latency_s=seconds_between(start, end),
        attributes=Attributes(wire.get("attributes")),
        events=events,
        failed=status.get("code") in (2, "STATUS_CODE_ERROR"),
        problem=raised.text("exception.message") or text_or_none(status.get("message")) or "",
        interrupted=kind.endswith(_INTERRUPTS),
    )


def completions(
    span: Span,
    request: tuple[tuple[Message, ...], frozenset[str]],
    answers: Iterable[Message | None],
    **fields: Any,
) -> Iterator[Completion]:
    """A completion for each answer of a chat span, or one without an answer.

    Args:
        request: messages, and ids of calls whose results are errors.
        fields: of `Completion`: tools, model, usage, thread_id; ``about`` goes to the provenance.
    """
    about = fields.pop("about")
    usage = fields.pop("usage")
    for place, answer in enumerate(list(answers) or [None]):
        yield Completion(
            messages=request[0],
            failed_calls=request[1],
            response=answer,
            usage=usage if place == 0 else None,
            started_at=span.started_at,
            latency_s=span.latency_s,
            provenance=Provenance(
                trace_id=span.trace_id,
                span_id=span.span_id,
                parent_run_id=span.parent_id,
                thread_id=fields["thread_id"],
                **about,
            ),
            **fields,
        )


def conversation_id(about: object) -> str | None:
    """The conversation's id in a span's or run's free metadata."""
    if not isinstance(about, Mapping):
        return None
    return next((t for key in _CONVERSATION_KEYS if (t := text_or_none(about.get(key)))), None)


def graph_place(about: object) -> dict[str, str | None]:
    """Node and checkpoint namespace in the metadata that LangGraph gives to every callback."""
    about = about if isinstance(about, Mapping) else {}
    return {
        "node": text_or_none(about.get("langgraph_node")),
        "checkpoint_ns": text_or_none(about.get("langgraph_checkpoint_ns"))
        or text_or_none(about.get("checkpoint_ns")),
    }


def _decode(value: object) -> JsonValue:
    """An AnyValue as plain JSON."""
    if not isinstance(value, Mapping):
        return None
    for key, inner in value.items():
        name = key.replace("_", "").lower()
        if name == "stringvalue":
            return inner if isinstance(inner, str) else None
        if name == "intvalue":
            return int(inner) if isinstance(inner, int | str) and len(str(inner)) < 20 else None
        if name in ("boolvalue", "doublevalue", "bytesvalue"):
            return inner
        if name == "arrayvalue" and isinstance(inner, Mapping):
            return [_decode(each) for each in inner.get("values") or ()]
        if name == "kvlistvalue" and isinstance(inner, Mapping):
            pairs = inner.get("values") or ()
            return {str(p.get("key")): _decode(p.get("value")) for p in _objects(pairs)}
    return None


def _first(wire: Wire, *names: str) -> Any:
    return next((wire[name] for name in names if wire.get(name) is not None), None)


def _objects(values: object) -> Iterator[Wire]:
    return (v for v in values if isinstance(v, Mapping)) if isinstance(values, list) else iter(())
