"""Runs of several seeds as one result: means within rows, intervals over tasks."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rwml.cli.app import build_app
from rwml.errors import DatasetError, ModelError, UsageError
from rwml_trainer.runs import Run, write_run
from rwml_trainer.seeds import pool, smoothed

TASKS = 10
ROWS = [f"trajectory-{number}/0/0" for number in range(2 * TASKS)]
CONSTANT = [0.1] * len(ROWS)


def make_run(
    folder: Path,
    seed: int,
    rewards: Mapping[str, Sequence[float]],
    *,
    state: str = "done",
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """A finished run with the predictions that ``rwml eval world`` writes."""
    (folder / "eval").mkdir(parents=True)
    write_run(
        folder,
        Run(
            name=folder.name,
            base_model="tiny",
            steps=3,
            rewards=(0.1, None, 0.3),
            warm_start=True,
            template_sha256="0" * 64,
            dataset="data",
            validation_share=0.1,
            seconds=1.0,
            recipe={"seed": seed},
        ),
    )
    for name, values in rewards.items():
        lines = [
            {"id": row, "task": f"shop/{place % TASKS}", "next_state": state, "reward": value}
            for place, (row, value) in enumerate(zip(ROWS, values, strict=True))
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "eval" / f"{name}.jsonl").write_text(text)
    report = {"settings": settings or {}, **{name: {} for name in rewards}}
    (folder / "eval" / "report.json").write_text(json.dumps(report))
    return folder


def rewards(warm: float, trained: float) -> dict[str, Sequence[float]]:
    varied = [trained + 0.01 * (place % 3) for place in range(len(ROWS))]
    return {
        "constant": CONSTANT,
        "copy_last": [0.0] * len(ROWS),
        "base": [0.0] * len(ROWS),
        "warm_start": [warm] * len(ROWS),
        "trained": varied,
    }


def comparison(report: Any, name: str) -> Any:
    return next(pair for pair in report["comparisons"] if pair["compared"][1] == name)


def test_seeds_are_averaged_within_rows_and_told_one_by_one(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a", 0, rewards(0.2, 0.5)),
        make_run(tmp_path / "b", 1, rewards(0.3, 0.3)),
    ]
    report: Any = pool(runs)
    extra = sum(0.01 * (place % 3) for place in range(len(ROWS))) / len(ROWS)
    trained = report["predictors"]["trained"]
    assert trained["reward"] == pytest.approx(0.4 + extra)
    assert trained["by_seed"] == pytest.approx([0.5 + extra, 0.3 + extra])
    assert trained["deviation"] == pytest.approx(0.2 / 2**0.5)
    pair = comparison(report, "warm_start")
    assert pair["difference"] == pytest.approx(0.15 + extra)
    assert pair["by_seed"] == pytest.approx([0.3 + extra, extra])
    assert pair["verdict"] == "improved"
    assert pair["ci95"][0] < pair["difference"] < pair["ci95"][1]
    assert (report["rows"], report["tasks"], report["seeds"]) == (20, 10, [0, 1])
    assert report["best_trivial"] == "constant"
    assert report["curves"][str(runs[0])] == [0.1, None, 0.3]


def test_rows_are_paired_by_their_id_not_by_their_place(tmp_path: Path) -> None:
    one = make_run(tmp_path / "a", 0, rewards(0.2, 0.5))
    two = make_run(tmp_path / "b", 1, rewards(0.2, 0.5))
    turned = two / "eval" / "trained.jsonl"
    turned.write_text("".join(f"{line}\n" for line in reversed(turned.read_text().splitlines())))
    report: Any = pool([one, two])
    by_row = json.loads((one / "eval/trained.jsonl").read_text().splitlines()[0])["reward"]
    assert by_row == 0.5
    alone: Any = pool([one])
    assert report["predictors"]["trained"]["ci95"] == alone["predictors"]["trained"]["ci95"]


def test_another_method_is_compared_as_a_mean(tmp_path: Path) -> None:
    ours = [make_run(tmp_path / f"r{seed}", seed, rewards(0.2, 0.4)) for seed in range(2)]
    other = [make_run(tmp_path / f"s{seed}", seed, rewards(0.0, 0.5)) for seed in range(3)]
    pair = comparison(pool(ours, other), "against")
    assert pair["difference"] == pytest.approx(-0.1)
    assert pair["verdict"] == "worse"
    assert pair["by_seed"] is None, "their seeds are no pairs"


def test_a_seed_counts_once_and_old_figures_do_not(tmp_path: Path) -> None:
    one = make_run(tmp_path / "a", 0, rewards(0.2, 0.5))
    again = make_run(tmp_path / "b", 0, rewards(0.2, 0.5))
    with pytest.raises(UsageError, match=r"have one seed \(0\)"):
        pool([one, again])
    same = CliRunner().invoke(build_app(), ["eval", "seeds", str(one), f"{one}/../a"])
    assert isinstance(same.exception, UsageError)
    stale = one / "eval" / "warm_start.jsonl"
    stale.write_text("".join(f"{line}\n" for line in stale.read_text().splitlines()[:5]))
    with pytest.raises(ModelError, match=r"warm_start of .* was evaluated on other rows"):
        pool([one])


def test_what_cannot_be_pooled_is_refused(tmp_path: Path) -> None:
    one = make_run(tmp_path / "a", 0, rewards(0.2, 0.5))
    with pytest.raises(ModelError, match="no finished run"):
        pool([one, tmp_path / "nothing"])
    bare = make_run(tmp_path / "bare", 0, {})
    with pytest.raises(ModelError, match=r"call 'rwml eval world DATASET --run .*bare --out"):
        pool([one, bare])
    elsewhere = make_run(tmp_path / "b", 1, rewards(0.2, 0.5), state="other")
    with pytest.raises(DatasetError, match="were evaluated on other rows"):
        pool([one, elsewhere])
    strict = make_run(tmp_path / "s", 1, rewards(0.2, 0.5), settings={"reward": {"tau_d": 0.1}})
    with pytest.raises(DatasetError, match="with other settings of reward or sampling"):
        pool([one, strict])
    with_less = rewards(0.2, 0.5)
    del with_less["warm_start"]
    less = make_run(tmp_path / "c", 1, with_less)
    with pytest.raises(ModelError, match="without warm_start"):
        pool([one, less])
    (less / "eval" / "trained.jsonl").write_text('{"id": "x"')
    with pytest.raises(ModelError, match="is not whole"):
        pool([one, less])
    report = one / "eval" / "report.json"
    report.write_text(json.dumps({"settings": {}, "base": {}}))  # a second, smaller evaluation
    with pytest.raises(ModelError, match=r"was evaluated without \w+: evaluate it again"):
        pool([one])
    report.unlink()
    with pytest.raises(ModelError, match="is missing, not whole, or of an older"):
        pool([one])


def test_a_curve_keeps_the_places_of_its_steps() -> None:
    curve = smoothed([None, 0.2, None, 0.4])
    assert math.isnan(curve[0])
    assert curve[1:] == pytest.approx([0.2, 0.2, 0.3])


def test_the_command_draws_and_tells(tmp_path: Path) -> None:
    one = make_run(tmp_path / "a", 0, rewards(0.2, 0.5))
    two = make_run(tmp_path / "b", 1, rewards(0.2, 0.5))
    out = tmp_path / "out"
    arguments = ["eval", "seeds", str(one), "--against", str(two), "--out", str(out)]
    told = CliRunner().invoke(build_app(), arguments)
    assert told.exit_code == 0, told.output
    assert "trained minus warm_start: +0.3" in told.stdout
    assert "WM SFT alone" in told.stdout
    assert (out / "seeds.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "seeds.json").read_text())["rows"] == 20
    twice = CliRunner().invoke(build_app(), ["eval", "seeds", str(one), str(one)])
    assert twice.exit_code != 0
    assert isinstance(twice.exception, UsageError)
