"""Everything that a LangGraph or LangChain agent may do is recorded, whatever way it is run."""

import asyncio
import base64
import operator
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest

pytest.importorskip("langgraph")

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    trim_messages,
)
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import InjectedToolCallId, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Command, RetryPolicy, Send, interrupt
from pydantic import BaseModel

import rwml
from rwml.schema import Trajectory, Usage
from rwml.testing import ScriptedChatModel, memory_store, recorded
from rwml_adapters.langchain import RWMLCallbackHandler, instrument

Script = Callable[[list[BaseMessage]], Any]
EXPECTED = [("c1", ["<cat>"]), ("saw <cat>", [])]


def call(call_id: str, name: str = "look", **args: Any) -> Any:
    return {"id": call_id, "name": name, "args": args}


def look_then_say(messages: list[BaseMessage]) -> AIMessage:
    """Looks at what the user named, then repeats what came back."""
    spoken = [message for message in messages if not isinstance(message, SystemMessage)]
    last = spoken[-1]
    if isinstance(last, ToolMessage):
        return AIMessage(f"saw {last.content}")
    return AIMessage("", tool_calls=[call(f"c{len(spoken)}", x=last.text)])


@tool
def look(x: str) -> str:
    """Look at a thing."""
    return f"<{x}>"


def thinker(script: Script, tools: Any = (look,)) -> Any:
    """A node that asks the model."""
    model = ScriptedChatModel(script=script).bind_tools(tools)

    def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    async def athink(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    return RunnableLambda(think, athink)


def agent(
    script: Script = look_then_say,
    tools: Any = (look,),
    *,
    memory: bool = True,
    think: Any = None,
    tool_policy: RetryPolicy | None = None,
    handle_tool_errors: Any = "an error",
    **compiled: Any,
) -> Any:
    graph = StateGraph(MessagesState)
    graph.add_node("agent", think or thinker(script, tools))
    node = ToolNode(list(tools), handle_tool_errors=handle_tool_errors)
    graph.add_node("tools", node, retry_policy=tool_policy)
    graph.add_edge(START, "agent")
    graph.add_conditional_edges("agent", tools_condition, {"tools": "tools", END: END})
    graph.add_edge("tools", "agent")
    return graph.compile(checkpointer=InMemorySaver() if memory else None, **compiled)


def thread(name: str = "1") -> Any:
    return {"configurable": {"thread_id": name}}


def says(text: str) -> Any:
    return {"messages": [HumanMessage(text)]}


def pairs(trajectory: Trajectory) -> list[tuple[str, list[str | None]]]:
    """Each action (calls, else text) and what came back, by call id."""
    return [
        (
            " ".join(c.id for c in s.action.tool_calls) or str(s.action.content),
            [m.content for m in s.ordered_observation()],
        )
        for s in trajectory.steps
    ]


def all_pairs(recorder: rwml.Recorder) -> list[list[tuple[str, list[str | None]]]]:
    return sorted(pairs(trajectory) for trajectory in recorded(recorder))


@pytest.fixture
def recorder() -> Iterator[rwml.Recorder]:
    with memory_store() as store, rwml.Recorder(store=store) as recorder:
        undo = instrument(recorder)
        yield recorder
        undo()


def test_every_way_to_run_a_graph(recorder: rwml.Recorder) -> None:
    modes: list[Any] = [
        "values", "updates", "messages", "custom", "debug", "tasks", "checkpoints",
        ["values", "messages"], ["updates", "custom", "debug"],
    ]  # fmt: skip
    graph = agent()

    async def work() -> None:
        await graph.ainvoke(says("cat"), thread("ainvoke"))
        for mode in modes:
            async for _ in graph.astream(says("cat"), thread(f"astream {mode}"), stream_mode=mode):
                pass
        async for _ in graph.astream_events(says("cat"), thread("events"), version="v2"):
            pass
        await graph.abatch([says("cat")] * 3, [thread(f"abatch {n}") for n in range(3)])

    graph.invoke(says("cat"), thread("invoke"))
    for mode in modes:
        list(graph.stream(says("cat"), thread(f"stream {mode}"), stream_mode=mode))
    graph.batch([says("cat")] * 3, [thread(f"batch {n}") for n in range(3)])
    asyncio.run(work())
    found = recorded(recorder)
    assert len(found) == 2 * len(modes) + 9
    for trajectory in found:
        assert pairs(trajectory) == EXPECTED, trajectory.metadata
        assert trajectory.steps[0].action.tool_calls[0].arguments == {"x": "cat"}
        assert trajectory.steps[1].usage is not None


def plain(trajectory: Trajectory) -> dict[str, Any]:
    """A trajectory without what differs in each run of the same agent."""
    whole = trajectory.model_dump(mode="json", exclude={"id", "started_at"})
    for step in whole["steps"]:
        assert step["latency_s"] >= 0
        assert step["started_at"] is not None
        assert step["provenance"].pop("run_id")
        assert step["provenance"].pop("parent_run_id")
        assert step["provenance"].pop("checkpoint_ns").startswith("model:")
        del step["latency_s"], step["started_at"]
    return whole


@pytest.mark.parametrize(
    "way",
    [
        "instrument-stream", "instrument-async",
        "handler-invoke", "handler-async",
        "middleware-invoke", "middleware-stream", "middleware-async",
        "both-invoke", "both-async",
    ],
)  # fmt: skip
def test_all_integrations_record_the_same(way: str) -> None:
    pytest.importorskip("langchain")
    wanted = record_turns("instrument-invoke")
    assert sorted(len(each["steps"]) for each in wanted) == [1, 4]
    assert record_turns(way) == wanted


@tool("look")
def look_or_fail(x: str) -> str:
    """Look at a thing."""
    if x == "bad":
        raise ValueError("too dark")
    return f"<{x}>"


def look_at_each(messages: list[BaseMessage]) -> AIMessage:
    """Looks at all that the user named, at once."""
    last = messages[-1]
    if isinstance(last, ToolMessage):
        return AIMessage(f"saw {last.content}")
    names = last.text.split()
    return AIMessage("", tool_calls=[call(f"c{len(messages)}-{name}", x=name) for name in names])


def record_turns(way: str) -> list[dict[str, Any]]:
    """Two turns of one thread, and one of another that fails."""
    from langchain.agents import create_agent

    from rwml_adapters.langchain import RWMLMiddleware

    with memory_store() as store, rwml.Recorder(store=store) as recorder, ExitStack() as cleanup:
        graph = create_agent(
            ScriptedChatModel(script=look_at_each),
            [look_or_fail],
            system_prompt="You look.",
            middleware=[RWMLMiddleware(recorder)] if way.startswith(("middle", "both")) else [],
            checkpointer=InMemorySaver(),
            name="looker",
        )
        if way.startswith(("instrument", "both")):
            cleanup.callback(instrument(recorder))
        for text, config in (("cat dog", thread()), ("mouse", thread()), ("bad", thread("2"))):
            if way.startswith("handler"):
                config["callbacks"] = [RWMLCallbackHandler(recorder)]
            with pytest.raises(ValueError, match="dark") if text == "bad" else nullcontext():
                run(way, graph, text, config)
        return sorted((plain(trajectory) for trajectory in recorded(recorder)), key=str)


def run(way: str, graph: Any, text: str, config: Any) -> None:
    if way.endswith("stream"):
        list(graph.stream(says(text), config, stream_mode="messages"))
    elif way.endswith("async"):
        asyncio.run(graph.ainvoke(says(text), config))
    else:
        graph.invoke(says(text), config)


def test_a_middleware_in_a_run_without_a_thread(recorder: rwml.Recorder) -> None:
    pytest.importorskip("langchain")
    from langchain.agents import create_agent

    from rwml_adapters.langchain import RWMLMiddleware

    with memory_store() as store, rwml.Recorder(store=store) as other:
        graph = create_agent(
            ScriptedChatModel(script=look_then_say), [look], middleware=[RWMLMiddleware(other)]
        )
        for text in ("cat", "cat"):
            graph.invoke(says(text))
        for found in (recorded(other), recorded(recorder)):  # another recorder: both record
            assert [pairs(t) for t in found] == [EXPECTED] * 2
            assert {t.outcome.status for t in found} == {"completed"}


def test_a_middleware_sends_the_header_only_when_asked() -> None:
    pytest.importorskip("langchain")
    from langchain.agents import create_agent

    from rwml.correlation import HEADER, read_headers
    from rwml_adapters.langchain import RWMLMiddleware

    class Model(ScriptedChatModel):
        def _generate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
            sent.append(kwargs.get("extra_headers"))
            return super()._generate(messages, *args, **kwargs)

    sent: list[Any] = []
    with memory_store() as store, rwml.Recorder(store=store) as recorder:
        for correlate in (False, True):
            middleware = [RWMLMiddleware(recorder, correlate=correlate)]
            graph = create_agent(Model(script=lambda messages: "hello"), middleware=middleware)
            graph.invoke(says("hi"))
        assert sent[0] is None
        assert set(sent[1]) == {HEADER}
        assert read_headers(sent[1]) is not None
        assert len(recorded(recorder)) == 2


class Verdict(BaseModel):
    """Says whether it is good."""

    good: bool


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_structured_output_is_what_the_model_said(recorder: rwml.Recorder, method: str) -> None:
    if method == "function_calling":
        answer = AIMessage("", tool_calls=[call("v1", "Verdict", good=True)])
        chain = ScriptedChatModel(script=[answer]).with_structured_output(Verdict)
    else:
        model = ScriptedChatModel(script=[AIMessage('{"good": true}')])
        chain = model.bind(response_format={"type": "json_schema"}) | RunnableLambda(
            lambda message: Verdict.model_validate_json(message.content)  # type: ignore[attr-defined]
        )
    assert chain.invoke("good?", {"metadata": {"thread_id": "1"}}) == Verdict(good=True)
    (found,) = recorded(recorder)
    (step,) = found.steps
    assert step.status == "pending"
    if method == "function_calling":
        assert step.action.tool_calls[0].arguments == {"good": True}
        assert [tool.name for tool in found.tools] == ["Verdict"]
    else:
        assert step.action.content == '{"good": true}'


def test_a_tool_node_that_is_tried_again_is_one_step(recorder: rwml.Recorder) -> None:
    tries: list[str] = []

    @tool
    def look(x: str) -> str:
        """Look, at second try."""
        tries.append(x)
        if len(tries) == 1:
            raise ConnectionError("no light")
        return f"<{x}>"

    policy = RetryPolicy(initial_interval=0.001, jitter=False)
    graph = agent(tools=[look], tool_policy=policy, handle_tool_errors=False)
    graph.invoke(says("cat"), thread())
    (found,) = recorded(recorder)
    assert len(tries) == 2
    assert pairs(found) == EXPECTED
    assert [step.status for step in found.steps] == ["ok", "pending"]


def test_a_model_node_that_is_tried_again_is_one_step(recorder: rwml.Recorder) -> None:
    model = ScriptedChatModel(script=look_then_say).bind_tools([look])
    failures = iter([ConnectionError("lost"), None, None])

    def think(state: MessagesState) -> dict[str, Any]:
        answer = model.invoke(state["messages"])
        failure = next(failures)
        if failure is not None:
            raise failure
        return {"messages": [answer]}

    graph = StateGraph(MessagesState)
    policy = RetryPolicy(initial_interval=0.001, jitter=False)
    graph.add_node("agent", think, retry_policy=policy)
    graph.add_node("tools", ToolNode([look]))
    graph.add_edge(START, "agent")
    graph.add_conditional_edges("agent", tools_condition, {"tools": "tools", END: END})
    graph.add_edge("tools", "agent")
    graph.compile().invoke(says("cat"), thread())
    assert all_pairs(recorder) == [EXPECTED]


def test_equal_samples_of_one_node_are_all_kept(recorder: rwml.Recorder) -> None:
    model = ScriptedChatModel(script=lambda messages: "yes")

    def vote(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.batch([state["messages"]] * 3)[0]]}

    graph = StateGraph(MessagesState)
    graph.add_node("vote", vote)
    graph.add_edge(START, "vote")
    graph.compile().invoke(says("well?"), thread())
    assert all_pairs(recorder) == [[("yes", [])]] * 3


