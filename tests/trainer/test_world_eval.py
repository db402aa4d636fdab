"""World evaluation: figures by hand, a constant predictor that cannot see held-out rows."""

from pathlib import Path
from typing import Any

import pytest

from rwml.cli.output import progress
from rwml.errors import DatasetError, ModelError, RewardError
from rwml.testing import BagOfWordsEncoder
from rwml_trainer.commands.eval_world import _default
from rwml_trainer.dataset import Row, read_dataset
from rwml_trainer.recipes import Recipe
from rwml_trainer.rewards import NextStateReward
from rwml_trainer.runs import Run, write_run
from rwml_trainer.testing import make_tiny_run
from rwml_trainer.world_eval import (
    ConstantPredictor,
    compare,
    pick_rows,
    score,
    summarise,
)
from rwml_trainer.world_predictors import evaluate


def row(number: int, state: str, kind: Any = "tool", tool: str | None = "get") -> Row:
    return Row(
        prompt=[{"role": "user", "content": "?"}],
        next_state=state,
        kind=kind,
        id=f"t{number}/0/0",
        source="shop",
        task_id=str(number),
        tool=tool,
    )


def tagged(text: str) -> str:
    return f"<next_state>{text}</next_state>"


TRAIN = [row(0, "a b"), row(1, "a b"), row(2, "c d"), row(3, "yes", "user", None)]
HELD_OUT = [row(4, "a b"), row(5, "c d"), row(6, "yes", "user", None), row(7, "x y", tool="new")]


def reward() -> NextStateReward:
    return NextStateReward(encoder=BagOfWordsEncoder(), tau_d=0.4)


def test_the_constant_predictor_is_the_most_common_state_per_tool() -> None:
    answers = ConstantPredictor(TRAIN).predict(HELD_OUT)
    assert [answer.split("<next_state>")[1] for answer in answers] == [
        "a b</next_state>",
        "a b</next_state>",
        "yes</next_state>",
        "a b</next_state>",
    ]
    assert ConstantPredictor([TRAIN[3]]).predict([HELD_OUT[0]]) == [""]


def test_figures_by_hand() -> None:
    constant = score("constant", HELD_OUT, ConstantPredictor(TRAIN).predict(HELD_OUT), reward())
    assert constant.rewards == [1.0, 0.0, 1.0, 0.0]
    model = score(
        "trained", HELD_OUT, [tagged("a b"), tagged("c d"), "no tags", tagged("x z")], reward()
    )
    assert model.rewards == [1.0, 1.0, 0.0, 0.6]
    summary = summarise(model, constant, seed=0)
    assert summary["reward"] == pytest.approx(0.65)
    assert summary["skill"] == pytest.approx((0.65 - 0.5) / 0.5)
    assert summary["format_rate"] == 0.75
    assert summary["exact"] == 0.5
    assert summary["by_kind"]["user"]["skill"] is None  # type: ignore[index,call-overload]
    assert summary["by_kind"]["tool"]["rows"] == 3  # type: ignore[index,call-overload]
    assert set(summary["by_tool"]) == {"get", "new"}  # type: ignore[arg-type]
    quantiles: Any = summary["gap_quantiles"]
    assert quantiles["p50"] == pytest.approx(0.0, abs=1e-6)
    assert quantiles["p90"] == pytest.approx(0.4, abs=1e-6)


def test_the_difference_is_paired_and_named() -> None:
    good = score("trained", HELD_OUT, [tagged(r["next_state"]) for r in HELD_OUT], reward())
    bad = score("warm_start", HELD_OUT, ["nothing"] * 4, reward())
    result = compare(good, bad, seed=0)
    assert result["compared"] == ["trained", "warm_start"]
    assert (result["difference"], result["ci95"]) == (1.0, [1.0, 1.0])
    assert result["verdict"] == "no difference shown", "four tasks show nothing"
    many = [row(number, "a b") for number in range(10)]
    good = score("trained", many, [tagged("a b")] * 10, reward())
    bad = score("warm_start", many, ["nothing"] * 10, reward())
    assert compare(good, bad, seed=0)["verdict"] == "improved"
    assert compare(bad, good, seed=0)["verdict"] == "worse"
    assert compare(good, good, seed=0)["verdict"] == "no difference shown"


def test_a_row_that_cannot_be_scored_is_an_error_not_a_zero() -> None:
    with pytest.raises(RewardError, match="t9/0/0 cannot be scored"):
        score("trained", [row(8, "a"), row(9, "  ")], [tagged("a")] * 2, reward())


def test_the_same_rows_are_picked_every_time() -> None:
    rows = [row(number, "a") for number in range(50)]
    chosen = pick_rows(rows, 10)
    assert chosen == pick_rows(rows[::-1], 10)
    assert len(chosen) == 10
    assert pick_rows(rows[:5], 10) == rows[:5]


def test_the_base_model_is_evaluated_on_held_out_rows(
    shop_dataset: Path, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    report: Any = evaluate(
        shop_dataset,
        ["base"],
        recipe=tiny_recipe,
        run=None,
        predictions=tmp_path,
        progress=progress,
    )
    held_out = {row["id"] for row in read_dataset(shop_dataset).validation}
    assert report["rows"] == min(6, len(held_out))
    assert report["base"]["format_rate"] == 0.0
    assert report["constant"]["reward"] > report["base"]["reward"]
    lines = (tmp_path / "base.jsonl").read_text().splitlines()
    assert len(lines) == report["rows"]
    assert "difference" not in report


def test_a_run_of_another_model_is_refused(
    shop_dataset: Path, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    run = Run(
        name="other",
        base_model="/elsewhere",
        steps=1,
        rewards=(0.0,),
        warm_start=True,
        template_sha256="",
        dataset="",
        seconds=0.0,
        validation_share=0.25,
    )
    write_run(tmp_path, run)
    with pytest.raises(ModelError, match="was trained from /elsewhere"):
        evaluate(
            shop_dataset,
            ["trained"],
            recipe=tiny_recipe,
            run=tmp_path,
            predictions=None,
            progress=progress,
        )


def test_what_a_run_may_have_seen_is_not_held_out(
    shop_dataset: Path, tiny_recipe: Recipe, tiny_model: Path, tmp_path: Path
) -> None:
    run = make_tiny_run(tmp_path / "run", tiny_model)
    manifest = tmp_path / "run" / "run.json"
    text = manifest.read_text()
    assert '"validation_share": 0.25' in text
    manifest.write_text(text.replace('"validation_share": 0.25', '"validation_share": 0.1'))
    with pytest.raises(DatasetError, match="holds out more tasks"):
        evaluate(
            shop_dataset,
            ["trained"],
            recipe=tiny_recipe,
            run=run,
            predictions=None,
            progress=progress,
        )


def test_a_missing_stage_is_told_before_anything_is_generated(
    shop_dataset: Path, tiny_recipe: Recipe, tiny_model: Path, tmp_path: Path
) -> None:
    run = make_tiny_run(tmp_path / "run", tiny_model)
    manifest = tmp_path / "run" / "run.json"
    manifest.write_text(manifest.read_text().replace('"warm_start": true', '"warm_start": false'))
    with pytest.raises(ModelError, match="trained without a warm start"):
        evaluate(
            shop_dataset,
            ["base", "warm_start"],
            recipe=tiny_recipe,
            run=run,
            predictions=tmp_path / "out",
            progress=progress,
        )
    assert not (tmp_path / "out").exists()
    assert _default(run) == ["constant", "base", "trained"]
