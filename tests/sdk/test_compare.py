"""`rwml compare` and its chart: pairs, bases, verdicts."""

import copy
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from tests.sdk.conftest import Command

from rwml.environments.charts import draw_report
from rwml.environments.comparing import compare, describe
from rwml.environments.reports import make_report
from rwml.environments.results import Result
from rwml.errors import UsageError
from rwml.plotting import Bar, draw_bars, figure

SETTINGS: dict[str, Any] = {
    "source": "shop",
    "split": "test",
    "agent": "base",
    "fingerprint": {
        "package": "shop", "version": "1", "data_version": "d", "agent": "base",
        "user_simulator": None,
    },
    "seed": 0,
    "max_steps": 30,
    "trials": 2,
    "task_ids": [],
}  # fmt: skip


def result(task: int, trial: int, success: bool | None, *, kind: str | None = None) -> Result:
    status = "completed" if success is not None else "infrastructure_error"
    return Result(
        id=f"{task}-{trial}", task=str(task), kind=kind, trial=trial, status=status,
        success=success, reward=None, steps=1, transitions=1, errors=0,
    )  # fmt: skip


def report(agent: str, wins: dict[int, list[bool | None]], **settings: Any) -> dict[str, Any]:
    kinds = ("cheap", "dear")
    rows = [
        result(task, trial, won, kind=kinds[task % 2])
        for task, trials in wins.items()
        for trial, won in enumerate(trials)
    ]
    made: Any = make_report({**SETTINGS, "agent": agent, **settings}, rows, details={})
    return made


BASE = report("base", {n: [n % 4 == 0, False] for n in range(20)})
TRAINED = report("new", {n: [n % 4 != 1, True] for n in range(20)})


def test_an_improvement_outside_noise_is_called_one() -> None:
    found: Any = compare(BASE, TRAINED)
    assert (found["base"], found["trained"]) == (5 / 40, 35 / 40)
    assert found["difference"] == pytest.approx(30 / 40)
    assert (found["tasks"], found["pairs"], found["unpaired"]) == (20, 40, 0)
    assert found["ci95"][0] > 0
    assert found["verdict"] == "improved"
    assert compare(TRAINED, BASE)["verdict"] == "worse"
    assert compare(BASE, BASE)["verdict"] == "no difference shown"
    assert found["compared"] == ["new", "base"]
    assert (found["across_bases"], found["bases_differ_in"]) == (False, {})
    assert set(found["by_kind"]) == {"cheap", "dear"}
    assert sum(kind["pairs"] for kind in found["by_kind"].values()) == 40
    assert "new minus base: +0.750" in describe(found)


def test_too_few_tasks_show_nothing() -> None:
    few: Any = compare(
        report("a", {n: [False] for n in range(7)}), report("b", {n: [True] for n in range(7)})
    )
    assert few["difference"] == 1
    assert few["verdict"] == "no difference shown"
    assert "fewer than 8 tasks" in describe(few)


def test_only_what_both_judged_is_paired() -> None:
    base = report("a", {0: [True, None], 1: [False, False], 2: [True, True]})
    trained = report("b", {0: [False, True], 1: [True, None], 3: [True, True]})
    found: Any = compare(base, trained)
    assert found["pairs"] == 2  # task 0 trial 0, task 1 trial 0
    assert found["difference"] == 0
    assert found["unpaired"] == 6
    assert "6 episodes have no counterpart" in describe(found)
    with pytest.raises(UsageError, match="no task and trial in common"):
        compare(base, report("b", {7: [True]}))


@pytest.mark.parametrize(
    "change",
    [
        {"source": "mall"},
        {"split": "train"},
        {"max_steps": 100},
        *({"fingerprint": {**SETTINGS["fingerprint"], name: "other"}}
          for name in ("package", "version", "data_version", "user_simulator")),
    ],
)  # fmt: skip
def test_other_bases_are_refused_unless_asked_for(change: dict[str, Any]) -> None:
    other = report("new", {n: [True] for n in range(20)}, **change)
    with pytest.raises(UsageError, match=r"different bases.*--across-bases") as refused:
        compare(BASE, other)
    assert "\n" not in str(refused.value)
    found: Any = compare(BASE, other, across_bases=True)
    assert found["across_bases"] is True
    (name,) = found["bases_differ_in"]
    assert name in str(refused.value)
    assert f"WARNING: different bases, so this is no comparison of agents alone: {name}" in (
        describe(found)
    )