def test_a_sub_graph_is_part_of_the_conversation(recorder: rwml.Recorder) -> None:
    outer = StateGraph(MessagesState)
    outer.add_node("inner", agent(memory=False))
    outer.add_edge(START, "inner")
    graph = outer.compile(checkpointer=InMemorySaver())
    graph.invoke(says("cat"), thread())
    list(graph.stream(says("dog"), thread(), subgraphs=True))
    (found,) = recorded(recorder)
    assert pairs(found)[:2] == [("c1", ["<cat>"]), ("saw <cat>", ["dog"])]
    assert pairs(found)[2:] == [("c5", ["<dog>"]), ("saw <dog>", [])]
    where = found.steps[0].provenance
    assert where is not None
    assert (where.checkpoint_ns or "").startswith("inner:")
    assert "|agent:" in (where.checkpoint_ns or "")


class Fanned(TypedDict, total=False):
    subjects: list[str]
    said: Annotated[list[str], operator.add]


@pytest.mark.parametrize("subjects", [["cat", "dog", "mouse"], ["cat", "cat"]])
def test_send_fans_out_to_trajectories_of_their_own(
    recorder: rwml.Recorder, subjects: list[str]
) -> None:
    worker = agent(memory=False)

    def work(state: Any) -> dict[str, Any]:
        return {"said": [worker.invoke(says(state["subject"]))["messages"][-1].content]}

    graph = StateGraph(Fanned)
    graph.add_node("work", work)
    graph.add_conditional_edges(
        START, lambda state: [Send("work", {"subject": s}) for s in state["subjects"]], ["work"]
    )
    graph.compile().invoke({"subjects": subjects}, thread())
    wanted = [[("c1", [f"<{s}>"]), (f"saw <{s}>", [])] for s in subjects]
    assert all_pairs(recorder) == sorted(wanted)


