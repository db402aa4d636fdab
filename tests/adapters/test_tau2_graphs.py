"""People's own graphs on tau2, unchanged: their tools never run, tau2's results come back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tau2.registry")

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.messages.tool import invalid_tool_call
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, create_react_agent, tools_condition

from rwml.environments import Episode, Task
from rwml.errors import AdapterError, UsageError
from rwml.schema import Trajectory
from rwml.testing import ScriptedChatModel
from rwml_adapters.tau2 import tool_stubs
from rwml_adapters.tau2.environment import Tau2Environment
from rwml_adapters.tau2.graphs import ToolGraph, find_tool_nodes, open_session, policy_graph
from rwml_adapters.tau2.messages import EMPTY_REPLY_TEXT
from rwml_adapters.tau2.package import ensure_tau2, load_tasks
from rwml_adapters.tau2.policies import Agent, graph_agent
from rwml_adapters.tau2.scripted import ScriptedPolicy, scripted_policy
from rwml_adapters.tau2.simulators import Simulators

ensure_tau2()

pytestmark = pytest.mark.filterwarnings("ignore:create_react_agent has been moved")

BYE = AIMessage(content="Done. Is there anything else I can help you with?")
Build = Callable[[Any, Sequence[BaseTool]], Any]
SCHEMAS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Looks.",
            "parameters": {"type": "object", "properties": {"id": {"type": "string"}}},
        },
    }
    for name in ("a", "b")
]


def by_hand(model: Any, tools: Sequence[BaseTool]) -> Any:
    """The graph that every tutorial has."""
    bound = model.bind_tools(tools)

    def agent(state: MessagesState) -> dict[str, Any]:
        return {"messages": [bound.invoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("agent", agent)
    builder.add_node("act", ToolNode(tools))
    builder.add_edge(START, "agent")
    builder.add_conditional_edges("agent", tools_condition, {"tools": "act", END: END})
    builder.add_edge("act", "agent")
    return builder.compile()


def as_agent(model: Any, tools: Sequence[BaseTool]) -> Any:
    return create_agent(model, tools, system_prompt="You are kind.")


def as_react_agent(model: Any, tools: Sequence[BaseTool]) -> Any:
    return create_react_agent(model, tools, prompt="You are kind.", checkpointer=InMemorySaver())


SHAPES: list[Build] = [by_hand, as_agent, as_react_agent]


class MyTools:
    """Tools of a production system, which a benchmark must not touch."""

    def __init__(self, schemas: Sequence[dict[str, Any]]) -> None:
        self.runs: list[str] = []
        self.tools: list[BaseTool] = [
            StructuredTool.from_function(
                lambda name=schema["function"]["name"], **_: self.runs.append(name) or "mine",
                name=schema["function"]["name"],
                description=schema["function"]["description"],
                args_schema=schema["function"]["parameters"],
            )
            for schema in schemas
        ]


def play(
    agent: Agent, *, domain: str = "mock", task: str = "create_task_1", max_steps: int = 30
) -> Trajectory:
    environment = Tau2Environment(domain=domain, agent=agent, users=Simulators())
    split = "base" if domain == "mock" else "test"
    wanted = Task(id=task, split=split, kind=domain)
    return environment.play(
        Episode(task=wanted, trial=0, seed=0, max_steps=max_steps, id=f"{domain}-{task}")
    )


def scripted(build: Build, *plan: AIMessage, seen: list[MyTools] | None = None) -> Agent:
    def factory(tools: list[dict[str, Any]], policy: str, llm: Any, llm_args: Any) -> Any:
        mine = MyTools(tools)
        if seen is not None:
            seen.append(mine)
        return build(ScriptedPolicy(plan=list(plan)), mine.tools)

    return graph_agent(factory, name="mine")


def call(name: str, args: dict[str, Any], id: str | None) -> dict[str, Any]:
    return {"name": name, "args": args, "id": id, "type": "tool_call"}


@pytest.mark.parametrize("build", SHAPES)
@pytest.mark.parametrize("domain", ["retail", "airline"])
def test_an_unchanged_agent_is_measured_and_its_own_tools_never_run(
    build: Build, domain: str
) -> None:
    mine: list[MyTools] = []

    def graph(task: Any, domain: Any, seed: int) -> Any:
        mine.append(MyTools(domain.tools))
        return build(scripted_policy(task, domain, error_rate=0.3, seed=seed), mine[0].tools)

    task = load_tasks(domain, "test")[0].id
    trajectory = play(Agent(name="mine", graph=graph), domain=domain, task=task)
    assert trajectory.outcome.reward == 1.0
    assert mine[0].runs == []
    called = [step for step in trajectory.steps if step.kind == "tool"]
    assert called
    assert all("mine" not in (m.content or "") for step in called for m in step.observation)
    assert sum(step.orphans() for step in trajectory.steps) == 0
    assert trajectory.metadata["own_prompt"] is True


@pytest.mark.parametrize("build", SHAPES)
def test_parallel_calls_without_ids_and_malformed_ones_go_on(build: Build) -> None:
    mine: list[MyTools] = []
    parallel = AIMessage(
        content="Let me see.",
        tool_calls=[call("get_users", {}, "same"), call("nothing", {}, "same")],  # type: ignore[list-item]
    )
    broken = AIMessage(
        content="",
        invalid_tool_calls=[invalid_tool_call(name="get_users", args="{", id="x", error="bad")],
    )
    plan = [parallel, broken, AIMessage(content=" "), BYE]
    trajectory = play(scripted(build, *plan, seen=mine))
    first, second, third, last = trajectory.steps
    assert len({c.id for c in first.action.tool_calls}) == 2
    assert {m.tool_call_id for m in first.observation} == {c.id for c in first.action.tool_calls}
    assert first.metadata == {"text_not_sent": True}
    assert second.action.tool_calls[0].raw_arguments == "{"
    assert second.status == "error"
    assert third.action.content == EMPTY_REPLY_TEXT
    assert last.kind == "user"
    assert mine[0].runs == []


@pytest.mark.parametrize("build", SHAPES)
def test_the_graph_sees_one_copy_of_the_conversation_with_tau2s_results(build: Build) -> None:
    plan = [
        AIMessage(
            content="",
            tool_calls=[call("a", {}, None), call("b", {}, None)],  # type: ignore[list-item]
        ),
        AIMessage(content="Who?"),
        BYE,
    ]
    asked: list[list[BaseMessage]] = []

    class Listener(ScriptedPolicy):
        def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
            asked.append([m for m in messages if m.type != "system"])
            return super()._generate(messages, *args, **kwargs)

    session = open_session(build(Listener(plan=plan), tool_stubs(SCHEMAS)), thread_id="t")
    answer = session.ask([AIMessage(content="Hi!", id="0"), HumanMessage("Hello", id="1")])
    ids = [c["id"] or f"new-{n}" for n, c in enumerate(answer.tool_calls)]
    sent = answer.model_copy(
        update={"tool_calls": [{**c, "id": i} for c, i in zip(answer.tool_calls, ids, strict=True)]}
    )
    session.keep(sent)
    results = [ToolMessage(f"from tau2 {i}", tool_call_id=i, id=f"r{i}") for i in reversed(ids)]
    assert session.ask(results).content == "Who?"
    assert session.ask([HumanMessage("Ann", id="9")]).content == BYE.content
    last = asked[-1]
    assert [m.type for m in last] == ["ai", "human", "ai", "tool", "tool", "ai", "human"]
    assert [c["id"] for c in last[2].tool_calls] == ids  # type: ignore[attr-defined]
    assert [m.content for m in last[3:5]] == [f"from tau2 {i}" for i in reversed(ids)]


def test_an_agents_own_checkpointer_is_left_alone() -> None:
    production = InMemorySaver()
    graph = create_agent(ScriptedPolicy(plan=[BYE]), MyTools([]).tools, checkpointer=production)
    session = ToolGraph(graph, thread_id="t", tool_nodes=["tools"])
    session.ask([HumanMessage("Hello")])
    assert list(production.list(None)) == []
    assert graph.checkpointer is production


def test_a_graph_that_is_asynchronous_only_is_measured_too() -> None:
    def build(model: Any, tools: Sequence[BaseTool]) -> Any:
        async def agent(state: MessagesState) -> dict[str, Any]:
            return {"messages": [await model.ainvoke(state["messages"])]}

        builder = StateGraph(MessagesState)
        builder.add_node("agent", agent)
        builder.add_node("tools", ToolNode(tools))
        builder.add_edge(START, "agent")
        builder.add_conditional_edges("agent", tools_condition)
        builder.add_edge("tools", "agent")
        return builder.compile()

    mine: list[MyTools] = []
    looked = AIMessage(content="", tool_calls=[call("get_users", {}, "c")])  # type: ignore[list-item]
    trajectory = play(scripted(build, looked, BYE, seen=mine))
    assert [step.kind for step in trajectory.steps] == ["tool", "user"]
    assert trajectory.outcome.status == "completed"
    assert mine[0].runs == []


def custom(tool_node: str) -> Build:
    """A graph whose tool node is a plain function."""

    def build(model: Any, tools: Sequence[BaseTool]) -> Any:
        def act(state: MessagesState) -> dict[str, Any]:
            made = state["messages"][-1].tool_calls  # type: ignore[union-attr]
            by_name = {tool.name: tool for tool in tools}
            return {
                "messages": [
                    ToolMessage(by_name[c["name"]].invoke(c["args"]), tool_call_id=c["id"])
                    for c in made
                ]
            }

        builder = StateGraph(MessagesState)
        builder.add_node("agent", policy_graph(model))
        builder.add_node(tool_node, act)
        builder.add_edge(START, "agent")
        builder.add_conditional_edges("agent", tools_condition, {"tools": tool_node, END: END})
        builder.add_edge(tool_node, "agent")
        return builder.compile()

    return build


def test_a_node_that_is_called_tools_is_one_and_others_can_be_named() -> None:
    mine: list[MyTools] = []
    looked = AIMessage(content="", tool_calls=[call("get_users", {}, "c")])  # type: ignore[list-item]
    found = scripted(custom("tools"), looked, BYE, seen=mine)
    named = scripted(custom("hands"), looked, BYE, seen=mine)
    named = Agent(name="named", graph=named.graph, tool_nodes=["hands"])
    for agent in (found, named):
        trajectory = play(agent)
        assert [step.kind for step in trajectory.steps] == ["tool", "user"]
    assert [tools.runs for tools in mine] == [[], []]


def test_a_graph_that_runs_its_own_tools_is_told_to_name_the_node() -> None:
    looked = AIMessage(content="", tool_calls=[call("get_users", {}, "c")])  # type: ignore[list-item]
    trajectory = play(scripted(custom("hands"), looked, BYE))
    assert trajectory.outcome.status == "infrastructure_error"
    assert "--tool-node" in str(trajectory.outcome.breakdown["reason"])


def test_what_cannot_be_stopped_is_one_clear_line() -> None:
    inner = by_hand(ScriptedPolicy(plan=[BYE]), MyTools([]).tools)
    builder = StateGraph(MessagesState)
    builder.add_node("expert", inner)
    builder.add_edge(START, "expert")
    with pytest.raises(UsageError, match="'expert' runs tools inside a subgraph"):
        find_tool_nodes(builder.compile())
    with pytest.raises(UsageError, match="no node 'hands': use one of agent, act"):
        open_session(inner, thread_id="t", tool_nodes=["hands"])


def test_an_interrupt_of_its_own_is_a_clear_error() -> None:
    from langgraph.types import interrupt

    def agent(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(content=interrupt("May I?"))]}

    builder = StateGraph(MessagesState)
    builder.add_node("agent", agent)
    builder.add_node("tools", ToolNode([]))
    builder.add_edge(START, "agent")
    builder.add_conditional_edges("agent", tools_condition)
    session = open_session(builder.compile(), thread_id="t")
    with pytest.raises(AdapterError, match="stopped before the node 'agent'"):
        session.ask([HumanMessage("Hello")])


def test_a_graph_that_never_answers_is_the_agents_failure() -> None:
    builder = StateGraph(MessagesState)
    builder.add_node("agent", lambda state: {"messages": []})
    builder.add_node("again", lambda state: {"messages": []})
    builder.add_edge(START, "agent")
    builder.add_edge("agent", "again")
    builder.add_edge("again", "agent")
    endless = builder.compile().with_config(recursion_limit=12)
    trajectory = play(graph_agent(lambda *_: endless, name="endless"))
    assert trajectory.outcome.status == "truncated"
    assert trajectory.outcome.success is False
    assert trajectory.outcome.reward == 0.0
    assert trajectory.outcome.breakdown["error_type"] == "GraphRecursionError"


def test_stubs_have_the_schema_and_refuse_to_run() -> None:
    stub = tool_stubs(SCHEMAS)[0]
    model = ScriptedChatModel(script=["Hello."])
    create_agent(model, [stub]).invoke({"messages": [HumanMessage("Hi")]})
    assert stub.name == "a"
    assert stub.args == {"id": {"type": "string"}}
    with pytest.raises(AdapterError, match="nothing else may"):
        stub.invoke({"id": "1"})


def test_agents_own_tools_are_not_run_through_the_command_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from rwml.cli.app import build_app

    (tmp_path / "my_agents.py").write_text(
        "from langchain.agents import create_agent\n"
        "from rwml.testing import ScriptedChatModel, tool_calls\n"
        "from rwml_adapters.tau2 import tool_stubs\n"
        "def make(tools, policy, llm, llm_args):\n"
        "    call = ('create_task', {'user_id': 'user_1', 'title': 'Important Meeting'})\n"
        "    script = [tool_calls(call), 'Done. Is there anything else?']\n"
        "    model = ScriptedChatModel(script=script)\n"
        "    return create_agent(model, tool_stubs(tools), system_prompt=policy)\n"
    )
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(
        build_app(),
        ["eval", "tau2", "--domain", "mock", "--task-id", "create_task_1",
         "--agent", "my_agents:make", "--json"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert '"success_rate": 1.0' in result.stdout
    assert '"agent": "my_agents:make"' in result.stdout
