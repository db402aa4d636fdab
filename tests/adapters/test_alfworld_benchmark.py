"""`rwml record alfworld` and `rwml eval alfworld`: real games, agents from scripts to endpoints."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage
from tests.adapters.alfworld_games import require_games
from tests.adapters.endpoint import HANG, Endpoint, Reply, running_endpoint
from typer.testing import CliRunner, Result

import rwml
from rwml.cli.app import build_app
from rwml.environments import Episode, Task, plan_episodes, run_episodes
from rwml.errors import RwmlError, UsageError
from rwml.schema import Message, Outcome, Trajectory
from rwml.testing import ScriptedChatModel, check_environment
from rwml_adapters.alfworld.agent import GraphPolicy, react_graph
from rwml_adapters.alfworld.benchmark import AlfworldBenchmark, scripted_policy
from rwml_adapters.alfworld.episodes import INVALID_KEY
from rwml_adapters.alfworld.games import SPLITS, TASK_TYPES
from rwml_adapters.alfworld.policies import Actor, Policy
from rwml_adapters.alfworld.prompts import NOTHING_HAPPENS, SYSTEM_PROMPT
from rwml_adapters.alfworld.reporting import summarize

pytestmark = pytest.mark.skipif(find_spec("alfworld") is None, reason="needs rwml[alfworld]")

SPLIT = "valid_seen"


@pytest.fixture(scope="module", autouse=True)
def data() -> Iterator[Path]:
    folder = require_games(SPLIT)[0].file.parents[3]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALFWORLD_DATA", str(folder))
        yield folder


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with running_endpoint() as server:
        yield server


def play(policy: Policy, *, max_steps: int = 30, place: int = 0, **options: Any) -> Trajectory:
    """One episode, as the runner plays it, without another try."""
    benchmark = AlfworldBenchmark(policy, **options)
    episodes = plan_episodes(benchmark, split=SPLIT, max_steps=max_steps)
    (finished,) = run_episodes(benchmark, [episodes[place]], retries=0)
    return finished.trajectory


def graph_policy(script: Any, *, turns: int | None = None) -> GraphPolicy:
    return GraphPolicy(
        name="scripted-llm",
        graph_factory=lambda seed: react_graph(ScriptedChatModel(script=script)),
        turns=turns,
    )


def possible(messages: list[BaseMessage]) -> list[str]:
    """The possible actions that a prompt names."""
    return messages[-1].text.split("# Possible actions\n")[1].split("\n\n")[0].splitlines()


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(build_app(), list(arguments))


def through(endpoint: Endpoint, *more: str) -> list[str]:
    return [
        "eval", "alfworld", "--split", SPLIT, "--tasks", "1", "--model", "openai/tiny",
        "--api-base", endpoint.url, "--retries", "0", "--json", *more,
    ]  # fmt: skip


@pytest.mark.parametrize("kind", range(len(TASK_TYPES)))
def test_the_expert_wins_a_game_of_each_type(kind: int) -> None:
    trajectory = play(scripted_policy("expert"), place=kind)
    assert trajectory.metadata["task_type"] == TASK_TYPES[kind]
    assert trajectory.outcome == Outcome(status="completed", success=True, reward=1.0)
    assert all(step.status == "ok" for step in trajectory.steps)


def test_a_trajectory_holds_what_a_world_model_learns_from() -> None:
    trajectory = play(scripted_policy("explore", explore_rate=0.3, error_rate=0.3))
    assert trajectory.source == "alfworld"
    assert trajectory.split == SPLIT
    system, first = trajectory.initial
    assert (system.role, system.content) == ("system", SYSTEM_PROMPT)
    assert f"Your task is to: {trajectory.metadata['goal']}" in (first.content or "")
    transitions = list(trajectory.transitions())
    assert len(transitions) == len(trajectory.steps) > 3
    assert {each.kind for each in transitions} == {"environment"}
    for step in trajectory.steps:
        (observation,) = step.observation
        nothing = observation.content == NOTHING_HAPPENS
        assert (step.status == "error") == nothing == (step.metadata.get(INVALID_KEY) == "command")
        commands = step.metadata["admissible_commands"]
        assert isinstance(commands, list)
        assert (step.action.content in commands) != nothing
    assert any(step.status == "error" for step in trajectory.steps)
    print_ = trajectory.fingerprint
    assert print_.package == "alfworld"
    assert print_.version
    assert print_.agent == "explore-0.3-0.3"
    assert re.fullmatch(r"own:\w+ on alfworld-[\d.]+:\w+", print_.data_version or "")


def test_the_contract_of_environments_is_kept(tmp_path: Path) -> None:
    for split in SPLITS:
        for game in require_games("valid_seen" if split == "train" else split)[:2]:
            folder = tmp_path / split / game.id
            folder.mkdir(parents=True)
            (folder / game.file.name).symlink_to(game.file)
    check_environment(lambda: AlfworldBenchmark(scripted_policy("explore"), data=tmp_path))


def test_the_same_episode_is_played_again_the_same_way() -> None:
    first, second = (play(scripted_policy("random"), max_steps=6) for _ in range(2))
    assert first.id == second.id
    assert [(s.action, s.observation) for s in first.steps] == [
        (s.action, s.observation) for s in second.steps
    ]
    assert first.outcome == Outcome(status="truncated", success=False, reward=0.0)


def test_games_on_their_own_logic_are_another_agent_s_and_say_so() -> None:
    trajectory = play(scripted_policy("expert"), logic="own")
    assert trajectory.outcome.success
    assert trajectory.id.count("own-logic") == 1
    assert re.fullmatch(r"(own:\w+) on \1", trajectory.fingerprint.data_version or "")


def test_few_tasks_are_a_mix_of_types() -> None:
    tasks = AlfworldBenchmark(scripted_policy("random")).tasks(SPLIT)
    assert [task.kind for task in tasks[:6]] == list(TASK_TYPES)
    assert {task.id for task in tasks} == {game.id for game in require_games(SPLIT)}


def test_a_react_agent_plays() -> None:
    """It goes everywhere once, which its prompts tell it."""

    def answer(messages: list[BaseMessage]) -> str:
        system, prompt = messages
        assert system.text == SYSTEM_PROMPT
        new = [c for c in possible(messages) if f"Action: {c}\n" not in prompt.text]
        return f"<think>There are {len(new)} left.</think>\n<action>{new[-1]}</action>"

    trajectory = play(graph_policy(answer), max_steps=5)
    assert [step.status for step in trajectory.steps] == ["ok"] * 5
    assert len({step.action.content for step in trajectory.steps}) == 5
    step = trajectory.steps[0]
    assert (step.action.reasoning or "").startswith("There are ")
    assert step.usage is not None
    assert step.model == "scripted"
    assert "reply" not in step.metadata


def test_a_graph_of_ones_own_plays_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_alfworld_agent.py").write_text(
        "from langgraph.graph import END, START, MessagesState, StateGraph\n"
        "def make(model, seed):\n"
        "    ask = lambda state: {'messages': [model.invoke(state['messages'])]}\n"
        "    builder = StateGraph(MessagesState)\n"
        "    builder.add_node('ask', ask)\n"
        "    builder.add_edge(START, 'ask')\n"
        "    builder.add_edge('ask', END)\n"
        "    return builder.compile()\n"
    )
    endpoint.replies = ["<action>inventory</action>"]
    result = invoke(*through(endpoint, "--agent", "my_alfworld_agent:make", "--max-steps", "1"))
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["agent"] == "my_alfworld_agent:make-openai/tiny"
    assert report["details"]["actions"]["inventory_or_help_share"] == 1.0


def test_an_agent_may_remember_less() -> None:
    prompts: list[str] = []

    def answer(messages: list[BaseMessage]) -> str:
        prompts.append(messages[-1].text)
        return "<action>look</action>"

    play(graph_policy(answer, turns=1), max_steps=3)
    assert [text.count("Action: look") for text in prompts] == [0, 1, 1]


def test_format_errors_are_the_agent_s_and_the_game_does_not_see_them() -> None:
    script = [
        "<think>Hm.</think>look",
        "",
        "Well: <action>inventory</action>",
        "<action>fly away</action>",
    ]
    trajectory = play(graph_policy(script), max_steps=4)
    assert trajectory.outcome == Outcome(status="truncated", success=False, reward=0.0)
    texts = [step.observation[0].content for step in trajectory.steps]
    nothing = NOTHING_HAPPENS
    assert texts == [nothing, nothing, "You are not carrying anything.", nothing]
    invalid = [step.metadata.get(INVALID_KEY) for step in trajectory.steps]
    assert invalid == ["format", "format", None, "command"]
    assert trajectory.steps[0].action == Message(
        role="assistant", content="<think>Hm.</think>look", reasoning="Hm."
    )
    assert trajectory.steps[2].action.content == "inventory"
    assert trajectory.steps[2].metadata["reply"] == script[2]


def test_an_agent_that_goes_round_fails() -> None:
    trajectory = play(graph_policy(lambda messages: "<action>look</action>"), max_steps=4)
    assert trajectory.outcome.success is False
    assert len(trajectory.steps) == 4
    assert summarize([trajectory])["actions"]["look_share"] == 1.0  # type: ignore[index,call-overload]


def test_a_graph_that_never_answers_is_a_failure_and_a_fault_is_none() -> None:
    class GraphRecursionError(RecursionError):
        """Named as LangGraph's."""

    for error, status in (
        (GraphRecursionError("25 steps"), "truncated"),
        (ConnectionError("sk-abcdefghijklmnopqrstuvwx is down"), "infrastructure_error"),
    ):
        trajectory = play(graph_policy(["<action>look</action>", error]))
        assert trajectory.outcome.status == status
        assert trajectory.outcome.success is (False if status == "truncated" else None)
        assert trajectory.outcome.reward == (0.0 if status == "truncated" else None)
        assert len(trajectory.steps) == 1
    assert "abcdefgh" not in str(trajectory.outcome)


