"""What ALFWorld's agents are told, say and do, without a game."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwml.errors import AdapterError, UsageError
from rwml_adapters.alfworld.benchmark import scripted_policy
from rwml_adapters.alfworld.mistakes import make_mistake
from rwml_adapters.alfworld.policies import Explorer, Situation
from rwml_adapters.alfworld.prompts import (
    MAX_ACTION_CHARS,
    Turn,
    format_reply,
    parse_reply,
    render_turn,
)

FIRST = (
    "-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. Looking quickly "
    "around you, you see a desk 1, a drawer 2, a drawer 1, and a fridge 1.\n\n"
    "Your task is to: put a mug in desk."
)
COMMANDS = [
    "examine fridge 1", "go to desk 1", "go to drawer 1", "go to drawer 2", "help", "inventory",
    "look", "open fridge 1", "take mug 1 from fridge 1",
]  # fmt: skip
PLAN = ["take mug 1 from fridge 1", "go to desk 1", "move mug 1 to desk 1"]
SITUATION = Situation(
    first=FIRST,
    history=(Turn("go to fridge 1", "You arrive at fridge 1. The fridge 1 is closed."),),
    commands=COMMANDS,
    plan=lambda: PLAN,
)


def decide(name: str, seed: int, turns: int, **rates: float) -> list[tuple[str | None, str]]:
    actor = scripted_policy(name, **rates).begin(seed)
    decisions = [actor(SITUATION) for _ in range(turns)]
    return [(each.command, str(each.metadata["move"])) for each in decisions]


def test_the_expert_follows_the_plan() -> None:
    assert decide("expert", 1, 2) == [(PLAN[0], "plan"), (PLAN[1], "plan")]
    actor = scripted_policy("expert").begin(0)
    with pytest.raises(AdapterError, match="no way to the goal"):
        actor(replace(SITUATION, plan=list))


def test_the_planner_is_asked_again_only_after_something_else() -> None:
    asked: list[int] = []

    def plan() -> list[str]:
        asked.append(1)
        return PLAN[:2]

    actor = scripted_policy("expert").begin(0)
    for _ in range(4):  # both are possible, so that the plan goes on
        actor(replace(SITUATION, plan=plan))
    assert len(asked) == 2
    actor = scripted_policy("explore", explore_rate=0.5, error_rate=0.0).begin(0)
    moves = [str(actor(replace(SITUATION, plan=plan)).metadata["move"]) for _ in range(40)]
    detours = sum(before != "plan" and now == "plan" for before, now in pairwise(moves))
    assert len(asked) - 2 >= detours > 5


@pytest.mark.parametrize("name", ["random", "explore"])
def test_what_is_done_follows_from_the_seed(name: str) -> None:
    assert decide(name, 5, 40) == decide(name, 5, 40)
    assert decide(name, 5, 40) != decide(name, 6, 40)


def test_where_no_plan_is_left_the_exploring_policy_walks_on() -> None:
    actor = scripted_policy("explore", explore_rate=0.0, error_rate=0.0).begin(0)
    decision = actor(replace(SITUATION, plan=list))
    assert decision.command in COMMANDS


def test_the_random_policy_takes_everything_that_is_possible() -> None:
    done = {command for command, _ in decide("random", 0, 300)}
    assert done == set(COMMANDS)


def test_the_exploring_policy_keeps_its_shares() -> None:
    done = decide("explore", 3, 2000, explore_rate=0.4, error_rate=0.2)
    moves = Counter(move for _, move in done)
    assert moves["mistake"] == pytest.approx(400, abs=80)
    assert moves["random"] + moves["idle"] == pytest.approx(800, abs=100)
    assert all((command in COMMANDS) == (move != "mistake") for command, move in done)
    idle = {command for command, move in done if move == "idle"}
    assert idle == {"examine fridge 1", "help", "inventory", "look"}
    assert len({command for command, move in done if move == "mistake"}) > 30


def test_the_rates_are_part_of_the_name() -> None:
    assert Explorer(explore_rate=0.4, error_rate=0).name == "explore-0.4-0"
    assert scripted_policy(None).name == "explore-0.3-0.1"


@pytest.mark.parametrize(
    ("name", "rates", "said"),
    [
        ("clever", {}, "use one of explore, expert, random"),
        ("explore", {"explore_rate": 1.5}, "--explore-rate must be between 0 and 1, not 1.5"),
        ("explore", {"error_rate": float("nan")}, "--error-rate must be between 0 and 1"),
        ("explore", {"explore_rate": 0.7, "error_rate": 0.6}, "1 together at most, not 1.3"),
        ("expert", {"error_rate": 0.1}, "are for --policy explore"),
    ],
)
def test_a_wrong_policy_is_said(name: str, rates: dict[str, float], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        scripted_policy(name, **rates)


NAMES = st.lists(st.sampled_from(["desk 1", "mug 12", "fridge 3", "soapbar 2"]), max_size=4)


@given(
    seed=st.integers(0, 10**6),
    commands=st.lists(st.sampled_from([*COMMANDS, *PLAN]), min_size=1, unique=True),
    names=NAMES,
)
def test_a_mistake_is_never_admissible(seed: int, commands: list[str], names: list[str]) -> None:
    seen = [f"You see a {name}." for name in names]
    made = make_mistake(seen, commands=commands, rng=random.Random(seed))
    assert made.strip() == made
    assert made
    assert made not in commands


@pytest.mark.parametrize(
    ("text", "command", "reasoning"),
    [
        ("<think>It is here.</think><action>take mug 1</action>", "take mug 1", "It is here."),
        ("still thinking</think>\n<action>\n look \n</action>", "look", "still thinking"),
        ("<action>go  to\ndesk 1</action>", "go to desk 1", ""),
        ("<think>or <action>a</action></think><action>b</action>", "b", "or <action>a</action>"),
        ("I go. <action>look</action> Done.", "look", ""),
        ("look", None, ""),
        ("", None, ""),
        ("<think>I do not know</think>", None, "I do not know"),
        ("<think>cut off <action>look</action>", None, ""),
        ("<action></action>", None, ""),
        ("<action>look", None, ""),
        ("</action>look<action>", None, ""),
        ("<action>look</action><action>help</action>", None, ""),
        ("<action><action>look</action></action>", None, ""),
        (f"<action>{'go ' * MAX_ACTION_CHARS}</action>", None, ""),
    ],
)  # fmt: skip
def test_a_reply_is_read_or_is_a_format_error(
    text: str, command: str | None, reasoning: str
) -> None:
    reply = parse_reply(text)
    assert (reply.command, reply.reasoning) == (command, reasoning)


@given(st.text())
def test_whatever_is_said_a_command_is_one_line(text: str) -> None:
    reply = parse_reply(text)
    assert reply.command is None or "\n" not in reply.command


@given(
    command=st.from_regex(r"[a-z]+( [a-z0-9]+){0,4}", fullmatch=True),
    reasoning=st.text(alphabet=st.characters(exclude_characters="<>"), max_size=50),
)
def test_what_is_written_is_read_again(command: str, reasoning: str) -> None:
    reply = parse_reply(format_reply(command, reasoning.strip()))
    assert (reply.command, reply.reasoning) == (command, reasoning.strip())


def prompt(turns: int | None, history: Sequence[Turn]) -> str:
    return render_turn(first=FIRST, history=history, commands=COMMANDS, turns=turns)


def test_a_prompt_tells_task_history_and_possible_actions() -> None:
    history = [Turn(f"go to drawer {n}", f"You arrive at drawer {n}.") for n in range(1, 4)]
    text = prompt(None, history)
    order = ["put a mug in desk", "Action: go to drawer 1", "You arrive at drawer 3", *COMMANDS]
    places = [
        text.index(each, text.index("# Possible") if each in COMMANDS else 0) for each in order
    ]
    assert places == sorted(places)
    short = prompt(1, history)
    assert "(2 earlier turns are left out)" in short
    assert "Action: go to drawer 3" in short
    assert "Action: go to drawer 2" not in short
    assert "# So far" not in prompt(0, history)
    assert "# So far" not in prompt(None, [])
