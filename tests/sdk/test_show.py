"""`rwml show`: one trajectory, found by its id or a prefix that only it has."""

import json

import pytest

from rwml import Message, Step, Store, Trajectory
from rwml.testing import make_trajectory


@pytest.fixture
def filled(store: Store) -> Store:
    for task in (1, 20, 21, 22, 23, 24, 25):
        store.add(make_trajectory(task))
    return store


def test_json_is_the_stored_record(rwml, url: str, filled: Store) -> None:
    code, out, err = rwml("show", "shop-20", "--store", url, "--json")
    assert (code, err) == (0, "")
    assert Trajectory.model_validate_json(out) == make_trajectory(20)


def test_a_prefix_of_one_id_is_enough(rwml, url: str, filled: Store) -> None:
    assert json.loads(rwml("show", "shop-1", "--store", url, "--json")[1])["task_id"] == "1"
    filled.add(make_trajectory(10))
    # now also a prefix of shop-10: the whole id still wins
    assert json.loads(rwml("show", "shop-1", "--store", url, "--json")[1])["task_id"] == "1"


def test_text_tells_what_happened(rwml, url: str, filled: Store) -> None:
    _, out, _ = rwml("show", "shop-1", "--store", url)
    for text in (
        "shop-1\n",
        "completed, success, reward 1",
        "You help the customers of a shop.",
        'get_order({"order_id": "1-0"}) as call_0',
        "Error: order 1-1 not found",
        "step 1: error, answered by tool",
        "user Yes, cancel order 1, please.",
    ):
        assert text in out


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_unknown_id_is_one_line(rwml, url: str, filled: Store, extra: list[str]) -> None:
    code, out, err = rwml("show", "nobody", "--store", url, *extra)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "no trajectory 'nobody'" in err


def test_several_matches_are_named(rwml, url: str, filled: Store) -> None:
    code, out, err = rwml("show", "shop-2", "--store", url)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "shop-20, shop-21, shop-22, shop-23, shop-24, ..." in err


def test_long_and_hostile_texts(rwml, url: str, store: Store) -> None:
    text = "\x1b]0;owned\x07" + "long " * 1000
    action = Message(role="assistant", content=text, reasoning="[bold]why[/bold]")
    store.add(Trajectory(id="t", source="x", steps=(Step(index=0, action=action),)))
    _, out, _ = rwml("show", "t", "--store", url)
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "\\x1b]0;owned\\x07" in out
    assert "[bold]why[/bold]" in out
    assert f"({len(text)} characters)" in out
    assert len(out) < 1000
    assert "long " * 1000 in rwml("show", "t", "--store", url, "--width", "0")[1] + " "


def test_without_a_name_ids_are_listed(rwml, url: str, store: Store) -> None:
    for task in (1, 2):
        store.add(make_trajectory(task))
    code, out, _ = rwml("show", "--store", url, "--json")
    assert code == 0
    listed = json.loads(out)
    assert [row["id"] for row in listed["trajectories"]] == ["shop-1", "shop-2"]
    assert listed["total"] == 2