def test_what_may_differ_is_no_base() -> None:
    fingerprint = {**SETTINGS["fingerprint"], "agent": "new"}
    other = report("new", {0: [True]}, fingerprint=fingerprint, seed=9, trials=1)
    assert compare(BASE, other)["bases_differ_in"] == {}


def write(folder: Path, content: object) -> Path:
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(content))
    return folder


def test_the_command(rwml: Command, tmp_path: Path) -> None:
    base, trained = write(tmp_path / "a", BASE), write(tmp_path / "b", TRAINED)
    code, out, err = rwml("compare", base, trained / "report.json", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert {"base", "trained", "difference", "ci95", "verdict"} <= set(found)
    code, out, _ = rwml("compare", base, trained, "--out", tmp_path / "c")
    assert code == 0
    assert "over 20 tasks: improved" in out
    assert json.loads((tmp_path / "c" / "comparison.json").read_text()) == found
    assert is_drawn(tmp_path / "c" / "comparison.png")


def test_the_command_refuses_other_bases(rwml: Command, tmp_path: Path) -> None:
    base = write(tmp_path / "a", BASE)
    other = write(tmp_path / "b", report("new", {0: [True]}, split="train"))
    code, out, err = rwml("compare", base, other)
    assert (code, out) == (2, "")
    assert 'different bases: split "test" against "train"' in err
    assert err.count("\n") == 1
    code, out, _ = rwml("compare", base, other, "--across-bases", "--json", "--out", tmp_path / "c")
    assert code == 0
    assert json.loads(out)["bases_differ_in"] == {"split": ["test", "train"]}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"episodes": [{}]}', '{"episodes": 3}', "{"])
def test_what_is_no_report_is_refused(rwml: Command, tmp_path: Path, content: str) -> None:
    file = tmp_path / "report.json"
    file.write_text(content)
    code, out, err = rwml("compare", file, file)
    assert (code, out) == (2, "")
    assert "is no report of an environment" in err
    code, _, err = rwml("compare", tmp_path / "none", file)
    assert code == 2
    assert "name the folder or report.json of 'rwml eval'" in err


def test_a_missing_chart_package_is_named_before_anything_is_written(
    rwml: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = write(tmp_path / "a", BASE)
    monkeypatch.setattr("rwml.extras.find_spec", lambda name: None)
    code, _, err = rwml("compare", base, base, "--out", tmp_path / "c")
    assert code == 2
    assert "install 'rwml[plot]'" in err
    assert not (tmp_path / "c").exists()


def is_drawn(file: Path) -> bool:
    """Whether a file is a PNG of a sensible size with more than one colour."""
    from matplotlib.image import imread

    width, height = struct.unpack(">II", file.read_bytes()[16:24])
    return width > 300 and height > 300 and float(imread(file).std()) > 0.05


def test_a_chart_of_what_nobody_judged_is_empty_but_there(tmp_path: Path) -> None:
    draw_report(report("a", {0: [None], 1: [None]}), tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_bars_show_values_and_intervals(tmp_path: Path) -> None:
    import matplotlib as mpl

    backend = mpl.get_backend()
    with figure(tmp_path / "bars.png", width=4, height=3) as drawn:
        axes = drawn.subplots()
        draw_bars(
            axes, ["all", "a"], {"x": [Bar(0.5, 0.4, 0.7), Bar(None)], "y": [Bar(1.0), Bar(0.2)]}
        )
        heights = [patch.get_height() for patch in axes.patches]  # type: ignore[attr-defined]
        texts = [text.get_text() for text in axes.texts]
        legend = axes.get_legend()
        assert legend is not None
        names = [text.get_text() for text in legend.get_texts()]
    assert heights == [0.5, 1.0, 0.2]
    assert texts == ["0.50", "1.00", "0.20"]
    assert names == ["x", "y"]
    assert mpl.get_backend() == backend


def test_a_figure_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), figure(tmp_path / "x.png", width=4, height=3):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_report_is_not_changed_by_comparing() -> None:
    before = copy.deepcopy(BASE)
    compare(BASE, TRAINED)
    assert before == BASE