def test_a_fan_out_is_no_conversation(recorder: rwml.Recorder) -> None:
    """Workers of one thread get one message each: none of these answers another worker."""
    model = ScriptedChatModel(script=lambda messages: f"answer to {messages[-1].text}")

    def work(state: Any) -> dict[str, Any]:
        return {"said": [model.invoke([HumanMessage(state["subject"])]).text]}

    graph = StateGraph(Fanned)
    graph.add_node("work", work)
    graph.add_conditional_edges(
        START, lambda state: [Send("work", {"subject": s}) for s in state["subjects"]], ["work"]
    )
    compiled = graph.compile()
    for subjects in (["a", "b"], ["c"], ["d"]):
        compiled.invoke({"subjects": subjects}, thread())
    assert all_pairs(recorder) == [[(f"answer to {each}", [])] for each in "abcd"]


def test_a_hand_over_to_another_agent(recorder: rwml.Recorder) -> None:
    @tool
    def ask_expert(tool_call_id: Annotated[str, InjectedToolCallId]) -> Command:
        """Hand over."""
        done = ToolMessage("over to the expert", tool_call_id=tool_call_id)
        return Command(goto="expert", graph=Command.PARENT, update={"messages": [done]})

    def front(messages: list[BaseMessage]) -> AIMessage:
        return AIMessage("", tool_calls=[call("h1", "ask_expert")])

    def expert(messages: list[BaseMessage]) -> AIMessage:
        return look_then_say([m for m in messages if m.content != "over to the expert"])

    def with_prompt(script: Script, tools: Any, prompt: str) -> Any:
        model = ScriptedChatModel(script=script).bind_tools(tools)
        return agent(
            tools=tools,
            memory=False,
            think=lambda state: {
                "messages": [model.invoke([SystemMessage(prompt), *state["messages"]])]
            },
        )

    graph = StateGraph(MessagesState)
    graph.add_node("front", with_prompt(front, [ask_expert], "You are the front."))
    graph.add_node("expert", with_prompt(expert, [look], "You are the expert."))
    graph.add_edge(START, "front")
    compiled = graph.compile(checkpointer=InMemorySaver())
    compiled.invoke(says("cat"), thread())
    found = {t.initial[0].content: t for t in recorded(recorder)}
    assert pairs(found["You are the front."]) == [("h1", ["over to the expert"])]
    told = found["You are the expert."]
    assert [step.kind for step in told.steps] == ["tool", None]
    assert pairs(told)[-1][0] == "saw <cat>"
    assert [m.role for m in told.initial] == ["system", "user", "tool"]  # what it was given


