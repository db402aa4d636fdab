"""The gates on tool calls and on success: real engines' processes, answers from the stub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

pytest.importorskip("torch")
pytest.importorskip("jsonschema")
pytest.importorskip("starlette")

from tests.trainer.stub_engine import CALLER, REFUSER, start_stub
from typer.testing import CliRunner, Result

from rwml import open_store
from rwml.cli.app import build_app
from rwml.errors import ServingError, UsageError
from rwml.schema import Tool
from rwml.testing import make_trajectory
from rwml_trainer.runs import Run, write_run
from rwml_trainer.serving import agent_success
from rwml_trainer.serving.agent_success import compare_agents
from rwml_trainer.serving.registry import Registry, Version, weights_of
from rwml_trainer.serving.server import LOCK
from rwml_trainer.serving.tool_calls import (
    _validators,
    compare_tool_calls,
    is_valid,
    pick_prompts,
    seen_share,
)

TASKS = 12
ENVIRONMENT = '''
from typing import Annotated

import httpx
import typer

from rwml.environments import Task, new_trajectory
from rwml.schema import Fingerprint, Message, Outcome, Step


class Asking:
    source, splits, default_max_steps = "asking", ("test",), 1

    def __init__(self, model, api_base, key):
        self.agent, self.url, self.key = model, api_base, key

    def tasks(self, split):
        return [Task(id=str(number), split=split) for number in range(20)]

    def fingerprint(self):
        return Fingerprint(package="asking", version="1", agent=self.agent)

    def play(self, episode):
        asked = Message(role="user", content="hi")
        answer = httpx.post(
            f"{self.url}/chat/completions",
            headers={"Authorization": f"Bearer {self.key}"},
            json={"model": self.agent, "messages": [asked.to_openai()]},
            trust_env=False,
        )
        text = answer.json()["choices"][0]["message"]["content"]
        steps = [Step(index=0, action=Message(role="assistant", content=text))]
        outcome = Outcome(status="completed", success="from caller" in text)
        return new_trajectory(self, episode, initial=[asked], steps=steps, outcome=outcome)

    def close(self):
        pass


def asking(
    *,
    model: Annotated[str, typer.Option()],
    api_base: Annotated[str, typer.Option()],
    api_key_file: Annotated[str, typer.Option()],
):
    """Wants to hear one model."""
    with open(api_key_file) as file:
        return Asking(model, api_base, file.read())
'''


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Version]:
    folder = tmp_path_factory.mktemp("gates")
    made = {}
    for step, name in enumerate((CALLER, "mumbler", REFUSER), start=1):
        shutil.copytree(tiny_model, folder / name)
        made[name] = Version(
            name="world",
            step=step,
            folder=str(folder / name),
            source=str(folder / name),
            stage=None,
            profile=None,
            weights=weights_of(folder / name),
            template_sha256="t",
            tools=True,
            added_at=datetime.now(UTC),
        )
    return made


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with open_store(f"sqlite:///{tmp_path_factory.mktemp('store') / 'rwml.db'}") as opened:
        for task in range(TASKS):
            opened.add(make_trajectory(task))
        yield opened


def test_a_version_that_calls_no_tool_is_worse(
    store: Any, models: dict[str, Version], tmp_path: Path
) -> None:
    found = compare_tool_calls(
        store,
        candidate=models["mumbler"],
        current=models[CALLER],
        folder=tmp_path,
        rows=20,
        start_engine=start_stub,
    )
    assert (found["current"], found["candidate"], found["difference"]) == (1.0, 0.0, -1.0)
    assert (found["verdict"], found["rows"]) == ("worse", 20)
    assert found["refused"] == {"candidate": 0, "current": 0}
    assert isinstance(found["tasks"], int)
    assert found["tasks"] >= 8


def test_an_engine_that_refuses_all_tells_nothing(
    store: Any, models: dict[str, Version], tmp_path: Path
) -> None:
    with pytest.raises(ServingError, match=r"world@3 refuses every prompt: .*too long"):
        compare_tool_calls(
            store,
            candidate=models[CALLER],
            current=models[REFUSER],
            folder=tmp_path,
            rows=2,
            start_engine=start_stub,
        )
    logs = (tmp_path / "gates" / "engines").glob("world@3-*/engine.log")
    assert [log.stat().st_mode & 0o077 for log in logs] == [0], "it stays, for us only"


def test_without_tools_there_is_nothing_to_compare(
    store: Any, models: dict[str, Version], tmp_path: Path
) -> None:
    plain = models["mumbler"].model_copy(update={"tools": False})
    with pytest.raises(UsageError, match="show no tools"):
        compare_tool_calls(
            store, candidate=plain, current=plain, folder=tmp_path, start_engine=start_stub
        )


def test_prompts_are_of_tool_calls_and_the_same_every_time(store: Any) -> None:
    prompts = pick_prompts(store, 1.0, 10)
    assert [each.id for each in prompts] == [each.id for each in pick_prompts(store, 1.0, 10)]
    assert {each.messages[-1]["role"] for each in prompts} <= {"user", "tool"}
    every = pick_prompts(store, 1.0, 1_000)
    assert len(every) == TASKS * 3
    held_out = {each.group for each in pick_prompts(store, 0.5, 1_000)}
    assert 0 < len(held_out) < len({each.group for each in every})
    assert pick_prompts(store, 0.0, 10) == []


def test_what_a_run_was_trained_on_is_not_asked(models: dict[str, Version], tmp_path: Path) -> None:
    run = Run(
        name="r",
        base_model="m",
        steps=1,
        rewards=(),
        warm_start=False,
        template_sha256="t",
        dataset="d",
        validation_share=0.2,
        seconds=1,
    )
    write_run(tmp_path, run)
    trained = models[CALLER].model_copy(update={"stage": "trained", "source": str(tmp_path)})
    assert seen_share(trained, models["mumbler"]) == 0.2
    assert seen_share(models["mumbler"]) == 1.0


def call(arguments: str, name: str = "get_order") -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize(
    ("message", "valid"),
    [
        ({"tool_calls": [call('{"order_id": "W1"}')]}, True),
        ({"tool_calls": [call('{"order_id": "W1"}'), call('{"order_id": 1}')]}, False),
        ({"tool_calls": [call("{}")]}, False),
        ({"tool_calls": [call('["W1"]')]}, False),
        ({"tool_calls": [call("{")]}, False),
        ({"tool_calls": [call('{"order_id": "W1"}', "drop_table")]}, False),
        ({"tool_calls": [call("[" * 100_000)]}, False),
        ({"tool_calls": [call('{"order_id": "W1", "more": NaN}')]}, False),
        ({"tool_calls": [{}]}, False),
        ({"tool_calls": [None]}, False),
        ({"tool_calls": []}, False),
        ({"content": "no"}, False),
    ],
)
def test_a_call_fits_the_schema_of_its_tool(message: dict[str, Any], valid: bool) -> None:
    validators = _validators(make_trajectory(0).tools)
    assert validators is not None
    assert is_valid(message, validators) is valid


def test_a_recorded_schema_is_checked_and_nothing_of_it_is_fetched() -> None:
    schemas: list[dict[str, Any]] = [{"type": "no such"}, {"$schema": 5}, {"$schema": ["x"]}]
    for schema in schemas:
        assert _validators([Tool(name="t", parameters=schema)]) is None
    steps: dict[str, Any] = {"properties": {"a": {"multipleOf": 0.01}}}
    validators = _validators([Tool(name="t", parameters=steps)])
    assert validators is not None
    assert not is_valid({"tool_calls": [call('{"a": 1e999}', "t")]}, validators)
    elsewhere = Tool(name="t", parameters={"$ref": "http://127.0.0.1:1/schema.json"})
    validators = _validators([elsewhere])
    assert validators is not None
    assert not is_valid({"tool_calls": [call("{}", "t")]}, validators)


@pytest.fixture
def registry(models: dict[str, Version], tmp_path: Path) -> Iterator[Registry]:
    """Of a folder that looks served: nobody carries out orders there."""
    made = Registry(tmp_path / "serving")
    for version in models.values():
        made.add(version)
    made.move(models[CALLER])
    with FileLock(made.folder / LOCK):
        yield made


def promote(registry: Registry, *options: str) -> Result:
    words = ["serve", "promote", "world@2", "--serving", str(registry.folder), *options]
    return CliRunner().invoke(build_app(), words)


def test_a_version_that_plays_worse_is_not_promoted(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "asking.py").write_text(ENVIRONMENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(agent_success, "start_transformers", start_stub)
    result = promote(registry, "--gate-agent", "asking:asking --seed 3", "--tasks", "9", "--json")
    assert result.exit_code == 1, result.output
    told = json.loads(result.stdout)
    assert told["message"] == ("world@2 is not promoted: success: worse (-1.000 [-1.000, -1.000])")
    found = told["gate_agent"]
    assert (found["base"], found["trained"], found["tasks"]) == (1.0, 0.0, 9)
    assert found["compared"] == ["world@2", "world@1"]
    kept = Path(found["results"])
    assert json.loads((kept / "candidate" / "report.json").read_text())["seed"] == 3
    assert kept.stat().st_mode & 0o777 == 0o700
    assert registry.read().aliases["world"].order is None


def test_a_gate_that_cannot_be_asked_promotes_nothing(registry: Registry, tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path / 'empty.db'}"):
        pass
    result = promote(registry, "--gate-tools", f"sqlite:///{tmp_path / 'empty.db'}")
    assert isinstance(result.exception, UsageError)
    assert "holds no tool call" in str(result.exception)
    assert registry.read().aliases["world"].order is None


def test_the_environment_is_named_first(models: dict[str, Version], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="names an environment first"):
        compare_agents(
            "--domain retail",
            candidate=models["mumbler"],
            current=models[CALLER],
            tasks=1,
            folder=tmp_path,
            start_engine=start_stub,
        )
