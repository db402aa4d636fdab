"""The fast engine says what TextWorld's says, whatever is typed, and its cache can be trusted.

`python -m tests.alfworld` does the same comparison on every game at hand.
"""

import json
import os
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import pytest
from tests.adapters.alfworld_games import games_at_hand, require_games
from tests.alfworld.walks import compare

from rwml.errors import UsageError
from rwml_adapters.alfworld import TASK_TYPES, AlfworldEnv, Game
from rwml_adapters.alfworld.engine import EngineName, cache, compiling
from rwml_adapters.alfworld.engine.expressions import Entity, compile_expression
from rwml_adapters.alfworld.engine.names import display_names
from rwml_adapters.alfworld.logic import LogicName, load_game

pytestmark = pytest.mark.skipif(find_spec("alfworld") is None, reason="needs rwml[alfworld]")


def smallest(task_type: str) -> Game:
    """A game of this type in a small room, which TextWorld's engine does not take long for."""
    games = [game for game in require_games("valid_train") if game.task_type == task_type]
    return min(games, key=lambda game: (game.file.stat().st_size, game.id))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rwml" / "alfworld"


@pytest.mark.parametrize(
    ("task_type", "logic"),
    [(task_type, "installed") for task_type in TASK_TYPES] + [(TASK_TYPES[2], "own")],
)
def test_both_engines_say_the_same(task_type: str, logic: LogicName) -> None:
    assert compare(smallest(task_type).file, logic=logic, seed=1, commands=10) > 20


def test_both_engines_give_an_agent_the_same_steps() -> None:
    game = smallest("pick_two_obj_and_place")
    with AlfworldEnv(game, engine="fast") as fast, AlfworldEnv(game, engine="stock") as stock:
        assert fast.reset(seed=1) == stock.reset(seed=2)
        *plan, last = fast.expert_plan()
        for command in [*plan, "xyzzy"]:
            assert fast.step(command) == stock.step(command)
        step = fast.step(last)
        assert step == stock.step(last)
        assert step[1:4] == (1.0, True, False)
        assert fast.expert_plan() == stock.expert_plan() == []


def test_environments_do_not_disturb_each_other() -> None:
    game = smallest("pick_and_place_simple")
    with AlfworldEnv(game) as one, AlfworldEnv(game) as other:
        first = one.reset()
        assert other.reset() == first
        plan = one.expert_plan()
        alone = [one.step(command) for command in plan]
        other.step("look")
        assert one.reset() == first
        assert [other.step(command)[0] for command in plan] == [step[0] for step in alone]
        assert [one.step(command) for command in plan] == alone


def test_environments_run_in_threads(own_cache: Path) -> None:
    game = smallest("pick_clean_then_place_in_recep")

    def play(engine: EngineName) -> list[str]:
        with AlfworldEnv(game, engine=engine) as env:
            first, info = env.reset()
            commands = cast("list[str]", info["admissible_commands"])[:3]
            return [first, *(env.step(command)[0] for command in commands)]

    with ThreadPoolExecutor(4) as pool:
        played = list(pool.map(play, ("fast", "stock", "fast", "stock", "fast", "fast")))
    assert all(texts == played[0] for texts in played)
    assert len(list(own_cache.iterdir())) == 1