@pytest.mark.parametrize("where", ["node", "tool", "before", "after the model"])
def test_interrupt_and_resume_is_one_trajectory(recorder: rwml.Recorder, where: str) -> None:
    @tool
    def look(x: str) -> str:
        """Ask first."""
        allowed = interrupt("may I?") if where == "tool" else True
        return f"<{x}>" if allowed else "no"

    model = ScriptedChatModel(script=look_then_say).bind_tools([look])
    asked: list[int] = []

    def think(state: MessagesState) -> dict[str, Any]:
        if where == "node":
            interrupt("go on?")
        asked.append(1)
        answer = model.invoke(state["messages"])
        if where == "after the model" and answer.tool_calls:
            interrupt("really?")  # the whole node runs again
        return {"messages": [answer]}

    more: dict[str, Any] = {"interrupt_before": ["tools"]} if where == "before" else {}
    graph = agent(tools=[look], think=think, **more)
    graph.invoke(says("cat"), thread())
    for _ in range(5):
        if not graph.get_state(thread()).next:
            break
        assert all(s.status in ("pending", "ok") for t in recorded(recorder) for s in t.steps)
        graph.invoke(None if where == "before" else Command(resume="yes"), thread())
    assert all_pairs(recorder) == [EXPECTED]
    assert len(asked) == (3 if where == "after the model" else 2)


