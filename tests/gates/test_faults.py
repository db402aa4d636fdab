"""Gate 3: whatever breaks inside the recorder, the agent's result is the same.

Every function of the recorder and of its LangChain and LiteLLM sides is made to raise in turn while
a graph runs. What the agent's own tools raise still gets through: cancellation, interrupts of the
graph, Ctrl-C.
"""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import litellm
import pytest
from langchain_core.messages import AnyMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Command, interrupt
from tests.gates.common import figure, rounds

import rwml
from rwml import (
    capture,
    delivery,
    forking,
    outer_calls,
    preparation,
    recorder,
    serialisation,
    spool,
    trajectory_recorder,
    waiting,
    writer,
)
from rwml.assemble import assembler, digests
from rwml.redaction import session
from rwml.store import batches, database
from rwml.testing import ScriptedChatModel, tool_calls
from rwml_adapters.langchain import calls, conversations, handler, intake, messages, snapshots
from rwml_adapters.litellm import logger, reading

MODULES = (
    assembler,
    batches,
    calls,
    capture,
    conversations,
    database,
    delivery,
    digests,
    forking,
    handler,
    intake,
    logger,
    messages,
    outer_calls,
    preparation,
    reading,
    recorder,
    serialisation,
    session,
    snapshots,
    spool,
    trajectory_recorder,
    waiting,
    writer,
)
NOT_WHILE_RECORDING = {"__init__", "__post_init__", "instrument", "switch_on"}
"""What runs when recording is switched on, where an error is to be seen."""
ERRORS = (RuntimeError, MemoryError, RecursionError, ValueError, StopIteration)
FULL_RUNS = rounds(0, 10_000)


def sites() -> Iterator[tuple[str, Any, str]]:
    """Every function and method that is defined in one of the modules."""
    for module in MODULES:
        for name, value in vars(module).items():
            if getattr(value, "__module__", None) != module.__name__:
                continue
            if inspect.isfunction(value) and name not in NOT_WHILE_RECORDING:
                yield f"{module.__name__}.{name}", module, name
            elif inspect.isclass(value):
                for method, function in vars(value).items():
                    if inspect.isfunction(function) and method not in NOT_WHILE_RECORDING:
                        yield f"{module.__name__}.{name}.{method}", value, method


SITES = sorted(sites(), key=lambda site: site[0])


@tool
def look(place: str) -> str:
    """Look somewhere."""
    if place == "nowhere":
        raise KeyError(place)
    return f"{place} is sunny"


@tool
def ask(question: str) -> str:
    """Ask the person."""
    return str(interrupt(question))


@tool
def give_up() -> str:
    """Be cut off."""
    raise asyncio.CancelledError


@tool
def stop_all() -> str:
    """Ctrl-C."""
    raise KeyboardInterrupt


SCRIPT = [
    tool_calls(("look", {"place": "Rome"}), ("look", {"place": "nowhere"})),
    "Sunny in Rome.",
    "You are welcome.",
]


