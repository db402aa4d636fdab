"""Merging a run's LoRA adapter into its base model: one standalone folder that any engine loads.

Where all weights were trained there is nothing to merge: they become such a folder as they are.

The folder is written under a temporary name beside its place, synced and renamed, and its manifest
`merged.json` lists every file with its size: nothing half-written or truncated is taken for whole.
The sum of base weight and LoRA delta is rounded once, to the bfloat16 of the weights.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from rwml.errors import ModelError, UsageError
from rwml.extras import require
from rwml.files import file_sha256, whole_file, whole_folder, write_json
from rwml_trainer.cards import CARD, Results, model_card, read_results
from rwml_trainer.models import load_tokenizer, template_sha256
from rwml_trainer.runs import (
    Run,
    Stage,
    load_stage,
    read_run,
    weights_folder,
    weights_sha256,
)

MANIFEST = "merged.json"
LORA_WEIGHTS = "adapter_model.safetensors"
LORA_CONFIG = "adapter_config.json"
CONFIG = "config.json"


class Merge(BaseModel):
    """What `merged.json` holds.

    Attributes:
        name: name of the run.
        stage: which LoRA adapter of the run was merged.
        steps: GRPO steps behind the weights; 0 for the warm start.
        base_model: folder or hub name of the base model.
        lora_sha256: hash of the LoRA weights (`adapter_model.safetensors`), or of all weights.
        lora_config_sha256: hash of the LoRA configuration, whose scale changes the merged weights,
            or of the model's.
        files: size in bytes of every file of the folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    stage: Stage
    steps: int
    base_model: str
    lora_sha256: str
    lora_config_sha256: str
    files: dict[str, int]

    def same_weights(self, other: Merge) -> bool:
        """Whether both come from the same LoRA adapter on the same base model."""
        return self._source() == other._source()

    def _source(self) -> tuple[str, str, str]:
        return self.base_model, self.lora_sha256, self.lora_config_sha256


def merge(
    run_folder: Path,
    out: Path,
    *,
    stage: Stage = "trained",
    replace: bool = False,
    results: Path | None = None,
) -> Path:
    """Writes base model and LoRA adapter as one standalone folder, with a model card.

    An existing whole merge of the same LoRA adapter is reused. A torn one is written again.

    Args:
        run_folder: a finished run.
        out: the folder to make.
        stage: which LoRA adapter of the run.
        replace: True to replace a merge of another LoRA adapter instead of refusing it.
        results: report of `rwml eval world` on these weights, for the card; a merge that is reused
            gets a new card.

    Returns:
        `out`: bfloat16 safetensors, tokenizer, chat template, generation config, `README.md`,
        `merged.json`.

    Raises:
        ModelError: the run is not whole, its parts do not fit, or `out` holds something else.
        UsageError: `results` is no such report, or of other weights.
        MissingExtraError: torch, transformers or peft is not installed.
    """
    require("serve", "torch", "transformers", "peft")
    run = read_run(run_folder)
    wanted = _wanted(run_folder, run, stage)
    told = None if results is None else _check_results(results, wanted)
    if _is_done(out, wanted, replace=replace):
        if told is not None:
            _finish(out, run, wanted, told)
        return out
    with whole_folder(out) as folder:
        _write_model(folder, run_folder, stage)
        _finish(folder, run, wanted, told)
    return out


def read_merge(folder: Path) -> Merge | None:
    """The manifest of a whole merge; None where there is none or a file is missing or cut."""
    manifest = _read_manifest(folder)
    if manifest is None:
        return None
    for name, size in manifest.files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            return None
    return manifest


def _finish(folder: Path, run: Run, wanted: Merge, results: Results | None) -> None:
    """Writes the card, and then the manifest: what comes between is taken for torn."""
    card = model_card(run, stage=wanted.stage, weights_sha256=wanted.lora_sha256, results=results)
    with whole_file(folder / CARD, mode=0o666) as temporary:
        temporary.write_text(card, encoding="utf-8")
    paths = (path for path in sorted(folder.iterdir()) if path.name != MANIFEST)
    files = {path.name: path.stat().st_size for path in paths}
    manifest = wanted.model_copy(update={"files": files})
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))


def _check_results(path: Path, wanted: Merge) -> Results:
    """A report, which must be about the weights that are merged."""
    results = read_results(path)
    known = {} if results.run is None else results.run.weights_sha256
    if known.get(wanted.stage) != wanted.lora_sha256:
        raise UsageError(
            f"{path} is not about these weights (run {wanted.name!r}, stage {wanted.stage}): "
            f"evaluate them with 'rwml eval world --run'"
        )
    return results


def _wanted(run_folder: Path, run: Run, stage: Stage) -> Merge:
    folder = weights_folder(run_folder, stage)
    names = (LORA_CONFIG, LORA_WEIGHTS) if run.weights == "lora" else (CONFIG, "*.safetensors")
    config, weights = (sorted(folder.glob(name)) for name in names)
    if not config or not weights:
        what = "LoRA adapter" if run.weights == "lora" else "model"
        raise ModelError(f"{folder} holds no {what} ({' and '.join(names)})")
    return Merge(
        name=run.name,
        stage=stage,
        steps=run.steps if stage == "trained" else 0,
        base_model=run.base_model,
        lora_sha256=weights_sha256(run_folder, stage),
        lora_config_sha256=file_sha256(config[0]),
        files={},
    )


def _is_done(out: Path, wanted: Merge, *, replace: bool) -> bool:
    """Whether `out` already is what is wanted; raises where it must not be touched."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    manifest = _read_manifest(out)
    if manifest is None:
        raise ModelError(f"{out} exists and is no whole merge: choose another folder or remove it")
    if manifest.same_weights(wanted):
        return read_merge(out) is not None
    if not replace:
        raise ModelError(
            f"{out} holds the merge of another LoRA adapter (run {manifest.name!r}, stage "
            f"{manifest.stage}, {manifest.steps} steps): choose another folder or remove it"
        )
    return False


def _write_model(folder: Path, run_folder: Path, stage: Stage) -> None:
    run = read_run(run_folder)
    tokenizer = load_tokenizer(run.base_model)
    if template_sha256(tokenizer) != run.template_sha256:
        raise ModelError(
            f"the chat template of {run.base_model} is not the one that the run was trained with: "
            f"restore it, or train again"
        )
    import torch

    model = load_stage(run_folder, stage, dtype="bfloat16")
    if not all(bool(torch.isfinite(weight).all()) for weight in model.parameters()):
        raise ModelError(f"{run_folder} gives weights that are not finite: that training diverged")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _read_manifest(folder: Path) -> Merge | None:
    with suppress(OSError, ValidationError, ValueError):
        return Merge.model_validate_json((folder / MANIFEST).read_text(encoding="utf-8"))
    return None