def test_an_edited_call_of_a_person_in_the_loop_is_what_is_recorded(
    recorder: rwml.Recorder,
) -> None:
    """A person changes the call that the model made; the history says so, and it is kept."""
    graph = agent(interrupt_before=["tools"])
    graph.invoke(says("cat"), thread())
    last = graph.get_state(thread()).values["messages"][-1]
    edited = AIMessage("", tool_calls=[call("c1", x="dog")], id=last.id)
    graph.update_state(thread(), {"messages": [edited]})
    graph.invoke(None, thread())
    found = sorted(recorded(recorder), key=lambda t: len(t.initial))
    assert pairs(found[0]) == [("c1", ["<dog>"])]
    assert [m.role for m in found[1].initial] == ["user", "assistant", "tool"]
    assert found[1].initial[1].tool_calls[0].arguments == {"x": "dog"}


def test_going_back_in_time_makes_a_branch(recorder: rwml.Recorder) -> None:
    answers = iter(["one", "two", "three", "four"])
    graph = agent(lambda messages: AIMessage(next(answers)))
    graph.invoke(says("a"), thread())
    graph.invoke(says("b"), thread())
    before = next(
        state
        for state in graph.get_state_history(thread())
        if not state.next and len(state.values["messages"]) == 2
    )
    graph.invoke(says("c"), before.config)
    assert all_pairs(recorder) == [
        [("one", ["b"]), ("two", [])],
        [("one", ["c"]), ("three", [])],
    ]


def test_replaying_a_node_is_not_recorded_twice(recorder: rwml.Recorder) -> None:
    graph = agent()
    graph.invoke(says("cat"), thread())
    states = list(graph.get_state_history(thread()))
    replayed = next(state for state in states if state.next == ("tools",))
    graph.invoke(None, replayed.config)
    assert all_pairs(recorder) == [EXPECTED]


def test_a_trimmed_history_goes_on_with_the_trajectory(recorder: rwml.Recorder) -> None:
    model = ScriptedChatModel(script=lambda messages: f"answer to {messages[-1].text}")

    def think(state: MessagesState) -> dict[str, Any]:
        kept = trim_messages(
            state["messages"], max_tokens=3, token_counter=len, strategy="last", start_on="human"
        )
        return {"messages": [model.invoke([SystemMessage("You talk."), *kept])]}

    graph = agent(think=think)
    for text in "abcd":
        graph.invoke(says(text), thread())
    wanted = [
        (f"answer to {x}", [y] if y else [])
        for x, y in zip("abcd", ["b", "c", "d", ""], strict=True)
    ]
    assert all_pairs(recorder) == [wanted]