def test_a_game_is_compiled_once_and_kept_for_its_owner_only(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    game = smallest("look_at_obj_in_light")
    with AlfworldEnv(game) as env:
        first = env.reset()
    (entry,) = own_cache.iterdir()
    assert own_cache.stat().st_mode & 0o777 == 0o700
    assert entry.stat().st_mode & 0o777 == 0o600

    def refuse(_: object) -> object:
        raise AssertionError("compiled again")

    monkeypatch.setattr(compiling, "compile_game", refuse)
    with AlfworldEnv(game) as env:
        assert env.reset() == first
    with pytest.raises(AssertionError, match="compiled again"):
        AlfworldEnv(game, logic="own")
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    with pytest.raises(AssertionError, match="compiled again"):
        AlfworldEnv(game)


@pytest.mark.parametrize("damage", ["torn", "empty", "foreign", "another"])
def test_a_damaged_entry_is_made_again(own_cache: Path, damage: str) -> None:
    game = smallest("look_at_obj_in_light")
    with AlfworldEnv(game) as env:
        first = env.reset()
    (entry,) = own_cache.iterdir()
    whole = entry.read_bytes()
    key = json.loads(zlib.decompress(whole))["key"]
    entry.write_bytes(
        {
            "torn": whole[: len(whole) // 2],
            "empty": b"",
            "foreign": zlib.compress(json.dumps({"key": key, "data": {"things": 3}}).encode()),
            "another": zlib.compress(json.dumps({"key": "0", "data": {}}).encode()),
        }[damage]
    )
    with AlfworldEnv(game) as env:
        assert env.reset() == first
    assert zlib.decompress(entry.read_bytes()) == zlib.decompress(whole)


def test_a_folder_that_others_may_write_is_not_used(own_cache: Path) -> None:
    own_cache.mkdir(parents=True, mode=0o700)
    own_cache.chmod(0o777)
    game = smallest("look_at_obj_in_light")
    with (
        pytest.warns(UserWarning, match="open to other users: 'chmod 700' it"),
        AlfworldEnv(game) as env,
    ):
        env.reset()
    assert list(own_cache.iterdir()) == []


def test_a_grammar_that_runs_code_is_refused_by_both_engines(tmp_path: Path) -> None:
    game = smallest("look_at_obj_in_light")
    data = json.loads(game.file.read_bytes())
    before = '"rhs": "You close the {r.name}."'
    assert before in data["grammar"]
    mark = tmp_path / "mark"
    attack = f"__import__('pathlib').Path('{mark}').touch()"
    data["grammar"] = data["grammar"].replace(before, f'"rhs": "{{{attack}}}"')
    file = tmp_path / game.file.parent.parent.name / "trial" / "game.tw-pddl"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(data))
    for engine in ("fast", "stock"):
        with pytest.raises(UsageError, match="an expression that is not played"):
            AlfworldEnv(file, engine=engine, logic="own")  # pyright: ignore[reportArgumentType]
    assert not mark.exists()


def test_playing_from_the_cache_loads_neither_textworld_nor_alfworld(own_cache: Path) -> None:
    game = smallest("look_at_obj_in_light")
    with AlfworldEnv(game) as env:
        env.reset()
    code = (
        "import sys; from rwml_adapters.alfworld import AlfworldEnv\n"
        f"env = AlfworldEnv({str(game.file)!r}); env.reset(); env.expert_plan()\n"
        "print(sorted({'textworld', 'alfworld', 'tatsu', 'numpy'} & set(sys.modules)))"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(own_cache.parents[1])}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"


def test_the_problem_and_the_logic_decide_what_is_compiled() -> None:
    games = games_at_hand("valid_unseen")[:2] or require_games("valid_unseen")
    texts = [load_game(game.file) for game in games] + [load_game(games[0].file, logic="own")]
    assert len({cache._key(text) for text in texts}) == len(texts)


def test_expressions_of_a_grammar_are_attributes_texts_and_choices() -> None:
    entities = {"o": Entity("mug_bar_1", "object", "mug 1"), "r": Entity("i", "receptacle", "")}
    assert compile_expression(" o.indefinite + ' ' + o.name ")(entities) == "a mug 1"
    assert compile_expression("r.name or r.id")(entities) == "i"
    assert compile_expression("o.name and r.id")(entities) == "i"
    assert str(compile_expression("o")(entities)) == "mug 1"


@pytest.mark.parametrize(
    "expression",
    [
        "o.__class__",
        "open('x')",
        "o.name.upper()",
        "o['name']",
        "1",
        "o.name % 2",
        "o.",
        "lambda: o",
    ],
)
def test_any_other_expression_is_refused(expression: str) -> None:
    with pytest.raises(UsageError, match="an expression that is not played"):
        compile_expression(expression)


def test_things_are_numbered_as_alfworld_numbers_them() -> None:
    demangler = pytest.importorskip("alfworld.agents.utils.misc").Demangler
    ids = [
        "mug_bar__plus_01",
        "mug_bar__minus_01",
        "sink_bar_2_bar_sinkbasin",
        "sink_bar_1",
        "agent1",
    ]

    class Info:
        def __init__(self, identity: str) -> None:
            self.id = identity

    theirs = demangler(game_infos={identity: Info(identity) for identity in ids})
    names = display_names(ids)
    assert names == {identity: theirs.demangle_alfred_name(identity) for identity in ids}
    assert names["mug_bar__minus_01"] == "mug 2"
