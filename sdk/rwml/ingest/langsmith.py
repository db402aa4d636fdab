"""Runs of LangSmith, as ``Client.list_runs`` and the API's run queries give them.

Read are runs of type ``llm`` and ``tool``. Source: LangSmith's run data format. Note that its
``session_id`` names a project; a conversation's id is in the metadata.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import JsonValue

from rwml.assemble import Completion
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
from rwml.ingest.items import Found, Record, Rejected, Skipped, ToolRun, read_each
from rwml.ingest.otlp import conversation_id, graph_place
from rwml.ingest.tool_runs import read_tool_message
from rwml.schema import Message, Provenance, Usage

Wire = Mapping[str, Any]

_INTERRUPTS = ("GraphInterrupt(", "GraphBubbleUp(", "ParentCommand(", "NodeInterrupt(")
"""How LangGraph's control flow begins where a run reports it as its error."""


def read_langsmith(records: Iterable[Record | Rejected]) -> Iterator[Found]:
    """Reads LangSmith runs, one per record."""
    return read_each(records, _read_run)


def _read_run(value: JsonValue) -> Iterator[Found]:
    if not isinstance(value, Mapping) or "run_type" not in value:
        raise SchemaError("no LangSmith run")
    if value["run_type"] == "llm":
        yield from _completions(value)
    elif value["run_type"] == "tool":
        yield _tool_result(value)
    else:
        yield Skipped()


def _completions(run: Wire) -> Iterator[Found]:
    inputs, outputs = _object(run.get("inputs")), _object(run.get("outputs"))
    extra = _object(run.get("extra"))
    about = _object(extra.get("metadata"))
    asked = inputs.get("messages", inputs.get("prompts", inputs.get("input")))
    if not asked:
        raise SchemaError("an llm run without messages: inputs were hidden where it was made")
    messages, failed = read_messages(asked)
    answers = [read_answer(wire) for wire in _answers(outputs)]
    given = _object(extra.get("invocation_params"))
    started_at = read_time(run.get("start_time"))
    thread_id = conversation_id(about)
    found = [answer for answer in answers if answer is not None]
    if not found and not run.get("error"):
        raise SchemaError("an llm run without an answer or an error")
    for place, answer in enumerate(found or [None]):
        yield Completion(
            messages=messages,
            failed_calls=failed,
            response=answer,
            tools=read_tools(given.get("tools") or inputs.get("tools") or given.get("functions")),
            model=text_or_none(about.get("ls_model_name"))
            or text_or_none(given.get("model") or given.get("model_name")),
            usage=_usage(run, outputs) if place == 0 else None,
            started_at=started_at,
            latency_s=seconds_between(started_at, read_time(run.get("end_time"))),
            thread_id=thread_id,
            provenance=Provenance(
                run_id=text_or_none(run.get("id")),
                parent_run_id=text_or_none(run.get("parent_run_id")),
                trace_id=text_or_none(run.get("trace_id")),
                thread_id=thread_id,
                agent_name=text_or_none(about.get("lc_agent_name")),
                **graph_place(about),
            ),
        )


def _answers(outputs: Wire) -> Iterator[object]:
    """Answers of LangChain's result, of an OpenAI response, or of a traced function."""
    generations = outputs.get("generations")
    choices = outputs.get("choices")
    if isinstance(generations, list):
        first = generations[0] if generations and isinstance(generations[0], list) else generations
        for generation in first:
            if isinstance(generation, Mapping):
                yield generation.get("message") or generation.get("text")
    elif isinstance(choices, list):
        for choice in choices:
            if isinstance(choice, Mapping):
                yield choice.get("message")
    elif "role" in outputs:
        yield outputs
    elif isinstance(outputs.get("messages"), list):
        yield outputs["messages"][-1:]
    else:
        yield outputs.get("message", outputs.get("output", outputs.get("content")))


def _usage(run: Wire, outputs: Wire) -> Usage | None:
    message: object = None
    for answer in _answers(outputs):
        message = answer
        break
    inner = _object(_object(message).get("kwargs") or message)
    return (
        read_usage(outputs.get("usage_metadata"))
        or read_usage(inner.get("usage_metadata"))
        or read_usage(outputs.get("usage"))
        or read_usage(_object(outputs.get("llm_output")).get("token_usage"))
        or read_usage({k: v for k, v in run.items() if k.endswith("_tokens") and v})
    )


def _tool_result(run: Wire) -> Found:
    extra = _object(run.get("extra"))
    call_id = text_or_none(extra.get("tool_call_id"))
    message, failed = read_tool_message(run.get("outputs"), call_id=call_id)
    error = text_or_none(run.get("error"))
    if error is not None and error.startswith(_INTERRUPTS):
        return Skipped()
    if message is None and error is not None and call_id is not None:
        message = Message(role="tool", content=_first_line(error), tool_call_id=call_id)
    named = call_id or (message.tool_call_id if message else None)
    if not named:
        return Skipped()
    return ToolRun(
        call_id=named,
        message=message,
        failed=failed or error is not None,
        trace_id=text_or_none(run.get("trace_id")),
        thread_id=conversation_id(extra.get("metadata")),
        started_at=read_time(run.get("start_time")),
    )


def _first_line(error: str) -> str:
    """An error without the traceback that the tracer puts behind it."""
    return error.split("Traceback (most recent call last)", 1)[0].strip() or "error"


def _object(value: object) -> Wire:
    return value if isinstance(value, Mapping) else {}
