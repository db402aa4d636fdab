"""Agents for tau2: any LiteLLM model, a script, or somebody's own graph."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rwml.errors import AdapterError, UsageError
from rwml_adapters.models import ModelOptions, chat_model, request_arguments

if TYPE_CHECKING:
    from tau2.data_model.tasks import Task

    from rwml_adapters.tau2.domains import Domain


@dataclass(frozen=True)
class Agent:
    """An agent to record.

    Attributes:
        name: part of the trajectory's id, so that two agents never share one.
        graph: makes the graph for one episode, from its task, its domain and its seed.
        tool_nodes: names of the nodes that run tools; None to find them.
    """

    name: str
    graph: Callable[[Task, Domain, int], Any]
    tool_nodes: Sequence[str] | None = None


def litellm_agent(options: ModelOptions) -> Agent:
    """An agent that asks a LiteLLM model."""

    def graph(task: Task, domain: Domain, seed: int) -> Any:
        from rwml_adapters.tau2.graphs import policy_graph

        return policy_graph(chat_model(options, seed=seed, tools=domain.tools))

    return Agent(name=options.agent_name, graph=graph, tool_nodes=())


def scripted_agent(*, error_rate: float) -> Agent:
    """The oracle (no mistakes), or one that makes a seeded share of mistakes.

    Raises:
        UsageError: the rate is no share.
    """
    if not 0 <= error_rate <= 1:
        raise UsageError(f"--error-rate must be between 0 and 1, not {error_rate}")

    def graph(task: Task, domain: Domain, seed: int) -> Any:
        from rwml_adapters.tau2.graphs import policy_graph
        from rwml_adapters.tau2.scripted import scripted_policy

        return policy_graph(scripted_policy(task, domain, error_rate=error_rate, seed=seed))

    name = f"perturbed-{error_rate:g}" if error_rate else "oracle"
    return Agent(name=name, graph=graph, tool_nodes=())


def graph_agent(
    factory: Callable[..., Any],
    *,
    name: str,
    options: ModelOptions | None = None,
    tool_nodes: Sequence[str] | None = None,
) -> Agent:
    """An agent that is somebody's own graph.

    Args:
        factory: as `rwml_adapters.tau2.register` takes it.
        name: of the agent.
        options: a model for the factory, as its `llm` and `llm_args`; None for none.
        tool_nodes: names of the nodes that run tools; None to find them.
    """

    def graph(task: Task, domain: Domain, seed: int) -> Any:
        llm_args = _llm_args(options, seed) if options else {"seed": seed}
        tools = copy.deepcopy(domain.tools)  # theirs to change
        made = factory(tools, domain.policy, options.model if options else None, llm_args)
        if made is None:
            raise AdapterError(f"the graph factory {name} returned nothing: return a graph")
        return made

    return Agent(
        name=f"{name}-{options.agent_name}" if options else name, graph=graph, tool_nodes=tool_nodes
    )


def _llm_args(options: ModelOptions, seed: int) -> dict[str, Any]:
    given = {
        **request_arguments(options.model, seed=seed),
        "api_base": options.api_base,
        "api_key": options.api_key,
        "temperature": options.temperature,
        "max_tokens": options.max_tokens,
        "timeout": options.timeout_s,
    }
    return {name: value for name, value in given.items() if value is not None}