def test_a_graph_of_another_shape_is_said() -> None:
    class Silent:
        def invoke(self, *_: Any, **__: Any) -> dict[str, Any]:
            return {"messages": []}

    trajectory = play(GraphPolicy(name="silent", graph_factory=lambda seed: Silent()))
    assert trajectory.outcome.status == "infrastructure_error"
    assert "must end with an AI message" in str(trajectory.outcome.breakdown["reason"])


def test_an_expert_without_a_plan_is_no_failure() -> None:
    class Planless:
        name = "planless"

        def begin(self, seed: int) -> Actor:
            act = scripted_policy("expert").begin(seed)
            return lambda situation: act(replace(situation, plan=list))

    outcome = play(Planless()).outcome
    assert outcome.status == "infrastructure_error"
    assert "the planner found no way" in str(outcome.breakdown["reason"])


def test_a_model_behind_an_endpoint_plays(tmp_path: Path, endpoint: Endpoint) -> None:
    endpoint.replies = [
        {"content": "<action>look</action>", "reasoning_content": "Where am I?"},
        "I would look around.",
        "<think>So.</think><action>inventory</action>",
    ]
    key = tmp_path / "key"
    key.write_text("secret-of-mine\n")
    store = f"sqlite:///{tmp_path / 'rwml.db'}"
    result = invoke(
        *through(endpoint, "--max-steps", "3", "--temperature", "0.5", "--max-tokens", "99"),
        "--api-key-file", str(key), "--store", store, "--out", str(tmp_path / "eval"),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["success_rate"] == 0.0
    assert report["agent"] == "openai/tiny-t0.5"
    actions = report["details"]["actions"]
    assert (actions["format_error_share"], actions["look_share"]) == (1 / 3, 1 / 3)
    assert actions["invalid_or_inefficient_share"] == 2 / 3
    assert report["details"]["steps_to_success"]["mean"] is None
    assert set(endpoint.keys) == {"Bearer secret-of-mine"}
    request = endpoint.requests[0]
    assert (request["temperature"], request["max_tokens"]) == (0.5, 99)
    assert "tools" not in request
    assert "Observation: Nothing happens." in endpoint.requests[2]["messages"][-1]["content"]
    with rwml.open_store(store) as opened:
        (trajectory,) = opened.trajectories()
    assert trajectory.steps[0].action.reasoning == "Where am I?"
    usage = trajectory.steps[0].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (11, 7)


@pytest.mark.parametrize(
    "reply",
    [b"{not json", b"{}", b'{"choices": []}', 500, 429, HANG],
    ids=["broken", "empty", "no choice", "500", "429", "hangs"],
)
def test_an_endpoint_that_fails_is_no_score(endpoint: Endpoint, reply: Reply) -> None:
    endpoint.replies = ["<action>look</action>", reply]
    result = invoke(*through(endpoint, "--request-timeout", "1"))
    assert result.exit_code == 3, result.output
    report = json.loads(result.stdout)
    assert report["success_rate"] is None
    assert report["infrastructure_errors"] == 1
    (episode,) = report["episodes"]
    assert (episode["status"], episode["steps"]) == ("infrastructure_error", 1)
    assert "infrastructure error" in result.stderr
    assert episode["reason"]


def test_an_endpoint_that_is_down_is_no_score() -> None:
    result = invoke(
        "eval", "alfworld", "--split", SPLIT, "--tasks", "1", "--model", "openai/tiny",
        "--api-base", "http://127.0.0.1:9/v1", "--retries", "0", "--json",
    )  # fmt: skip
    assert result.exit_code == 3
    assert json.loads(result.stdout)["statuses"] == {"infrastructure_error": 1}


def test_an_episode_is_tried_again_after_a_fault(endpoint: Endpoint) -> None:
    endpoint.replies = [500, "<action>look</action>"]
    result = invoke(*through(endpoint, "--max-steps", "2", "--retries", "1"))
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["statuses"] == {"truncated": 1}
    assert len(endpoint.requests) == 3


def test_what_is_recorded_is_not_played_again(tmp_path: Path) -> None:
    arguments = [
        "record", "alfworld", "--split", SPLIT, "--policy", "expert", "--json",
        "--store", f"sqlite:///{tmp_path / 'rwml.db'}", "--task-type", TASK_TYPES[0],
    ]  # fmt: skip
    assert invoke(*arguments, "--tasks", "1").exit_code == 0
    again = invoke(*arguments, "--tasks", "2", "--concurrency", "2", "--resume")
    assert "1 of 2 episodes are in the store already" in again.stderr
    report = json.loads(again.stdout)
    assert report["source"] == "alfworld"
    assert (report["tasks"], report["success_rate"]) == (2, 1.0)
    with rwml.open_store(f"sqlite:///{tmp_path / 'rwml.db'}") as store:
        assert store.counts(source="alfworld", split=SPLIT).transitions == report["transitions"]
        assert {str(t.metadata["task_type"]) for t in store.trajectories()} == {TASK_TYPES[0]}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "nowhere"], "get them with 'alfworld-download'"),
        (["--task-type", "pick_nose"], "no task type 'pick_nose': use one of pick_and"),
        (["--split", "test"], "no split 'test'"),
        (["--policy", "clever"], "use one of explore, expert, random"),
        (["--policy", "expert", "--error-rate", "0.1"], "are for --policy explore"),
        (["--model", "openai/x", "--policy", "expert"], "leave out --model and --agent"),
        (["--model", "openai/x", "--history", "-1"], "--history must be 0 or more"),
        (["--history", "3"], "--history is for a model or a graph"),
        (["--api-base", "http://127.0.0.1:9"], "add --model"),
        (["--agent", "nowhere"], "'nowhere' is no reference: write it as module:name"),
        (["--agent", "json:__name__"], "is no graph factory"),
    ],
)
def test_wrong_use_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke("record", "alfworld", "--store", "sqlite:///rwml.db", *arguments)
    assert isinstance(result.exception, RwmlError)
    assert result.exception.exit_code == 2
    assert said in str(result.exception)
    assert "\n" not in str(result.exception)


