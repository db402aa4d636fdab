"""`AlfworldPool` with real games and real worker processes, which are killed for real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.adapters.alfworld_games import require_games

from rwml.errors import RwmlError, UsageError
from rwml_adapters.alfworld import AlfworldEnv, AlfworldPool

pytest.importorskip("textworld")

DEADLINE_S = 60
MAX_STEPS = 5
Walk = list[tuple[list[str], list[bool]]]


@pytest.fixture(scope="module")
def files() -> list[Path]:
    found = require_games("valid_seen")
    return [found[place].file for place in (0, len(found) // 2, -1)]


@pytest.fixture
def pool(files: list[Path]) -> Iterator[AlfworldPool]:
    with AlfworldPool(files, size=4, workers=2, max_steps=MAX_STEPS) as pool:
        pool.reset()
        yield pool


def is_running(pid: int) -> bool:
    """Whether there is such a process, and no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline, f"still running: {pids}"
        time.sleep(0.02)


def possible(info: dict[str, Any]) -> list[str]:
    return info["admissible_commands"]


def walk(pool: AlfworldPool) -> Walk:
    """Two episodes of each place; the second begins while others are in their first."""
    observations, infos = pool.reset()
    seen: Walk = [(observations, [])]
    for turn in range(7):
        if turn == 2:
            _, infos = pool.reset(places=[1])
        observations, _, _, truncated, infos = pool.step([possible(info)[turn] for info in infos])
        seen.append((observations, truncated))
    return seen


def test_what_happens_does_not_depend_on_the_number_of_workers(files: list[Path]) -> None:
    walks = []
    for workers in (1, 3):
        with AlfworldPool(files, size=3, workers=workers, seed=7, max_steps=MAX_STEPS) as pool:
            assert len(set(pool.worker_pids)) == workers
            walks.append(walk(pool))
    assert walks[0] == walks[1]
    assert len(set(walks[0][0][0])) == 3
    assert walks[0][-1][1] == [True, True, True]


def test_a_pool_plays_as_one_environment_does(pool: AlfworldPool, files: list[Path]) -> None:
    observations, infos = pool.reset([files[2]] * 4)
    with AlfworldEnv(files[2], max_steps=MAX_STEPS) as env:
        observation, info = env.reset()
        assert (observations[3], infos[3]) == (observation, info)
        for turn in range(5):
            command = possible(info)[turn]
            columns = pool.step([command] * 4)
            observation, reward, terminated, truncated, info = env.step(command)
            played = [column[3] for column in columns]
            assert played == [observation, reward, terminated, truncated, info]


def test_an_episode_that_is_over_stays_as_it_is(pool: AlfworldPool) -> None:
    ended = [pool.step(["look", None, "look", "look"]) for _ in range(5)][-1]
    assert ended[3] == [True, False, True, True]
    after = pool.step(["inventory"] * 4)
    assert after[0][0] == ended[0][0]
    assert after[0][1] == "You are not carrying anything."
    assert [info["steps"] for info in after[4]] == [5, 1, 5, 5]


def test_a_place_plays_the_game_it_is_given(pool: AlfworldPool, files: list[Path]) -> None:
    before, _ = pool.reset()
    after, infos = pool.reset({2: files[0]})
    assert [after[place] for place in (0, 1, 3)] == [before[place] for place in (0, 1, 3)]
    assert infos[2]["task_type"] == files[0].parts[-3].split("-")[0]
    again, _ = pool.reset([files[1], files[0]], places=[0, 1])
    assert again[1] == after[2]
    assert again[0] != again[1]


def test_a_killed_worker_costs_its_own_episodes_only(pool: AlfworldPool) -> None:
    killed, other = pool.worker_pids
    os.kill(killed, signal.SIGKILL)
    observations, rewards, terminated, truncated, infos = pool.step(["look", "look", None, "look"])
    assert truncated == [True, False, True, False]
    assert [info.get("worker_died", False) for info in infos] == [True, False, True, False]
    assert rewards == [0.0] * 4
    assert not any(terminated)
    assert observations[1].startswith("You are in the middle of a room.")
    assert pool.worker_pids[1] == other
    assert not is_running(killed)
    restarted, infos = pool.reset(places=[0, 2])
    assert all("Your task is to" in restarted[place] for place in (0, 2))
    assert not any("worker_died" in info for info in infos)
    assert pool.step(["look"] * 4)[3] == [False] * 4


