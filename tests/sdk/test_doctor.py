"""`rwml doctor`: 0 when a store can be learnt from, 1 when not, 2 when there is none."""

import json
import re
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from rwml import Message, Recorder, Step, Trajectory, open_store
from rwml.capture import Capture
from rwml.content import NOT_RUN_MARK, SIMULATED_MARK
from rwml.diagnosis import count_spooled, diagnose, machine
from rwml.errors import StoreUnavailableError
from rwml.spool import spool_folder
from rwml.store.keys import key_file
from rwml.testing import FaultyStore, TrajectoryBuilder, make_trajectory

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISABLED", "STORE", "SAMPLE", "SPOOL", "SKIP_TOOLS", "SKIP_SOURCES"):
        monkeypatch.delenv(f"RWML_{name}", raising=False)


def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rwml", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'rwml.db'}"


def test_a_good_store(url: str) -> None:
    with Recorder(store=url) as recorder, recorder.trajectory(source="test") as t:
        t.act({"role": "assistant", "content": "a"})
        t.observe({"role": "user", "content": "b"}, status="error")
        t.act({"role": "assistant", "content": "c"})
    done = doctor("--store", url, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("interrupted") == 0
    assert found.pop("versions")["rwml"]
    assert {each["status"] for each in found.pop("findings")} <= {"ok", "warning"}
    assert found == {
        "trajectories": 1,
        "transitions": 1,
        "pending": 1,
        "errors": 1,
        "orphans": 0,
        "ok": True,
    }


def test_orphans_are_shown(url: str) -> None:
    stray = Step(
        index=0,
        action=Message(role="assistant"),
        observation=(Message(role="tool", tool_call_id="nobody's"),),
        kind="tool",
        status="ok",
    )
    with open_store(url) as store:
        store.add(Trajectory(source="test", steps=(stray,)))
        store.write(steps_by_trajectory=[("lost", stray)])
    assert json.loads(doctor("--store", url, "--json").stdout)["orphans"] == 2


def test_an_empty_store_is_found_wanting(url: str) -> None:
    open_store(url).close()
    done = doctor("--store", url, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["ok"] is False
    done = doctor("--store", url)
    assert done.returncode == 1
    assert "record an agent" in done.stdout


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_no_store_is_one_line_and_not_made(url: str, tmp_path: Path, extra: list[str]) -> None:
    done = doctor("--store", url, *extra)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("rwml: no store at")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_wrong_flag_is_wrong_usage(url: str) -> None:
    assert doctor("--store", url, "--colour").returncode == 2


Look = Callable[..., dict[str, Any]]


@pytest.fixture
def look(rwml, url: str) -> Look:
    """What the command finds in a store of these trajectories, by name, without what is ok."""

    def run(*trajectories: Trajectory) -> dict[str, Any]:
        with open_store(url) as store:
            for trajectory in trajectories:
                store.add(trajectory)
        code, out, err = rwml("doctor", "--store", url, "--json")
        report = json.loads(out)
        assert (code, err) == (0 if report["ok"] else 1, "")
        assert all(set(each) == {"name", "status", "text", "hint"} for each in report["findings"])
        statuses = {each["name"]: each["status"] for each in report["findings"]}
        assert report["ok"] == ("error" not in statuses.values())
        return {name: status for name, status in statuses.items() if status != "ok"}

    return run


def talk(id: str, **fields: Any) -> TrajectoryBuilder:
    return TrajectoryBuilder(id, **fields).user("hello")


def test_a_store_to_learn_from_has_no_trouble(look: Look) -> None:
    assert look(make_trajectory(1), make_trajectory(2)) == {}


def test_nothing_was_ever_written(look: Look) -> None:
    assert look() == {"trajectories": "error"}


def test_no_model_answered(look: Look) -> None:
    assert look(talk("a").build()) == {"steps": "error"}


def test_answers_that_nobody_replied_to(rwml, url: str, look: Look) -> None:
    assert look(talk("a").says("hi").build(), talk("b").says("hi").build()) == {"pending": "error"}
    out = rwml("doctor", "--store", url)[1]
    assert "2 steps, all waiting: each is an answer to a user" in out
    assert "thread_id" in out


def test_tools_that_nobody_saw(rwml, url: str, look: Look) -> None:
    assert look(talk("a").calls(("f", {})).build()) == {"pending": "error"}
    assert "results were never seen" in rwml("doctor", "--store", url)[1]


def test_interrupted_and_never_resumed(look: Look) -> None:
    assert look(talk("a").calls(("f", {})).interrupted().build()) == {"interrupted": "error"}


def test_results_of_no_call(look: Look) -> None:
    stray = talk("a").calls(("f", {})).returns(by_id={"other": "x"}).build()
    assert look(stray, make_trajectory(1)) == {"orphans": "warning"}


def test_nothing_but_errors(look: Look) -> None:
    failed = [talk(name).calls(("f", {})).fails("no").build() for name in ("a", "b")]
    assert look(*failed) == {"errors": "warning"}


def test_every_tool_was_opted_out(look: Look) -> None:
    secret = talk("a").calls(("salary", {})).returns("10").build()
    other = talk("b").calls(("salary", {})).returns("11").build()
    capture = Capture(skip_tools=["salary"])
    assert look(*map(capture.hide_header, (secret, other))) == {"opt_outs": "error"}
    assert look(make_trajectory(1), make_trajectory(2)) == {}


def test_one_task_cannot_be_split(look: Look) -> None:
    assert look(make_trajectory(1)) == {"split": "warning"}
    thread = {"thread_id": "7"}
    same = [talk(name, metadata=thread).says("a").user("b").build() for name in ("a", "b")]
    with_task = talk("c", task_id="7").says("a").user("b").build()
    assert look(*same, with_task) == {}


def test_one_thread_cannot_be_split(look: Look) -> None:
    thread = {"thread_id": "7"}
    same = [talk(name, metadata=thread).says("a").user("b").build() for name in ("a", "b")]
    assert look(*same) == {"split": "warning"}


@pytest.mark.parametrize(
    ("variable", "value", "name"),
    [
        ("RWML_DISABLED", "1", "disabled"),
        ("RWML_STORE", "sqlite:///elsewhere.db", "other_store"),
        ("RWML_STORE", "no url: pass=word", "other_store"),
        ("RWML_SAMPLE", "0", "sampling"),
    ],
)
def test_the_environment_says_why(
    look: Look, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, name: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert look() == {"trajectories": "error", name: "error"}
    assert look(make_trajectory(1), make_trajectory(2)) == {name: "warning"}


def test_an_environment_that_cannot_be_read(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RWML_SAMPLE", "often")
    assert look(make_trajectory(1), make_trajectory(2)) == {"settings": "error"}


def test_what_the_environment_leaves_out_on_purpose_is_no_trouble(
    rwml, url: str, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RWML_STORE", url)  # this very one
    monkeypatch.setenv("RWML_SAMPLE", "0.25")
    monkeypatch.setenv("RWML_SKIP_TOOLS", "salary")
    assert look(make_trajectory(1), make_trajectory(2)) == {}
    out = rwml("doctor", "--store", url)[1]
    assert "RWML_SAMPLE=0.25" in out
    assert "salary" in out


def test_no_store_and_why(rwml, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RWML_DISABLED", "1")
    code, out, err = rwml("doctor", "--store", url)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("rwml: no store at")
    assert "RWML_DISABLED is set" in err


def test_a_password_is_not_shown(url: str) -> None:
    named = {"RWML_STORE": "postgresql+psycopg://me:hunter2@host/db"}
    with open_store(url) as store:
        found = diagnose(store, store.counts(), named)
    (other,) = (each for each in found if each.name == "other_store")
    assert "me:***@host/db" in other.text


def test_records_that_wait_for_the_store(rwml, url: str, look: Look) -> None:
    with open_store(url) as store:
        faulty = FaultyStore(store, fail=StoreUnavailableError("away"))
        recorder = Recorder(store=faulty)
        recorder.record(make_trajectory(1))
        recorder.close()
        assert count_spooled(spool_folder(store)) == (5, 0)
    assert look() == {"trajectories": "error", "spool": "warning"}
    assert "5 records wait in" in rwml("doctor", "--store", url)[1]


def test_pseudonyms_of_other_keys(
    rwml, url: str, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = TrajectoryBuilder("told").says("Who?").user("ann@example.com").build()
    monkeypatch.setenv("RWML_KEY", "the key of one machine")
    with Recorder(store=url) as recorder:
        recorder.record(told)
        assert recorder.flush(30)
    assert "keys" not in look()
    monkeypatch.setenv("RWML_KEY", "the key of another")
    assert look()["keys"] == "warning"
    assert "1 other keys" in rwml("doctor", "--store", url)[1]
    monkeypatch.setenv("RWML_KEY", "short")
    assert rwml("doctor", "--store", url)[0] == 1
    monkeypatch.delenv("RWML_KEY")
    with open_store(url) as store:
        file = key_file(store.parsed_url)
    assert look()["keys"] == "warning"
    assert not file.exists()  # a diagnosis makes nothing


def test_a_folder_without_a_spool_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "torn.spool").write_bytes(b"no database")
    assert count_spooled(tmp_path) == (0, 1)
    (tmp_path / "torn.spool").write_bytes(b"")  # as one that is being made
    assert count_spooled(tmp_path) == count_spooled(tmp_path / "none") == (0, 0)


def test_frameworks(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    good = (make_trajectory(1), make_trajectory(2))
    real = machine.find_versions()

    def install(**other: str | None) -> None:
        named = {name.replace("_", "-"): number for name, number in other.items()}
        monkeypatch.setattr(machine, "find_versions", lambda: {**real, **named})

    install(langgraph="0.6.1")
    assert look(*good) == {"frameworks": "warning"}
    install(langgraph=None, langchain_core=None, litellm=None)
    assert look(*good) == {"frameworks": "warning"}
    install(litellm="1.82.7")
    assert look(*good) == {"frameworks": "error"}
    install(langgraph="1.0", langchain_core="1.0rc1", litellm="1.80.0")
    assert look(*good) == {}


def test_what_is_supported_is_what_the_extras_ask_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [Requirement(line) for line in (*extras["langgraph"], *extras["litellm"])]
    for name, least in machine.MINIMUM.items():
        (wanted,) = (each.specifier for each in lines if each.name == name)
        number = ".".join(map(str, least))
        assert Version(number) in wanted, name
        assert Version(f"{least[0]}.{least[1] - 1}" if least[1] else "0.99") not in wanted, name
        assert all(Version(bad) not in wanted for bad in machine.COMPROMISED.get(name, ()))


def test_versions_and_sqlite_are_said(rwml, url: str, look: Look) -> None:
    look(make_trajectory(1), make_trajectory(2))
    out = rwml("doctor", "--store", url)[1]
    assert f"sqlite {sqlite3.sqlite_version}" in out
    assert re.search(r"langgraph \d", out)
    first, last = machine.SQLITE_DEFECT
    assert ("take turns by a lock file" in out) == (first <= sqlite3.sqlite_version_info <= last)


def test_a_row_that_cannot_be_read_is_a_finding(url: str, look: Look, tmp_path: Path) -> None:
    look(make_trajectory(1), make_trajectory(2))
    with sqlite3.connect(tmp_path / "rwml.db") as connection:
        connection.execute("update steps set body = 'torn' where trajectory_id = 'shop-1'")
    connection.close()
    assert look() == {"unreadable": "error"}


def test_nothing_is_changed(rwml, url: str, look: Look, tmp_path: Path) -> None:
    look(make_trajectory(1), make_trajectory(2))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert rwml("doctor", "--store", url)[0] == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_server_s_store(postgres_url: str) -> None:
    with open_store(postgres_url) as store:
        store.add(make_trajectory(1))
        names = {each.name for each in diagnose(store, store.counts(), {})}
    assert {"versions", "transitions", "split"} <= names
    assert "sqlite" not in names


def test_calls_that_client_and_gateway_recorded_are_named(url: str) -> None:
    with open_store(url) as store:
        store.add(make_trajectory(1, source="langgraph"))
        store.add(make_trajectory(2, source="litellm").model_copy(update={"id": "other"}))
        counts = store.counts()
        assert "recorded_twice" not in {each.name for each in diagnose(store, counts)}
        twin = make_trajectory(1).model_copy(update={"id": "twin", "source": "litellm"})
        store.add(twin)
        found = {each.name: each for each in diagnose(store, store.counts())}["recorded_twice"]
    assert found.status == "warning"
    assert found.text.startswith("4 transitions")
    assert "RWML_GATEWAY" in found.hint


def test_a_store_of_a_dry_run_holds_nothing_to_learn(url: str) -> None:
    with open_store(url) as store:
        for number, mark in enumerate((SIMULATED_MARK, NOT_RUN_MARK)):
            built = TrajectoryBuilder(f"dry-{number}").user("Go.").calls(("a", {}))
            store.add(built.returns(f"{mark}done").build())
        (found,) = (each for each in diagnose(store, store.counts()) if each.status == "error")
    assert found.name == "unreal"
    assert found.text.startswith("2 steps")
