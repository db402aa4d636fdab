"""A compiled graph in a conversation whose tools somebody else runs.

Two shapes: a graph that only talks (`ChatGraph`) is asked with the whole conversation; a graph with
a tool node of its own (`ToolGraph`), such as `create_agent` makes, runs unchanged up to that node
and goes on with results that are written back in its place. Neither may run a tool: a graph that
did so would act on the user's own systems.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.tools import StructuredTool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph

from rwml.errors import AdapterError, UsageError

TOOL_NODE = "tools"
"""Name by which a node that runs tools is known where it is no `ToolNode`."""
AGENT_NODE = "agent"


class GraphSession(Protocol):
    """One conversation with a graph."""

    own_prompt: bool
    """Whether the graph brings its system prompt itself."""

    def ask(self, messages: Sequence[BaseMessage]) -> AIMessage:
        """Answers what is new: what was said before the first turn, then what came back.

        Raises:
            AdapterError: the graph did not end with an AI message, or ran a tool.
        """
        ...

    def keep(self, reply: AIMessage) -> None:
        """Remembers its last answer as it was sent."""
        ...

    def close(self) -> None:
        """Gives back what it holds."""
        ...


def open_session(
    graph: Any, *, thread_id: str, tool_nodes: Sequence[str] | None = None
) -> GraphSession:
    """A conversation with a graph of either shape.

    Args:
        graph: compiled, or a builder, which is compiled here.
        thread_id: of LangGraph; the conversation's own.
        tool_nodes: names of the nodes that run tools; None to find them.

    Raises:
        UsageError: there is no such node, or tools run inside a subgraph.
    """
    if isinstance(graph, StateGraph):
        graph = graph.compile()
    nodes = find_tool_nodes(graph) if tool_nodes is None else _named(graph, tool_nodes)
    if nodes:
        return ToolGraph(graph, thread_id=thread_id, tool_nodes=nodes)
    return ChatGraph(graph, thread_id=thread_id)


def find_tool_nodes(graph: Any) -> tuple[str, ...]:
    """The nodes of a compiled graph that run tools: each `ToolNode`, and one called ``tools``.

    Raises:
        UsageError: a subgraph runs tools, before which the graph cannot be stopped.
    """
    for name, subgraph in _subgraphs(graph):
        if any(_runs_tools(*item) for item in _nodes(subgraph).items()):
            raise UsageError(
                f"the node {name!r} runs tools inside a subgraph: give the graph one tool node "
                f"beside its agents, so that the benchmark can run the tools in its place"
            )
    return tuple(name for name, node in _nodes(graph).items() if _runs_tools(name, node))


def policy_graph(policy: Any) -> Any:
    """A compiled graph with one node, ``agent``, that asks a chat model."""

    def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [policy.invoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node(AGENT_NODE, ask)
    builder.add_edge(START, AGENT_NODE)
    builder.add_edge(AGENT_NODE, END)
    return builder.compile()


def tool_stubs(tools: Sequence[Mapping[str, Any]]) -> list[StructuredTool]:
    """LangChain tools with these OpenAI schemas that nobody can run, to build an agent with.

    Args:
        tools: OpenAI schemas, as a graph factory is given them.
    """

    def refuse(**_: Any) -> str:
        raise AdapterError("the benchmark runs this tool; nothing else may")

    stubs = []
    for tool in tools:
        function = tool.get("function", tool)
        stubs.append(
            StructuredTool.from_function(
                refuse,
                name=function["name"],
                description=function.get("description") or function["name"],
                args_schema=dict(function.get("parameters") or {"type": "object"}),
            )
        )
    return stubs


class ChatGraph:
    """A graph that only talks; it is asked with the whole conversation each time.

    Args:
        graph: compiled; takes and returns ``{"messages": [...]}``.
        thread_id: for a graph with a checkpointer.
    """

    own_prompt = False

    def __init__(self, graph: Any, *, thread_id: str) -> None:
        self._calls = _Calls(graph, thread_id)
        self._messages: list[BaseMessage] = []

    def ask(self, messages: Sequence[BaseMessage]) -> AIMessage:
        """See `GraphSession`."""
        self._messages += messages
        result = self._calls.invoke({"messages": list(self._messages)})
        known = {m.tool_call_id for m in self._messages if isinstance(m, ToolMessage)}
        for message in result.get("messages") or ():
            if isinstance(message, ToolMessage) and message.tool_call_id not in known:
                raise AdapterError(
                    "the graph ran a tool by itself: name the node that does (tool_nodes=, or "
                    "--tool-node), so that the benchmark runs the tools in its place"
                )
        return _answer(result)

    def keep(self, reply: AIMessage) -> None:
        """See `GraphSession`."""
        self._messages.append(reply)

    def close(self) -> None:
        """See `GraphSession`."""
        self._calls.close()


class ToolGraph:
    """A graph with tool nodes; it stops before them, and results are written in their place.

    It keeps the conversation itself, in a checkpointer of ours: its own one, which may be a
    production database, is not touched.

    Args:
        graph: compiled; its state has ``messages`` with the usual reducer.
        thread_id: of the conversation.
        tool_nodes: the nodes before which it stops.
    """

    own_prompt = True

    def __init__(self, graph: Any, *, thread_id: str, tool_nodes: Sequence[str]) -> None:
        ours = graph.copy(update={"checkpointer": InMemorySaver()})
        self._calls = _Calls(ours, thread_id, interrupt_before=list(tool_nodes))
        self._tool_nodes = tuple(tool_nodes)
        self._waits_at: str | None = None
        self._last: AIMessage | None = None
        self._corrected: AIMessage | None = None

    def ask(self, messages: Sequence[BaseMessage]) -> AIMessage:
        """See `GraphSession`."""
        # A message of the same id takes the place of the one the graph has.
        news = [*([self._corrected] if self._corrected else ()), *messages]
        self._corrected = None
        if self._waits_at is None:
            result = self._calls.invoke({"messages": news})
        else:
            self._calls.update({"messages": news}, as_node=self._waits_at)
            result = self._calls.invoke(None)
        ahead = self._calls.next_nodes()
        if any(node not in self._tool_nodes for node in ahead):
            raise AdapterError(
                f"the graph stopped before the node {ahead[0]!r}, which runs no tools: nobody can "
                f"answer its interrupt here"
            )
        self._waits_at = ahead[0] if ahead else None
        self._last = _answer(result)
        return self._last

    def keep(self, reply: AIMessage) -> None:
        """See `GraphSession`."""
        if reply is not self._last:
            self._corrected = reply

    def close(self) -> None:
        """See `GraphSession`."""
        self._calls.close()


class _Calls:
    """Calls of one thread of a graph; a graph that is asynchronous only has an event loop here."""

    def __init__(
        self, graph: Any, thread_id: str, *, interrupt_before: list[str] | None = None
    ) -> None:
        self._graph = graph
        self._config: dict[str, Any] = {"configurable": {"thread_id": thread_id}}
        self._stops = {} if interrupt_before is None else {"interrupt_before": interrupt_before}
        self._loop = asyncio.Runner() if _is_async_only(graph) else None

    def invoke(self, value: Any) -> Mapping[str, Any]:
        if self._loop is not None:
            made = self._loop.run(self._graph.ainvoke(value, self._config, **self._stops))
        else:
            made = self._graph.invoke(value, self._config, **self._stops)
        return made if isinstance(made, Mapping) else {}

    def update(self, value: Any, *, as_node: str) -> None:
        if self._loop is not None:
            self._loop.run(self._graph.aupdate_state(self._config, value, as_node=as_node))
        else:
            self._graph.update_state(self._config, value, as_node=as_node)

    def next_nodes(self) -> tuple[str, ...]:
        if self._loop is not None:
            return self._loop.run(self._graph.aget_state(self._config)).next
        return self._graph.get_state(self._config).next

    def close(self) -> None:
        if self._loop is not None:
            self._loop.close()


def _answer(result: Mapping[str, Any]) -> AIMessage:
    messages = result.get("messages")
    answer = messages[-1] if messages else None
    if not isinstance(answer, AIMessage):
        kind = type(answer).__name__
        raise AdapterError(f"a graph must end with an AI message, this one with {kind}")
    return answer


def _named(graph: Any, names: Sequence[str]) -> tuple[str, ...]:
    known = _nodes(graph)
    for name in names:
        if name not in known:
            listed = ", ".join(node for node in known if not node.startswith("__"))
            raise UsageError(f"the graph has no node {name!r}: use one of {listed or 'none'}")
    return tuple(names)


def _nodes(graph: Any) -> Mapping[str, Any]:
    nodes = getattr(graph, "nodes", None)
    return nodes if isinstance(nodes, Mapping) else {}


def _subgraphs(graph: Any) -> Iterator[tuple[str, Any]]:
    found = getattr(graph, "get_subgraphs", None)
    return found(recurse=True) if found is not None else iter(())


def _runs_tools(name: str, node: Any) -> bool:
    return name == TOOL_NODE or hasattr(getattr(node, "bound", None), "tools_by_name")


def _is_async_only(graph: Any) -> bool:
    bounds = [getattr(node, "bound", None) for node in _nodes(graph).values()]
    return any(
        getattr(bound, "afunc", None) is not None and getattr(bound, "func", bound) is None
        for bound in bounds
    )
