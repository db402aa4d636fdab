"""OpenAI chat JSONL: fine-tuning files, logs of requests with responses, and batch files.

A line of ``messages`` alone is a whole conversation. A line with a request and its response is one
model call. Lines of a batch's input and output file are joined by ``custom_id`` where both are in
the file, in any order and in bounded memory. Source: OpenAI's fine-tuning and batch references.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rwml.assemble import Completion, History
from rwml.errors import SchemaError
from rwml.ingest.chat import (
    read_answer,
    read_messages,
    read_time,
    read_tools,
    read_usage,
    seconds_between,
    text_or_none,
)
from rwml.ingest.items import Conversation, Found, Record, Rejected, guarded
from rwml.ingest.otlp import conversation_id
from rwml.schema import Message, Provenance

Wire = Mapping[str, Any]

WAITING_BYTES = 32 * 2**20
"""Batch lines that wait for their other half: the oldest is given up beyond this (ours)."""
_LINE_BYTES = 1024
_NO_HALF = "a batch line without its request or response in this file: join both files"


@dataclass(frozen=True)
class _Half:
    """One half of a batch line that waits for the other."""

    record: Record
    is_request: bool


class _Waiting:
    """Halves by ``custom_id``, and how much they hold."""

    def __init__(self) -> None:
        self._halves: OrderedDict[str, _Half] = OrderedDict()
        self._bytes = 0

    def put(self, name: str, half: _Half) -> None:
        self._halves[name] = half
        self._bytes += half.record.size + _LINE_BYTES

    def take(self, name: str) -> _Half | None:
        half = self._halves.pop(name, None)
        if half is not None:
            self._bytes -= half.record.size + _LINE_BYTES
        return half

    def beyond(self, limit: int) -> Iterator[_Half]:
        """Takes out the oldest, until no more than `limit` bytes are held."""
        while self._halves and self._bytes > limit:
            half = self.take(next(iter(self._halves)))
            if half is not None:
                yield half


def read_openai_jsonl(records: Iterable[Record | Rejected]) -> Iterator[Found]:
    """Reads OpenAI chat JSONL."""
    waiting = _Waiting()
    for record in records:
        if isinstance(record, Rejected):
            yield record
            continue
        for found in guarded(lambda record=record: _read(record, waiting)):
            if isinstance(found, Rejected) and found.line is None and found.element is None:
                found = replace(found, line=record.line, element=record.element)
            yield found
        yield from map(_given_up, waiting.beyond(WAITING_BYTES))
    yield from map(_given_up, waiting.beyond(0))


def _given_up(half: _Half) -> Rejected:
    return Rejected(reason=_NO_HALF, line=half.record.line, element=half.record.element)


def _read(record: Record, waiting: _Waiting) -> Iterator[Found]:
    value = record.value
    if not isinstance(value, Mapping):
        raise SchemaError("not a JSON object")
    request, response = value.get("request"), _object(value.get("response"))
    if isinstance(value.get("custom_id"), str) and ("body" in value or "body" in response):
        yield from _joined(record, str(value["custom_id"]), waiting)
    elif isinstance(request, Mapping):
        body = _object(request.get("body")) or request
        yield from _call(body, _object(response.get("body")) or response, value)
    elif isinstance(value.get("messages"), list | History):
        if response or "response" in value or "choices" in value:
            yield from _call(value, response or value, value)
        else:
            yield _conversation(value)
    else:
        raise SchemaError("neither messages, nor a request with its response")


def _joined(record: Record, name: str, waiting: _Waiting) -> Iterator[Found]:
    value = _object(record.value)
    is_request = isinstance(value.get("body"), Mapping)
    other = waiting.take(name)
    if other is None or other.is_request == is_request:
        if other is not None:
            yield _given_up(other)
        waiting.put(name, _Half(record, is_request))
        return
    asked, answered = (value, other.record.value) if is_request else (other.record.value, value)
    answered = _object(answered)
    yield from _call(
        _object(_object(asked).get("body")),
        _object(_object(answered.get("response")).get("body")),
        answered,
    )


def _call(request: Wire, response: Wire, around: Wire) -> Iterator[Found]:
    """One model call: a completion per choice, or one that failed."""
    asked = request.get("messages")
    history = asked if isinstance(asked, History) else None
    messages, failed = read_messages(asked)
    if not messages:
        raise SchemaError("a request without messages")
    choices = response.get("choices")
    answers: list[Message] = []
    if isinstance(choices, list):
        wires = [_object(choice).get("message") for choice in choices]
        answers = [answer for answer in map(read_answer, wires) if answer is not None]
    elif "role" in response and "messages" not in response:
        known = None if history is None else history.answer_to(response)
        answers = [answer for answer in [known or read_answer(response)] if answer is not None]
    if not answers and not (around.get("error") or response.get("error")):
        raise SchemaError("a response without choices")
    metadata = {**_object(request.get("metadata")), **_object(around.get("metadata"))}
    thread_id = conversation_id(around) or conversation_id(metadata)
    started_at, ended_at = _times(around, response)
    for place, answer in enumerate(answers or [None]):
        yield Completion(
            messages=messages,
            failed_calls=failed,
            response=answer,
            tools=read_tools(request.get("tools") or request.get("functions")),
            model=text_or_none(response.get("model")) or text_or_none(request.get("model")),
            usage=read_usage(response.get("usage")) if place == 0 else None,
            started_at=started_at,
            latency_s=seconds_between(started_at, ended_at),
            thread_id=thread_id,
            provenance=Provenance(
                run_id=text_or_none(around.get("id")),
                thread_id=thread_id,
                trace_id=text_or_none(around.get("trace_id")),
            ),
            history=history,
        )


def _times(around: Wire, response: Wire) -> tuple[Any, Any]:
    names = ("started_at", "start_time", "startTime", "timestamp", "created_at")
    ends = ("ended_at", "end_time", "endTime")
    started = next((t for name in names if (t := read_time(around.get(name)))), None)
    ended = next((t for name in ends if (t := read_time(around.get(name)))), None)
    return started or read_time(response.get("created")), ended


def _conversation(value: Wire) -> Conversation:
    messages, failed = read_messages(value["messages"])
    if not any(message.role == "assistant" for message in messages):
        raise SchemaError("a conversation without an assistant message")
    return Conversation(
        messages=messages,
        tools=read_tools(value.get("tools") or value.get("functions")),
        failed_calls=failed,
    )


def _object(value: object) -> Wire:
    return value if isinstance(value, Mapping) else {}
