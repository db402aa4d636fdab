"""Chat models for tau2 agents: any LiteLLM model, or the scripted one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rwml.errors import UsageError
from rwml_adapters.models import ModelOptions, chat_model

if TYPE_CHECKING:
    from tau2.data_model.tasks import Task
    from tau2.environment.environment import Environment

    from rwml_adapters.tau2.agent import ChatPolicy


@dataclass(frozen=True)
class Agent:
    """An agent to record.

    Attributes:
        name: part of the trajectory's id, so that two agents never share one.
        policy: makes the chat model for one episode, from its task and environment.
    """

    name: str
    policy: Callable[[Task, Environment], ChatPolicy]


def litellm_agent(options: ModelOptions, *, seed: int) -> Agent:
    """An agent that asks a LiteLLM model."""

    def policy(task: Task, environment: Environment) -> ChatPolicy:
        from rwml_adapters.tau2.agent import tool_schemas

        return chat_model(options, seed=seed, tools=tool_schemas(environment.get_tools()))

    return Agent(name=options.agent_name, policy=policy)


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