def test_a_summarised_history_goes_on_with_the_trajectory(recorder: rwml.Recorder) -> None:
    model = ScriptedChatModel(script=lambda messages: f"answer to {messages[-1].text}")

    def think(state: MessagesState) -> dict[str, Any]:
        answer = model.invoke(state["messages"])
        if len(state["messages"]) < 4:
            return {"messages": [answer]}
        last = state["messages"][-1]
        kept = [HumanMessage("So far: much."), last, answer]
        return {"messages": [RemoveMessage(id=REMOVE_ALL_MESSAGES), *kept]}

    graph = agent(think=think)
    for text in "abcdef":
        graph.invoke(says(text), thread())
    (found,) = recorded(recorder)
    assert [p[0] for p in pairs(found)] == [f"answer to {x}" for x in "abcdef"]
    assert [p[1] for p in pairs(found)] == [[x] for x in "bcdef"] + [[]]


def test_a_thread_without_memory_is_one_conversation(recorder: rwml.Recorder) -> None:
    graph = agent(memory=False)
    for text in ("cat", "dog", "mouse"):
        graph.invoke(says(text), thread())
    graph.invoke(says("bird"), thread("another"))
    assert all_pairs(recorder) == [
        [("c1", ["<bird>"]), ("saw <bird>", [])],
        [
            ("c1", ["<cat>"]), ("saw <cat>", ["dog"]),
            ("c1", ["<dog>"]), ("saw <dog>", ["mouse"]),
            ("c1", ["<mouse>"]), ("saw <mouse>", []),
        ],
    ]  # fmt: skip


def test_what_a_node_asks_for_itself_is_no_turn_of_the_user(recorder: rwml.Recorder) -> None:
    """A classifier sees a prompt of its own in each run: that is not the user's reply to it."""
    classify = ScriptedChatModel(script=lambda messages: "a question")

    def route(state: MessagesState) -> dict[str, Any]:
        classify.invoke([HumanMessage(f"Classify: {state['messages'][-1].text}")])
        return {}

    graph = StateGraph(MessagesState)
    graph.add_node("route", route)
    graph.add_edge(START, "route")
    compiled = graph.compile(checkpointer=InMemorySaver())
    for text in "abc":
        compiled.invoke(says(text), thread())
    assert all_pairs(recorder) == [[("a question", [])]] * 3


def test_a_stateless_client_that_sends_the_history_is_one_conversation(
    recorder: rwml.Recorder,
) -> None:
    graph = agent(memory=False)
    messages: list[BaseMessage] = []
    for text in ("cat", "dog"):
        messages = graph.invoke({"messages": [*messages, HumanMessage(text)]})["messages"]
    assert all_pairs(recorder) == [
        [("c1", ["<cat>"]), ("saw <cat>", ["dog"]), ("c5", ["<dog>"]), ("saw <dog>", [])]
    ]


def test_tools_outside_of_a_graph(recorder: rwml.Recorder) -> None:
    model = ScriptedChatModel(script=look_then_say).bind_tools([look])
    messages: list[BaseMessage] = [HumanMessage("cat")]
    answer = model.invoke(messages)
    assert isinstance(answer, AIMessage)
    result = look.invoke(dict(answer.tool_calls[0], type="tool_call"))
    assert all_pairs(recorder) == [[("c1", ["<cat>"])]]  # before any request shows it
    model.invoke([*messages, answer, result])
    assert all_pairs(recorder) == [EXPECTED]


def test_a_tool_node_alone(recorder: rwml.Recorder) -> None:
    model = ScriptedChatModel(script=look_then_say).bind_tools([look])
    asked = {"messages": [HumanMessage("cat"), model.invoke([HumanMessage("cat")])]}
    graph = StateGraph(MessagesState)
    graph.add_node("tools", ToolNode([look]))
    graph.add_edge(START, "tools")
    graph.compile().invoke(asked)  # type: ignore[arg-type]
    assert all_pairs(recorder) == [[("c1", ["<cat>"])]]


