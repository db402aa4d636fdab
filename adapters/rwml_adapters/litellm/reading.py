"""LiteLLM's callback arguments as completions. Pure functions; litellm itself is not needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pydantic import JsonValue

from rwml.assemble import Completion
from rwml.errors import SchemaError
from rwml.schema import Message, Provenance, Tool, Usage
from rwml_adapters.litellm import anthropic_api, responses_api
from rwml_adapters.litellm.caller import (
    Caller,
    call_metadata,
    is_health_check,
    read_caller,
    served_version,
    text,
)
from rwml_adapters.litellm.responses_api import Histories, plain

CHAT = ("completion", "acompletion")
RESPONSES = ("responses", "aresponses")
ANTHROPIC = ("anthropic_messages", "aanthropic_messages")
_HIDDEN = "redacted-by-litellm"
"""What LiteLLM puts in place of texts where message logging is switched off."""
_REFUSED = "litellm_no_upstream_llm_call"
"""Set by LiteLLM's proxy for a request that it did not pass on: no key, a limit, a guardrail."""
_UNFINISHED = ("queued", "in_progress", "failed", "cancelled")
"""States of a response that is no answer."""


@dataclass(frozen=True)
class Tokens:
    """The tokens of one answer, where the engine returned them; see `rwml.schema.Step`."""

    ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Call:
    """One model call.

    Attributes:
        completions: one per choice; one without a response for a call that failed.
        tokens: of each completion.
        caller: who made it.
        forgotten: it named a history that is not known here.
    """

    completions: tuple[Completion, ...]
    tokens: tuple[Tokens, ...]
    caller: Caller
    forgotten: bool = False

    @property
    def size(self) -> int:
        """Characters of its texts; the choices share their request."""
        answers = (completion.response for completion in self.completions)
        texts = (*self.completions[0].messages, *answers)
        return sum(len(m.content or "") + len(m.reasoning or "") for m in texts if m is not None)


@dataclass(frozen=True)
class Skipped:
    """A call that is not recorded, by LiteLLM's call type or for a reason of ours."""

    reason: str


def read_call(
    kwargs: Mapping[str, Any],
    response: Any,
    start_time: datetime,
    end_time: datetime,
    *,
    histories: Histories,
    response_id: str | None = None,
) -> Call | Skipped:
    """The completions of one call.

    Args:
        kwargs: the call's details, as LiteLLM gives them to a `CustomLogger`.
        response: a `ModelResponse` or `ResponsesAPIResponse`, whole also where it was streamed;
            None for a failed call.
        start_time: local or aware time.
        end_time: local or aware time.
        histories: of the Responses API; this call's is added.
        response_id: of a Responses API response, as it was before the proxy encrypted it.

    Raises:
        SchemaError: a message does not fit the schema.
    """
    kind = str(kwargs.get("call_type"))
    read = _Reader(kwargs, response)
    reason = _reason_to_skip(kind, kwargs) or (None if read.wire else f"{kind} without messages")
    if reason is not None:
        return Skipped(reason)
    failed, forgotten = frozenset[str](), False
    if kind in RESPONSES:
        messages, answers, forgotten = read.responses(histories, response_id)
    elif kind in ANTHROPIC:
        messages, answers = read.anthropic(), read.answers()
        failed = anthropic_api.failed_calls(map(plain, read.wire))
    else:
        messages, answers = read.chat(), read.answers()
    if any(m.content == _HIDDEN for m in (*messages, *answers) if m is not None):
        return Skipped("message logging is off")
    caller = read_caller(kwargs)
    asked = _request(kwargs, response, start_time, end_time, caller)
    if forgotten:
        asked.metadata["history_unknown"] = True
    if not answers:
        return Skipped(f"{kind} without an answer")
    completions = tuple(
        replace(
            asked,
            messages=messages,
            response=answer,
            failed_calls=failed,
            usage=asked.usage if place == 0 else None,  # it counts all choices together
            # Elsewhere an equal call may begin another conversation: its text is no identity.
            name=_name(asked, place),
        )
        for place, answer in enumerate(answers)
    )
    return Call(completions, read.tokens(len(answers)), caller, forgotten)


def _name(asked: Completion, place: int) -> str | None:
    call_id = None if asked.provenance is None else asked.provenance.run_id
    return None if call_id is None else f"litellm:{call_id}" + (f":{place}" if place else "")


def _reason_to_skip(kind: str, kwargs: Mapping[str, Any]) -> str | None:
    if kind not in CHAT + RESPONSES + ANTHROPIC:
        return kind
    if kwargs.get(_REFUSED):
        return "refused by the proxy"
    return "health check" if is_health_check(kwargs) else None


def _request(
    kwargs: Mapping[str, Any],
    response: Any,
    start_time: datetime,
    end_time: datetime,
    caller: Caller,
) -> Completion:
    """What a call's completions have in common, besides their messages."""
    started_at = start_time.astimezone(UTC)
    return Completion(
        messages=(),
        response=None,
        tools=_tools(kwargs),
        model=served_version(kwargs)
        or text(getattr(response, "model", None))
        or text(kwargs.get("model")),
        usage=_usage(response),
        started_at=started_at,
        latency_s=(end_time.astimezone(UTC) - started_at).total_seconds(),
        thread_id=caller.scope,
        provenance=Provenance(
            run_id=text(kwargs.get("litellm_call_id")),
            thread_id=caller.session,
            trace_id=caller.trace_id,
        ),
        metadata=_metadata(kwargs, caller),
        about=caller.metadata,
    )


