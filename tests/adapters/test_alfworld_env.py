"""ALFWorld games as environments: found, upgraded, played; bad input gets one clear line."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.adapters.alfworld_games import require_games

from rwml.errors import UsageError
from rwml_adapters.alfworld import TASK_TYPES, AlfworldEnv, find_games
from rwml_adapters.alfworld.logic import load_game

pytestmark = pytest.mark.skipif(find_spec("alfworld") is None, reason="needs rwml[alfworld]")


def play_expert(env: AlfworldEnv) -> tuple[list[str], float, bool]:
    env.reset(seed=3)
    plan, observations, reward, terminated = env.expert_plan(), [], 0.0, False
    for command in plan:
        observation, reward, terminated, truncated, _ = env.step(command)
        observations.append(observation)
        assert not truncated
    return observations, reward, terminated


def test_the_games_of_each_task_type_are_found() -> None:
    games = require_games("valid_unseen")
    assert {game.task_type for game in games} == set(TASK_TYPES)
    assert all(game.split == "valid_unseen" and game.file.is_file() for game in games)
    assert len({game.id for game in games}) == len(games)
    assert games == sorted(games, key=lambda game: game.id)


@pytest.mark.parametrize("logic", ["installed", "own"])
def test_the_expert_wins(logic: str) -> None:
    arguments = list(sys.argv)
    game = require_games("valid_unseen")[0]
    with AlfworldEnv(game, engine="stock", logic=logic) as env:  # pyright: ignore[reportArgumentType]
        observations, reward, terminated = play_expert(env)
    assert (reward, terminated) == (1.0, True)
    assert all(text != "Nothing happens." for text in observations)
    assert sys.argv == arguments


def test_an_agent_sees_alfworlds_names_and_its_task() -> None:
    game = require_games("valid_unseen")[0]
    with AlfworldEnv(game, engine="stock", max_steps=2) as env:
        observation, info = env.reset()
        assert observation.startswith(
            "-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle"
        )
        assert f"Your task is to: {info['goal']}" in observation
        assert info["task_type"] == game.task_type
        commands = info["admissible_commands"]
        assert isinstance(commands, list)
        assert "look" in commands
        assert "help" in commands
        observation, reward, terminated, truncated, info = env.step("xyzzy")
        assert (observation, reward, terminated, truncated) == (
            "Nothing happens.",
            0.0,
            False,
            False,
        )
        assert (info["steps"], info["moves"]) == (1, 0)
        *_, truncated, info = env.step("look")
        assert truncated
        assert not info["won"]
        with pytest.raises(UsageError, match=r"call reset\(\)"):
            env.step("look")
        assert env.reset()[0].startswith("-= Welcome")


def test_a_game_is_upgraded_in_memory_and_names_both_logics() -> None:
    game = require_games("valid_unseen")[0]
    before = game.file.read_bytes()
    installed, own = load_game(game.file), load_game(game.file, logic="own")
    assert game.file.read_bytes() == before
    assert installed.problem == own.problem
    assert installed.goal == own.goal
    assert "move {o} to {r}" in installed.grammar
    assert "put {o} in/on {r}" in own.grammar
    assert installed.logic.startswith("alfworld-")
    assert own.logic.startswith("own:")
    assert installed.game_logic == own.game_logic == own.logic
    assert f"Your task is to: {own.goal}" in installed.grammar


def test_games_that_alfworld_leaves_out_are_left_out(tmp_path: Path) -> None:
    def game(name: str, data: dict[str, object]) -> None:
        folder = tmp_path / "json_2.1.1" / "valid_seen" / name / "trial_T1"
        folder.mkdir(parents=True)
        (folder / "game.tw-pddl").write_text(json.dumps(data))

    game("pick_and_place_simple-Mug-None-Desk-1", {"grammar": "", "solvable": True})
    game("pick_and_place_simple-Mug-None-Desk-2", {"solvable": False})
    game("pick_and_place_simple-Mug-None-Desk-3", {"grammar": ""})
    game("pick_and_place_simple-Mug-None-Desk-4", {"solvable": True, "walkthrough": ["x" * 99]})
    game("pick_and_place_simple-MugSliced-None-Desk-5", {"solvable": True})
    game("pick_and_place_with_movable_recep-Mug-Cup-Desk-6", {"solvable": True})
    found = find_games("valid_seen", data=tmp_path)
    assert [found.id.split("/")[0][-1] for found in found] == ["1", "4"]
    assert find_games("valid_seen", data=tmp_path / "json_2.1.1") == found


def test_what_cannot_work_gets_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path))
    with pytest.raises(UsageError, match="alfworld-download"):
        find_games("valid_seen")
    (tmp_path / "valid_seen").mkdir()
    assert find_games("valid_seen") == []
    with pytest.raises(UsageError, match=r"no train games in .* \(it has valid_seen\)"):
        find_games("train")
    with pytest.raises(UsageError, match="no split 'test': use one of train"):
        find_games("test")
    with pytest.raises(UsageError, match="no task type 'cook'"):
        find_games("valid_seen", task_types=["cook"])
    with pytest.raises(UsageError, match="no game file"):
        AlfworldEnv(tmp_path / "game.tw-pddl")
    (tmp_path / "game.tw-pddl").write_text('{"pddl_domain": 1}')
    with pytest.raises(UsageError, match="is no ALFWorld game"):
        AlfworldEnv(tmp_path / "game.tw-pddl")


def test_wrong_arguments_are_refused() -> None:
    game = require_games("valid_unseen")[0]
    with pytest.raises(UsageError, match="max_steps must be 1 or more"):
        AlfworldEnv(game, max_steps=0)
    with pytest.raises(UsageError, match="no engine 'slow': use one of fast, stock"):
        AlfworldEnv(game, engine="slow")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="no logic 'mine': use one of installed, own"):
        AlfworldEnv(game, logic="mine")  # pyright: ignore[reportArgumentType]
