"""A tau2 agent whose brain is a compiled LangGraph graph.

The graph gets the whole conversation each turn and answers with one AI message; tau2 runs the
tools. tau2's `run_task` accepts only subclasses of `LLMAgent`, hence the base class.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

from langchain_core.messages import AIMessage, BaseMessage, SystemMessage
from langchain_core.runnables import Runnable
from langgraph.graph import END, START, MessagesState, StateGraph
from tau2.agent.base import ValidAgentInputMessage
from tau2.agent.llm_agent import LLMAgent
from tau2.data_model.message import AssistantMessage, Message
from tau2.environment.tool import Tool

from rwml.errors import AdapterError, UsageError
from rwml_adapters.tau2.messages import to_langchain, to_reply

GraphFactory = Callable[[list[dict[str, Any]], str, str | None, dict[str, Any]], Any]
"""``(tools as OpenAI schemas, domain policy, llm, llm_args) -> compiled graph``."""
ChatPolicy = Runnable[Any, AIMessage]
"""Takes a list of messages, answers with an AI message: a chat model with its tools bound."""

AGENT_NODE = "agent"


@dataclass
class GraphAgentState:
    """One episode as the graph sees it.

    Attributes:
        graph: the compiled graph.
        thread_id: LangGraph thread, for graphs with a checkpointer.
        messages: system prompt and conversation so far.
        turns: replies given so far.
    """

    graph: Any
    thread_id: str
    messages: list[BaseMessage] = field(default_factory=list)
    turns: int = 0

    def add(self, message: Message | ValidAgentInputMessage) -> None:
        """Appends a tau2 message."""
        self.messages += to_langchain(message, first_id=len(self.messages), prefix=self.thread_id)


class GraphAgent(LLMAgent):
    """Base of the agents that `register_graph` makes: one graph per episode."""

    graph_factory: ClassVar[GraphFactory]

    def get_init_state(self, message_history: list[Message] | None = None) -> GraphAgentState:  # type: ignore[override]  # tau2 treats the state as opaque
        """Builds the graph and reads what was said before the first turn."""
        graph = type(self).graph_factory(
            [tool.openai_schema for tool in self.tools], self.domain_policy, self.llm, self.llm_args
        )
        state = GraphAgentState(graph=graph, thread_id=uuid.uuid4().hex)
        system_id = f"{state.thread_id}-0"
        state.messages.append(SystemMessage(content=self.system_prompt, id=system_id))
        for message in message_history or ():
            state.add(message)
        return state

    def generate_next_message(  # type: ignore[override]  # as above
        self, message: ValidAgentInputMessage, state: GraphAgentState
    ) -> tuple[AssistantMessage, GraphAgentState]:
        """Answers a user's message or tool results.

        Raises:
            AdapterError: the graph's last message is no AI message.
        """
        state.add(message)
        started_at, clock = datetime.now(UTC), time.perf_counter()
        result = state.graph.invoke(
            {"messages": list(state.messages)},
            config={"configurable": {"thread_id": state.thread_id}},
        )
        answer = result["messages"][-1] if result.get("messages") else None
        if not isinstance(answer, AIMessage):
            kind = type(answer).__name__
            raise AdapterError(f"a graph must end with an AI message, this one with {kind}")
        reply = to_reply(
            answer,
            turn=state.turns,
            started_at=started_at,
            latency_s=time.perf_counter() - clock,
        )
        state.messages.append(reply.history)
        state.turns += 1
        return reply.sent, state

    def set_seed(self, seed: int) -> None:
        """Hands the seed to the graph factory; called before the graph is built."""
        self.llm_args["seed"] = seed


def agent_class(graph_factory: GraphFactory, *, name: str) -> type[GraphAgent]:
    """A subclass of `GraphAgent` for one graph factory."""
    return type(f"GraphAgent_{name}", (GraphAgent,), {"graph_factory": staticmethod(graph_factory)})


def register_graph(graph_factory: GraphFactory, *, name: str) -> type[GraphAgent]:
    """See `rwml_adapters.tau2.register`."""
    from tau2.registry import registry

    if name in registry.get_agents():
        raise UsageError(f"tau2 already has an agent {name!r}: choose another name")
    made = agent_class(graph_factory, name=name)
    registry.register_agent(made, name)
    return made


def policy_graph(policy: ChatPolicy) -> Any:
    """A compiled graph with one node, ``agent``, that asks the chat model."""

    def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [policy.invoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node(AGENT_NODE, ask)
    builder.add_edge(START, AGENT_NODE)
    builder.add_edge(AGENT_NODE, END)
    return builder.compile()


def tool_schemas(tools: list[Tool]) -> list[Mapping[str, Any]]:
    """OpenAI schemas of an environment's tools."""
    return [tool.openai_schema for tool in tools]
