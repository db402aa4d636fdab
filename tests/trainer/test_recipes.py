"""Recipes: what ships is valid, and mistakes are explained."""

import json
import re
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel
from typer.testing import CliRunner

from rwml.errors import RecipeError
from rwml_trainer.commands.train import train
from rwml_trainer.recipes import (
    Recipe,
    load_recipe,
    origins_after,
    origins_of,
    recipe_names,
    resolve_recipe,
)

train_command = typer.Typer()
train_command.command()(train)


def test_every_shipped_recipe_loads() -> None:
    assert "demo" in recipe_names()
    for name in recipe_names():
        assert load_recipe(name).name == name


def test_overrides_win_and_none_is_skipped() -> None:
    recipe = load_recipe("demo", {"grpo.steps": 3, "data.history": None, "seed": 7})
    assert (recipe.grpo.steps, recipe.seed) == (3, 7)
    assert recipe.data.history == load_recipe("demo").data.history


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model='m'\n[grpo]\nstep=3", "unknown key 'grpo.step': did you mean 'steps'"),
        ("model='m'\nlearning=3", "unknown key 'learning': known keys: .*grpo"),
        ("model='m'\n[grpo]\nsteps=-1", "grpo.steps: .*greater than or equal to 0"),
        ("model='m'\n[data]\nprofile='long'", "data.profile"),
        ("[grpo]\nsteps=1", "model: Field required"),
        ("model=", "is not TOML"),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(str(path))


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"no recipe 'nothing': name one of .*demo"):
        load_recipe("nothing")


def test_every_default_and_every_shipped_value_has_an_origin() -> None:
    assert origins_of(Recipe)["grpo.learning_rate"] == "app. B"
    for name in recipe_names():
        resolved = resolve_recipe(name)
        for key, origin in resolved.origins.items():
            told = origin.startswith(("sec. ", "app. ", "tables ", "ours"))
            assert told or key == "name", f"{name}: {key} comes from {origin}"


def test_a_default_without_origin_is_refused() -> None:
    class Section(BaseModel):
        steps: int = 3

    with pytest.raises(RecipeError, match="default of steps has no origin"):
        origins_of(Section)


def test_the_origin_of_a_value_is_who_set_it_last(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        "model='m'\n[grpo]\nsteps=3\nbeta={value=0.5, from='a talk'}\n"
        "group_size={value=4, from='a talk'}"
    )
    resolved = resolve_recipe(str(path), {"grpo.group_size": 2})
    assert resolved.recipe.grpo.beta == 0.5
    assert resolved.table()["grpo.beta"] == {"value": 0.5, "origin": "a talk"}
    assert resolved.origins["grpo.steps"] == str(path)
    assert resolved.origins["grpo.group_size"] == "command line"
    assert resolved.origins["grpo.epsilon"].startswith("ours")


def test_a_runs_snapshot_is_a_recipe(tmp_path: Path) -> None:
    before = load_recipe("tau2-small", {"seed": 3})
    (tmp_path / "started.json").write_text(json.dumps({"recipe": before.model_dump(mode="json")}))
    assert load_recipe(str(tmp_path)) == before
    told = resolve_recipe("tau2-small", {"seed": 3})
    snapshot = {"recipe": before.model_dump(mode="json"), "origins": told.origins}
    (tmp_path / "started.json").write_text(json.dumps(snapshot))
    assert resolve_recipe(str(tmp_path), {"grpo.steps": 2}).table() == told.table() | {
        "grpo.steps": {"value": 2, "origin": "command line"},
        "grpo.epochs": {"value": None, "origin": "command line"},
    }
    (tmp_path / "started.json").write_text("[]")
    with pytest.raises(RecipeError, match="holds no recipe"):
        load_recipe(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "alfworld-qwen2.5-7b",
            {
                "model": "Qwen/Qwen2.5-7B-Instruct",
                "rollouts.trials": 3,
                "filter.tau_d": 0.1,
                "reward.tau_d": 0.2,
                "grpo.group_size": 8,
            },
        ),
        (
            "tau2-qwen3-8b",
            {
                "model": "Qwen/Qwen3-8B",
                "rollouts.trials": 6,
                "filter.tau_d": 0.15,
                "reward.tau_d": 0.4,
                "grpo.group_size": 16,
            },
        ),
    ],
)
def test_paper_recipes_hold_the_papers_numbers(name: str, expected: dict[str, object]) -> None:
    shared = {
        "rollouts.temperature": 1.0,
        "rollouts.max_steps": 30,
        "data.split_by": "row",
        "data.validation_share": 0.1,
        "filter.enabled": True,
        "filter.attempts": 10,
        "filter.tau_easy": 0.0,
        "filter.keep": 0.1,
        "reward.encoder": "Qwen/Qwen3-Embedding-8B",
        "reward.round_to": 0.2,
        "warm_start.steps": 0,
        "warm_start.learning_rate": 2e-6,
        "grpo.epochs": 2.0,
        "grpo.prompts_per_step": 32,
        "grpo.learning_rate": 1e-6,
        "grpo.loss_type": "grpo",
    }
    table = resolve_recipe(name).table()
    for key, value in (shared | expected).items():
        assert table[key]["value"] == value, key


