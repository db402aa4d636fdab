"""World evaluation: figures by hand, trivial predictors, seeds, rows that no run has seen."""

import json
from pathlib import Path
from typing import Any

import pytest

from rwml.cli.output import progress
from rwml.errors import DatasetError, ModelError, RewardError
from rwml.files import write_json
from rwml.testing import BagOfWordsEncoder
from rwml_trainer.cards import read_results
from rwml_trainer.commands.eval_world import _default, _shown
from rwml_trainer.dataset import Row, read_dataset
from rwml_trainer.recipes import Recipe
from rwml_trainer.rewards import NextStateReward
from rwml_trainer.runs import Run, write_run
from rwml_trainer.testing import make_tiny_run
from rwml_trainer.trivial_predictors import ConstantPredictor, CopyPredictor
from rwml_trainer.world_eval import Scored, compare, pick_rows, score, summarise
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


def judged(name: str, rows: list[Row], *by_seed: list[str]) -> Scored:
    """Scored completions: a list for each seed."""
    return score(name, rows, [list(texts) for texts in zip(*by_seed, strict=True)], reward())


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
    constant = judged("constant", HELD_OUT, ConstantPredictor(TRAIN).predict(HELD_OUT))
    assert constant.rewards == [1.0, 0.0, 1.0, 0.0]
    model = judged("trained", HELD_OUT, [tagged("a b"), tagged("c d"), "no tags", tagged("x z")])
    assert model.rewards == [1.0, 1.0, 0.0, 0.6]
    summary = summarise(model, [constant], seed=0)
    assert summary["reward"] == pytest.approx(0.65)
    assert (summary["reward_by_seed"], summary["reward_deviation"]) == ([summary["reward"]], None)
    assert summary["skill"] == pytest.approx((0.65 - 0.5) / 0.5)
    assert summary["format_rate"] == 0.75
    assert summary["exact"] == 0.5
    assert summary["by_kind"]["user"]["skill"] is None  # type: ignore[index,call-overload]
    assert summary["by_kind"]["tool"]["rows"] == 3  # type: ignore[index,call-overload]
    assert set(summary["by_tool"]) == {"get", "new"}  # type: ignore[arg-type]
    quantiles: Any = summary["gap_quantiles"]
    assert quantiles["p50"] == pytest.approx(0.0, abs=1e-6)
    assert quantiles["p90"] == pytest.approx(0.4, abs=1e-6)


def test_skill_is_over_the_best_trivial_predictor_and_says_which() -> None:
    rows = [*HELD_OUT[:2], row(8, "what now", "user", None), row(9, "what now", "user", None)]
    constant = judged("constant", rows, [tagged("a b"), tagged("a b"), tagged("q"), tagged("q")])
    copied = judged("copy_last", rows, ["", "", tagged("what now"), tagged("what now")])
    model = judged("base", rows, [tagged("a b")] * 4)
    summary: Any = summarise(model, [constant, copied], seed=0)
    assert summary["floor"] == {"predictor": "copy_last", "reward": 0.5}
    assert summary["skill"] == pytest.approx((0.25 - 0.5) / 0.5)
    assert summary["by_kind"]["tool"]["floor"] == {"predictor": "constant", "reward": 0.5}
    assert summary["by_kind"]["tool"]["skill"] == 0.0
    assert summary["by_kind"]["user"]["floor"] == {"predictor": "copy_last", "reward": 1.0}
    assert summary["by_kind"]["user"]["skill"] is None


def test_seeds_are_averaged_within_a_row_and_tasks_stay_the_units() -> None:
    rows = [row(number, "a b", "user", None) for number in range(10)]
    right, wrong = tagged("a b"), tagged("x y")
    first = [right] * 10
    second = [right] * 5 + [wrong] * 5
    model = judged("trained", rows, first, second)
    assert model.rewards == [1.0] * 5 + [0.5] * 5
    assert model.rewards_by_seed == [1.0, 0.5]
    start = judged("base", rows, [wrong] * 10)
    summary: Any = summarise(model, [start], seed=0)
    assert (summary["rows"], summary["reward"]) == (10, 0.75)
    assert summary["reward_deviation"] == pytest.approx(0.125**0.5)
    assert summary["format_rate"] == 1.0
    once, twice = (
        compare(judged("trained", rows, first), start, seed=0),
        compare(judged("trained", rows, first, first), start, seed=0),
    )
    assert once == twice, "a second seed of the same answers makes nothing more certain"
    by_kind: Any = compare(model, start, seed=0)["by_kind"]
    assert by_kind == {
        "user": {"difference": 0.75, "ci95": by_kind["user"]["ci95"], "verdict": "improved"}
    }