def test_a_hanging_worker_is_replaced(files: list[Path]) -> None:
    with AlfworldPool(files, size=2, workers=2, step_timeout_s=5.0, max_steps=MAX_STEPS) as pool:
        pool.reset()
        hanging = pool.worker_pids[0]
        os.kill(hanging, signal.SIGSTOP)
        truncated, infos = pool.step(["look", "look"])[3:]
        assert truncated == [True, False]
        assert infos[0]["worker_died"]
        assert not is_running(hanging)
        assert "Your task is to" in pool.reset(places=[0])[0][0]


def test_a_worker_that_is_killed_before_a_reset_costs_nothing(
    pool: AlfworldPool, files: list[Path]
) -> None:
    expected, _ = pool.reset([files[0]] * 4)
    for pid in pool.worker_pids:
        os.kill(pid, signal.SIGKILL)
    observations, infos = pool.reset([files[0]] * 4)
    assert observations == expected
    assert not any("worker_died" in info for info in infos)


def test_a_broken_game_is_an_error_and_the_others_play(
    pool: AlfworldPool, files: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "look_at_obj_in_light-A-None-B-1" / "trial" / "game.tw-pddl"
    broken.parent.mkdir(parents=True)
    broken.write_text("{}")
    with pytest.raises(RwmlError, match="no ALFWorld game"):
        pool.reset([files[0], broken, files[1], files[2]])
    truncated = pool.step(["look"] * 4)[3]
    assert truncated == [False, True, False, False]


def test_closing_ends_the_workers(files: list[Path]) -> None:
    pool = AlfworldPool(files, size=2, workers=2, max_steps=MAX_STEPS)
    pids = pool.worker_pids
    pool.close()
    pool.close()
    assert not any(map(is_running, pids))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_its_pool(files: list[Path], how: signal.Signals) -> None:
    """One worker is in the middle of its work, or stopped there, when the program is ended."""
    script = f"""
        import os, signal, sys
        from rwml_adapters.alfworld import AlfworldPool
        pool = AlfworldPool([{str(files[0])!r}], size=2, workers=2)
        pool.reset()
        forked = os.fork()  # holds copies of the pool's pipes
        if forked == 0:
            signal.pause()
        print(forked, *pool.worker_pids, flush=True)
        while True:
            pool.reset()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        forked, *pids = map(int, process.stdout.readline().split())
        process.send_signal(how)
        process.wait(DEADLINE_S)
        try:
            wait_gone(pids)
        finally:
            os.kill(forked, signal.SIGKILL)


def test_a_script_without_a_main_guard_works(files: list[Path], tmp_path: Path) -> None:
    script = tmp_path / "play.py"
    script.write_text(
        "from rwml_adapters.alfworld import AlfworldPool\n"
        f"pool = AlfworldPool([{str(files[0])!r}], size=1)\n"
        "print(pool.reset()[1][0]['task_type'])\n"
        "pool.close()\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert done.stdout.strip() in files[0].parts[-3], done.stderr


def test_wrong_use_is_said(files: list[Path]) -> None:
    with pytest.raises(UsageError, match="at least one game"):
        AlfworldPool([], size=1)
    with pytest.raises(UsageError, match="size and workers"):
        AlfworldPool(files, size=0)
    with AlfworldPool(require_games("valid_seen")[:1], size=1) as pool:
        assert pool.reset({0: require_games("valid_seen")[0]})[1][0]["steps"] == 0
    with AlfworldPool(files, size=2, workers=1, max_steps=MAX_STEPS) as pool:
        with pytest.raises(UsageError, match="has not started"):
            pool.step(["look", "look"])
        with pytest.raises(UsageError, match="environments 0 to 1, no 2"):
            pool.reset(places=[2])
        with pytest.raises(UsageError, match="one game for each of 2"):
            pool.reset([files[0]])
        with pytest.raises(UsageError, match="a command for each of 2"):
            pool.step("look")
