"""Reading predictions, and rendering what a world model is asked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwml.prompts import format_label, parse_prediction, render_next_state, render_prompt
from rwml.schema import Message, Tool, Trajectory, Transition
from rwml.testing import make_trajectory


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
