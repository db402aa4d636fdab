"""Chat models for tau2 agents: any LiteLLM model, or the scripted one."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwml.errors import UsageError
from rwml.extras import require

if TYPE_CHECKING:
    from tau2.data_model.tasks import Task
    from tau2.environment.environment import Environment

    from rwml_adapters.tau2.agent import ChatPolicy

DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"
REQUEST_TIMEOUT_S = 300.0
"""Seconds one reply may take; a small model on a CPU is slow (ours)."""
ATTEMPTS = 2
"""Tries per model call before the episode counts as an infrastructure error (ours)."""
NO_KEY = "no-key"
"""Sent to an endpoint of one's own when there is no key: clients refuse to send none."""


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
        tools_as_text: tell the tools in words (see `tools_as_text`).
    """

    model: str
    api_base: str | None = None
    api_key: str | None = field(default=None, repr=False)
    temperature: float | None = None
    max_tokens: int | None = None
    tools_as_text: bool = False


@dataclass(frozen=True)
class Agent:
    """An agent to record.

    Attributes:
        name: part of the trajectory's id, so that two agents never share one.
        policy: makes the chat model for one episode, from its task and environment.
    """

    name: str
    policy: Callable[[Task, Environment], ChatPolicy]


def read_api_key(
    *, variable: str, key_file: Path | None, api_base: str | None = None
) -> str | None:
    """The API key from a file, else from an environment variable.

    The default variable is read only for an endpoint of one's own (`api_base`): without one,
    LiteLLM picks the provider's own variable, and no key goes to another provider.

    Raises:
        UsageError: the file cannot be read or is empty, or a variable asked for is not set.
    """
    if key_file is not None:
        try:
            key = key_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read the key file {key_file}: {error}") from error
        if not key:
            raise UsageError(f"the key file {key_file} is empty")
        return key
    if variable == DEFAULT_KEY_VARIABLE:
        return (os.environ.get(variable) or NO_KEY) if api_base else None
    key = os.environ.get(variable)
    if not key:
        raise UsageError(f"the environment variable {variable} is not set")
    return key


def litellm_agent(options: ModelOptions, *, seed: int) -> Agent:
    """An agent that asks a LiteLLM model.

    Raises:
        MissingExtraError: langchain-litellm is not installed. Said here, and not by each episode.
    """
    require("litellm", "langchain_litellm")

    def policy(task: Task, environment: Environment) -> ChatPolicy:
        from rwml_adapters.tau2.agent import tool_schemas
        from rwml_adapters.tau2.tools_as_text import ToolsAsText

        model = chat_model(options, seed=seed)
        tools = tool_schemas(environment.get_tools())
        if options.tools_as_text:
            return ToolsAsText(model, tools)
        return model.bind_tools(tools)

    suffix = "-tools-as-text" if options.tools_as_text else ""
    return Agent(name=f"{options.model}{suffix}", policy=policy)


def scripted_agent(*, error_rate: float, seed: int) -> Agent:
    """The oracle (no mistakes), or one that makes a seeded share of mistakes.

    Raises:
        UsageError: the rate is no share.
    """
    if not 0 <= error_rate <= 1:
        raise UsageError(f"--error-rate must be between 0 and 1, not {error_rate}")

    def policy(task: Task, environment: Environment) -> ChatPolicy:
        from rwml_adapters.tau2.scripted import scripted_policy

        return scripted_policy(task, environment, error_rate=error_rate, seed=seed)

    return Agent(name=f"perturbed-{error_rate:g}" if error_rate else "oracle", policy=policy)


def chat_model(options: ModelOptions, *, seed: int) -> Any:
    """The LangChain chat model of `options`."""
    from langchain_litellm import ChatLiteLLM

    return ChatLiteLLM(
        model=options.model,
        api_base=options.api_base,
        api_key=options.api_key,
        temperature=options.temperature,
        max_tokens=options.max_tokens,
        request_timeout=REQUEST_TIMEOUT_S,
        max_retries=ATTEMPTS,
        # litellm asks for the package mcp as soon as there are tools, unless told not to
        model_kwargs={"_skip_mcp_handler": True, "seed": seed},
    )
