"""What each engine can do with the fields of a chat completion request.

An engine that takes a field and does nothing with it would answer another question than it was
asked. Such a field is refused, unless its value is the one that changes nothing: that is left out.
Sources: `UNUSED_CHAT_COMPLETION_FIELDS` of transformers' server and what it does in
`_build_generation_config`, which a test compares; for vLLM its `ChatCompletionRequest` and
`to_sampling_params`, each field of which `make test-vllm` asks of a real one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import JsonValue

from rwml_trainer.serving.request_body import FIELDS, BadRequestError

EngineName = Literal["transformers", "vllm"]
TOOL_FIELDS = frozenset({"tools", "tool_choice", "parallel_tool_calls"})

# Field -> the values, beside null, that say no more than leaving it out.
_NOT_IN_TRANSFORMERS: dict[str, tuple[JsonValue, ...]] = {
    "frequency_penalty": (0,),  # taken for a repetition penalty, which is another thing
    "function_call": (),
    "functions": ([],),
    "logprobs": (False,),
    "n": (1,),
    "parallel_tool_calls": (True,),
    "presence_penalty": (0,),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "stop": ([],),  # it stops, but the answer ends in the stop string, which OpenAI's never does
    "tool_choice": ("auto",),
    "top_logprobs": (0,),
}
_NOT_IN_VLLM: dict[str, tuple[JsonValue, ...]] = {
    "function_call": (),  # the names that `tools` and `tool_choice` had before: taken, not read
    "functions": ([],),
    "reasoning_effort": (),  # handed to the chat template, and few templates look at it
}
# `stream_options` and `user` are LiteLLM's matter: it reports usage, and a user is recorded.

CANNOT: Mapping[EngineName, Mapping[str, tuple[JsonValue, ...]]] = {
    "transformers": _NOT_IN_TRANSFORMERS,
    "vllm": _NOT_IN_VLLM,
}
"""By engine: the fields that it cannot do, each with the values that ask for nothing."""


MOST_ANSWERS = 16
"""To one request (ours): a key's rate counts requests, and vLLM would draw 16,384."""


def fit(
    request: Mapping[str, JsonValue], *, engine: EngineName, tools: bool
) -> dict[str, JsonValue]:
    """The request as an engine can answer it.

    Args:
        request: of known fields.
        engine: kind of the engine.
        tools: whether the model's chat template shows tools to the model.

    Raises:
        BadRequestError: it asks for what the engine cannot do.
    """
    cannot = CANNOT[engine]
    kept: dict[str, JsonValue] = {}
    for field, value in request.items():
        if value is None:
            continue
        if field in TOOL_FIELDS and not tools:
            if value not in ([], "none", "auto", True):
                raise BadRequestError(
                    "this model's chat template shows it no tools: describe them in a message, "
                    "or serve a model whose template does",
                    field,
                )
        elif field == "logit_bias" and engine == "transformers":
            kept[field] = _as_floats(value)
        elif field == "n" and field not in cannot and not _is_few(value):
            raise BadRequestError(f"'n' is a number from 1 to {MOST_ANSWERS}", field)
        elif field not in cannot:
            kept[field] = value
        elif not _is_one_of(value, cannot[field]):
            raise BadRequestError(f"the engine ({engine}) cannot do {field!r}: leave it out", field)
    return kept


def can_do(engine: EngineName) -> frozenset[str]:
    """The fields that have their effect."""
    return FIELDS - CANNOT[engine].keys()


def _is_few(value: JsonValue) -> bool:
    return type(value) is int and 1 <= value <= MOST_ANSWERS


def _as_floats(value: JsonValue) -> dict[str, JsonValue]:
    """A logit bias as this engine wants it: it fails on whole numbers, which OpenAI's has."""
    biases: dict[str, JsonValue] = {}
    for token, bias in value.items() if isinstance(value, dict) else [("", None)]:
        if not token.isdigit() or isinstance(bias, bool) or not isinstance(bias, int | float):
            raise BadRequestError("'logit_bias' must map token ids to numbers", "logit_bias")
        try:
            biases[token] = float(bias)
        except OverflowError as error:
            raise BadRequestError(
                "'logit_bias' must map token ids to numbers that a float can hold", "logit_bias"
            ) from error
    return biases


def _is_one_of(value: JsonValue, allowed: tuple[JsonValue, ...]) -> bool:
    # True == 1 in Python, and {"n": true} asks for something else
    return any(
        value == each and isinstance(value, bool) == isinstance(each, bool) for each in allowed
    )