def test_a_result_that_answers_no_call_is_left_alone(recorder: rwml.Recorder) -> None:
    look.invoke({"id": "never", "name": "look", "args": {"x": "cat"}, "type": "tool_call"})
    model = ScriptedChatModel(script=look_then_say)
    for text in ("cat", "dog"):  # two open calls with the same id: nobody can tell
        model.invoke([HumanMessage(text)])
    look.invoke({"id": "c1", "name": "look", "args": {"x": "cat"}, "type": "tool_call"})
    assert all_pairs(recorder) == [[("c1", [])]] * 2


def test_a_cancelled_tool_is_an_interrupted_step(recorder: rwml.Recorder) -> None:
    async def work() -> None:
        started = asyncio.Event()

        @tool
        async def look(x: str) -> str:
            """Look for ever."""
            started.set()
            await asyncio.Event().wait()
            return x

        run = asyncio.create_task(agent(tools=[look]).ainvoke(says("cat"), thread()))
        await started.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    asyncio.run(work())
    (found,) = recorded(recorder)
    assert [(s.status, s.observation) for s in found.steps] == [("interrupted", ())]


def test_a_cancelled_model_call_is_no_step(recorder: rwml.Recorder) -> None:
    async def work() -> None:
        started = asyncio.Event()

        class Slow(ScriptedChatModel):
            async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
                started.set()
                await asyncio.Event().wait()

        run = asyncio.create_task(Slow(script=[]).ainvoke("hello"))
        await started.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    asyncio.run(work())
    assert recorded(recorder) == []


def test_thread_pools_do_not_mix(recorder: rwml.Recorder) -> None:
    graph = agent(memory=False)  # equal call ids, no threads: only run ids tell them apart
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: graph.invoke(says(f"x{n}")), range(64)))
    wanted = [[("c1", [f"<x{n}>"]), (f"saw <x{n}>", [])] for n in range(64)]
    assert all_pairs(recorder) == sorted(wanted)


def test_a_later_process_completes_the_last_answer() -> None:
    saver = InMemorySaver()
    with memory_store() as store:
        for text in ("cat", "dog"):
            with rwml.Recorder(store=store) as recorder:  # as in a process of its own
                undo = instrument(recorder)
                graph = agent()
                graph.checkpointer = saver
                graph.invoke(says(text), thread())
                assert recorder.flush(30)
                undo()
        (found,) = store.trajectories()
    assert pairs(found) == [
        ("c1", ["<cat>"]), ("saw <cat>", ["dog"]), ("c5", ["<dog>"]), ("saw <dog>", []),
    ]  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_goes_on(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'rwml.db'}"
    with rwml.Recorder(store=url) as recorder:
        undo = instrument(recorder)
        graph = agent()
        graph.invoke(says("cat"), thread())
        assert recorder.flush(30)
        child = os.fork()
        if not child:
            signal.alarm(60)
            os.environ.pop("PYTEST_CURRENT_TEST", None)
            try:
                graph.invoke(says("dog"), thread())
                os._exit(0 if recorder.flush(30) else 1)
            finally:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        undo()
        (found,) = recorded(recorder)
    assert [p[1] for p in pairs(found)] == [["<cat>"], ["dog"], ["<dog>"], []]


def test_parts_are_references_and_their_data_is_not_stored(tmp_path: Path) -> None:
    url, data = f"sqlite:///{tmp_path / 'rwml.db'}", base64.b64encode(b"a picture" * 50).decode()
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    sound = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    answer = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "nice"}, image]
    with rwml.Recorder(store=url, redact=None) as recorder:
        undo = instrument(recorder)
        model = ScriptedChatModel(script=[AIMessage(answer), "done"])  # type: ignore[arg-type]
        asked = HumanMessage([{"type": "text", "text": "look: "}, image])
        first = model.invoke([asked])
        heard = HumanMessage([{"type": "text", "text": "and: "}, sound])
        model.invoke([asked, first, heard])
        undo()
        (found,) = recorded(recorder)
    (said,) = found.initial
    assert said.content == "look: [image_url]"
    assert [(p.media_type, p.size) for p in said.parts] == [("image/png", 450)]
    step = found.steps[0]
    assert (step.action.content, step.action.reasoning) == ("nice[image_url]", "hm")
    assert [p.size for p in step.action.parts] == [450]
    assert [p.size for p in step.observation[0].parts] == [450]
    for file in tmp_path.iterdir():
        assert data[:40].encode() not in file.read_bytes(), file


