"""The LangChain adapter on real graphs, with a scripted chat model where an LLM would be."""

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import pytest

pytest.importorskip("langgraph")

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult, LLMResult
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import InjectedToolCallId, tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Command, interrupt

import rwml
from rwml.schema import Usage
from rwml_adapters.langchain import RWMLCallbackHandler, instrument
from rwml_adapters.langchain.conversations import Conversations

Script = Callable[[list[BaseMessage]], AIMessage]


class ScriptedModel(BaseChatModel):
    """Answers what its script says."""

    script: Script

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=[convert_to_openai_tool(each) for each in tools], **kwargs)

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self.script(messages))])


def call(call_id: str, name: str = "look", **args: Any) -> Any:
    return {"id": call_id, "name": name, "args": args}


def look_then_say(messages: list[BaseMessage]) -> AIMessage:
    """Looks at what the user named, then repeats what came back."""
    last = messages[-1]
    if isinstance(last, ToolMessage):
        return AIMessage(
            f"saw {last.content}",
            usage_metadata={"input_tokens": 7, "output_tokens": 2, "total_tokens": 9},
            response_metadata={"model_name": "scripted-1"},
        )
    return AIMessage("", tool_calls=[call(f"c{len(messages)}", x=last.text)])


@tool
def look(x: str) -> str:
    """Look at a thing."""
    return f"<{x}>"


