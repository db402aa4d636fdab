"""A world model is asked what it was trained on, to the letter, and not trained on its own talk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain")
pytest.importorskip("openai")

from langchain.agents import create_agent
from langchain_core.tools import tool

import rwml
from rwml.content import SIMULATED_MARK
from rwml.errors import ModelError
from rwml.prompts import PromptSettings, format_label
from rwml.testing import OpenAIServer, ScriptedChatModel, make_trajectory, recorded, tool_calls
from rwml_adapters.simulated import SimulatedEnv
from rwml_trainer.dataset import Dataset, build_dataset, read_dataset
from rwml_trainer.dataset.rows import prompt_settings
from rwml_trainer.models import load_tokenizer
from rwml_trainer.recipes import DataRecipe, Recipe
from rwml_trainer.runs import Run, read_run, write_run

PAPER = {"profile": "paper", "max_prompt_tokens": 4_000, "history": 1}
OWN = """
user = "After $history the agent does $action. $task"
rwml = "Think in <think></think>, then say what comes in <next_state></next_state>."
sft = "Say it."
"""


def changed(recipe: Recipe, **data: Any) -> Recipe:
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=data)})


def build(store: rwml.Store, out: Path, recipe: Recipe) -> Dataset:
    build_dataset(store, out, recipe=recipe, tokenizer=load_tokenizer(recipe.model))
    return read_dataset(out)


def make_run(folder: Path, data: Dataset, recipe: Recipe) -> Path:
    """What a training leaves, but for the weights."""
    run = Run(
        name="shop",
        base_model=recipe.model,
        steps=1,
        rewards=(0.5,),
        warm_start=False,
        template_sha256=data.manifest.template_sha256,
        dataset=str(data.folder),
        validation_share=0.25,
        seconds=1.0,
        recipe=recipe.model_dump(mode="json"),
        prompts=prompt_settings(data.manifest.recipe, data.manifest.templates),
    )
    write_run(folder, run)
    assert read_run(folder) == run
    return folder


@pytest.mark.parametrize(
    "data",
    [
        {"max_prompt_tokens": 600},
        {"max_prompt_tokens": 330, "history": 3},
        PAPER,
        {**PAPER, "mask_tools": False},
        {**PAPER, "templates": "own"},
    ],
    ids=["compact", "compact-shortened", "paper", "paper-unmasked", "paper-own"],
)
def test_the_prompts_of_a_run_are_those_of_its_dataset(
    data: dict[str, Any], shop_store: str, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    if data.get("templates"):
        (tmp_path / "own").mkdir()
        (tmp_path / "own/agent.toml").write_text(OWN)
        data = {**data, "templates": str(tmp_path / "own")}
    recipe = changed(tiny_recipe, **data)
    with rwml.open_store(shop_store) as store:
        built = build(store, tmp_path / "data", recipe)
        rows = {row["id"]: row for row in built.train + built.validation}
        assert len(rows) > 20
        run = make_run(tmp_path / "run", built, recipe)
        if data.get("templates"):
            (tmp_path / "own/agent.toml").unlink()  # the run keeps what it was trained with
        with (
            OpenAIServer(answer=lambda body: format_label("x")) as server,
            rwml.WorldModel(server.url, run=run, cached=0, concurrency=1) as world,
        ):
            assert (world.name, world.history) == ("shop", recipe.data.history)
            transitions = list(store.transitions(history=world.history))
            asked = [t for t in transitions if t.id in rows]
            trajectories = {t.id: t for t in store.trajectories()}
            for transition in asked:
                whole = trajectories[transition.trajectory_id]
                before = whole.model_copy(update={"steps": whole.steps[: transition.index]})
                world.predict(before, transition.action)
            prompts = [request["messages"] for request in server.requests]
    assert prompts == [rows[t.id]["prompt"] for t in asked]
    assert {request["max_tokens"] for request in server.requests} == {8}


def test_what_does_not_fit_is_not_asked(
    shop_store: str, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    recipe = changed(tiny_recipe, max_prompt_tokens=20)
    settings = prompt_settings(recipe.data, None)
    with (
        OpenAIServer() as server,
        rwml.WorldModel(server.url, model="w", prompts=settings, tokenizer=recipe.model) as world,
    ):
        found = world.predict(make_trajectory(1), make_trajectory(1).steps[0].action)
        assert (found.text, found.problem, server.requests) == (None, "too_long", [])
    with (
        rwml.WorldModel(
            "http://127.0.0.1:1/v1", model="w", prompts=settings, tokenizer=str(tmp_path / "none")
        ) as world,
        pytest.raises(ModelError, match="no model folder"),
    ):
        world.predict(make_trajectory(1), make_trajectory(1).steps[0].action)


def test_the_encoder_of_a_run_measures_its_gaps(tiny_recipe: Recipe, tmp_path: Path) -> None:
    with rwml.open_store(f"sqlite:///{tmp_path / 'rwml.db'}") as store:
        for task in range(12):
            store.add(make_trajectory(task))
        built = build(store, tmp_path / "data", tiny_recipe)
    with OpenAIServer() as server:
        reward = {"encoder": "bag", "encoder_url": server.url}
        recipe = tiny_recipe.model_copy(
            update={"reward": tiny_recipe.reward.model_copy(update=reward)}
        )
        run = make_run(tmp_path / "run", built, recipe)
        for given in (run, run / "run.json"):
            with rwml.WorldModel(server.url, run=given) as world:
                assert world.encoder.name == "bag"
                assert world.gap("one two", "one two") == pytest.approx(0, abs=1e-6)
        assert server.requests[0]["model"] == "bag"


def test_settings_that_nobody_gave_are_those_of_a_recipe_that_says_nothing() -> None:
    assert prompt_settings(DataRecipe(), None) == PromptSettings()


def test_what_a_world_model_said_is_never_trained_on(tiny_recipe: Recipe, tmp_path: Path) -> None:
    @tool
    def get_order(order_id: str) -> str:
        """Look an order up."""
        raise AssertionError("a simulated tool ran")

    url = f"sqlite:///{tmp_path / 'rwml.db'}"
    with (
        OpenAIServer(answer=lambda body: format_label("imagined")) as server,
        rwml.WorldModel(server.url, model="w") as world,
        rwml.instrument(store=url) as recording,
    ):
        for task in range(3):
            script = [tool_calls(("get_order", {"order_id": "1"})), "It is there.", "Bye."]
            model = ScriptedChatModel(script=script, model_name=f"agent-{task}")
            graph: Any = create_agent(
                model, [get_order], middleware=[SimulatedEnv(world).middleware()]
            )
            messages = graph.invoke({"messages": [("user", f"Order {task}?")]})["messages"]
            graph.invoke({"messages": [*messages, ("user", "Thanks.")]})
        assert any(
            SIMULATED_MARK in str(message.content)
            for trajectory in recorded(recording)
            for step in trajectory.steps
            for message in step.observation
        )
    with rwml.open_store(url) as store:
        for task in range(12):
            store.add(make_trajectory(task))
        data = build(store, tmp_path / "data", tiny_recipe)
    rows = data.train + data.validation
    assert {row["source"] for row in rows} == {"shop"}
    assert data.manifest.transitions == 12 * 4
    assert "imagined" not in str(rows)
