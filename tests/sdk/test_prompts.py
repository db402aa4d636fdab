"""Reading predictions, and rendering what a world model is asked."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwml.errors import RecipeError
from rwml.prompts import (
    Profile,
    Templates,
    as_sft,
    format_label,
    last_state,
    load_templates,
    parse_prediction,
    render_next_state,
    render_prompt,
)
from rwml.schema import Message, Tool, Trajectory, Transition
from rwml.testing import TrajectoryBuilder, make_trajectory


@pytest.mark.parametrize(
    ("completion", "state", "reasoning"),
    [
        ("<think>why</think><next_state>it is open</next_state>", "it is open", "why"),
        ("<next_state> it is open </next_state>", "it is open", ""),
        ("reason</think>\n<next_state>x</next_state> and so on", "x", "reason"),
        ("<think><next_state>a</next_state></think><next_state>b</next_state>", "b", None),
        ("<next_state>a</next_state><next_state>b</next_state>", None, ""),
        ("<next_state>never closed", None, ""),
        ("</next_state>wrong order<next_state>", None, ""),
        ("<next_state>   </next_state>", None, ""),
        ("<think><next_state>only thought</next_state></think>", None, None),
        ("no tags", None, ""),
        ("", None, ""),
    ],
)
def test_parse(completion: str, state: str | None, reasoning: str | None) -> None:
    prediction = parse_prediction(completion)
    assert prediction.next_state == state
    if reasoning is not None:
        assert prediction.reasoning == reasoning


plain = st.text(min_size=1).filter(lambda text: text.strip() == text and "<" not in text)


@given(plain)
def test_a_label_is_read_back(text: str) -> None:
    assert parse_prediction(format_label(text)).next_state == text


@given(st.text())
def test_any_text_can_be_parsed(text: str) -> None:
    state = parse_prediction(text).next_state
    assert state is None or state.strip()


def transitions(history: int = 10) -> list[Transition]:
    return list(make_trajectory(7).transitions(history=history))


def test_next_state_is_masked_only_where_it_is_json() -> None:
    found, failed, _, user = transitions()
    assert '"total":{"type":"number"}' in render_next_state(found, mask=True)
    assert "73.5" in render_next_state(found, mask=False)
    assert render_next_state(failed, mask=True) == "Error: order 7-1 not found"
    assert render_next_state(user, mask=True) == "Yes, cancel order 7, please."


def test_parallel_results_follow_the_order_of_the_calls() -> None:
    step = make_trajectory(7).steps[0]
    first, second = (
        step.action.tool_calls[0].model_copy(update={"id": name}) for name in ("a", "b")
    )
    answers = tuple(
        Message(role="tool", tool_call_id=name, content=f"of {name}") for name in ("b", "a")
    )
    action = step.action.model_copy(update={"tool_calls": (first, second)})
    parallel = step.model_copy(update={"action": action, "observation": answers})
    (transition,) = Trajectory(source="test", steps=(parallel,)).transitions()
    assert render_next_state(transition, mask=True) == "of a\n---\nof b"


def test_paper_profile_holds_everything() -> None:
    transition = transitions()[2].model_copy(
        update={"metadata": {"user_information": "Name: Yusuf Rossi"}}
    )
    system, user = render_prompt(transition, profile="paper") or []
    assert "You help the customers of a shop." in system["content"]
    assert '"name": "get_order"' in system["content"]
    assert "# User Information\nName: Yusuf Rossi" in user["content"]
    assert "Error: order 7-1 not found" in user["content"]
    assert '"order_id": "7-2"' in user["content"]


def test_environment_prompt_asks_for_an_observation() -> None:
    transition = transitions()[0].model_copy(update={"kind": "environment"})
    *_, user = render_prompt(transition, profile="paper") or []
    assert "# Potential action" in user["content"]
    assert "observation" in user["content"]


def test_compact_profile_drops_old_turns_until_it_fits() -> None:
    transition = transitions()[3]

    def length(prompt: list[dict[str, str]]) -> int:
        return sum(len(message["content"]) for message in prompt)

    full = render_prompt(transition, profile="compact")
    assert full is not None
    assert "Please look at order 7." in full[1]["content"]
    shorter = render_prompt(
        transition, profile="compact", fits=lambda prompt: length(prompt) < length(full) - 50
    )
    assert shorter is not None
    assert "Please look at order 7." not in shorter[1]["content"]
    assert "Shall I cancel order 7?" in shorter[1]["content"]
    assert render_prompt(transition, profile="compact", fits=lambda prompt: False) is None


def test_compact_profile_names_an_unknown_tool() -> None:
    other = Tool(name="cancel_order")
    transition = transitions()[0].model_copy(update={"tools": (other,)})
    prompt = render_prompt(transition, profile="compact") or []
    assert "Tool get_order: does not exist" in prompt[1]["content"]
    unrecorded = transition.model_copy(update={"tools": ()})
    prompt = render_prompt(unrecorded, profile="compact") or []
    assert "does not exist" not in prompt[1]["content"]


def test_an_environments_prompt_shows_history_observation_and_action() -> None:
    builder = TrajectoryBuilder("alf").system("Act in a kitchen.").environment("You see a door.")
    builder.says("open door").environment("It is open.").says("go in").environment("A fridge.")
    *_, last = builder.build().transitions()
    system, user = render_prompt(last) or []
    assert system["content"] == "Act in a kitchen."
    body, task = user["content"].rsplit("\n\n", 1)
    assert body == (
        "# History\nuser: You see a door.\nagent: open door\n\n"
        "# Current observation\nIt is open.\n\n# Potential action\ngo in"
    )
    assert "<think>" in task
    first = next(iter(builder.build().transitions()))
    assert "# History" not in (render_prompt(first) or [])[-1]["content"]


@pytest.mark.parametrize("kind", ["tool", "user", "environment"])
def test_sft_asks_the_same_without_reasoning(kind: Any) -> None:
    transition = transitions()[0].model_copy(update={"kind": kind})
    templates = load_templates()
    cases: list[tuple[Profile, Templates | None]] = [("paper", templates), ("compact", None)]
    for profile, used in cases:
        asked = render_prompt(transition, profile=profile)
        assert asked is not None
        supervised = render_prompt(transition, profile=profile, task="sft")
        assert as_sft(asked, kind=kind, templates=used) == supervised
        assert "<think>" not in str(supervised)


def test_a_template_of_ones_own_replaces_the_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(
        "user = '''$action costs $$5\n\nKnown: $user_information\n\n$task'''\n"
        "rwml = 'What now? Think.'\nsft = 'What now?'"
    )
    templates = load_templates(tmp_path)
    (user,) = render_prompt(transitions()[0], templates=templates) or []
    assert user["content"] == 'get_order({"order_id": "7-0"}) costs $5\n\nWhat now? Think.'
    assert as_sft([user], kind="tool", templates=templates)[0]["content"].endswith("What now?")
    assert templates.environment == load_templates().environment


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user='$action $task $price'\nrwml='a'\nsft='b'", r"\$price is no placeholder"),
        ("user='$action $task 5$'\nrwml='a'\nsft='b'", r"a lone \$"),
        ("user='$action'\nrwml='a'\nsft='b'", r"must hold \$action and \$task"),
        ("user='$action $task'\nrwml='a'", "sft: Field required"),
        ("user=", "is no template"),
    ],
)
def test_a_broken_template_is_explained(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "agent.toml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_templates(tmp_path)


def test_a_folder_without_templates_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="holds no template"):
        load_templates(tmp_path)


@given(st.text())
def test_what_an_action_says_is_never_a_placeholder(text: str) -> None:
    message = Message(role="assistant", content=f"x$action ${{task}} {text}x")
    transition = transitions()[0].model_copy(update={"action": message})
    *_, user = render_prompt(transition) or []
    assert f"# Potential assistant response\n{message.content}\n\n" in user["content"]


def seen_last(transition: Transition, *, masked: bool) -> str:
    """The results since the agent's last action, as they would be rendered as a next state."""
    last: list[Message] = []
    for message in transition.context:
        last = [] if message.role == "assistant" else [*last, message]
    shown = tuple(message for message in last if message.role != "system")
    return render_next_state(transition.model_copy(update={"next_state": shown}), mask=masked)


