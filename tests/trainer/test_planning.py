"""Plans: sizes against real models, what fits, and what more of something costs."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from rwml.errors import ModelError
from rwml_trainer.commands.train import train
from rwml_trainer.dataset import Manifest, read_manifest
from rwml_trainer.dataset.files import Tokens
from rwml_trainer.models import load_model
from rwml_trainer.planning import KNOWN, plan, read_shape
from rwml_trainer.recipes import load_recipe
from rwml_trainer.settling import settle
from rwml_trainer.training import fresh_lora


@pytest.fixture
def manifest(shop_dataset: Path) -> Manifest:
    """Of a dataset about as large as the paper's tau2."""
    return read_manifest(shop_dataset).model_copy(
        update={
            "rows": {"train": 5_578, "validation": 900, "held_out": 0},
            "tokens": {
                "prompt": Tokens(mean=6_000.0, max=12_000),
                "target": Tokens(mean=120.0, max=1_000),
            },
        }
    )


def make(manifest: Manifest, name: str, **changes: Any) -> Any:
    recipe = settle(
        load_recipe(name, {key.replace("__", "."): value for key, value in changes.items()}),
        manifest,
    )
    return plan(recipe, manifest, shape=KNOWN[recipe.model])


def test_sizes_are_those_of_the_models(tiny_model: Path) -> None:
    model = load_model(str(tiny_model))
    assert read_shape(str(tiny_model)).parameters == model.num_parameters()
    assert KNOWN["Qwen/Qwen2.5-7B-Instruct"].parameters == pytest.approx(7.616e9, rel=1e-3)
    assert KNOWN["Qwen/Qwen3-8B"].parameters == pytest.approx(8.191e9, rel=1e-3)
    assert KNOWN["smollm2-135m-instruct"].parameters == pytest.approx(134.5e6, rel=1e-3)


def test_lora_sizes_are_those_of_the_adapter(tiny_model: Path) -> None:
    recipe = load_recipe("demo", {"lora.targets": "all-linear"})
    model = fresh_lora(load_model(str(tiny_model)), recipe)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert read_shape(str(tiny_model)).lora_parameters(recipe.lora.rank, share=1.0) == trained


def test_what_does_not_fit_is_told_with_what_to_do(manifest: Manifest) -> None:
    whole = make(manifest, "tau2-qwen3-8b")
    assert whole["fits"]
    alone = make(manifest, "tau2-qwen3-8b", compute__sharding="none")
    assert not alone["fits"]
    # weights, gradients and two moments of 8.2 billion float32 numbers
    needed = alone["memory_gib"]
    assert needed["weights"] + needed["gradients"] + needed["optimizer"] == pytest.approx(
        8.19e9 * 16 / 2**30, rel=0.01
    )
    assert "compute.sharding" in alone["notes"][-1]
    lora = make(manifest, "tau2-qwen3-8b", compute__sharding="none", weights="lora")
    assert lora["memory_gib"]["needed"] < alone["memory_gib"]["needed"] / 2


def test_steps_and_tokens_follow_from_the_epochs(manifest: Manifest) -> None:
    found = make(manifest, "tau2-qwen3-8b")
    assert found["steps"] == 349  # 2 epochs of 5,578 rows by 32
    completion = 120 + 96
    assert found["tokens"]["generated"] == pytest.approx(349 * 32 * 16 * completion, rel=0.01)
    assert 0 < found["filter_share"] < 1
    without = make(manifest, "tau2-qwen3-8b", filter__enabled=False)
    assert without["filter_share"] == 0
    assert without["hours"]["total"] < found["hours"]["total"]


def test_a_shared_prefix_saves_what_it_should(manifest: Manifest) -> None:
    shared = make(manifest, "tau2-qwen3-8b")
    plain = make(manifest, "tau2-qwen3-8b", grpo__shared_prefix=False)
    group, prompt, completion = 16, 6_000, 216
    saved = group * (prompt + completion) / (prompt + group * completion)
    assert plain["hours"]["grpo"] / shared["hours"]["grpo"] == pytest.approx(saved, rel=0.01)
    assert plain["memory_gib"]["needed"] > shared["memory_gib"]["needed"]
    deepspeed = make(manifest, "tau2-qwen3-8b", compute__sharding="zero3")
    assert deepspeed["hours"]["grpo"] == plain["hours"]["grpo"]


def test_a_model_that_nobody_knows_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="size of some/model is not known"):
        read_shape("some/model")
    (tmp_path / "config.json").write_text('{"hidden_size": 3}')
    with pytest.raises(ModelError, match="not the config of a decoder"):
        read_shape(str(tmp_path))
    config = {"hidden_size": 8, "num_attention_heads": 2, "num_experts": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="mixture of experts"):
        read_shape(str(tmp_path))


def test_a_plan_is_printed_and_nothing_is_trained(shop_dataset: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(train)
    before = sorted(tmp_path.iterdir())
    arguments = [str(shop_dataset), "--recipe", "tau2-small", "--plan"]
    found = CliRunner().invoke(app, [*arguments, "--json"])
    assert (found.exit_code, json.loads(found.stdout)["fits"]) == (0, True)
    assert CliRunner().invoke(app, arguments).stdout.startswith("fits: ")
    large = ["--model", "Qwen/Qwen3-8B", "--plan", "--recipe", "logs"]
    assert sorted(tmp_path.iterdir()) == before
    refused = CliRunner().invoke(app, [*large, "--json"])
    assert "name the dataset folder" in str(refused.exception)
