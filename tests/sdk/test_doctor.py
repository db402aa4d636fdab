"""`rwml doctor`: 0 when a store can be learnt from, 1 when not, 2 when there is none."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rwml import Message, Recorder, Step, Trajectory, open_store


def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rwml", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'rwml.db'}"


def test_a_good_store(url: str) -> None:
    with Recorder(store=url) as recorder, recorder.trajectory(source="test") as t:
        t.act({"role": "assistant", "content": "a"})
        t.observe({"role": "user", "content": "b"}, status="error")
        t.act({"role": "assistant", "content": "c"})
    done = doctor("--store", url, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("interrupted") == 0
    assert found == {
        "trajectories": 1,
        "transitions": 1,
        "pending": 1,
        "errors": 1,
        "orphans": 0,
        "ok": True,
    }


def test_orphans_are_shown(url: str) -> None:
    stray = Step(
        index=0,
        action=Message(role="assistant"),
        observation=(Message(role="tool", tool_call_id="nobody's"),),
        kind="tool",
        status="ok",
    )
    with open_store(url) as store:
        store.add(Trajectory(source="test", steps=(stray,)))
        store.write(steps_by_trajectory=[("lost", stray)])
    assert json.loads(doctor("--store", url, "--json").stdout)["orphans"] == 2


def test_an_empty_store_is_found_wanting(url: str) -> None:
    open_store(url).close()
    done = doctor("--store", url, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["ok"] is False
    done = doctor("--store", url)
    assert done.returncode == 1
    assert "record an agent" in done.stdout


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_no_store_is_one_line_and_not_made(url: str, tmp_path: Path, extra: list[str]) -> None:
    done = doctor("--store", url, *extra)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("rwml: no store at")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_wrong_flag_is_wrong_usage(url: str) -> None:
    assert doctor("--store", url, "--colour").returncode == 2
