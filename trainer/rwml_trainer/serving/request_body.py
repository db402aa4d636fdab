"""What a chat completion request may say: the OpenAI fields that are about the completion.

LiteLLM takes hundreds of further fields from a body (where to send it, with which key, callbacks,
mocked answers, fallbacks, guardrails), so the fields are an allow-list. What was checked is what
goes on: the body is written anew, so that two JSON parsers cannot disagree about it. It may not be
nested deeper than the parsers behind us can follow without running out of stack.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from pydantic import JsonValue

from rwml_trainer.serving.names import NAME

# openai.types.chat.completion_create_params, without what stores, bills, searches or speaks.
FIELDS = frozenset(
    {
        "model",
        "messages",
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "n",
        "parallel_tool_calls",
        "presence_penalty",
        "reasoning_effort",
        "response_format",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "temperature",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
    }
)


MAX_DEPTH = 64
"""Of lists and objects within each other (ours): a tool's schema has about ten."""


class BadRequestError(ValueError):
    """A body that is refused, for the reason in the message; `field` is where, if known."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


def parse(body: bytes) -> dict[str, JsonValue]:
    """Checks the body of a chat completion request.

    Raises:
        BadRequestError: it is no JSON object, or says something that is not passed on.
    """
    try:
        request: JsonValue = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadRequestError("the body is not valid JSON") from error
    if not isinstance(request, dict):
        raise BadRequestError("the body is not a JSON object")
    if not _is_shallow(request):
        raise BadRequestError(f"the body is nested deeper than {MAX_DEPTH} levels")
    _check(request)
    return request


def write(request: Mapping[str, JsonValue]) -> bytes:
    """The body anew.

    Raises:
        BadRequestError: a number in it is none (1e999 is read as an infinity).
    """
    try:
        return json.dumps(request, allow_nan=False).encode()
    except ValueError as error:
        raise BadRequestError("the body is not valid JSON") from error


def _check(request: Mapping[str, JsonValue]) -> None:
    for field in sorted(request.keys() - FIELDS):
        raise BadRequestError(f"the field {field[:80]!r} is not accepted here", field[:80])
    model = request.get("model")
    if not isinstance(model, str) or not NAME.fullmatch(model):
        raise BadRequestError("the field 'model' must name a model", "model")
    messages = request.get("messages")
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise BadRequestError("the field 'messages' must be a list of messages", "messages")
    for message in messages:
        if not _is_text(message.get("content") if isinstance(message, dict) else None):
            # an image or a file may be an address that the server would fetch
            raise BadRequestError("message content may only be text", "messages")
    tools = request.get("tools") or []
    if not isinstance(tools, list) or not all(_has_type(tool, "function") for tool in tools):
        raise BadRequestError("tools may only be of type 'function'", "tools")


def _is_shallow(request: JsonValue) -> bool:
    """Goes down level by level: recursion is what it guards against."""
    level: list[JsonValue] = [request]
    for _ in range(MAX_DEPTH):
        level = [inner for value in level for inner in _nested(value)]
        if not level:
            return True
    return False


def _nested(value: JsonValue) -> Iterable[JsonValue]:
    inner: Iterable[JsonValue] = ()
    if isinstance(value, dict):
        inner = value.values()
    elif isinstance(value, list):
        inner = value
    return (each for each in inner if isinstance(each, dict | list))


def _is_text(content: JsonValue) -> bool:
    """Whether it is None, a text, or a list of text parts: the only forms that are passed on."""
    if isinstance(content, list):
        return all(_has_type(part, "text") for part in content)
    return content is None or isinstance(content, str)


def _has_type(value: JsonValue, wanted: str) -> bool:
    return isinstance(value, dict) and value.get("type") == wanted


def _refuse_constant(name: str) -> JsonValue:
    raise ValueError(f"{name} is not JSON")
