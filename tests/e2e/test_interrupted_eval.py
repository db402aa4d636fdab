"""Ctrl-C in the middle of `rwml eval` and `rwml record`: what is done is kept, --resume goes on."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rwml import open_store

TOY = Path(__file__).parents[1] / "sdk"
DEADLINE_S = 60.0


def command(verb: str, *arguments: object) -> list[str]:
    return [
        sys.executable, "-m", "rwml", verb, "toy_environment:toy", *map(str, arguments),
        "--trials", "2", "--json",
    ]  # fmt: skip


def run(verb: str, *arguments: object) -> dict[str, Any]:
    done = subprocess.run(
        command(verb, *arguments),
        capture_output=True, text=True, check=False, timeout=DEADLINE_S, cwd=TOY,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def stop_when(reached: Callable[[], bool], number: int, words: list[str]) -> tuple[int, str, str]:
    """Starts a command, and sends it a signal once the condition holds."""
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=TOY
    ) as process:
        try:
            deadline = time.monotonic() + DEADLINE_S
            while not reached():
                assert process.poll() is None, process.communicate()[1]
                assert time.monotonic() < deadline
                time.sleep(0.02)
            process.send_signal(number)
            out, err = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
    return process.returncode, out, err


def has_lines(file: Path, number: int) -> Callable[[], bool]:
    return lambda: file.exists() and file.read_bytes().count(b"\n") >= number


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    """The report of a run that was never interrupted."""
    return run("eval")


@pytest.mark.parametrize("concurrency", [1, 3])
def test_what_is_done_is_kept_and_the_report_is_the_same(
    tmp_path: Path, whole: dict[str, Any], concurrency: int
) -> None:
    folder = tmp_path / "ev"
    hanging = command("eval", "--out", folder, "--hang-after", 7, "--concurrency", concurrency)
    code, out, err = stop_when(has_lines(folder / "results.jsonl", 7), signal.SIGINT, hanging)
    assert (code, out) == (130, "")
    assert "interrupted: 7 of 20 episodes are kept" in err
    assert "Traceback" not in err
    assert not (folder / "report.json").exists()
    compared = subprocess.run(
        [sys.executable, "-m", "rwml", "compare", str(folder), str(folder)],
        capture_output=True, text=True, check=False, timeout=DEADLINE_S,
    )  # fmt: skip
    assert compared.returncode == 2
    assert "is not finished: go on with --resume" in compared.stderr
    resumed = run("eval", "--out", folder, "--resume")
    assert resumed == whole
    assert resumed == json.loads((folder / "report.json").read_text())


def test_a_killed_evaluation_goes_on(tmp_path: Path, whole: dict[str, Any]) -> None:
    folder = tmp_path / "ev"
    hanging = command("eval", "--out", folder, "--hang-after", 4)
    code, _, _ = stop_when(has_lines(folder / "results.jsonl", 4), signal.SIGKILL, hanging)
    assert code == -signal.SIGKILL
    resumed = run("eval", "--out", folder, "--resume")
    assert resumed == whole
    assert (folder / "results.jsonl").read_bytes().count(b"\n") == 20


def test_an_interrupted_recording_goes_on(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'rwml.db'}"

    def is_stored() -> bool:
        if not (tmp_path / "rwml.db").exists():
            return False
        with open_store(url) as store:
            return store.counts().transitions >= 15

    hanging = command("record", "--store", url, "--hang-after", 5)
    code, out, err = stop_when(is_stored, signal.SIGINT, hanging)
    assert code == 130
    assert json.loads(out)["trajectories"] == 5
    assert "interrupted: 5 of 20 episodes are kept" in err
    resumed = run("record", "--store", url, "--resume")
    whole = run("record", "--store", f"sqlite:///{tmp_path / 'other.db'}")
    assert resumed["episodes"] == whole["episodes"]
    with open_store(url) as store:
        assert store.counts().transitions == 60
