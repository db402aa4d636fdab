"""A tau2 agent whose brain is a compiled LangGraph graph; tau2 runs the tools.

tau2's older runner accepts only subclasses of `LLMAgent`, hence the base class. What the graph
answered is kept as steps; under tau2's own runner also in each message's ``raw_data``, so that its
results file can be read afterwards.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

from langchain_core.messages import BaseMessage, SystemMessage
from tau2.agent.llm_agent import LLMAgent
from tau2.data_model.message import AssistantMessage, Message
from tau2.environment.tool import Tool

from rwml.errors import UsageError
from rwml.schema import Step
from rwml_adapters.tau2 import compat
from rwml_adapters.tau2.graphs import GraphSession, open_session
from rwml_adapters.tau2.messages import to_langchain, to_reply

GraphFactory = Callable[[list[dict[str, Any]], str, str | None, dict[str, Any]], Any]
"""``(tools as OpenAI schemas, domain policy, llm, llm_args) -> compiled graph``."""
_FILTERING = ("gt", "solo")
"""Parts of an agent's name by which tau2's runner leaves tasks out."""


@dataclass
class GraphAgentState:
    """One episode as the graph sees it.

    Attributes:
        session: the conversation with the graph.
        thread_id: of the conversation.
        news: what the graph has not been told yet.
        heard: how many messages there were, which numbers them.
        turns: replies given so far.
    """

    session: GraphSession
    thread_id: str
    news: list[BaseMessage] = field(default_factory=list)
    heard: int = 0
    turns: int = 0

    def add(self, message: Message | compat.AgentInput) -> None:
        """Takes a tau2 message."""
        made = to_langchain(message, first_id=self.heard, prefix=self.thread_id)
        self.heard += len(made)
        self.news += made


class GraphAgent(LLMAgent):
    """Base of the agents that `register_graph` makes: one graph per episode.

    Args:
        tools: of tau2.
        domain_policy: of the domain.
        llm: handed to the graph factory, as `llm_args`.
        graph: for one episode, in place of the factory's; what it answers is kept in `steps` alone.
        tool_nodes: of that graph.

    Attributes:
        steps: what was recorded of each reply, in order.
    """

    graph_factory: ClassVar[GraphFactory]
    tool_nodes: ClassVar[Sequence[str] | None] = None

    def __init__(
        self,
        tools: list[Tool],
        domain_policy: str,
        llm: str | None = None,
        llm_args: dict[str, Any] | None = None,
        *,
        graph: Any = None,
        tool_nodes: Sequence[str] | None = None,
    ) -> None:
        # one generation of tau2 wants a name in any case
        super().__init__(tools, domain_policy, llm=llm or "", llm_args=llm_args)
        self.llm = llm
        self._graph = graph
        self._tool_nodes = tool_nodes if tool_nodes is not None else type(self).tool_nodes
        self._state: GraphAgentState | None = None
        self.steps: list[Step] = []

    def get_init_state(self, message_history: list[Message] | None = None) -> GraphAgentState:  # type: ignore[override]  # tau2 treats the state as opaque
        """Builds the graph and reads what was said before the first turn."""
        graph = self._graph or type(self).graph_factory(
            [tool.openai_schema for tool in self.tools], self.domain_policy, self.llm, self.llm_args
        )
        thread_id = uuid.uuid4().hex
        session = open_session(graph, thread_id=thread_id, tool_nodes=self._tool_nodes)
        self._state = state = GraphAgentState(session=session, thread_id=thread_id)
        if not session.own_prompt:
            state.news.append(SystemMessage(content=self.system_prompt, id=f"{thread_id}-0"))
            state.heard = 1
        for message in message_history or ():
            state.add(message)
        return state

    def generate_next_message(  # type: ignore[override]  # as above
        self, message: compat.AgentInput, state: GraphAgentState
    ) -> tuple[AssistantMessage, GraphAgentState]:
        """Answers a user's message or tool results.

        Raises:
            AdapterError: the graph's last message is no AI message, or it ran a tool itself.
        """
        state.add(message)
        started_at, clock = datetime.now(UTC), time.perf_counter()
        answer = state.session.ask(state.news)
        state.news = []
        state.heard += 1
        reply = to_reply(
            answer,
            turn=state.turns,
            started_at=started_at,
            latency_s=time.perf_counter() - clock,
        )
        state.session.keep(reply.history)
        state.turns += 1
        self.steps.append(reply.step)
        return (reply.with_record() if self._graph is None else reply.sent), state

    @property
    def own_prompt(self) -> bool:
        """Whether the graph brings its system prompt itself; known once an episode has begun."""
        return self._state is not None and self._state.session.own_prompt

    def stop(self, message: Any = None, state: Any = None) -> None:
        """Gives back what the conversation holds."""
        if self._state is not None:
            self._state.session.close()

    def set_seed(self, seed: int) -> None:
        """Hands the seed to the graph factory; called before the graph is built."""
        self.llm_args["seed"] = seed


def agent_class(
    graph_factory: GraphFactory, *, name: str, tool_nodes: Sequence[str] | None = None
) -> type[GraphAgent]:
    """A subclass of `GraphAgent` for one graph factory."""
    members = {"graph_factory": staticmethod(graph_factory), "tool_nodes": tool_nodes}
    return type(f"GraphAgent_{name}", (GraphAgent,), members)


def register_graph(
    graph_factory: GraphFactory, *, name: str, tool_nodes: Sequence[str] | None = None
) -> type[GraphAgent]:
    """See `rwml_adapters.tau2.register`."""
    if name in compat.agent_names():
        raise UsageError(f"tau2 already has an agent {name!r}: choose another name")
    for part in _FILTERING:
        if part in name:
            raise UsageError(
                f"tau2 leaves tasks out for agents with {part!r} in their name: choose another "
                f"name than {name!r}"
            )
    made = agent_class(graph_factory, name=name, tool_nodes=tool_nodes)
    compat.register_agent(made, name)
    return made