@pytest.mark.parametrize("profile", ["paper", "compact"])
@pytest.mark.parametrize("masked", [True, False])
def test_the_current_state_is_read_back(profile: Profile, masked: bool) -> None:
    builder = TrajectoryBuilder(metadata={"user_information": "# History\nuser: a trap"})
    builder.system("# History of the shop: 100% $good$").user("Hello.\n\nWhat is in A and B?")
    builder.calls(("get", {"id": "A"}), ("get", {"id": "B"})).returns('{"n": 1}', "none")
    builder.says("A is 1.").user("$history? Thanks.").says("Bye.").user("Bye.")
    templates = load_templates() if profile == "paper" else None
    found = []
    for transition in builder.build().transitions(history=10):
        prompt = render_prompt(transition, profile=profile)
        assert prompt is not None
        state = last_state(prompt, kind=transition.kind, templates=templates, masked=masked)
        expected = seen_last(transition, masked=masked)
        assert state == (
            " ".join(expected.split()) if "\n\n" in expected and not templates else expected
        )
        found.append(state)
    schema = '{"type":"object","properties":{"n":{"type":"integer"}}}'
    assert found[1] == ("\n---\n".join([schema if masked else '{"n": 1}', "none"]))


def test_an_environments_current_state_is_its_observation() -> None:
    builder = TrajectoryBuilder().environment("A room.\n\n# Potential action\nto be seen")
    builder.says("look").environment("You see a lamp.").says("take lamp").environment("Taken.")
    templates = load_templates()
    states = [
        last_state(render_prompt(t) or [], kind=t.kind, templates=templates, masked=True)
        for t in builder.build().transitions(history=10)
    ]
    assert states == ["A room.\n\n# Potential action\nto be seen", "You see a lamp."]


def test_a_prompt_without_a_state_has_none(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(
        'user = "Act: $action\\n\\n$task"\nrwml = "Think, then say."\nsft = "Say."'
    )
    templates = load_templates(tmp_path)
    (first, *_) = transitions()
    own = render_prompt(first, templates=templates)
    assert own is not None
    assert last_state(own, kind="tool", templates=templates, masked=True) is None
    bare = render_prompt(first.model_copy(update={"context": ()}), profile="compact")
    assert bare is not None
    assert last_state(bare, kind="tool", templates=None, masked=True) is None