def test_what_is_stored_is_the_value_at_call_time(recorder: rwml.Recorder) -> None:
    """The agent changes its own objects later: what was said stays said."""
    gate = []
    recorder.defer(lambda: [time.sleep(0.001) for _ in iter(lambda: not gate, False)])
    arguments = {"x": ["cat"]}
    answer = AIMessage("", tool_calls=[call("c1", x=arguments["x"])])
    asked = HumanMessage([{"type": "text", "text": "before"}])
    history: list[BaseMessage] = [asked]
    ScriptedChatModel(script=lambda messages: answer).invoke(history)
    arguments["x"].append("dog")
    answer.tool_calls[0]["args"]["y"] = 1
    asked.content[0]["text"] = "after"  # type: ignore[index]
    history.append(HumanMessage("more"))
    gate.append(True)
    (found,) = recorded(recorder)
    assert [m.content for m in found.initial] == ["before"]
    assert found.steps[0].action.tool_calls[0].arguments == {"x": ["cat"]}


def test_what_an_inner_recorder_knows_fills_what_is_missing(recorder: rwml.Recorder) -> None:
    pytest.importorskip("litellm")  # the one that may see a call within
    from langchain_core.messages.utils import convert_to_openai_messages

    seen: list[str] = []
    usage = Usage(prompt_tokens=1, completion_tokens=2)

    class Inner(ScriptedChatModel):
        def _generate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
            wire: Any = convert_to_openai_messages(messages)
            request = [rwml.Message.from_openai(each) for each in wire]
            name = recorder.outer_calls.covers(request, started=time.time())
            assert name is not None
            seen.append(name)
            if len(seen) == 2:  # known before the outer call has ended
                recorder.outer_calls.enrich(name, token_ids=(3,))
            return super()._generate(messages)

    model = Inner(script=["one", "two"])
    model.invoke("first")
    assert recorded(recorder)[0].steps[0].token_ids is None
    recorder.outer_calls.enrich(seen[0], model="other", usage=usage, token_ids=(1, 2))
    model.invoke([HumanMessage("first"), AIMessage("one"), HumanMessage("second")])
    recorder.outer_calls.enrich(seen[0], logprobs=(0.5, 0.5))  # late: the step is complete
    (found,) = recorded(recorder)
    first, second = found.steps
    assert (first.model, first.token_ids, first.logprobs) == ("scripted", (1, 2), (0.5, 0.5))
    assert first.usage != usage  # what the outer call said stays
    assert [m.content for m in first.observation] == ["second"]
    assert (second.token_ids, second.observation) == ((3,), ())


@pytest.mark.parametrize("tenant", ["acme", None])
def test_the_tenant_is_noted(recorder: rwml.Recorder, tenant: str | None) -> None:
    config = {**thread(), "metadata": {"tenant": tenant} if tenant else {}}
    agent().invoke(says("cat"), config)
    (found,) = recorded(recorder)
    assert found.metadata == {"thread_id": "1", **({"tenant": tenant} if tenant else {})}


@pytest.mark.parametrize("broken", ["Snapshots.of", "Snapshots.of_all", "Intake.begin"])
def test_a_fault_in_the_agents_thread_stays_in_the_recorder(
    recorder: rwml.Recorder, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    from rwml_adapters.langchain import intake, snapshots

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug of ours")

    owner, name = broken.split(".")
    found = getattr(snapshots, owner, None) or getattr(intake, owner)
    monkeypatch.setattr(found, name, fail)
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    handler = RWMLCallbackHandler(recorder)
    messages = agent().invoke(says("cat"), {**thread(), "callbacks": [handler]})["messages"]
    assert [m.content for m in messages] == ["cat", "", "<cat>", "saw <cat>"]
    assert recorder.stats.errors


def test_a_closed_recorder_leaves_the_agent_alone(recorder: rwml.Recorder) -> None:
    recorder.close()
    messages = agent().invoke(says("cat"), thread())["messages"]
    assert [m.content for m in messages] == ["cat", "", "<cat>", "saw <cat>"]
