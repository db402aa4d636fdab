"""Resuming: the same bits after SIGKILL wherever it falls, and no trust in what is not whole."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from trl.trainer.grpo_config import GRPOConfig

from rwml.errors import DatasetError, RecipeError, UsageError
from rwml_trainer import checkpoints
from rwml_trainer.grpo.running import grpo_config, rewards_by_step, run_grpo
from rwml_trainer.grpo.trainer import WorldModelTrainer
from rwml_trainer.metrics import watched
from rwml_trainer.recipes import Recipe, load_recipe

POINTS = {"lora": 5, "full": 2}
KILLED = -signal.SIGKILL


@pytest.fixture(scope="module", params=POINTS)
def killed(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the driver reports: see `kill_driver.py`."""
    folder = tmp_path_factory.mktemp("killed")
    driver = Path(__file__).with_name("kill_driver.py")
    done = subprocess.run(
        [sys.executable, driver, folder, tiny_model, request.param, str(POINTS[request.param])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.mark.timeout(600)
def test_a_killed_run_ends_with_the_same_bits(killed: dict[str, Any]) -> None:
    assert len(killed["killed"]) in POINTS.values()
    for point, outcome in killed["killed"].items():
        assert outcome["codes"][0] == KILLED, point
        assert outcome["codes"][2:] == [0, 0], (point, outcome.get("log"))
        del outcome["codes"]
        assert outcome == killed["whole"], point


def test_a_torn_newest_checkpoint_falls_back_to_the_one_before(killed: dict[str, Any]) -> None:
    torn = killed["torn"]
    assert torn["codes"] == [KILLED, 0], torn.get("log")
    assert torn["kept"] == ["step-6", "step-8"]
    assert torn["weights"] == killed["whole"]["weights"]
    assert "step-8 is torn (optimizer.pt is not what manifest.json lists)" in killed["log"]


def make_checkpoint(folder: Path, step: int) -> Path:
    staging = checkpoints.staging_folder(folder)
    checkpoints.clear(staging)
    written = staging / "written"
    (written / "ref").mkdir(parents=True)
    (written / "optimizer.pt").write_text(f"optimizer {step}")
    (written / "ref" / "adapter_model.safetensors").write_text(f"weights {step}")
    return checkpoints.seal(written, folder, step)


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (2, 4, 10):
        make_checkpoint(tmp_path, step)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-10", "step-4"]
    said: list[str] = []
    assert checkpoints.newest_whole(tmp_path, report=said.append) == (10, tmp_path / "step-10")
    assert said == []
    assert checkpoints.newest_whole(tmp_path / "none", report=said.append) is None


@pytest.mark.parametrize(
    ("tear", "why"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "no readable manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "no readable manifest.json"),
        (lambda folder: (folder / "optimizer.pt").write_text("optimizer"), "optimizer.pt is not"),
        (lambda folder: shutil.rmtree(folder / "ref"), "ref/adapter_model.safetensors is not"),
        (lambda folder: (folder / "pytorch_model.bin").touch(), "pytorch_model.bin is not"),
        (lambda folder: (folder / "link").symlink_to("/etc/hosts"), "it holds a link"),
        (lambda folder: folder.rename(folder.with_name("step-5")), "manifest.json is of step 4"),
    ],
    ids=["no manifest", "cut manifest", "cut file", "no file", "other file", "link", "renamed"],
)
def test_what_is_not_whole_is_not_loaded(tear: Any, why: str, tmp_path: Path) -> None:
    make_checkpoint(tmp_path, 2)
    tear(make_checkpoint(tmp_path, 4))
    said: list[str] = []
    assert checkpoints.newest_whole(tmp_path, report=said.append) == (2, tmp_path / "step-2")
    assert len(said) == 1
    assert why in said[0]


def test_a_checkpoint_inside_a_generation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"save_steps must be a multiple of num_iterations \(3\)"):
        load_recipe("demo", {"grpo.num_iterations": 3, "grpo.save_steps": 4})
    args = GRPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=2,
        num_generations=2,
        gradient_accumulation_steps=2,
        steps_per_generation=4,
        save_strategy="steps",
        save_steps=3,
        use_cpu=True,
        bf16=False,
    )
    with pytest.raises(UsageError, match=r"\(6\) must be a multiple of .* \(4\)"):
        WorldModelTrainer(args=args, checkpoints=tmp_path, report=str)


def test_a_step_must_share_evenly(
    tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RecipeError, match="multiple of groups_per_pass"):
        load_recipe("demo", {"grpo.prompts_per_step": 3, "grpo.groups_per_pass": 2})
    grpo = tiny_recipe.grpo.model_copy(update={"prompts_per_step": 6, "groups_per_pass": 2})
    recipe = tiny_recipe.model_copy(update={"grpo": grpo})
    assert grpo_config(recipe, tmp_path).gradient_accumulation_steps == 3
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match=r"must be a multiple .* \(2 x 2\)"):
        grpo_config(recipe, tmp_path)


def test_too_few_rows_for_a_step_are_refused(tiny_recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="has 0 training rows and a step takes 1"):
        run_grpo(
            None,
            None,
            [],
            None,  # type: ignore[arg-type]
            recipe=tiny_recipe,
            out=tmp_path / "weights",
            scratch=tmp_path,
            metrics=tmp_path / "metrics.jsonl",
            checkpoints=tmp_path,
        )


def test_metrics_keep_what_a_checkpoint_holds(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [{"stage": "warm_start", "step": 9}, *({"stage": "grpo", "step": n} for n in (1, 2, 3))]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"stage": "gr')
    with watched(path, stage="grpo", label="grpo", steps=5, done=2):
        kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert kept == lines[:3]


def test_each_step_has_a_reward() -> None:
    history = [
        {"loss": 0.1, "reward": 0.5},
        {"loss": 0.1},
        {"loss": 0.1, "reward": float("nan")},
        {"loss": 0.1, "reward": None},
        {"loss": 0.0, "reward": 1.0},
        {"train_runtime": 3.0, "train_loss": 0.1, "reward": 1.0},
    ]
    assert rewards_by_step(history) == [0.5, 0.5, None, None, 1.0]
