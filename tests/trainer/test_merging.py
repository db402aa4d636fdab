"""Merging: the merged folder is the base plus the LoRA delta, and whole or not there."""

import json
import os
import shutil
from pathlib import Path

import pytest

pytest.importorskip("peft")

from rwml.cli.app import build_app
from rwml.errors import ModelError
from rwml.files import file_sha256
from rwml_trainer import merging
from rwml_trainer.models import load_model, load_tokenizer
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