def agent(
    script: Script = look_then_say, tools: Any = (look,), *, memory: bool = True, **tool_node: Any
) -> Any:
    model = ScriptedModel(script=script).bind_tools(tools)

    def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    async def athink(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("agent", RunnableLambda(think, athink))
    graph.add_node("tools", ToolNode(list(tools), **tool_node))
    graph.add_edge(START, "agent")
    graph.add_conditional_edges("agent", tools_condition, {"tools": "tools", END: END})
    graph.add_edge("tools", "agent")
    return graph.compile(checkpointer=InMemorySaver() if memory else None)


def thread(name: str) -> Any:
    return {"configurable": {"thread_id": name}}


def says(text: str) -> Any:
    return {"messages": [HumanMessage(text)]}


class Recorded:
    """A recorder that is instrumented, and what it has recorded so far."""

    def __init__(self, recorder: rwml.Recorder, store: rwml.Store) -> None:
        self.recorder, self.store = recorder, store

    def trajectories(self) -> list[rwml.Trajectory]:
        assert self.recorder.flush(30)
        return list(self.store.trajectories())

    def one(self) -> rwml.Trajectory:
        (found,) = self.trajectories()
        return found


def pairs(trajectory: rwml.Trajectory) -> list[tuple[str, list[str | None]]]:
    """Each action (calls, else text) and what came back, by call id."""
    return [
        (
            " ".join(c.id for c in s.action.tool_calls) or str(s.action.content),
            [m.content for m in s.ordered_observation()],
        )
        for s in trajectory.steps
    ]


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[Recorded]:
    with (
        rwml.open_store(f"sqlite:///{tmp_path / 'rwml.db'}") as store,
        rwml.Recorder(store=store) as recorder,
    ):
        undo = instrument(recorder)
        yield Recorded(recorder, store)
        undo()


def test_one_run(recorded: Recorded) -> None:
    agent().invoke(says("cat"), thread("1"))
    found = recorded.one()
    assert found.source == "langgraph"
    assert found.metadata == {"thread_id": "1"}
    assert [(m.role, m.content) for m in found.initial] == [("user", "cat")]
    assert [t.name for t in found.tools] == ["look"]
    assert found.fingerprint.package == "langgraph"
    assert pairs(found) == [("c1", ["<cat>"]), ("saw <cat>", [])]
    first, last = found.steps
    assert (first.status, first.kind, last.status, last.kind) == ("ok", "tool", "pending", None)
    assert first.action.tool_calls[0].arguments == {"x": "cat"}
    assert (last.model, last.usage) == (
        "scripted-1",
        Usage(prompt_tokens=7, completion_tokens=2),
    )
    assert last.latency_s is not None
    assert last.started_at is not None
    where = last.provenance
    assert where is not None
    assert (where.node, where.thread_id) == ("agent", "1")
    assert (where.checkpoint_ns or "").startswith("agent:")
    assert where.run_id
    assert where.parent_run_id
    assert where.run_id != where.parent_run_id


def test_the_next_run_of_a_thread_completes_the_last_answer(recorded: Recorded) -> None:
    graph = agent()
    graph.invoke(says("cat"), thread("1"))
    graph.invoke(says("dog"), thread("1"))
    found = recorded.one()
    assert pairs(found) == [
        ("c1", ["<cat>"]),
        ("saw <cat>", ["dog"]),
        ("c5", ["<dog>"]),
        ("saw <dog>", []),
    ]
    assert [s.kind for s in found.steps] == ["tool", "user", "tool", None]
    context = list(found.transitions())[2].context
    assert [m.role for m in context] == ["user", "assistant", "tool", "assistant", "user"]


def test_the_agent_gets_the_same(recorded: Recorded) -> None:
    messages = agent().invoke(says("cat"), thread("1"))["messages"]
    assert [m.content for m in messages] == ["cat", "", "<cat>", "saw <cat>"]


def test_an_empty_context_is_recorded_too(recorded: Recorded) -> None:
    contextvars.Context().run(agent().invoke, says("cat"), thread("1"))
    assert pairs(recorded.one())[0] == ("c1", ["<cat>"])


@pytest.mark.parametrize("order", [["a", "b"], ["b", "a"]])
def test_parallel_results_pair_by_id_whoever_is_first(recorded: Recorded, order: list[str]) -> None:
    done = {name: threading.Event() for name in "ab"}

    @tool
    def wait(x: str) -> str:
        """Answer in the order wanted."""
        place = order.index(x)
        assert place == 0 or done[order[place - 1]].wait(30)
        done[x].set()
        return f"<{x}>"

    def script(messages: list[BaseMessage]) -> AIMessage:
        if isinstance(messages[-1], ToolMessage):
            return AIMessage("done")
        return AIMessage("", tool_calls=[call("1", "wait", x="a"), call("2", "wait", x="b")])

    agent(script, [wait]).invoke(says("go"), thread("1"))
    assert pairs(recorded.one())[0] == ("1 2", ["<a>", "<b>"])


def test_a_half_answered_parallel_call_is_no_transition_yet(recorded: Recorded) -> None:
    handler = RWMLCallbackHandler(recorded.recorder)
    root, asked, used = uuid4(), uuid4(), uuid4()
    handler.on_chain_start({}, {}, run_id=root)
    handler.on_chat_model_start({}, [[HumanMessage("go")]], run_id=asked, parent_run_id=root)
    answer = AIMessage("", tool_calls=[call("1"), call("2")])
    result = LLMResult(generations=[[ChatGeneration(message=answer)]])
    handler.on_llm_end(result, run_id=asked, parent_run_id=root)
    for call_id, status in (("2", "pending"), ("1", "ok")):
        handler.on_tool_start({}, "", run_id=used, parent_run_id=root, tool_call_id=call_id)
        message = ToolMessage(call_id.upper(), tool_call_id=call_id)
        handler.on_tool_end(message, run_id=used, parent_run_id=root)
        assert recorded.one().steps[0].status == status
    assert pairs(recorded.one()) == [("1 2", ["1", "2"])]


def test_tools_outside_of_the_graph_come_from_the_history(recorded: Recorded) -> None:
    model = ScriptedModel(script=look_then_say).bind_tools([look])
    config: Any = {"metadata": {"thread_id": "1"}}
    messages: list[BaseMessage] = [HumanMessage("cat")]
    messages.append(model.invoke(messages, config))
    messages.append(ToolMessage("a real cat", tool_call_id="c1"))
    messages.append(model.invoke(messages, config))
    messages.append(HumanMessage("thanks"))
    model.invoke(messages, config)
    assert pairs(recorded.one()) == [
        ("c1", ["a real cat"]),
        ("saw a real cat", ["thanks"]),
        ("c5", []),
    ]


def test_a_tool_error_is_the_next_state_that_the_agent_sees(recorded: Recorded) -> None:
    @tool
    def look(x: str) -> str:
        """Look at a thing."""
        raise ValueError("too dark")

    agent(look_then_say, [look], handle_tool_errors="it is dark").invoke(says("cat"), thread("1"))
    step = recorded.one().steps[0]
    assert [m.content for m in step.observation] == ["it is dark"]
    assert (step.status, step.kind) == ("error", "tool")


def test_a_tool_error_that_ends_the_run_is_kept(recorded: Recorded) -> None:
    @tool
    def look(x: str) -> str:
        """Look at a thing."""
        raise ValueError("too dark")

    graph = agent(look_then_say, [look], handle_tool_errors=False)
    with pytest.raises(ValueError, match="too dark"):
        graph.invoke(says("cat"), thread("1"))
    step = recorded.one().steps[0]
    assert ([m.content for m in step.observation], step.status) == (["too dark"], "error")


def test_an_interrupt_is_no_error_and_its_resume_completes_the_step(recorded: Recorded) -> None:
    @tool
    def look(x: str) -> str:
        """Ask first."""
        return f"<{x} {interrupt('may I?')}>"

    graph = agent(look_then_say, [look])
    graph.invoke(says("cat"), thread("1"))
    step = recorded.one().steps[0]
    assert (step.status, step.observation) == ("pending", ())
    graph.invoke(Command(resume="yes"), thread("1"))
    assert pairs(recorded.one()) == [("c1", ["<cat yes>"]), ("saw <cat yes>", [])]
    assert recorded.one().steps[0].status == "ok"


def test_a_tool_that_returns_a_command(recorded: Recorded) -> None:
    @tool
    def look(x: str, tool_call_id: Annotated[str, InjectedToolCallId]) -> Command:
        """Update the state."""
        return Command(update={"messages": [ToolMessage(f"<{x}>", tool_call_id=tool_call_id)]})

    agent(look_then_say, [look]).invoke(says("cat"), thread("1"))
    assert pairs(recorded.one())[0] == ("c1", ["<cat>"])


def test_runs_without_a_thread_are_trajectories_of_their_own(recorded: Recorded) -> None:
    graph = agent(memory=False)
    graph.invoke(says("cat"))
    graph.invoke(says("dog"))
    found = recorded.trajectories()
    assert sorted(pairs(t)[0][1][0] or "" for t in found) == ["<cat>", "<dog>"]
    assert {t.outcome.status for t in found} == {"completed"}


def test_a_rewritten_history_starts_another_trajectory(recorded: Recorded) -> None:
    model = ScriptedModel(script=lambda messages: AIMessage(f"answer {len(messages)}"))
    config: Any = {"metadata": {"thread_id": "1"}}
    model.invoke([HumanMessage("a")], config)
    model.invoke([HumanMessage("summary"), HumanMessage("b")], config)
    model.invoke([HumanMessage("a"), AIMessage("answer 1"), HumanMessage("c")], config)
    found = {t.initial[0].content: pairs(t) for t in recorded.trajectories()}
    assert found == {
        "a": [("answer 1", ["c"]), ("answer 3", [])],
        "summary": [("answer 2", [])],
    }


def test_a_retried_call_does_not_overwrite_the_first(recorded: Recorded) -> None:
    answers = iter(["one", "two"])
    model = ScriptedModel(script=lambda messages: AIMessage(next(answers)))
    config: Any = {"metadata": {"thread_id": "1"}}
    model.invoke([HumanMessage("a")], config)
    model.invoke([HumanMessage("a")], config)
    assert sorted(pairs(t)[0][0] for t in recorded.trajectories()) == ["one", "two"]


def test_a_sub_agent_in_a_tool_does_not_corrupt_the_main_trajectory(recorded: Recorded) -> None:
    inner = agent(memory=False)  # its call ids are the same as those outside

    @tool
    def ask(x: str) -> str:
        """Ask a colleague."""
        return inner.invoke(says(x))["messages"][-1].content

    def script(messages: list[BaseMessage]) -> AIMessage:
        if isinstance(messages[-1], ToolMessage):
            return AIMessage(f"told {messages[-1].content}")
        return AIMessage("", tool_calls=[call("c1", "ask", x="mouse")])

    agent(script, [ask]).invoke(says("cat"), thread("1"))
    found = {t.initial[0].content: pairs(t) for t in recorded.trajectories()}
    assert found == {
        "cat": [("c1", ["saw <mouse>"]), ("told saw <mouse>", [])],
        "mouse": [("c1", ["<mouse>"]), ("saw <mouse>", [])],
    }


def test_parallel_sub_agents_with_equal_call_ids_do_not_mix(recorded: Recorded) -> None:
    both = threading.Barrier(2)

    @tool
    def look(x: str) -> str:
        """Look when the other one looks too: both calls are open then."""
        both.wait(30)
        return f"<{x}>"

    inner = agent(look_then_say, [look], memory=False)

    @tool
    def ask(x: str) -> str:
        """Ask a colleague."""
        return inner.invoke(says(x))["messages"][-1].content

    def script(messages: list[BaseMessage]) -> AIMessage:
        if isinstance(messages[-1], ToolMessage):
            return AIMessage("done")
        return AIMessage("", tool_calls=[call("p", "ask", x="cat"), call("q", "ask", x="dog")])

    agent(script, [ask]).invoke(says("go"), thread("1"))
    found = {t.initial[0].content: t.steps[0] for t in recorded.trajectories()}
    assert {name: [m.content for m in s.ordered_observation()] for name, s in found.items()} == {
        "go": ["saw <cat>", "saw <dog>"],
        "cat": ["<cat>"],
        "dog": ["<dog>"],
    }


def test_results_by_event_are_right_before_any_history_says_so(recorded: Recorded) -> None:
    """Two branches of one thread have an equal call open: the tree of runs tells which is meant."""
    handler = RWMLCallbackHandler(recorded.recorder)
    about = {"thread_id": "1"}
    roots = {name: uuid4() for name in ("cat", "dog")}
    for name, root in roots.items():
        asked = uuid4()
        handler.on_chain_start({}, {}, run_id=root)
        handler.on_chat_model_start(
            {}, [[HumanMessage(name)]], run_id=asked, parent_run_id=root, metadata=about
        )
        answer = ChatGeneration(message=AIMessage("", tool_calls=[call("c")]))
        handler.on_llm_end(LLMResult(generations=[[answer]]), run_id=asked, parent_run_id=root)
    for name, root in roots.items():
        used = uuid4()
        handler.on_tool_start(
            {}, "", run_id=used, parent_run_id=root, metadata=about, tool_call_id="c"
        )
        message = ToolMessage(f"<{name}>", tool_call_id="c")
        handler.on_tool_end(message, run_id=used, parent_run_id=root)
    found = {t.initial[0].content: pairs(t) for t in recorded.trajectories()}
    assert found == {name: [("c", [f"<{name}>"])] for name in roots}


def test_somebody_elses_answer_in_between_starts_another_trajectory(recorded: Recorded) -> None:
    model = ScriptedModel(script=lambda messages: AIMessage(f"answer {len(messages)}"))
    config: Any = {"metadata": {"thread_id": "1"}}
    model.invoke([HumanMessage("a")], config)
    others = [AIMessage("from a colleague"), HumanMessage("b")]
    model.invoke([HumanMessage("a"), AIMessage("answer 1"), *others], config)
    assert sorted(pairs(t)[0] for t in recorded.trajectories()) == [
        ("answer 1", []),
        ("answer 4", []),
    ]


def test_bare_threads_do_not_mix(recorded: Recorded) -> None:
    graph = agent()

    def work(n: int) -> None:
        for turn in range(3):
            graph.invoke(says(f"{n}-{turn}"), thread(f"t{n}"))

    threads = [threading.Thread(target=work, args=[n]) for n in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    found = recorded.trajectories()
    assert len(found) == 6
    for trajectory in found:
        n = str(trajectory.metadata["thread_id"])[1:]
        answers = [seen for _, seen in pairs(trajectory)]
        assert answers == [
            [f"<{n}-0>"], [f"{n}-1"], [f"<{n}-1>"], [f"{n}-2"], [f"<{n}-2>"], [],
        ]  # fmt: skip


def test_tasks_do_not_mix(recorded: Recorded) -> None:
    async def work() -> None:
        graph = agent(memory=False)  # equal call ids, no thread: only run ids tell them apart
        await asyncio.gather(*(graph.ainvoke(says(f"x{n}")) for n in range(8)))

    asyncio.run(work())
    found = {t.initial[0].content: pairs(t) for t in recorded.trajectories()}
    assert found == {f"x{n}": [("c1", [f"<x{n}>"]), (f"saw <x{n}>", [])] for n in range(8)}


def test_streaming_and_async_are_recorded_the_same(recorded: Recorded) -> None:
    async def work() -> None:
        async for _ in agent().astream(says("cat"), thread("1"), stream_mode="messages"):
            pass

    asyncio.run(work())
    list(agent().stream(says("cat"), thread("2")))
    assert [pairs(t) for t in recorded.trajectories()] == [
        [("c1", ["<cat>"]), ("saw <cat>", [])]
    ] * 2


def test_handler_given_twice_records_once(recorded: Recorded) -> None:
    config = {**thread("1"), "callbacks": [RWMLCallbackHandler(recorded.recorder)]}
    agent().invoke(says("cat"), config)
    assert pairs(recorded.one()) == [("c1", ["<cat>"]), ("saw <cat>", [])]


def test_undo_really_undoes(tmp_path: Path) -> None:
    from langchain_core.tracers import context

    hooks = list(context._configure_hooks)
    with (
        rwml.open_store(f"sqlite:///{tmp_path / 'rwml.db'}") as store,
        rwml.Recorder(store=store) as recorder,
    ):
        graph = agent()
        undo = instrument(recorder)
        streaming = graph.stream(says("cat"), thread("1"))
        next(streaming)  # in flight, with the handler among its callbacks
        undo()
        list(streaming)
        graph.invoke(says("cat"), thread("2"))
        assert recorder.flush(30)
        assert store.counts().trajectories == 1
        assert [pairs(t) for t in store.trajectories()] == [[("c1", [])]]
    assert context._configure_hooks == hooks


def test_rwml_instrument_finds_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'rwml.db'}"
    with rwml.instrument(store=url) as handle:
        assert "langchain" in handle.names
        agent().invoke(says("cat"), thread("1"))
    with rwml.open_store(url, create=False) as store:
        counts = store.counts()
    assert (counts.transitions, counts.pending, counts.orphans) == (1, 1, 0)


def test_a_failing_recorder_never_reaches_the_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("PYTEST_CURRENT_TEST")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug of ours")

    for name in ("finish", "result", "end"):
        monkeypatch.setattr(Conversations, name, fail)
    with rwml.Recorder(store=f"sqlite:///{tmp_path / 'rwml.db'}") as recorder:
        undo = instrument(recorder)
        messages = agent().invoke(says("cat"), thread("1"))["messages"]
        undo()
        assert [m.content for m in messages] == ["cat", "", "<cat>", "saw <cat>"]
        recorder.flush(30)
        assert recorder.stats.errors >= 3
    (warning,) = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert warning.startswith("rwml: recording failed: RuntimeError (test_langchain.py:")


def test_a_failing_model_leaves_no_step(recorded: Recorded) -> None:
    def fail(messages: list[BaseMessage]) -> AIMessage:
        raise TimeoutError("no model")

    with pytest.raises(TimeoutError):
        agent(fail).invoke(says("cat"), thread("1"))
    assert recorded.trajectories() == []


def test_malformed_arguments_and_reasoning_are_kept(recorded: Recorded) -> None:
    bad = {"id": "1", "name": "look", "args": '{"x": ', "error": None, "type": "invalid_tool_call"}
    parts = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "I look"}]
    answer = AIMessage(parts, invalid_tool_calls=[bad])  # type: ignore[list-item]
    ScriptedModel(script=lambda messages: answer).invoke("cat")
    action = recorded.one().steps[0].action
    assert (action.content, action.reasoning) == ("I look", "hm")
    assert action.tool_calls[0].raw_arguments == '{"x": '


