"""Merging: the merged folder is the base plus the LoRA delta, and whole or not there."""

import json
import os
import shutil
from pathlib import Path

import pytest

pytest.importorskip("peft")

from rwml.cli.app import build_app
from rwml.errors import ModelError, UsageError
from rwml.files import file_sha256
from rwml_trainer import merging
from rwml_trainer.cards import CARD, model_card, read_results
from rwml_trainer.models import load_model, load_tokenizer
from rwml_trainer.recipes import resolve_recipe
from rwml_trainer.runs import Lineage, read_run
from rwml_trainer.testing import make_tiny_run


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_run(tmp_path_factory.mktemp("merging") / "run", tiny_model)


@pytest.fixture(scope="module")
def merged(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return merging.merge(run, tmp_path_factory.mktemp("merged") / "model")


@pytest.fixture
def copied(merged: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(merged, tmp_path / "model"))


def logits(model, tokenizer):
    import torch

    ids = tokenizer("Predict the next state after the action.", return_tensors="pt").input_ids
    with torch.inference_mode():
        return model(ids).logits


def test_merged_model_is_base_plus_lora(run, merged, tiny_model):
    import torch

    tokenizer = load_tokenizer(str(merged))
    base = load_model(str(tiny_model), dtype="float32")
    with_lora = load_model(str(tiny_model), lora=run / "lora_adapter", dtype="float32")
    expected, actual = (
        logits(with_lora, tokenizer),
        logits(load_model(str(merged), dtype="float32"), tokenizer),
    )
    assert torch.allclose(actual, expected, atol=0.02)
    # the delta is an order of magnitude above that tolerance, so a lost one would be seen
    assert (logits(base, tokenizer) - expected).abs().max() > 0.2


def test_merged_folder_stands_alone(merged, tiny_model):
    import torch

    model = load_model(str(merged))
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert json.loads((merged / "config.json").read_text())["dtype"] == "bfloat16"
    assert (merged / "generation_config.json").is_file()
    assert not (merged / "adapter_config.json").exists()
    tokenizer, base = load_tokenizer(str(merged)), load_tokenizer(str(tiny_model))
    assert tokenizer.chat_template == base.chat_template
    assert tokenizer("order_id").input_ids == base("order_id").input_ids


def test_manifest_names_run_and_lora(run, merged, tiny_model):
    manifest = merging.read_merge(merged)
    assert manifest is not None
    assert (manifest.name, manifest.stage, manifest.steps) == ("world", "trained", 3)
    assert manifest.base_model == str(tiny_model)
    weights = run / "lora_adapter" / "adapter_model.safetensors"
    assert manifest.lora_sha256 == file_sha256(weights)
    on_disk = {path.name for path in merged.iterdir()} - {"merged.json"}
    assert set(manifest.files) == on_disk


def test_whole_merge_is_reused(run, copied):
    before = {path.name: path.stat().st_mtime_ns for path in copied.iterdir()}
    merging.merge(run, copied)
    assert {path.name: path.stat().st_mtime_ns for path in copied.iterdir()} == before


@pytest.mark.parametrize("tear", ["cut", "missing"])
def test_torn_merge_is_not_whole_and_is_written_again(run, copied, tear):
    weights = copied / "model.safetensors"
    if tear == "cut":
        os.truncate(weights, weights.stat().st_size - 1)
    else:
        weights.unlink()
    assert merging.read_merge(copied) is None
    merging.merge(run, copied)
    assert merging.read_merge(copied) is not None
    assert [path.name for path in copied.parent.iterdir()] == ["model"]


def test_folder_without_manifest_is_not_touched(run, tmp_path):
    out = tmp_path / "model"
    out.mkdir()
    (out / "model.safetensors").write_text("somebody's")
    with pytest.raises(ModelError, match="no whole merge"):
        merging.merge(run, out)
    assert (out / "model.safetensors").read_text() == "somebody's"


def test_merge_of_another_lora_is_refused_or_replaced(run, copied):
    with pytest.raises(ModelError, match="another LoRA adapter"):
        merging.merge(run, copied, stage="warm_start")
    merging.merge(run, copied, stage="warm_start", replace=True)
    manifest = merging.read_merge(copied)
    assert manifest is not None
    assert (manifest.stage, manifest.steps) == ("warm_start", 0)


def test_failed_merge_leaves_nothing(run, tmp_path, monkeypatch):
    def fail(path):
        raise OSError("no space left on device")

    monkeypatch.setattr("rwml.files.sync", fail)
    with pytest.raises(OSError, match="no space"):
        merging.merge(run, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_another_chat_template_is_refused(tiny_model, tmp_path):
    run = make_tiny_run(tmp_path / "run", tiny_model, template="0" * 64)
    with pytest.raises(ModelError, match="chat template"):
        merging.merge(run, tmp_path / "model")


def test_command_prints_one_json_object(run, tmp_path, capsys):
    out = tmp_path / "model"
    build_app()(["merge", str(run), "--out", str(out), "--json"], standalone_mode=False)
    result = json.loads(capsys.readouterr().out)
    assert result["model"] == str(out)
    assert result["steps"] == 3
    assert merging.read_merge(out) is not None


FIGURES = {
    "reward": 0.6,
    "reward_ci95": [0.5, 0.7],
    "skill": 0.25,
    "format_rate": 1.0,
    "exact": 0.125,
}


def write_report(path, weights_sha256, **changes):
    compared = {"difference": 0.1, "ci95": [-0.05, 0.2], "verdict": "no difference shown"}
    report = {
        "split": "held_out",
        "rows": 40,
        "tasks": 9,
        "seeds": 3,
        "best_trivial": "copy_last",
        "run": {"name": "world", "steps": 3, "weights_sha256": weights_sha256},
        "comparisons": [{"compared": ["trained", "base"], **compared, "by_kind": {}}],
        "constant": FIGURES | {"skill": None},
        "copy_last": FIGURES,
        "trained": FIGURES | {"reward": 0.75},
    }
    path.write_text(json.dumps(report | changes))
    return path


def front_matter(folder):
    from huggingface_hub import metadata_load

    return metadata_load(folder / CARD)


def test_a_merge_has_a_model_card(merged, tiny_model):
    card = (merged / CARD).read_text()
    assert front_matter(merged) == {
        "library_name": "transformers",
        "license": "unknown",
        "pipeline_tag": "text-generation",
        "tags": ["rwml", "world-model", "grpo"],
    }
    assert f"The licence of the base model `{tiny_model.name}` is not known here" in card
    assert "Not evaluated." in card
    assert str(tiny_model.parent) not in card, "paths are nobody else's business"


def test_results_must_be_of_these_weights(run, copied, tmp_path):
    weights = file_sha256(run / "lora_adapter" / "adapter_model.safetensors")
    before = (copied / CARD).read_text()
    other = write_report(tmp_path / "other.json", {"trained": "0" * 64})
    for told in (other, write_report(tmp_path / "none.json", {}, run=None)):
        with pytest.raises(UsageError, match="is not about these weights"):
            merging.merge(run, copied, results=told)
    with pytest.raises(UsageError, match="no report of 'rwml eval world'"):
        merging.merge(run, copied, results=run / "run.json")
    with pytest.raises(UsageError, match=r"cannot read .*missing.json"):
        merging.merge(run, copied, results=tmp_path / "missing.json")
    assert (copied / CARD).read_text() == before
    weights_before = (copied / "model.safetensors").stat().st_mtime_ns
    report = write_report(tmp_path / "report.json", {"trained": weights})
    merging.merge(run, copied, results=report)
    card = (copied / CARD).read_text()
    assert "| trained | 0.750 | 0.500 to 0.700 | 0.250 | 1.000 | 0.125 |" in card
    assert "| constant | 0.600 | 0.500 to 0.700 | - |" in card
    assert "40 held-out rows of 9 tasks, 3 sampled predictions a row" in card
    assert "trained minus base: +0.100, 95% interval -0.050 to +0.200: no difference" in card
    assert merging.read_merge(copied) is not None, "the new card is listed"
    assert (copied / "model.safetensors").stat().st_mtime_ns == weights_before


def test_a_card_tells_recipe_and_data_and_nothing_private(run, tmp_path):
    settled = resolve_recipe(
        "demo",
        {
            "model": "Qwen/Qwen3-8B",
            "reward.encoder_url": "http://10.1.2.3:9/v1",
            "reward.encoder_key_env": "MY_KEY",
            "filter.model": "/home/me/secret/filter",
            "data.templates": "private/templates",
        },
    )
    data = Lineage(
        sha256={"train.parquet": "a" * 64, "held_out.parquet": "c" * 64},
        rows={"train": 30, "validation": 9, "held_out": 0},
        sources={"shop|`x`": 30},
        transitions=50,
        dropped={"too_long": 4, "easy": 0},
        held_out="hash band",
        profile="compact",
        is_masked=True,
    )
    told = read_run(run).model_copy(
        update={
            "name": "<script>alert(1)</script>\n# owned",
            "base_model": "Qwen/Qwen3-8B",
            "recipe": settled.recipe.model_dump(mode="json"),
            "origins": settled.origins,
            "data": data,
        }
    )
    card = model_card(told, stage="warm_start", weights_sha256="b" * 64, results=None)
    assert "base_model: Qwen/Qwen3-8B" in card
    assert "WM SFT, before GRPO" in card
    assert "| `reward.tau_d` | `0.4` | app. C.1 |" in card
    assert "| `model` | `Qwen/Qwen3-8B` | command line |" in card
    assert f"`train.parquet`: SHA-256 `{'a' * 64}`" in card
    assert "- `held_out.parquet`: SHA-256" in card
    assert "30 train, 9 validation, 0 held-out" in card
    for private in ("10.1.2.3", "MY_KEY", "/home/me", "private/templates", "<script>", "\n# owned"):
        assert private not in card, private
    table = [line for line in card.splitlines() if line.startswith("| `")]
    assert len(table) > 50
    assert all(line.count(" | ") == 2 for line in table)


def test_the_licence_is_what_the_base_model_says(run, tiny_model, tmp_path):
    base = Path(shutil.copytree(tiny_model, tmp_path / "base"))
    told = read_run(run).model_copy(update={"base_model": str(base)})

    def licence_line():
        card = model_card(told, stage="trained", weights_sha256="b" * 64, results=None)
        return next(line for line in card.splitlines() if line.startswith("license:"))

    for text, expected in (
        ("---\nlicense: mit\n---\n# A model", "mit"),
        ("---\nlicense: [mit, gpl]\n---\n", "unknown"),
        ("---\nlicense: 'x | y'\n---\n", "unknown"),
        ("---\nlicense: {\n---\n", "unknown"),
        ("# no front matter", "unknown"),
    ):
        (base / CARD).write_text(text)
        assert licence_line() == f"license: {expected}", text
    small = told.model_copy(update={"recipe": {"model": "smollm2-135m-instruct"}})
    card = model_card(small, stage="trained", weights_sha256="b" * 64, results=None)
    assert "license: apache-2.0" in card


def test_a_report_of_an_evaluation_can_be_read(run, tmp_path):
    report = write_report(tmp_path / "report.json", {})
    assert list(read_results(report).predictors()) == ["constant", "copy_last", "trained"]
