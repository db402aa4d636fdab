"""The whole demo on the tiny model: real tau2, real TRL, real server; only the weights are toys."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file

STAGES = ("record", "build", "eval-before", "train", "serve", "eval-after")


def run_demo(out: Path, recipe: Path) -> subprocess.CompletedProcess[str]:
    flags = ["--out", str(out), "--recipe", str(recipe), "--tasks", "6", "--steps", "1", "--json"]
    return subprocess.run(
        [sys.executable, "-m", "rwml", "demo", *flags],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.fixture(scope="module")
def demo(
    tiny_recipe_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("demo") / "out"
    done = run_demo(out, tiny_recipe_file)
    assert done.returncode == 0, done.stderr[-3000:]
    return out, json.loads(done.stdout)


def test_the_report_has_the_promised_shape(demo: tuple[Path, dict[str, Any]]) -> None:
    out, report = demo
    assert report["trajectories"] == 6
    assert report["transitions"] >= 30
    assert 0 < report["errors"] < report["transitions"]
    assert set(report["dataset"]) >= {"train", "validation", "too_long"}
    assert report["train"]["steps"] == len(report["train"]["reward"]) == 1
    weights = Path(report["train"]["lora_adapter"]) / "adapter_model.safetensors"
    assert load_file(weights)
    assert report["serve"]["engine"] == "transformers"
    assert isinstance(report["serve"]["completion"], str)
    agent = report["agent_on_served_model"]
    assert agent["steps"] >= 1
    assert agent["status"] in ("completed", "truncated")
    for name in ("constant", "base", "warm_start", "trained"):
        assert 0 <= report["eval"][name]["reward"] <= 1
    low, high = report["eval"]["ci95"]
    assert low <= report["eval"]["difference"] <= high
    assert report["eval"]["verdict"] in ("improved", "worse", "no difference shown")
    assert report["seconds"] > 0
    assert report["peak_rss_mib"] > 100
    assert json.loads((out / "report.json").read_text()) == report
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")


def test_the_agent_on_the_served_model_was_recorded(demo: tuple[Path, dict[str, Any]]) -> None:
    from rwml import open_store

    out, report = demo
    with open_store(f"sqlite:///{out / 'served.db'}", create=False) as store:
        served = [
            trajectory
            for trajectory in store.trajectories()
            if any("rwml-demo" in (step.model or "") for step in trajectory.steps)
        ]
    assert [len(trajectory.steps) for trajectory in served] == [
        report["agent_on_served_model"]["steps"]
    ]


def test_whole_stages_are_not_run_again(
    demo: tuple[Path, dict[str, Any]], tiny_recipe_file: Path
) -> None:
    out, report = demo
    again = run_demo(out, tiny_recipe_file)
    assert again.returncode == 0, again.stderr[-3000:]
    assert again.stderr.count("already done") == len(STAGES)
    assert json.loads(again.stdout) == report


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_demo_leaves_nothing_running(
    tiny_recipe_file: Path, tmp_path: Path, how: signal.Signals
) -> None:
    flags = ["--out", str(tmp_path / "out"), "--recipe", str(tiny_recipe_file), "--tasks", "40"]
    demo = subprocess.Popen(
        [sys.executable, "-m", "rwml", "demo", *flags], stderr=subprocess.DEVNULL
    )
    try:
        child = wait_for(lambda: next(iter(psutil.Process(demo.pid).children()), None))
        demo.send_signal(how)
        assert demo.wait(30) != 0
        assert wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    finally:
        demo.kill()
        demo.wait()


def wait_for(look: Callable[[], Any], seconds: float = 60) -> Any:
    """What `look` finds, as soon as it is true."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not (found := look()):
        assert time.monotonic() < deadline, "waited in vain"
        pause.wait(0.05)
    return found