def test_an_episode_of_no_known_game_is_said() -> None:
    episode = Episode(task=Task(id="x"), trial=0, seed=0, max_steps=1, id="x")
    with pytest.raises(UsageError, match="no game 'x'"):
        AlfworldBenchmark(scripted_policy("random")).play(episode)


def test_figures_count_each_action_once() -> None:
    def step(index: int, action: str, observation: str, **metadata: Any) -> rwml.Step:
        return rwml.Step(
            index=index,
            action=Message(role="assistant", content=action),
            observation=(Message(role="user", content=observation),),
            kind="environment",
            status="ok",
            metadata=metadata,
        )

    steps = [
        step(0, "look", "You see."),
        step(1, "look", NOTHING_HAPPENS, invalid="format"),
        step(2, "examine mug 1", NOTHING_HAPPENS, invalid="command"),
        step(3, "examine desk 1", "On the desk 1, you see nothing."),
        step(4, "help", "Available commands:"),
        step(5, "examined desk 1", "..."),
    ]
    won = Outcome(status="completed", success=True, reward=1.0)
    lost = Outcome(status="truncated", success=False, reward=0.0)
    trajectories = [
        Trajectory(source="alfworld", steps=of_it, outcome=outcome, metadata={"task_type": kind})
        for kind, of_it, outcome in (("a", tuple(steps), won), ("b", (steps[0],) * 2, lost))
    ]
    made: Any = summarize(trajectories)
    actions = made["actions"]
    assert actions["count"] == 8
    assert actions["format_error_share"] == actions["nothing_happens_share"] == 1 / 8
    assert (actions["look_share"], actions["examine_share"]) == (3 / 8, 1 / 8)
    assert actions["inventory_or_help_share"] == 1 / 8
    assert actions["invalid_share"] == 2 / 8
    assert actions["inefficient_share"] == 4 / 8
    assert actions["invalid_or_inefficient_share"] == 6 / 8
    assert made["steps_to_success"] == {"mean": 6, "median": 6, "longest": 6}
    assert made["by_task_type"]["b"]["actions"]["look_share"] == 1.0
    assert summarize([])["actions"]["look_share"] is None  # type: ignore[index,call-overload]
