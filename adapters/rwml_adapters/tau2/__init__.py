"""tau2-bench: LangGraph agents in its registry, and its episodes as recorded trajectories.

`register` makes a graph selectable in tau2's own command line; `rwml record tau2` and `rwml eval
tau2` run episodes. Importing this package is light: tau2, litellm and langgraph load on first use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rwml.extras import require
from rwml_adapters.tau2.package import ensure_tau2

if TYPE_CHECKING:
    from langchain_core.tools import StructuredTool

    from rwml_adapters.tau2.agent import GraphAgent, GraphFactory

__all__ = ["register", "tool_stubs"]


def register(
    graph_factory: GraphFactory, *, name: str, tool_nodes: Sequence[str] | None = None
) -> type[GraphAgent]:
    """Makes a LangGraph agent selectable in tau2's registry and command line.

    The graph takes and returns ``{"messages": [...]}``. One without a tool node is given tau2's
    system prompt (which holds the policy) with the conversation, and answers with one AI message: a
    text or tool calls. One with a `ToolNode`, such as `create_agent` makes, runs as it is with its
    own prompt, up to that node. In both cases tau2 runs the tools, and the graph's own never run.

    Args:
        graph_factory: ``(tools, domain_policy, llm, llm_args) -> compiled graph``, called once per
            episode; `tools` are OpenAI schemas (see `tool_stubs`).
        name: the agent's name in tau2, as in ``tau2 run --agent NAME``.
        tool_nodes: names of the nodes that run tools; None to find them.

    Returns:
        The agent class that was registered.

    Raises:
        UsageError: the name is taken, or tau2 would leave tasks out for it.
        MissingExtraError: tau2 or langgraph is not installed.
    """
    ensure_tau2()
    from rwml_adapters.tau2.agent import register_graph

    return register_graph(graph_factory, name=name, tool_nodes=tool_nodes)


def tool_stubs(tools: Sequence[Mapping[str, Any]]) -> list[StructuredTool]:
    """LangChain tools with these OpenAI schemas that nobody can run, to build an agent with.

    Args:
        tools: OpenAI schemas, as a graph factory is given them.

    Raises:
        MissingExtraError: langgraph is not installed.
    """
    require("langgraph", "langgraph", "langchain_core")
    from rwml_adapters.tau2.graphs import tool_stubs

    return tool_stubs(tools)
