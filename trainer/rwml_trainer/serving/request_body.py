"""What a chat completion request may say: the OpenAI fields that are about the completion.

LiteLLM takes hundreds of further fields from a body (where to send it, with which key, callbacks,
mocked answers, fallbacks, guardrails), so the fields are an allow-list. What was checked is what
goes on: the body is written anew, so that two JSON parsers cannot disagree about it. It may not be
nested deeper than the parsers behind us can follow without running out of stack, nor hold more
values than the event loop can spare the time for: a parser stops it for a second over 8 MiB of
brackets, so they are counted before anything is parsed.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping
from itertools import accumulate

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
MAX_VALUES = 100_000
"""Lists, objects and what is in them (ours): some ten thousand messages, read in about 10 ms."""
LARGEST = 2**63 - 1
"""Whole number of a field, such as a seed: what engines keep it in."""
_QUOTES_PER_VALUE = 4  # it and its key are texts
_OPENS_OR_PARTS = b"[{,"
_BRACKETS = b"[]{}"
_BUT_VALUES = bytes(byte for byte in range(256) if byte not in _OPENS_OR_PARTS)
_BUT_BRACKETS = bytes(byte for byte in range(256) if byte not in _BRACKETS)
_AS_STEPS = bytes.maketrans(_BRACKETS, b"\x01\xff\x01\xff")  # a level down, and up again


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
    _check_shape(body)
    try:
        # As text: bytes may be UTF-16, in which brackets and quotes are something else.
        request: JsonValue = json.loads(body.decode(), parse_constant=_refuse_constant)
    except ValueError as error:
        raise BadRequestError("the body is not valid JSON") from error
    if not isinstance(request, dict):
        raise BadRequestError("the body is not a JSON object")
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


def _check_shape(body: bytes) -> None:
    """Refuses what is too much for a parser, by passes over the bytes: 30 ms for 8 MiB of any kind.

    Up to where the body stops being JSON, this sees the brackets that a parser would.
    """
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in body else body
    is_full = plain.count(b'"') > _QUOTES_PER_VALUE * MAX_VALUES
    outside = b"" if is_full else b"".join(plain.split(b'"')[::2])  # of texts
    if is_full or len(outside.translate(None, _BUT_VALUES)) > MAX_VALUES:
        raise BadRequestError(
            f"the body holds more than {MAX_VALUES} values: send fewer messages or tools"
        )
    steps = outside.translate(_AS_STEPS, _BUT_BRACKETS)[: 2 * MAX_VALUES]  # JSON has no more
    if max(accumulate(array("b", steps)), default=0) > MAX_DEPTH:
        raise BadRequestError(f"the body is nested deeper than {MAX_DEPTH} levels: flatten it")


def _check(request: Mapping[str, JsonValue]) -> None:
    for field in sorted(request.keys() - FIELDS):
        raise BadRequestError(f"the field {field[:80]!r} is not accepted here", field[:80])
    for field, value in request.items():
        if type(value) is int and abs(value) > LARGEST:
            raise BadRequestError(f"the field {field!r} is larger than {LARGEST}", field)
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


def _is_text(content: JsonValue) -> bool:
    """Whether it is None, a text, or a list of text parts: the only forms that are passed on."""
    if isinstance(content, list):
        return all(_has_type(part, "text") for part in content)
    return content is None or isinstance(content, str)


def _has_type(value: JsonValue, wanted: str) -> bool:
    return isinstance(value, dict) and value.get("type") == wanted


def _refuse_constant(name: str) -> JsonValue:
    raise ValueError(f"{name} is not JSON")
