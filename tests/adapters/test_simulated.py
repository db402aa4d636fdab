"""`SimulatedEnv`: no simulated tool runs, and nothing that it says is ever taken for real."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

pytest.importorskip("langchain")
pytest.importorskip("openai")

from langchain.agents import create_agent
from langchain.agents.middleware import ToolRetryMiddleware
from langchain_core.messages import ToolMessage
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

import rwml
from rwml.assemble import Completion, assemble
from rwml.content import NOT_RUN_MARK, SIMULATED_MARK
from rwml.errors import UsageError, WorldModelError, WorldModelUnavailableError
from rwml.prompts import format_label
from rwml.schema import Message
from rwml.testing import (
    OpenAIServer,
    ScriptedChatModel,
    TrajectoryBuilder,
    make_trajectory,
    memory_store,
    recorded,
    tool_calls,
)
from rwml_adapters.langchain import RWMLMiddleware
from rwml_adapters.simulated import SimulatedEnv

BOOKED = "booked"


@tool
def book(day: str) -> str:
    """Book a day."""
    raise AssertionError("a simulated tool ran")


@tool
def look(day: str) -> str:
    """Look at a day."""
    return f"{day} is free"


def imagine(body: Mapping[str, Any]) -> str:
    action = str(body["messages"][-1]["content"]).split("# Potential assistant response")[1]
    return "hm" if '"sunday"' in action else format_label(BOOKED)


@pytest.fixture
def world() -> Iterator[rwml.WorldModel]:
    with OpenAIServer(answer=imagine) as server, rwml.WorldModel(server.url, model="w") as made:
        yield made


SCRIPT = [
    tool_calls(("look", {"day": "monday"})),
    tool_calls(("book", {"day": "monday"}), ("book", {"day": "sunday"})),
    tool_calls(("look", {"day": "monday"})),
    "done",
]
EXPECTED = [
    "monday is free",
    f"{SIMULATED_MARK}booked",
    f"{SIMULATED_MARK}no prediction (format)",
    "monday is free",
]


def results(messages: list[Any]) -> list[str]:
    return [message.text for message in messages if isinstance(message, ToolMessage)]


def in_an_agent(env: SimulatedEnv, *middleware: Any) -> Any:
    return create_agent(
        ScriptedChatModel(script=SCRIPT),
        [book, look],
        middleware=[*middleware, env.middleware()],
    )


def in_a_graph(env: SimulatedEnv, **more: Any) -> Any:
    model, wrapped = ScriptedChatModel(script=SCRIPT).bind_tools([book, look]), env.middleware()
    node = ToolNode(
        [book, look],
        wrap_tool_call=wrapped.wrap_tool_call,
        awrap_tool_call=wrapped.awrap_tool_call,
        **more,
    )
    graph = StateGraph(MessagesState)

    def agent(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    graph.add_node("agent", agent)
    graph.add_node("tools", node)
    graph.add_edge(START, "agent")
    graph.add_conditional_edges("agent", tools_condition, {"tools": "tools", END: END})
    graph.add_edge("tools", "agent")
    return graph.compile()


def invoke(way: str, graph: Any) -> Any:
    said = {"messages": [("user", "Book.")]}
    return asyncio.run(graph.ainvoke(said)) if way == "async" else graph.invoke(said)


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("make", [in_an_agent, in_a_graph])
def test_what_is_simulated_does_not_run_and_is_marked(
    make: Any, way: str, world: rwml.WorldModel
) -> None:
    end = invoke(way, make(SimulatedEnv(world, tools=["book"])))
    assert results(end["messages"]) == EXPECTED


@pytest.mark.parametrize("by", ["callbacks", "middleware"])
def test_recorders_keep_the_mark_and_nothing_simulated_is_a_transition(
    by: str, world: rwml.WorldModel
) -> None:
    env = SimulatedEnv(world, tools=["book"])
    with memory_store() as store, rwml.Recorder(store=store) as recorder:
        if by == "callbacks":
            with rwml.instrument(store=store) as recording:
                in_an_agent(env).invoke({"messages": [("user", "Book.")]})
                (trajectory,) = recorded(recording)
        else:
            in_an_agent(env, RWMLMiddleware(recorder)).invoke({"messages": [("user", "Book.")]})
            (trajectory,) = recorded(recorder)
        seen = [[m.content for m in step.ordered_observation()] for step in trajectory.steps]
        assert seen == [EXPECTED[:1], EXPECTED[1:3], EXPECTED[3:], []]
        assert [t.id for t in store.transitions()] == [f"{trajectory.id}/0/0"]
        assert [step.is_complete for step in trajectory.steps] == [True, False, True, False]
        counts = store.counts()
        assert (counts.transitions, store.stats().transitions) == (2, 2), "of steps, not of runs"


def test_a_gateway_that_sees_the_history_keeps_the_mark() -> None:
    asked = Message(role="user", content="Book.")
    acts = [
        Message.from_openai(
            {
                "role": "assistant",
                "tool_calls": [{"id": name, "function": {"name": "book", "arguments": "{}"}}],
            }
        )
        for name in ("a", "b")
    ]
    said = [
        Message(role="tool", content=f"{mark}booked", tool_call_id=name)
        for mark, name in (("", "a"), (SIMULATED_MARK, "b"))
    ]
    done = Message(role="assistant", content="done")
    history = [asked]
    completions = []
    for response, result in ((acts[0], said[0]), (acts[1], said[1]), (done, None)):
        completions.append(Completion(messages=tuple(history), response=response))
        history += [response, *([result] if result else [])]
    (trajectory,) = assemble(completions, key=b"key", source="litellm")
    assert [len(step.observation) for step in trajectory.steps] == [1, 1, 0]
    assert [t.index for t in trajectory.transitions()] == [0]


def test_a_conversation_that_began_in_a_simulation_has_no_transitions() -> None:
    real = make_trajectory(1)
    began = Message(role="tool", content=f"{SIMULATED_MARK}x", tool_call_id="z")
    tainted = real.model_copy(update={"initial": (*real.initial, began)})
    assert list(tainted.transitions()) == []
    assert len(list(real.transitions())) == 4


def test_what_comes_after_a_call_that_was_held_back_is_real() -> None:
    built = TrajectoryBuilder().user("Go.").calls(("a", {})).returns(f"{NOT_RUN_MARK}Reconsider.")
    trajectory = built.calls(("a", {})).returns("done").says("Done.").user("Thanks.").build()
    assert [t.index for t in trajectory.transitions()] == [1, 2]


def test_calls_are_answered_in_their_order(world: rwml.WorldModel) -> None:
    env = SimulatedEnv(world)
    trajectory = (
        TrajectoryBuilder()
        .user("Book.")
        .calls(("book", {"day": "sunday"}), ("book", {"day": "monday"}))
    )
    action = trajectory.build().steps[0].action
    found = env.answer(trajectory.build(), action)
    assert [message.tool_call_id for message in found] == ["call_0_0", "call_0_1"]
    assert [message.content for message in found] == [EXPECTED[2], EXPECTED[1]]
    assert asyncio.run(env.aanswer(trajectory.build(), action.to_openai())) == found
    assert env.answer(trajectory.build(), {"role": "assistant", "content": "hi"}) == ()
    with pytest.raises(UsageError, match="several names"):
        SimulatedEnv(world, tools="book")


def in_a_graph_that_handles_errors(env: SimulatedEnv) -> Any:
    return in_a_graph(env, handle_tool_errors=True)


def in_an_agent_that_tries_again(env: SimulatedEnv) -> Any:
    return in_an_agent(env, ToolRetryMiddleware(max_retries=1, initial_delay=0, jitter=False))


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize(
    "make",
    [in_an_agent, in_a_graph, in_a_graph_that_handles_errors, in_an_agent_that_tries_again],
)
def test_a_world_model_that_fails_ends_the_dry_run_and_is_no_tool_s_answer(
    make: Any, way: str
) -> None:
    with (
        OpenAIServer(answer=imagine, failures=[401]) as server,
        rwml.WorldModel(server.url, model="w", attempts=1) as refused,
        rwml.WorldModel("http://127.0.0.1:1/v1", model="w", attempts=1) as away,
    ):
        for world, kind, text in (
            (refused, WorldModelError, "refused the key"),
            (away, WorldModelUnavailableError, "did not answer"),
        ):
            with memory_store() as store, rwml.instrument(store=store) as recording:
                graph = make(SimulatedEnv(world, tools=["book"]))
                with pytest.raises(kind, match=text) as caught:
                    invoke(way, graph)
                recorded(recording)
                assert isinstance(caught.value, WorldModelUnavailableError) == (world is away)
                assert [t.index for t in store.transitions()] == [0], "of the tool that really ran"
