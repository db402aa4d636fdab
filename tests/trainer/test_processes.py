"""Several processes: accelerate's configs, the command that starts them, two on a CPU."""

import json
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import typer
from safetensors.torch import load_file
from typer.testing import CliRunner

from rwml.errors import RecipeError, UsageError
from rwml_trainer.commands.train import train as train_command
from rwml_trainer.launch import Launcher, config_path, plan_launch
from rwml_trainer.processes import is_first, on_first, process_count
from rwml_trainer.recipes import Recipe, load_recipe, recipe_names
from rwml_trainer.runs import read_run
from rwml_trainer.vllm import check_vllm

DRIVER = Path(__file__).with_name("process_driver.py")


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def snapshot(recipe: Recipe, folder: Path) -> Path:
    """A folder that `--recipe` takes, of a recipe whose step two processes share."""
    grpo = {"prompts_per_step": 2, "save_steps": 1, "beta": 0.01, "learning_rate": 1e-3}
    changed = recipe.model_copy(
        update={"dtype": "float32", "grpo": recipe.grpo.model_copy(update=grpo)}
    )
    folder.mkdir()
    told = {"recipe": changed.model_dump(mode="json")}
    (folder / "started.json").write_text(json.dumps(told))
    return folder


def launch(launcher: Launcher, folder: Path, dataset: Path, recipe: Path) -> Any:
    """Trains in two processes; what was printed, and what each process noted."""
    (folder / "notes").mkdir()
    words = [sys.executable, "-m", "accelerate.commands.launch"]
    words += ["--config_file", str(config_path(launcher)), "--num_processes", "2"]
    words += ["--main_process_port", str(free_port()), str(DRIVER), str(folder / "notes")]
    words += ["train", str(dataset), "--out", str(folder / "run"), "--recipe", str(recipe)]
    done = subprocess.run(
        [*words, "--json"], capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    notes = [json.loads((folder / f"notes/rank-{n}.json").read_text()) for n in (0, 1)]
    return done.stdout, notes


@pytest.fixture(scope="module")
def two_processes(
    shop_dataset: Path, tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("two")
    recipe = snapshot(tiny_recipe, folder / "recipe")
    return folder / "run", *launch("ddp", folder, shop_dataset, recipe)


def test_two_processes_make_one_run(two_processes: tuple[Path, str, list[dict[str, Any]]]) -> None:
    run, printed, _ = two_processes
    assert json.loads(printed)["steps"] == 2, "one JSON object, not one of each process"
    assert read_run(run).steps == 2
    assert len(list(run.rglob("adapter_model.safetensors"))) == 2, "warm start and result"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [(line["stage"], line["step"]) for line in lines]
    assert steps == [("warm_start", 1), ("warm_start", 2), ("grpo", 1), ("grpo", 2)]
    assert not (run / "checkpoints").exists()
    assert not list(run.glob(".*"))


def test_two_processes_end_with_equal_weights(
    two_processes: tuple[Path, str, list[dict[str, Any]]],
) -> None:
    run, _, (first, second) = two_processes
    assert first["weights"] == second["weights"]
    assert first["weights"]["warm_start"] != first["weights"]["lora_adapter"]
    assert read_run(run).rewards[0] not in (None, 0.0)
    assert (first["shares_prefix"], second["shares_prefix"]) == (True, True)
    assert first["error"] == second["error"] == "met in the first process: True"


def test_sharded_weights_are_trained_and_saved_as_copies_are(
    two_processes: tuple[Path, str, list[dict[str, Any]]],
    shop_dataset: Path,
    tiny_recipe: Recipe,
    tmp_path: Path,
) -> None:
    recipe = snapshot(tiny_recipe, tmp_path / "recipe")
    _, (first, second) = launch("fsdp2", tmp_path, shop_dataset, recipe)
    assert first["weights"] == second["weights"]
    sharded, _, count = first["sharded"].split()
    assert sharded == count != "0"
    assert first["shares_prefix"]
    for stage in ("warm_start", "lora_adapter"):
        copied = load_file(two_processes[0] / stage / "adapter_model.safetensors")
        whole = load_file(tmp_path / "run" / stage / "adapter_model.safetensors")
        assert set(whole) == set(copied)
        for name, weight in whole.items():
            assert torch.allclose(weight, copied[name], atol=1e-6), name


@pytest.mark.parametrize("launcher", get_args(Launcher))
def test_accelerate_reads_the_configs(launcher: Launcher) -> None:
    from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    config = load_config_from_file(str(config_path(launcher)))
    assert isinstance(config, ClusterConfig)
    recipe = load_recipe("tau2-qwen3-8b")
    planned = plan_launch(launcher, recipe, ["data", "--out", "runs/a b"])
    words = shlex.split(planned.command)
    assert words[:2] == ["accelerate", "launch"]
    parser = launch_command_parser()
    arguments, _, _ = _validate_launch_command(parser.parse_args(words[2:]))
    assert arguments.num_processes == planned.processes == 4
    assert (arguments.module, arguments.training_script) == (True, "rwml")
    assert arguments.training_script_args == ["train", "data", "--out", "runs/a b"]
    chosen = (arguments.multi_gpu, arguments.use_deepspeed, arguments.use_fsdp)
    assert chosen == tuple(launcher == name for name in ("ddp", "zero3", "fsdp2"))
    if launcher == "zero3":
        assert str(arguments.zero_stage) == "3"
        assert str(arguments.zero3_save_16bit_model).lower() == "true"
    if launcher == "fsdp2":
        assert str(arguments.fsdp_version) == "2"
        assert arguments.fsdp_state_dict_type == "FULL_STATE_DICT"


def test_the_launch_is_printed_and_nothing_is_trained(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(train_command)
    words = ["data", "--out", str(tmp_path / "run"), "--recipe", "tau2-qwen3-8b", "--seed", "3"]
    printed = CliRunner().invoke(app, [*words, "--resume", "--print-launch", "zero3"]).stdout
    assert f"config: {config_path('zero3')}" in printed
    assert f"--num_processes 4 -m rwml train data --out {tmp_path / 'run'}" in printed
    assert "--recipe tau2-qwen3-8b --seed 3 --resume" in printed
    assert "VLLM_SERVER_DEV_MODE=1 vllm serve Qwen/Qwen3-8B" in printed
    found = json.loads(CliRunner().invoke(app, [*words, "--print-launch", "ddp", "--json"]).stdout)
    assert set(found) == {"config", "processes", "command", "vllm"}
    assert Path(found["config"]).is_file()
    assert not list(tmp_path.iterdir())
    alone = CliRunner().invoke(app, ["--recipe", "demo", "--print-launch", "ddp"])
    assert "trains on one device: set compute.gpus" in str(alone.exception)


def test_a_recipe_for_several_gpus_can_be_shared_among_them() -> None:
    for name in recipe_names():
        recipe = load_recipe(name)
        assert recipe.grpo.accumulated(recipe.compute.processes) >= 1, name
    uneven = load_recipe("tau2-qwen3-8b", {"compute.gpus": 7})
    with pytest.raises(UsageError, match=r"grpo.prompts_per_step \(32\) .* \(1 x 3\)"):
        plan_launch("zero3", uneven, [])
    warm = load_recipe("demo", {"warm_start.batch_size": 8, "warm_start.micro_batch_size": 4})
    assert warm.warm_start.accumulated(2) == 1
    with pytest.raises(UsageError, match=r"warm_start.batch_size \(8\) .* \(4 x 3\)"):
        warm.warm_start.accumulated(3)


def test_one_process_is_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert (process_count(), is_first()) == (1, True)
    assert on_first(lambda: 3) == 3


def test_a_recipe_says_how_vllm_generates(tiny_recipe: Recipe, tmp_path: Path) -> None:
    from rwml_trainer.grpo import grpo_config

    def settings(**compute: Any) -> Any:
        changed = tiny_recipe.compute.model_copy(update=compute)
        return grpo_config(tiny_recipe.model_copy(update={"compute": changed}), tmp_path)

    assert not settings().use_vllm
    url = "http://10.0.0.7:8123"
    server = settings(generation="vllm-server", gpus=2, vllm_gpus=1, vllm_url=url)
    assert (server.use_vllm, server.vllm_mode) == (True, "server")
    assert server.vllm_server_base_url == url
    options = {"vllm_tensor_parallel": 2, "vllm_gpu_memory_utilization": 0.4}
    beside = settings(generation="vllm-colocate", gpus=2, **options)
    assert (beside.use_vllm, beside.vllm_mode) == (True, "colocate")
    assert beside.vllm_gpu_memory_utilization == 0.4
    assert beside.vllm_tensor_parallel_size == 2
    assert beside.vllm_max_model_length == 608, "the longest prompt and its completion"


def test_vllm_that_is_missing_or_too_old_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"compute.generation": "vllm-colocate", "compute.gpus": 2}
    recipe = load_recipe("demo", changes)
    check_vllm(load_recipe("demo"))
    from importlib.metadata import PackageNotFoundError

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("rwml_trainer.vllm.version", missing)
    with pytest.raises(UsageError, match=r"needs vLLM: pip install 'vllm>=0.22.0,<=0.31.0'"):
        check_vllm(recipe)
    for found, accepted in (("0.21.9", False), ("0.31.0+cpu", True), ("0.32.0", False)):
        monkeypatch.setattr("rwml_trainer.vllm.version", lambda name, found=found: found)
        if accepted:
            check_vllm(recipe)
            continue
        with pytest.raises(UsageError, match=f"does not work with vLLM {found}"):
            check_vllm(recipe)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compute.vllm_url": "localhost:8000"}, "vllm_url.*http://127.0.0.1:8000"),
        (
            {
                "compute.generation": "vllm-colocate",
                "compute.gpus": 3,
                "compute.vllm_tensor_parallel": 2,
            },
            "vllm_tensor_parallel must divide",
        ),
    ],
)
def test_impossible_generation_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("demo", changes)
