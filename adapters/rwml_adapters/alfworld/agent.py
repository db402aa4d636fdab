"""An LLM plays ALFWorld: any LangGraph graph, or a ReAct agent over any LiteLLM model.

Each turn the graph gets the whole prompt anew (instruction, task, history, possible actions) and
answers with one AI message, which holds thinking and action. Whatever it raises is a fault of the
infrastructure; whatever it says is the agent's own.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from rwml.content import well_formed
from rwml.errors import AdapterError, UsageError
from rwml.extras import require
from rwml.schema import Message
from rwml_adapters.alfworld.policies import Actor, Decision, Situation
from rwml_adapters.alfworld.prompts import SYSTEM_PROMPT, format_reply, parse_reply, render_turn
from rwml_adapters.models import ModelOptions, chat_model

GraphFactory = Callable[[int], Any]
"""``seed -> compiled graph`` that takes and returns ``{"messages": [...]}``."""


@dataclass(frozen=True, kw_only=True)
class GraphPolicy:
    """A policy whose actions a LangGraph graph chooses.

    Attributes:
        name: part of the trajectories' ids.
        graph_factory: makes the graph of an episode.
        turns: how many of the last turns its prompt tells; None for all of them.
    """

    name: str
    graph_factory: GraphFactory
    turns: int | None = None

    def __post_init__(self) -> None:
        if self.turns is not None and self.turns < 0:
            raise UsageError(f"--history must be 0 or more turns, not {self.turns}")

    def begin(self, seed: int) -> Actor:
        """See `Policy`."""
        graph = self.graph_factory(seed)
        return lambda situation: _ask(graph, situation, self.turns)


def litellm_policy(options: ModelOptions, *, turns: int | None = None) -> GraphPolicy:
    """A ReAct agent over a LiteLLM model.

    Args:
        options: the model.
        turns: see `GraphPolicy`.

    Raises:
        UsageError: a number of turns below 0.
    """
    return graph_policy(
        lambda model, seed: react_graph(model), name="", options=options, turns=turns
    )


def graph_policy(
    factory: Callable[[Any, int], Any],
    *,
    name: str,
    options: ModelOptions | None = None,
    turns: int | None = None,
) -> GraphPolicy:
    """A policy over somebody's own graph.

    Args:
        factory: ``(LangChain chat model or None, seed) -> compiled graph``, once per episode.
        name: of the agent.
        options: the model that the factory is given; None for none.
        turns: see `GraphPolicy`.

    Raises:
        UsageError: a number of turns below 0.
    """

    def make(seed: int) -> Any:
        made = factory(chat_model(options, seed=seed) if options else None, seed)
        if made is None:
            raise AdapterError(f"the graph factory {name} returned nothing: return a graph")
        return made

    parts = [name, options.agent_name if options else ""]
    if turns is not None:
        parts.append(f"h{turns}")
    return GraphPolicy(name="-".join(filter(None, parts)), graph_factory=make, turns=turns)


def react_graph(model: Any) -> Any:
    """A LangGraph ReAct agent over a chat model: it thinks and acts in one reply.

    Raises:
        MissingExtraError: langgraph or langchain is not installed.
    """
    require("langgraph", "langgraph", "langchain")
    from langchain.agents import create_agent

    return create_agent(model, system_prompt=SYSTEM_PROMPT)


def _ask(graph: Any, situation: Situation, turns: int | None) -> Decision:
    from langchain_core.messages import AIMessage

    prompt = render_turn(
        first=situation.first, history=situation.history, commands=situation.commands, turns=turns
    )
    clock = time.perf_counter()
    result = graph.invoke(
        {"messages": [{"role": "user", "content": prompt}]},
        # The prompt is complete: a graph with a checkpointer must not remember the last one.
        config={"configurable": {"thread_id": uuid.uuid4().hex}},
    )
    answer = result["messages"][-1] if result.get("messages") else None
    if not isinstance(answer, AIMessage):
        raise AdapterError(
            f"a graph must end with an AI message, this one with {type(answer).__name__}"
        )
    return _decision(answer, latency_s=time.perf_counter() - clock)


def _decision(answer: Any, *, latency_s: float) -> Decision:
    """The command of a reply; where it is not worded as it would be written, the text stays too."""
    from rwml_adapters.langchain.calls import Answer
    from rwml_adapters.langchain.messages import model_of, to_message, usage_of
    from rwml_adapters.langchain.snapshots import Snapshot

    taken = Snapshot(answer)
    said = to_message(taken)
    text = well_formed(said.content or "")
    reply = parse_reply(text)
    reasoning = reply.reasoning or well_formed(said.reasoning or "") or None
    metadata: dict[str, JsonValue] = {}
    if reply.command is not None and text != format_reply(reply.command, reply.reasoning):
        metadata["reply"] = text
    message = Message(
        role="assistant",
        content=text if reply.command is None else reply.command,
        reasoning=reasoning,
    )
    reported = Answer(taken, None, latency_s)
    return Decision(
        command=reply.command,
        message=message,
        model=model_of(reported),
        usage=usage_of(reported),
        latency_s=latency_s,
        metadata=metadata,
    )
