"""LiteLLM models as the agents of environments: which one, with whose key, as a LangChain model.

What `rwml record NAME` and `rwml eval NAME` of every environment share. Importing this loads
neither litellm nor LangChain, and no key is sent to a provider that it was not given for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rwml.cli.endpoints import DEFAULT_KEY_VARIABLE, read_api_key
from rwml.errors import UsageError
from rwml.extras import require

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage
    from langchain_core.runnables import Runnable

REQUEST_TIMEOUT_S = 300.0
"""Seconds one reply may take; a small model on a CPU is slow (ours)."""
ATTEMPTS = 2
"""Tries per model call before the episode counts as an infrastructure error (ours)."""

ModelOption = Annotated[
    str | None, typer.Option("--model", help="A LiteLLM model instead of a scripted agent.")
]
TemperatureOption = Annotated[float | None, typer.Option(help="Of the model.")]
MaxTokensOption = Annotated[int | None, typer.Option(help="Longest reply of the model.")]
ToolsAsTextFlag = Annotated[
    bool, typer.Option("--tools-as-text", help="For models whose chat template drops tools.")
]
TimeoutOption = Annotated[
    float, typer.Option("--request-timeout", help="Seconds one reply of the model may take.")
]


@dataclass(frozen=True)
class ModelOptions:
    """Which LiteLLM model to ask, and how.

    Attributes:
        model: LiteLLM's name of it, such as ``openai/NAME`` for an endpoint of one's own.
        api_base: the endpoint; None for the provider's.
        api_key: None leaves it to LiteLLM, which reads the provider's own variable; not shown
            when this is printed.
        temperature: None for the provider's default.
        max_tokens: longest reply; None for the provider's default.
        tools_as_text: tell the tools in words (see `rwml_adapters.tools_as_text`).
        timeout_s: seconds a reply may take.

    Raises:
        UsageError: the timeout, the temperature or the token limit is out of range.
    """

    model: str
    api_base: str | None = None
    api_key: str | None = field(default=None, repr=False)
    temperature: float | None = None
    max_tokens: int | None = None
    tools_as_text: bool = False
    timeout_s: float = REQUEST_TIMEOUT_S

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            raise UsageError(f"--request-timeout must be more than 0 s, not {self.timeout_s:g}")
        if self.temperature is not None and not self.temperature >= 0:
            raise UsageError(f"--temperature must be 0 or more, not {self.temperature:g}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UsageError(f"--max-tokens must be 1 or more, not {self.max_tokens}")

    @property
    def agent_name(self) -> str:
        """Name of an agent that asks this model: part of the ids of its trajectories."""
        name = self.model if self.temperature is None else f"{self.model}-t{self.temperature:g}"
        return f"{name}-tools-as-text" if self.tools_as_text else name


def read_model_options(
    model: str | None,
    *,
    api_base: str | None = None,
    api_key_env: str = DEFAULT_KEY_VARIABLE,
    api_key_file: Path | None = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
    tools_as_text: bool = False,
    timeout_s: float = REQUEST_TIMEOUT_S,
) -> ModelOptions | None:
    """What a command line says about its model, with the key read; None where it names none.

    Raises:
        UsageError: an option is for a model and there is none, a value is out of range, or the
            key cannot be read (see `read_api_key`).
        MissingExtraError: langchain-litellm is not installed. Said here, and not by each episode.
    """
    if model is None:
        given = {
            "--api-base": api_base is not None,
            "--api-key-env": api_key_env != DEFAULT_KEY_VARIABLE,
            "--api-key-file": api_key_file is not None,
            "--temperature": temperature is not None,
            "--max-tokens": max_tokens is not None,
            "--tools-as-text": tools_as_text,
        }
        wrong = [option for option, is_given in given.items() if is_given]
        if wrong:
            raise UsageError(f"{' and '.join(wrong)} need a model: add --model")
        return None
    require("litellm", "langchain_litellm")
    return ModelOptions(
        model=model,
        api_base=api_base,
        api_key=read_api_key(variable=api_key_env, key_file=api_key_file, api_base=api_base),
        temperature=temperature,
        max_tokens=max_tokens,
        tools_as_text=tools_as_text,
        timeout_s=timeout_s,
    )


def chat_model(
    options: ModelOptions, *, seed: int, tools: Sequence[Mapping[str, Any]] = ()
) -> Runnable[Any, AIMessage]:
    """The LangChain chat model of `options`: takes messages, answers with an AI message.

    Args:
        options: which model.
        seed: sent along where the provider takes one.
        tools: OpenAI schemas, bound to the model or told in words.
    """
    from langchain_litellm import ChatLiteLLM

    from rwml_adapters.tools_as_text import ToolsAsText

    model = ChatLiteLLM(
        model=options.model,
        api_base=options.api_base,
        api_key=options.api_key,
        temperature=options.temperature,
        max_tokens=options.max_tokens,
        request_timeout=options.timeout_s,
        max_retries=ATTEMPTS,
        model_kwargs=request_arguments(options.model, seed=seed),
    )
    if not tools:
        return model
    return (
        ToolsAsText(model, tools)
        if options.tools_as_text
        else model.bind_tools([dict(tool) for tool in tools])
    )


def request_arguments(model: str, *, seed: int) -> dict[str, Any]:
    """What every LiteLLM request gets beside model, messages and the user's own options."""
    # The client beneath LiteLLM would try three times each, so that a server that hangs takes
    # three timeouts; and LiteLLM asks for the package mcp as soon as there are tools.
    arguments: dict[str, Any] = {"_skip_mcp_handler": True, "max_retries": 0}
    if _takes_seed(model):
        arguments["seed"] = seed
    return arguments


def _takes_seed(model: str) -> bool:
    """Whether the provider takes a seed, as far as LiteLLM knows: others refuse the request."""
    import litellm

    provider, slash, _ = model.partition("/")
    if slash and provider not in litellm.provider_list:
        return True  # somebody's own: asking LiteLLM would print
    supported = litellm.get_supported_openai_params(model)
    return supported is None or "seed" in supported