def test_copies_are_masked_as_next_states_are(shop_dataset: Path) -> None:
    data = read_dataset(shop_dataset)
    rows = [row for row in data.validation if row["id"].endswith(("/1/0", "/3/0"))]
    answers = CopyPredictor(data.manifest).predict(rows)
    by_step = {row["id"].split("/")[1]: answer for row, answer in zip(rows, answers, strict=True)}
    assert '<next_state>{"type":"object","properties":{"order_id"' in by_step["1"]
    assert all(answer.startswith("<think>") for answer in answers)


def test_the_difference_is_paired_and_named() -> None:
    good = judged("trained", HELD_OUT, [tagged(r["next_state"]) for r in HELD_OUT])
    bad = judged("warm_start", HELD_OUT, ["nothing"] * 4)
    result = compare(good, bad, seed=0)
    assert result["compared"] == ["trained", "warm_start"]
    assert (result["difference"], result["ci95"]) == (1.0, [1.0, 1.0])
    assert result["verdict"] == "no difference shown", "four tasks show nothing"
    many = [row(number, "a b") for number in range(10)]
    good = judged("trained", many, [tagged("a b")] * 10)
    bad = judged("warm_start", many, ["nothing"] * 10)
    assert compare(good, bad, seed=0)["verdict"] == "improved"
    assert compare(bad, good, seed=0)["verdict"] == "worse"
    assert compare(good, good, seed=0)["verdict"] == "no difference shown"


def test_a_row_that_cannot_be_scored_is_an_error_not_a_zero() -> None:
    with pytest.raises(RewardError, match="t9/0/0 cannot be scored"):
        judged("trained", [row(8, "a"), row(9, "  ")], [tagged("a")] * 2)


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
    assert report["split"] == "validation"
    assert report["run"] is None
    assert "validation" not in report
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
    assert _default(run) == ["base", "trained"]


def test_unseen_tasks_are_reported_beside_validation_rows(
    shop_store: str, tiny_recipe: Recipe, tiny_model: Path, tmp_path: Path
) -> None:
    from rwml import open_store
    from rwml_trainer.dataset import build_dataset
    from rwml_trainer.models import load_tokenizer

    changed = {"split_by": "row", "held_out_share": 0.25, "validation_share": 0.25}
    recipe = tiny_recipe.model_copy(
        update={
            "data": tiny_recipe.data.model_copy(update=changed),
            "evaluation": tiny_recipe.evaluation.model_copy(update={"rows": 3, "seeds": 2}),
        }
    )
    with open_store(shop_store) as store:
        tokenizer = load_tokenizer(recipe.model)
        build_dataset(store, tmp_path / "data", recipe=recipe, tokenizer=tokenizer)
    data = read_dataset(tmp_path / "data")
    run = make_tiny_run(tmp_path / "run", tiny_model)

    def report_of(name: str) -> Any:
        return evaluate(
            data.folder,
            ["base", "warm_start", "trained"],
            recipe=recipe,
            run=run,
            predictions=tmp_path / name,
            page=tmp_path / name / "page.html",
            progress=progress,
        )

    left_out = report_of("left_out")
    assert left_out["split"] == "held_out"
    assert "validation" not in left_out, "by row, another dataset's run may have seen them"
    (run / "started.json").write_text(json.dumps({"dataset": data.manifest.sha256}))
    report = report_of("out")
    assert report["validation"]["rows"] == report["rows"] == 3
    assert report["validation"]["trained"]["reward"] >= 0
    assert [pair["compared"] for pair in report["comparisons"]] == [
        ["trained", "warm_start"],
        ["trained", "base"],
        ["trained", report["best_trivial"]],
    ]
    assert report["difference"] == report["comparisons"][0]["difference"]
    assert set(report["run"]["weights_sha256"]) == {"warm_start", "trained"}
    lines = [json.loads(line) for line in (tmp_path / "out/trained.jsonl").read_text().splitlines()]
    held_out = {row["id"] for row in data.held_out}
    assert [line["seed"] for line in lines] == [0, 1] * 3
    assert {line["id"] for line in lines} <= held_out
    assert len({line["completion"] for line in lines}) > 1, "two seeds, two texts"
    beside = (tmp_path / "out/trained.validation.jsonl").read_text().splitlines()
    assert {json.loads(line)["id"] for line in beside} <= {row["id"] for row in data.validation}
    shown = _shown(report)
    assert f"3 held-out rows of {report['tasks']} tasks" in shown
    assert "trained minus warm_start: " in shown
    write_json(tmp_path / "report.json", report)
    assert set(read_results(tmp_path / "report.json").predictors()) == {
        "constant",
        "copy_last",
        "base",
        "warm_start",
        "trained",
    }
    again = (tmp_path / "left_out/trained.jsonl").read_text()
    assert again == (tmp_path / "out/trained.jsonl").read_text(), "what a seed gives is fixed"
    assert "Most changed from warm_start to trained" in (tmp_path / "out/page.html").read_text()