@dataclass(frozen=True)
class _Reader:
    kwargs: Mapping[str, Any]
    response: Any

    @property
    def wire(self) -> Sequence[Any]:
        """What LiteLLM calls messages, whatever the API: messages, or input items."""
        found = self.kwargs.get("messages")
        return found if isinstance(found, list | tuple) else ()

    def chat(self) -> tuple[Message, ...]:
        return tuple(Message.from_openai(plain(message)) for message in self.wire)

    def anthropic(self) -> tuple[Message, ...]:
        return anthropic_api.read_messages(map(plain, self.wire), system=self._system())

    def responses(
        self, histories: Histories, response_id: str | None
    ) -> tuple[tuple[Message, ...], list[Message | None], bool]:
        """Messages with the history that the server has, the answer, and whether it is missing."""
        system = responses_api.read_items((), instructions=self._asked("instructions"))
        new = responses_api.read_items(self.wire)
        conversation = self._asked("conversation")
        if isinstance(conversation, Mapping):
            conversation = conversation.get("id")
        before: tuple[Message, ...] | None = ()
        previous = self._asked("previous_response_id")
        if previous or conversation:
            before = histories.find(previous or conversation)
        history = (*(before or ()), *new)
        answer = None
        if self.response is not None and _field(self.response, "status") not in _UNFINISHED:
            answer = responses_api.read_answer(_field(self.response, "output"))
            names = (_field(self.response, "id"), response_id, conversation)
            histories.remember(names, (*history, answer))
        is_missing = bool(previous) and before is None  # a new conversation has none
        return (*system, *history), [answer], is_missing

    def answers(self) -> list[Message | None]:
        if self.response is None:
            return [None]
        messages = (getattr(choice, "message", None) for choice in self._choices())
        return [Message.from_openai(plain(message)) for message in messages if message is not None]

    def tokens(self, count: int) -> tuple[Tokens, ...]:
        found = [_tokens(choice) for choice in self._choices()]
        return tuple(found) if len(found) == count else (Tokens(),) * count

    def _choices(self) -> Iterable[Any]:
        return getattr(self.response, "choices", None) or ()

    def _asked(self, name: str) -> Any:
        """A parameter of the request; its place depends on the route through LiteLLM."""
        return next((p[name] for p in _places(self.kwargs) if p.get(name)), None)

    def _system(self) -> Any:
        asked = self._asked("system") or self._asked("instructions")
        if asked:
            return asked
        for message in self.kwargs.get("input") or ():  # what LiteLLM made of it for the provider
            if isinstance(message, Mapping) and message.get("role") == "system":
                return message.get("content")
        return None


def _places(kwargs: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    standard = kwargs.get("standard_logging_object") or {}
    request = (kwargs.get("litellm_params") or {}).get("proxy_server_request") or {}
    places = (
        kwargs.get("optional_params"),
        standard.get("model_parameters"),
        kwargs,
        request.get("body"),
    )
    return (place for place in places if isinstance(place, Mapping))


def _tools(kwargs: Mapping[str, Any]) -> tuple[Tool, ...]:
    """The functions that were offered; a provider's built-in tools are left out."""
    offered = next((place["tools"] for place in _places(kwargs) if place.get("tools")), ())
    found = []
    for tool in map(plain, offered):
        try:
            if "input_schema" in tool:  # Anthropic's name for it
                tool = {**tool, "parameters": tool["input_schema"]}
            found.append(Tool.from_openai(tool))
        except (AttributeError, SchemaError, TypeError, ValueError):
            continue
    return tuple(found)


def _usage(response: Any) -> Usage | None:
    counted = _field(response, "usage")
    if counted is None:
        return None
    return Usage(
        prompt_tokens=_number(counted, "prompt_tokens", "input_tokens"),
        completion_tokens=_number(counted, "completion_tokens", "output_tokens"),
    )


def _number(counted: Any, *names: str) -> int | None:
    found = (_field(counted, name) for name in names)
    return next((value for value in found if isinstance(value, int)), None)


def _tokens(choice: Any) -> Tokens:
    """Token ids as vLLM returns them, and the log-probabilities that OpenAI's API defines."""
    extra = getattr(choice, "provider_specific_fields", None) or {}
    ids = extra.get("token_ids") if isinstance(extra, Mapping) else None
    is_list = isinstance(ids, list | tuple) and all(isinstance(each, int) for each in ids)
    entries = _field(getattr(choice, "logprobs", None), "content") or ()
    numbers = tuple(_field(entry, "logprob") for entry in entries)
    is_whole = bool(numbers) and all(isinstance(number, int | float) for number in numbers)
    if is_list and len(ids or ()) != len(numbers):
        is_whole = False  # not of these tokens
    return Tokens(tuple(ids) if ids and is_list else None, numbers if is_whole else None)


def _metadata(kwargs: Mapping[str, Any], caller: Caller) -> dict[str, JsonValue]:
    """What is kept with the step."""
    kept: dict[str, JsonValue] = {}
    for about in call_metadata(kwargs):
        if about.get("model_group"):
            kept["model_group"] = str(about["model_group"])
        if about.get("client_disconnected"):
            kept["client_disconnected"] = True
    if kwargs.get("cache_hit") is True:
        kept["cache_hit"] = True
    if caller.client_call is not None:
        kept["client_call"] = caller.client_call.id
    return kept


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
