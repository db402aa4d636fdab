"""What a dataset says of its rows: sides, clean-up, masking, tokens, and how predictable it is."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwml import Trajectory, open_store
from rwml.errors import DatasetError
from rwml.prompts.tokens import TokenCounter
from rwml.schema import Message, Step, ToolCall
from rwml.testing import BagOfWordsEncoder, TrajectoryBuilder, make_trajectory
from rwml_trainer.dataset import Report, build_dataset, plan_split, read_dataset, sft_row
from rwml_trainer.dataset.rows import group_key, is_invalid_action
from rwml_trainer.dataset.splitting import hash_share
from rwml_trainer.models import load_tokenizer
from rwml_trainer.recipes import Recipe


def changed(recipe: Recipe, **data: Any) -> Recipe:
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=data)})


def build(folder: Path, recipe: Recipe, *trajectories: Trajectory, report: Report | None = None):
    with open_store(f"sqlite:///{folder / 'rwml.db'}") as store:
        for trajectory in trajectories:
            store.add(trajectory)
        tokenizer = load_tokenizer(recipe.model)
        build_dataset(store, folder / "data", recipe=recipe, tokenizer=tokenizer, report=report)
    return read_dataset(folder / "data")


def test_by_row_a_task_is_on_both_sides_but_never_in_the_band(
    tiny_recipe: Recipe, tmp_path: Path
) -> None:
    recipe = changed(tiny_recipe, split_by="row", held_out_share=0.2, validation_share=0.3)
    data = build(tmp_path, recipe, *(make_trajectory(task) for task in range(20)))
    tasks = {
        name: {row["task_id"] for row in rows}
        for name, rows in (
            ("train", data.train),
            ("validation", data.validation),
            ("held_out", data.held_out),
        )
    }
    assert tasks["train"] & tasks["validation"]
    assert tasks["held_out"]
    assert not tasks["held_out"] & (tasks["train"] | tasks["validation"])
    expected = {str(task) for task in range(20) if hash_share(f"shop/{task}") < 0.2}
    assert tasks["held_out"] == expected
    assert data.evaluated is data.held_out
    assert data.manifest.evaluated_share == 0.2
    assert data.manifest.held_out == "rows"


def test_rows_that_tasks_share_with_training_are_no_evaluation(
    tiny_recipe: Recipe, tmp_path: Path
) -> None:
    recipe = changed(tiny_recipe, split_by="row", held_out_share=0.0, validation_share=0.3)
    data = build(tmp_path, recipe, *(make_trajectory(task) for task in range(8)))
    assert data.evaluated is data.validation
    assert data.manifest.evaluated_share == 1.0


@given(st.sets(st.integers(), max_size=60), st.floats(0, 0.5), st.floats(0.01, 0.49))
def test_bands_follow_each_other(numbers: set[int], held: float, validation: float) -> None:
    names = {f"task {number}" for number in numbers}
    try:
        plan = plan_split(names, validation_share=validation, held_out_share=held)
    except DatasetError:
        return
    by_row = plan_split(names, validation_share=validation, held_out_share=held, by="row")
    for name in names:
        is_held = hash_share(name) < held
        assert (plan.sides[name] == "held_out") == is_held
        for row in range(3):
            assert (by_row.side(name, f"{name}/{row}") == "held_out") == is_held
        if hash_share(name) < held + validation:
            assert plan.sides[name] != "train"
    assert by_row.side("never seen", "x") is None


def acting(action: Message, metadata: dict[str, Any] | None = None) -> Any:
    step = Step(
        index=0,
        action=action,
        observation=(Message(role="user", content="Nothing happens."),),
        kind="environment",
        status="ok",
        metadata=metadata or {},
    )
    return next(Trajectory(source="test", steps=(step,)).transitions())


def test_what_nobody_could_read_is_an_invalid_action() -> None:
    def call(text: str) -> ToolCall:
        return ToolCall.from_openai({"id": "a", "function": {"name": "get", "arguments": text}})

    says = Message(role="assistant", content="open door")
    assert not is_invalid_action(acting(says))
    assert not is_invalid_action(acting(says, {"invalid": "command"}))
    assert is_invalid_action(acting(says, {"invalid": "format"}))
    assert is_invalid_action(acting(Message(role="assistant", content=" ")))
    assert not is_invalid_action(acting(Message(role="assistant", tool_calls=(call('{"a": 1}'),))))
    assert is_invalid_action(acting(Message(role="assistant", tool_calls=(call('{"a": '),))))


def test_invalid_actions_and_cut_results_are_counted(tiny_recipe: Recipe, tmp_path: Path) -> None:
    made = []
    for task in range(12):
        builder = TrajectoryBuilder(f"t{task}", task_id=str(task)).user("Look.")
        builder.calls(("get", {})).returns('{"a": 1}').calls(("get", {})).returns('{"a": [1, 2')
        builder.calls(("get", {})).returns("Error: none").says("").user("What?")
        made.append(builder.build())
    data = build(tmp_path, tiny_recipe, *made)
    assert data.manifest.dropped["invalid_action"] == 12
    assert data.manifest.masking == {"schema": 12, "truncated": 12, "text": 12}
    kept = changed(tiny_recipe, drop_invalid_actions=False)
    assert build(tmp_path, kept).manifest.dropped["invalid_action"] == 0


def test_wm_sft_rows_ask_for_no_reasoning(tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = changed(tiny_recipe, profile="paper", max_prompt_tokens=4_000)
    data = build(tmp_path, recipe, *(make_trajectory(task) for task in range(12)))
    row = data.train[0]
    asked = sft_row(row, data.manifest.templates)
    assert "<think>" in row["prompt"][-1]["content"]
    assert "<think>" not in asked["prompt"][-1]["content"]
    assert asked["next_state"] == row["next_state"]


def test_templates_of_ones_own_are_used_and_kept(tiny_recipe: Recipe, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "agent.toml").write_text("user='$action? $task'\nrwml='Guess.'\nsft='Say.'")
    recipe = changed(tiny_recipe, profile="paper", templates=str(mine))
    data = build(tmp_path, recipe, *(make_trajectory(task) for task in range(12)))
    assert data.train[0]["prompt"][-1]["content"].endswith("? Guess.")
    assert data.manifest.templates is not None
    assert data.manifest.templates.agent.sft == "Say."


def test_token_counts_are_those_of_the_template(tiny_recipe: Recipe, tmp_path: Path) -> None:
    data = build(tmp_path, tiny_recipe, *(make_trajectory(task) for task in range(12)))
    tokenizer = load_tokenizer(tiny_recipe.model)
    rows = data.train + data.validation
    lengths = [
        len(tokenizer.apply_chat_template(r["prompt"], add_generation_prompt=True)["input_ids"])  # type: ignore[call-overload,index]
        for r in rows
    ]
    assert data.manifest.tokens["prompt"].max == max(lengths)
    assert data.manifest.tokens["prompt"].mean == pytest.approx(
        sum(lengths) / len(lengths), abs=0.1
    )


line = st.text(st.sampled_from("ab Z0.'\"{}é订\t\r\n"), max_size=30)


@given(st.lists(line, max_size=8))
def test_counts_by_lines_are_close_and_decide_exactly(tiny_model: Path, lines: list[str]) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    counter = TokenCounter(tokenizer)
    text = "\n".join(lines)
    exact = len(tokenizer.encode(text, add_special_tokens=False))
    assert counter.count(text) == exact
    assert counter.within(text, exact) == exact
    assert counter.within(text, exact - 1) is None


def test_an_older_dataset_is_to_be_built_again(shop_dataset: Path, tmp_path: Path) -> None:
    values = json.loads((shop_dataset / "manifest.json").read_text())
    for version, age in ((1, "an older rwml"), (99, "a newer rwml")):
        (tmp_path / "manifest.json").write_text(json.dumps(values | {"version": version}))
        with pytest.raises(DatasetError, match=f"{age}: build it again"):
            read_dataset(tmp_path)


def test_the_report_tells_how_predictable_a_tool_is(tiny_recipe: Recipe, tmp_path: Path) -> None:
    made = []
    for task in range(16):
        builder = TrajectoryBuilder(f"t{task}", task_id=str(task)).user("Look.")
        builder.calls(("same", {})).returns("closed")  # always the same
        builder.calls(("echo", {})).returns("closed")  # copies the last message
        builder.calls(("coin", {})).returns("heads" if task % 2 else "tails")
        builder.says("So?").user(f"word{task}")
        made.append(builder.build())
    report = Report(mask_tools=True)
    data = build(tmp_path, tiny_recipe, *made, report=report)
    figures: Any = report.figures(BagOfWordsEncoder())
    same, echo, coin = (figures["by_tool"][name] for name in ("same", "echo", "coin"))
    user = figures["by_kind"]["user"]
    assert same["entropy_bits"] == 0.0
    assert same["repeated"] == 1.0
    assert same["duplicates"] == 15
    assert same["most_frequent"] == {"rows": 16, "exact": 1.0, "gap": pytest.approx(0, abs=1e-6)}
    assert same["copy_last"]["exact"] == 0.0
    assert echo["copy_last"]["exact"] == 1.0
    assert coin["entropy_bits"] == pytest.approx(1.0)
    assert coin["most_frequent"]["exact"] == 0.5
    assert (user["repeated"], user["distinct"], user["entropy_bits"]) == (0.0, 16, 4.0)
    assert figures["by_kind"]["tool"]["rows"] == 48
    assert figures["by_kind"]["tool"]["kept"] == 1.0
    assert user["train"] == sum(row["kind"] == "user" for row in data.train)
    assert report.figures(None)["by_tool"]["same"]["copy_last"]["gap"] is None  # type: ignore[index,call-overload]


def test_groups_are_named_after_tasks() -> None:
    transition = next(make_trajectory(3).transitions())
    assert group_key(transition) == "shop/3"
