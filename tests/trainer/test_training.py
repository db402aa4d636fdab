"""One real run on the tiny model: TRL's GRPO, LoRA, metrics, and what a torn run is taken for."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rwml.errors import DatasetError, ModelError, UsageError
from rwml_trainer.dataset import read_dataset
from rwml_trainer.dataset.rows import prompt_settings
from rwml_trainer.merging import merge
from rwml_trainer.models import load_model, load_tokenizer
from rwml_trainer.recipes import Recipe
from rwml_trainer.runs import Run, read_run, weights_folder
from rwml_trainer.testing import make_tiny_model
from rwml_trainer.training import train
from rwml_trainer.warm_start import LabelOnlyTrainer, LeftPadding, encode_row


@pytest.fixture(scope="module")
def run_folder(
    shop_dataset: Path, tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("runs") / "first"
    train(shop_dataset, out, recipe=tiny_recipe)
    return out


def test_a_run_is_whole(run_folder: Path, tiny_recipe: Recipe) -> None:
    run = read_run(run_folder)
    assert (run.name, run.steps, len(run.rewards)) == ("first", 2, 2)
    assert run.recipe == tiny_recipe.model_dump(mode="json")
    assert run.prompts == prompt_settings(tiny_recipe.data, None)
    assert run.data is not None
    assert run.data.sources == {"shop": run.data.rows["train"]}
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["warm_start"] * 2 + ["grpo"] * 2
    assert all("format_rate" in line and "reward" in line for line in lines[2:])
    assert not list(run_folder.glob(".*"))


def test_both_stages_leave_lora_weights_that_differ(run_folder: Path) -> None:
    for stage in ("warm_start", "trained"):
        weights = load_file(weights_folder(run_folder, stage) / "adapter_model.safetensors")
        assert weights
        assert all(torch.isfinite(weight).all() for weight in weights.values())
        changed = [name for name, w in weights.items() if "lora_B" in name and w.abs().sum() > 0]
        assert changed, "LoRA weights that nothing was learned into"


def test_resuming_a_finished_run_does_nothing(
    run_folder: Path, shop_dataset: Path, tiny_recipe: Recipe
) -> None:
    before = {path: path.stat().st_mtime_ns for path in run_folder.rglob("*")}
    assert train(shop_dataset, run_folder, recipe=tiny_recipe, resume=True) == read_run(run_folder)
    assert {path: path.stat().st_mtime_ns for path in run_folder.rglob("*")} == before
    with pytest.raises(UsageError, match="holds a finished run: pass --resume"):
        train(shop_dataset, run_folder, recipe=tiny_recipe)


def test_resuming_with_something_else_is_refused(
    run_folder: Path, shop_dataset: Path, tiny_recipe: Recipe
) -> None:
    longer = tiny_recipe.model_copy(
        update={"grpo": tiny_recipe.grpo.model_copy(update={"steps": 3})}
    )
    with pytest.raises(UsageError, match="was started with another recipe"):
        train(shop_dataset, run_folder, recipe=longer, resume=True)


def test_a_folder_of_something_else_is_left_alone(
    shop_dataset: Path, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    (tmp_path / "warm_start").mkdir()
    for resume in (False, True):
        with pytest.raises(UsageError, match="is not empty and holds no run"):
            train(shop_dataset, tmp_path, recipe=tiny_recipe, resume=resume)
    assert list(tmp_path.iterdir()) == [tmp_path / "warm_start"]


def test_an_unfinished_run_goes_on_after_its_warm_start(
    run_folder: Path, shop_dataset: Path, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(run_folder, tmp_path / "cut")
    (tmp_path / "cut" / "run.json").unlink()
    with pytest.raises(ModelError, match="no finished run"):
        weights_folder(tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "lora_adapter")
    weights = tmp_path / "cut" / "warm_start" / "adapter_model.safetensors"
    before = weights.read_bytes()
    with pytest.raises(UsageError, match="an unfinished run: pass --resume"):
        train(shop_dataset, tmp_path / "cut", recipe=tiny_recipe)
    run = train(shop_dataset, tmp_path / "cut", recipe=tiny_recipe, resume=True)
    lines = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    steps = [(json.loads(line)["stage"], json.loads(line)["step"]) for line in lines]
    assert steps == [("warm_start", 1), ("warm_start", 2), ("grpo", 1), ("grpo", 2)]
    assert isinstance(run, Run)
    assert weights.read_bytes() == before
    assert weights_folder(tmp_path / "cut").is_dir()


def test_a_dataset_of_another_template_is_refused(
    shop_dataset: Path, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    other = make_tiny_model(tmp_path / "other")
    template = other / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    recipe = tiny_recipe.model_copy(update={"model": str(other)})
    with pytest.raises(DatasetError, match="another chat template"):
        train(shop_dataset, tmp_path / "run", recipe=recipe)
    assert not (tmp_path / "run").exists()


def test_a_pickle_model_is_refused(tiny_recipe: Recipe, tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no safetensors weights"):
        load_model(str(folder))


def test_label_only_loss_is_the_full_loss(shop_dataset: Path, tiny_recipe: Recipe) -> None:
    model = load_model(tiny_recipe.model, dtype="float32")
    tokenizer = load_tokenizer(tiny_recipe.model)
    rows = read_dataset(shop_dataset).train[:3]
    batch = LeftPadding(0)([encode_row(tokenizer, row) for row in rows])
    ours = LabelOnlyTrainer.compute_loss(None, model, dict(batch))  # type: ignore[arg-type]
    positions = batch["attention_mask"].cumsum(dim=1) - 1
    full = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        position_ids=positions.clamp(min=0),
        labels=batch["labels"],
    ).loss
    assert ours.item() == pytest.approx(full.item(), rel=1e-4)


def test_labels_leave_the_prompt_out(shop_dataset: Path, tiny_recipe: Recipe) -> None:
    tokenizer = load_tokenizer(tiny_recipe.model)
    row = read_dataset(shop_dataset).train[0]
    encoded = encode_row(tokenizer, row)
    learned = [token for token in encoded["labels"] if token != -100]
    expected = f"<think>\n</think>\n<next_state>{row['next_state']}</next_state>"
    assert tokenizer.decode(learned[:-1]) == expected
    assert learned[-1] == tokenizer.eos_token_id


def test_all_weights_can_be_trained_and_served(
    shop_dataset: Path, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    grpo = tiny_recipe.grpo.model_copy(update={"beta": 0.01, "learning_rate": 1e-2})
    recipe = tiny_recipe.model_copy(update={"weights": "full", "grpo": grpo})
    run = train(shop_dataset, tmp_path / "run", recipe=recipe)
    assert (run.weights, run.steps) == ("full", 2)
    folder = weights_folder(tmp_path / "run")
    assert folder.name == "weights"
    weights = load_file(folder / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    start = load_file(weights_folder(tmp_path / "run", "warm_start") / "model.safetensors")
    base = load_model(tiny_recipe.model, dtype="float32").state_dict()
    assert any(not torch.equal(start[name], base[name]) for name in start)
    merged = load_model(str(merge(tmp_path / "run", tmp_path / "merged"))).state_dict()
    for name, weight in weights.items():
        assert torch.equal(merged[name], weight.bfloat16())
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_without_grpo_the_warm_start_is_the_run(
    shop_dataset: Path, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    alone = tiny_recipe.grpo.model_copy(update={"steps": 0})
    recipe = tiny_recipe.model_copy(update={"grpo": alone})
    run = train(shop_dataset, tmp_path / "sft", recipe=recipe)
    assert (run.steps, run.rewards, run.warm_start) == (0, (), False)
    lines = [json.loads(line) for line in (tmp_path / "sft/metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["warm_start"] * 2
    weights = load_file(weights_folder(tmp_path / "sft") / "adapter_model.safetensors")
    assert any(weight.abs().sum() > 0 for name, weight in weights.items() if "lora_B" in name)
    with pytest.raises(ModelError):
        weights_folder(tmp_path / "sft", "warm_start")
    assert train(shop_dataset, tmp_path / "sft", recipe=recipe, resume=True) == run