def test_what_a_dataset_fills_in_is_its_own_origin() -> None:
    asked = resolve_recipe("logs")
    reward = asked.recipe.reward.model_copy(update={"tau_d": {"user": 0.4}})
    settled = asked.recipe.model_copy(update={"reward": reward})
    origins = origins_after(asked.origins, asked.recipe, settled)
    assert origins["reward.tau_d.user"] == "the dataset"
    assert origins["grpo.learning_rate"] == "ours: LoRA"
    assert origins_after({}, asked.recipe, settled) == {}


def test_impossible_machines_are_refused() -> None:
    for changes in (
        {"compute.generation": "vllm-server"},
        {"compute.generation": "vllm-server", "compute.vllm_gpus": 1, "compute.gpus": 1},
        {"data.validation_share": 0.6, "data.held_out_share": 0.4},
    ):
        with pytest.raises(RecipeError, match=r"vllm_gpus|leave none|leave rows"):
            load_recipe("demo", changes)


def test_steps_that_are_asked_for_win_over_epochs() -> None:
    assert load_recipe("tau2-qwen3-8b").grpo.epochs == 2.0
    asked = load_recipe("tau2-qwen3-8b", {"grpo.steps": 5})
    assert (asked.grpo.steps, asked.grpo.epochs) == (5, None)


def test_a_threshold_may_be_a_table_by_kind(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        "model='m'\n[filter]\ntau_d = {value = {user = 0.1, tool = 0.2}, from = 'a talk'}\n"
        "[reward.tau_d]\nuser = 0.4\nenvironment = {value = 0.2, from = 'app. B.1'}"
    )
    table = resolve_recipe(str(path)).table()
    assert table["reward.tau_d.user"] == {"value": 0.4, "origin": str(path)}
    assert table["reward.tau_d.environment"] == {"value": 0.2, "origin": "app. B.1"}
    assert table["filter.tau_d.tool"] == {"value": 0.2, "origin": "a talk"}
    assert "reward.tau_d" not in table
    printed = CliRunner().invoke(train_command, ["--recipe", str(path), "--print-config"]).stdout
    assert re.search(r"^reward.tau_d.environment = 0.2 +# app. B.1$", printed, re.MULTILINE)
    snapshot = {"recipe": load_recipe(str(path)).model_dump(mode="json")}
    (tmp_path / "started.json").write_text(json.dumps(snapshot))
    assert load_recipe(str(tmp_path)).reward == load_recipe(str(path)).reward


@pytest.mark.parametrize(
    ("tau_d", "message"),
    [
        ("3.0", r"reward.tau_d.*less than or equal to 2 \(got 3.0\)"),
        ("'auto'", "reward.tau_d.*'calibrated'"),
        ("{users = 0.2}", "reward.tau_d.*users.*'tool', 'user' or 'environment'"),
        ("{user = 0}", "reward.tau_d.*user.*greater than 0"),
        ("{}", "reward.tau_d.*at least 1 item"),
    ],
)
def test_a_wrong_threshold_is_explained(tmp_path: Path, tau_d: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"model='m'\n[reward]\ntau_d = {tau_d}")
    with pytest.raises(RecipeError, match=message):
        load_recipe(str(path))


def test_the_config_is_printed_without_a_dataset() -> None:
    printed = CliRunner().invoke(train_command, ["--recipe", "logs", "--print-config", "--json"])
    table = json.loads(printed.stdout)["recipe"]
    assert table["grpo.learning_rate"] == {"value": 2e-5, "origin": "ours: LoRA"}
    text = CliRunner().invoke(train_command, ["--recipe", "logs", "--print-config"]).stdout
    assert re.search(r"^reward.tau_d = 'calibrated' +# ours$", text, re.MULTILINE)