def make_agent(script: list[Any]) -> Any:
    tools = [look, ask, give_up, stop_all]
    model = ScriptedChatModel(script=script).bind_tools(tools)

    def agent(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("agent", agent)
    graph.add_node("tools", ToolNode(tools, handle_tool_errors=True))
    graph.add_edge(START, "agent")
    graph.add_conditional_edges("agent", tools_condition, {"tools": "tools", END: END})
    graph.add_edge("tools", "agent")
    return graph.compile(checkpointer=InMemorySaver())


def run_agent() -> list[Any]:
    """Two runs of a thread, and a LiteLLM call: everything that the agent gets to see."""
    app = make_agent(list(SCRIPT))
    thread = {"configurable": {"thread_id": "1"}}
    app.invoke({"messages": [("user", "Where is it sunny?")]}, thread)
    state = app.invoke({"messages": [("user", "Thanks.")]}, thread)
    answer = litellm.completion(
        model="gpt-4o", messages=[{"role": "user", "content": "hello"}], mock_response="hi"
    )
    return [*map(seen, state["messages"]), answer.choices[0].message.content]  # type: ignore[union-attr]


def seen(message: AnyMessage) -> tuple[Any, ...]:
    return (message.type, message.content, getattr(message, "tool_calls", None))


def leave_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under pytest errors are raised; and a fault in delivery must not make its tests slow."""
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # which pytest sets for each phase of a test
    monkeypatch.setattr(recorder, "CLOSE_TIMEOUT_S", 0.2)


def raising(error: type[Exception], original: Callable[..., Any], share: float) -> Any:
    """A function in place of another, which raises always or by chance."""
    dice = random.Random(0)

    def fail(*arguments: Any, **named: Any) -> Any:
        if dice.random() < share:
            raise error("injected")
        return original(*arguments, **named)

    return fail


def run_with_fault(
    site: tuple[str, Any, str], error: type[Exception], url: str, share: float = 1.0
) -> list[Any]:
    _, owner, name = site
    recording = rwml.instrument(store=url)
    original = getattr(owner, name)
    static = inspect.getattr_static(owner, name)
    setattr(owner, name, raising(error, original, share))
    try:
        return run_agent()
    finally:
        setattr(owner, name, static)
        recording.uninstrument()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_at_every_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_pytest(monkeypatch)
    expected = run_agent()
    broken: list[str] = []
    for number, site in enumerate(SITES):
        error = ERRORS[number % len(ERRORS)]
        url = f"sqlite:///{tmp_path / f'{number % 7}.db'}"
        try:
            same = run_with_fault(site, error, url) == expected
        except Exception as raised:
            broken.append(f"{site[0]}: raised {raised!r}")
        else:
            broken += [] if same else [f"{site[0]}: another result"]
    figure("3-sites", sites=len(SITES), broken=len(broken))
    assert len(SITES) > 200
    assert broken == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.skipif(not FULL_RUNS, reason="the full number of runs: make soak")
def test_faults_by_chance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_pytest(monkeypatch)
    expected = run_agent()
    dice = random.Random(1)
    broken: list[str] = []
    for number in range(FULL_RUNS):
        site, error = dice.choice(SITES), dice.choice(ERRORS)
        url = f"sqlite:///{tmp_path / f'{number % 7}.db'}"
        try:
            same = run_with_fault(site, error, url, share=dice.choice([0.1, 0.5, 1.0])) == expected
        except Exception as raised:
            broken.append(f"{site[0]}: raised {raised!r}")
        else:
            broken += [] if same else [f"{site[0]}: another result"]
    figure("3-chance", runs=FULL_RUNS, sites=len(SITES), broken=len(broken))
    assert broken == []


def error_of(name: str) -> type[BaseException]:
    """What a run raises whose agent calls this tool."""
    app = make_agent([tool_calls((name, {}))])
    with pytest.raises(BaseException) as raised:  # noqa: PT011 - that is the question
        app.invoke({"messages": [("user", "Go.")]}, {"configurable": {"thread_id": "1"}})
    return raised.type


def test_what_the_agent_raises_gets_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_pytest(monkeypatch)
    assert error_of("stop_all") is KeyboardInterrupt
    cancelled = error_of("give_up")  # langgraph has an error of its own for it
    thread = {"configurable": {"thread_id": "1"}}
    with rwml.instrument(store=f"sqlite:///{tmp_path / 'rwml.db'}"):
        assert error_of("stop_all") is KeyboardInterrupt
        assert error_of("give_up") is cancelled
        app = make_agent([tool_calls(("ask", {"question": "Sure?"})), "Done."])
        paused = app.invoke({"messages": [("user", "Go.")]}, thread)
        assert paused["__interrupt__"][0].value == "Sure?"
        done = app.invoke(Command(resume="yes"), thread)
        assert [m.content for m in done["messages"]][-2:] == ["yes", "Done."]
