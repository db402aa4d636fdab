"""`rwml record NAME` and `rwml eval NAME` of a registered environment, as they are called."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.sdk.conftest import Command

from rwml import open_store
from rwml.cli import environments

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The toy is announced, and one that cannot be loaded; the current folder is empty."""
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RWML_STORE", raising=False)
    found = [
        EntryPoint("toy", "toy_environment:toy", environments.ENVIRONMENT_GROUP),
        EntryPoint("gone", "no_such_module:factory", environments.ENVIRONMENT_GROUP),
        EntryPoint("doctor", "toy_environment:toy", environments.ENVIRONMENT_GROUP),
    ]
    monkeypatch.setattr(environments, "entry_points", lambda group: found)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an evaluation of the toy."""
    folder = tmp_path_factory.mktemp("finished") / "ev"
    command = [sys.executable, "-m", "rwml", "eval", "toy_environment:toy", "--out", str(folder)]
    subprocess.run(command, check=True, timeout=60, cwd=HERE, capture_output=True)
    return folder


STORE = ("--store", "sqlite:///rwml.db")


def lines(folder: str) -> list[dict[str, Any]]:
    text = Path(folder, "results.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def report(folder: str) -> dict[str, Any]:
    return json.loads(Path(folder, "report.json").read_text())


def test_record_reports_and_stores(rwml: Command) -> None:
    code, out, err = rwml(
        "record", "toy", *STORE, "--tasks", "3", "--trials", "2", "--rate", "1", "--json"
    )
    found = json.loads(out)
    assert code == 0, err
    assert (found["source"], found["tasks"], found["trajectories"]) == ("toy", 3, 6)
    assert (found["transitions"], found["errors"], found["success_rate"]) == (18, 0, 1.0)
    assert found["statuses"] == {"completed": 6}
    assert found["infrastructure_errors"] == 0
    assert [(e["task"], e["trial"]) for e in found["episodes"]][:4] == [
        ("t0", 0), ("t1", 0), ("t2", 0), ("t0", 1),
    ]  # fmt: skip
    assert found["recorder"]["written"] == 24
    with open_store("sqlite:///rwml.db") as store:
        assert store.counts(source="toy", split="train").transitions == 18


def test_record_resumes_with_what_the_store_lacks(rwml: Command) -> None:
    rwml("record", "toy", *STORE, "--tasks", "4", "--fail", "t1", "--retries", "0")
    code, out, err = rwml("record", "toy", *STORE, "--tasks", "6", "--resume", "--json")
    assert code == 0
    assert "3 of 6 episodes are in the store already" in err
    resumed = json.loads(out)
    assert resumed["trajectories"] == 6
    assert resumed["recorder"]["accepted"] == 3 * 4  # three episodes of three steps
    _, whole, _ = rwml("record", "toy", "--store", "sqlite:///other.db", "--tasks", "6", "--json")
    assert resumed["episodes"] == json.loads(whole)["episodes"]


def test_a_fault_is_said_once_and_when_all_fail_the_code_is_3(rwml: Command) -> None:
    options = ("--tasks", "2", "--fail", "t0", "--fail", "t1", "--retries", "0")
    code, out, err = rwml("record", "toy", *STORE, *options, "--json")
    assert code == 3
    assert json.loads(out)["success_rate"] is None
    assert err.count("infrastructure error, not scored: ConnectionError") == 1
    assert rwml("eval", "toy", *options)[0] == 3


def test_eval_reports_with_uncertainty(rwml: Command) -> None:
    code, out, err = rwml("eval", "toy", "--trials", "3", "--out", "ev", "--json")
    found = json.loads(out)
    assert code == 0, err
    assert found == report("ev")
    assert (found["source"], found["split"], found["agent"]) == ("toy", "train", "coin")
    assert (found["tasks"], found["trials"], found["seed"], found["max_steps"]) == (10, 3, 0, 5)
    low, high = found["ci95"]
    assert 0 < low < found["success_rate"] < high < 1
    assert found["ci95"] == found["success_ci95"]
    assert list(found["pass_hat_k"]) == ["1", "2", "3"]
    assert found["pass_hat_k"]["1"] == pytest.approx(found["success_rate"])
    assert found["pass_hat_k"]["3"] <= found["pass_hat_k"]["2"] <= found["pass_hat_k"]["1"]
    assert set(found["by_kind"]) == {"even", "odd"}
    assert found["over_trials"]["mean"] == pytest.approx(found["success_rate"])
    assert len(found["over_trials"]["rates"]) == 3
    assert found["details"]["tosses"] == 90
    assert found["fingerprint"]["package"] == "toy"
    assert Path("ev/report.png").read_bytes().startswith(b"\x89PNG")
    assert Path("ev/results.jsonl").stat().st_mode & 0o077 == 0
    assert len(lines("ev")) == 30


def test_eval_needs_no_folder_and_never_takes_the_recorders_store(
    rwml: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RWML_STORE", "sqlite:///training.db")
    code, out, _ = rwml("eval", "toy", "--split", "test")
    assert code == 0
    assert out.startswith("10 tasks, trials of each 1:")
    assert "95% interval" in out
    assert list(Path().iterdir()) == []
    rwml("eval", "toy", "--split", "test", *STORE)
    with open_store("sqlite:///rwml.db", create=False) as store:
        assert store.counts(split="test").transitions == 30


def test_several_at_once_give_the_same_report(rwml: Command) -> None:
    rwml("eval", "toy", "--trials", "2", "--out", "one")
    rwml("eval", "toy", "--trials", "2", "--out", "many", "--concurrency", "4")
    assert report("one") == report("many")


@pytest.mark.parametrize("keep", [0, 1, 7])
def test_a_torn_run_resumes_to_the_same_report(rwml: Command, keep: int) -> None:
    rwml("eval", "toy", "--trials", "2", "--out", "whole")
    rwml("eval", "toy", "--trials", "2", "--out", "torn")
    file = Path("torn/results.jsonl")
    kept = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(kept[:keep]) + kept[keep][:200])  # killed in the middle of a write
    Path("torn/report.json").unlink()
    code, _, err = rwml("eval", "toy", "--trials", "2", "--out", "torn", "--resume")
    assert code == 0, err
    if keep:
        assert f"{keep} of 20 episodes are done already" in err
    assert report("torn") == report("whole")
    assert file.read_bytes().startswith(b"".join(kept[:keep]))
    again = file.read_bytes()
    assert rwml("eval", "toy", "--trials", "2", "--out", "torn", "--resume")[0] == 0
    assert file.read_bytes() == again  # nothing was left to play


def test_resuming_plays_faults_again(rwml: Command) -> None:
    rwml("eval", "toy", "--out", "ev", "--fail", "t3", "--retries", "0")
    assert report("ev")["infrastructure_errors"] == 1
    rwml("eval", "toy", "--out", "ev", "--resume")
    rwml("eval", "toy", "--out", "whole")
    assert report("ev") == report("whole")
    assert len(lines("ev")) == 11


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("eval toy --split dev", "no split 'dev' in toy: use one of train, test"),
        ("record toy --store sqlite:///a.db --split dev", "use one of train, test"),
        ("eval toy --task-id t99", "no task 't99' in this split: use one of t0, t1"),
        ("eval toy --trials 0", "--trials must be 1 or more"),
        ("eval toy --concurrency 0", "--concurrency must be 1 or more"),
        ("eval toy --retries -1", "--retries must be 0 or more"),
        ("eval toy --resume", "--resume needs --out"),
        ("eval toy --missing", "install 'rwml[toy]'"),
        ("eval toy --out done", "done holds an evaluation: add --resume"),
        ("eval toy --out done --resume --seed 3", "done was begun with seed 0, not 3"),
        (
            "eval toy --out done --resume --toy-version 2",
            'done was begun with version "1", not "2"',
        ),
        ("eval toy --out done --resume --tasks 3", 'done was begun with task_ids ["t0", "t1"'),
        ("eval toy --out file", "file is a file: name a folder"),
        ("eval toy --baseline nowhere", "no report at nowhere"),
        ("eval toy --baseline done --split test", 'different bases: split "train" against "test"'),
        ("eval toy --baseline torn.json", "is no report of an environment"),
        ("eval toy_environment:nope", "the module 'toy_environment' has no 'nope'"),
        ("eval no_such_module:toy", "no module 'no_such_module'"),
        ("eval toy_environment:", "write it as module:name"),
    ],
)
def test_wrong_usage_is_one_line(rwml: Command, finished: Path, arguments: str, words: str) -> None:
    shutil.copytree(finished, "done")
    Path("file").write_text("")
    Path("torn.json").write_text("{}")
    code, out, err = rwml(*arguments.split())
    assert (code, out) == (2, ""), err
    line = err.strip().splitlines()[-1]
    assert words in line
    assert line.startswith("rwml: ")
    assert not Path("a.db").exists()


def test_a_folder_takes_one_program_at_a_time(rwml: Command) -> None:
    from filelock import FileLock

    rwml("eval", "toy", "--out", "ev")
    with FileLock("ev/.lock"):
        code, _, err = rwml("eval", "toy", "--out", "ev", "--resume")
    assert code == 2
    assert "another program writes to ev" in err


def test_what_is_personal_does_not_reach_the_folder(
    rwml: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toy_environment import Message, Toy  # type: ignore[import-not-found]  # on the path

    toss = Toy._toss

    def leak(random: Random, index: int) -> Any:
        side = Message(role="user", content="write to ann@example.com")
        return toss(random, index).model_copy(update={"observation": (side,)})

    monkeypatch.setattr(Toy, "_toss", staticmethod(leak))
    rwml("eval", "toy", "--tasks", "1", "--out", "ev")
    text = Path("ev/results.jsonl").read_text()
    assert "ann@example.com" not in text
    assert "<EMAIL_1>" in text


def test_figures_that_fail_do_not_lose_the_run(
    rwml: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    import toy_environment  # type: ignore[import-not-found]  # this folder is on the path

    monkeypatch.setattr(toy_environment.Toy, "summarize", lambda *_: {"share": float("nan")})
    code, out, _ = rwml("eval", "toy", "--out", "ev", "--json")
    assert code == 0
    assert "summarize failed: ValueError" in json.loads(out)["details"]["error"]


def test_a_baseline_gives_a_verdict(rwml: Command) -> None:
    rwml("eval", "toy", "--trials", "2", "--rate", "0.1", "--out", "base")
    code, out, err = rwml(
        "eval", "toy", "--trials", "2", "--rate", "1", "--out", "new", "--baseline", "base",
        "--json",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(out)
    assert found["trained"] == found["success_rate"] == 1.0
    assert found["base"] == report("base")["success_rate"]
    assert found["difference"] == pytest.approx(found["trained"] - found["base"])
    low, high = found["ci95"]
    assert 0 < low <= found["difference"] <= high
    assert found["verdict"] == "improved"
    assert found["success_ci95"] != found["ci95"]


def test_help_lists_environments_and_their_options(rwml: Command) -> None:
    for verb in ("record", "eval"):
        _, listed, _ = rwml(verb, "--help")
        assert "toy" in listed
        assert "Coins are tossed." in listed
        assert "gone" in listed
        code, text, _ = rwml(verb, "toy", "--help")
        assert code == 0
        assert "Share of lucky episodes." in text
        assert "not for help" not in text
        assert f"Example: rwml {verb} toy" in " ".join(text.split())


def test_one_that_cannot_load_says_so_and_takes_no_other_with_it(rwml: Command) -> None:
    code, _, err = rwml("eval", "gone", "--whatever", "x")
    assert code == 3
    assert "environment 'gone' cannot be loaded: No module named 'no_such_module'" in err


def test_an_unknown_one_is_no_command(rwml: Command) -> None:
    code, _, err = rwml("eval", "moon")
    assert code == 2
    assert err == (
        "rwml: no environment 'moon': use one of doctor, gone, seeds, toy, world, or name a "
        "factory as module:factory\n"
    )
    assert "No such option" in rwml("eval", "--moon")[2]


def bare(option) -> None: ...  # type: ignore[no-untyped-def]


def taken(*, seed: int = 0) -> None: ...


def many(**options: int) -> None: ...


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (bare, "its option 'option' has no annotation"),
        (taken, "its option 'seed' is one that every environment has"),
        (many, "its parameter 'options' cannot become an option"),
        (3, "it must be a function that makes an environment, not 3"),
    ],
)
def test_a_factory_that_cannot_become_a_command(
    rwml: Command, monkeypatch: pytest.MonkeyPatch, factory: object, words: str
) -> None:
    import toy_environment  # type: ignore[import-not-found]  # this folder is on the path

    monkeypatch.setattr(toy_environment, "toy", factory)
    code, _, err = rwml("eval", "toy")
    assert code == 3
    assert words in err
    assert err.count("\n") == 1


def test_a_command_of_the_same_name_comes_first(
    rwml: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rwml.cli import app

    entries = [EntryPoint("eval.toy", "rwml.cli.doctor:doctor", app.ENTRY_POINT_GROUP)]
    monkeypatch.setattr(app, "entry_points", lambda group: entries)
    assert "doctor" in rwml("eval", "toy", "--help")[1]


def test_an_installed_package_is_found(tmp_path: Path) -> None:
    found = tmp_path / "site" / "toy_package-1.dist-info"
    found.mkdir(parents=True)
    (found / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-package\nVersion: 1\n")
    (found / "entry_points.txt").write_text("[rwml.environments]\ncoin = toy_environment:toy\n")
    paths = os.pathsep.join([str(tmp_path / "site"), str(HERE)])
    done = subprocess.run(
        [sys.executable, "-m", "rwml", "eval", "coin", "--tasks", "2", "--json"],
        capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tasks"] == 2


def test_the_program_starts_without_importing_environments() -> None:
    code = (
        "import sys; from rwml.cli.app import build_app; import typer.main;"
        "typer.main.get_command(build_app());"
        "assert 'toy_environment' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