def test_memory_is_bounded(recorded: Recorded) -> None:
    handler = RWMLCallbackHandler(recorded.recorder)
    kept = handler._intake.conversations
    graph = agent(memory=False)
    for n in range(5):
        graph.invoke(says(f"x{n}"), {"callbacks": [handler]})
    for held in (handler._paths, handler._says, handler._calls, handler._tools):
        assert not held
    assert not handler._intake._threadless
    assert recorded.recorder.flush(30)
    assert not kept._roots
    kept._assembler._trails.kept = 3
    graph = agent()
    for n in range(5):
        graph.invoke(says("x"), {**thread(f"t{n}"), "callbacks": [handler]})
    assert recorded.recorder.flush(30)
    assert len(kept) == 3


def test_a_forgotten_thread_does_not_overwrite_its_past(recorded: Recorded) -> None:
    handler = RWMLCallbackHandler(recorded.recorder)
    other = RWMLCallbackHandler(recorded.recorder)  # as in a second process
    graph = agent(lambda messages: AIMessage(f"answer {len(messages)}"), memory=False)
    for each in (handler, other):
        graph.invoke(says("hello"), {**thread("1"), "callbacks": [each]})
    assert [pairs(t) for t in recorded.trajectories()] == [[("answer 1", [])]] * 2
