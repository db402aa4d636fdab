"""`rwml export`: what was recorded, in other tools' formats, whole or not there."""

import json
import stat
from pathlib import Path

import pytest

from rwml import Message, Step, Store, ToolCall, Trajectory, open_store
from rwml.exports import export_openai
from rwml.schema import Transition
from rwml.testing import make_trajectory


@pytest.fixture
def filled(store: Store) -> Store:
    for task in range(3):
        store.add(make_trajectory(task))
    store.add(make_trajectory(9, source="other"))
    return store


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_openai(rwml, url: str, filled: Store, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    arguments = ("--store", url, "--out", out, "--format", "openai", "--source", "shop")
    code, printed, err = rwml("export", *arguments, "--json")
    assert code == 0, err
    assert json.loads(printed) == {"out": str(out), "format": "openai", "rows": 3}
    first, *_ = found = lines(out)
    assert len(found) == 3
    made = make_trajectory(0)
    assert [Message.from_openai(message) for message in first["messages"]] == [
        *made.initial,
        *(message for step in made.steps for message in (step.action, *step.observation)),
    ]
    assert first["tools"] == [tool.to_openai() for tool in made.tools]
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_parallel_results_follow_their_calls(store: Store, tmp_path: Path) -> None:
    made = tuple(ToolCall(id=name, name="f") for name in ("a", "b"))
    seen = tuple(Message(role="tool", content=name, tool_call_id=name) for name in ("b", "a"))
    action = Message(role="assistant", tool_calls=made)
    step = Step(index=0, action=action, observation=seen, kind="tool", status="ok")
    store.add(Trajectory(id="t", source="x", steps=(step,)))
    assert export_openai(store.trajectories(), tmp_path / "out") == 1
    (line,) = lines(tmp_path / "out")
    assert [m.get("tool_call_id") for m in line["messages"]] == [None, "a", "b"]


@pytest.mark.parametrize("history", [None, 1])
def test_trl(rwml, url: str, filled: Store, tmp_path: Path, history: int | None) -> None:
    out = tmp_path / "out.jsonl"
    extra = [] if history is None else ["--history", str(history)]
    assert rwml("export", "--store", url, "--out", out, "--format", "trl", *extra)[0] == 0
    expected = list(filled.transitions(history=history))
    assert len(expected) == 16
    for line, transition in zip(lines(out), expected, strict=True):
        assert set(line) == {"prompt", "completion"}
        assert [Message.from_openai(m) for m in line["prompt"]] == list(transition.context)
        assert [Message.from_openai(m) for m in line["completion"]] == [transition.action]


def test_parquet(
    rwml, url: str, filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    monkeypatch.setattr("rwml.exports.ROW_GROUP", 5)  # several groups
    out = tmp_path / "out.parquet"
    code, printed, err = rwml(
        "export", "--store", url, "--out", out, "--format", "parquet", "--history", "2", "--json"
    )
    assert code == 0, err
    assert json.loads(printed)["rows"] == 16
    rows = pq.read_table(out).to_pylist()
    expected: list[Transition] = list(filled.transitions(history=2))
    for row, transition in zip(rows, expected, strict=True):
        plain = ("id", "source", "task_id", "kind", "status", "tool")
        assert {name: row[name] for name in plain} == {
            name: getattr(transition, name) for name in plain
        }
        for name in ("context", "next_state"):
            read = tuple(Message.from_openai(m) for m in json.loads(row[name]))
            assert read == getattr(transition, name)
        assert Message.from_openai(json.loads(row["action"])) == transition.action


@pytest.mark.parametrize("format", ["openai", "parquet"])
def test_a_store_that_breaks_half_way_leaves_the_old_file(
    rwml, url: str, filled: Store, tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if format == "parquet":
        pytest.importorskip("pyarrow")
    out = tmp_path / "sub" / "out"
    out.parent.mkdir()
    out.write_text("old")
    whole = Store.trajectories

    def broken(self: Store, **filters: str | None):
        yield next(whole(self, **filters))
        raise OSError("the disk is gone")

    monkeypatch.setattr(Store, "trajectories", broken)
    assert rwml("export", "--store", url, "--out", out, "--format", format)[0] == 3
    assert out.read_text() == "old"
    assert list(out.parent.iterdir()) == [out]


def test_an_empty_store_gives_an_empty_file(rwml, url: str, store: Store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert rwml("export", "--store", url, "--out", out, "--format", "openai")[0] == 0
    assert out.read_bytes() == b""


def test_wrong_usage(rwml, url: str, filled: Store, tmp_path: Path) -> None:
    for out, wanted, extra in (
        (tmp_path, "openai", []),
        (tmp_path / "none" / "out", "trl", []),
        (tmp_path / "out", "openai", ["--history", "1"]),
        (tmp_path / "out", "verl", []),
    ):
        code, printed, _ = rwml("export", "--store", url, "--out", out, "--format", wanted, *extra)
        assert (code, printed) == (2, "")
    assert not (tmp_path / "out").exists()


def test_parquet_needs_the_train_extra(
    rwml, url: str, filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rwml.extras.find_spec", lambda name: None)
    out = tmp_path / "out"
    code, _, err = rwml("export", "--store", url, "--out", out, "--format", "parquet")
    assert (code, "install 'rwml[train]'" in err) == (2, True)


@pytest.mark.parametrize("command", ["stats", "show", "forget", "export"])
def test_help_has_one_example(rwml, command: str) -> None:
    code, out, _ = rwml(command, "--help")
    assert code == 0
    assert out.count("Example:") == 1
    assert f"rwml {command} " in out


def test_the_store_itself_is_never_written_over(rwml, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'rwml.db'}"
    with open_store(url) as store:
        store.add(make_trajectory(1))
        before = (tmp_path / "rwml.db").read_bytes()
        for name in ("rwml.db", "rwml.db.lock", "rwml.db-wal"):
            code, _, _ = rwml(
                "export", "--store", url, "--out", tmp_path / name, "--format", "openai"
            )
            assert code == 2
        assert (tmp_path / "rwml.db").read_bytes() == before


def test_a_source_that_is_not_there_is_refused(
    rwml, url: str, store: Store, tmp_path: Path
) -> None:
    store.add(make_trajectory(1))
    out = tmp_path / "out"
    flags = ("--store", url, "--out", out, "--format", "openai", "--source", "shp")
    assert rwml("export", *flags)[0] == 2
    assert not out.exists()
    assert rwml("stats", "--store", url, "--source", "shp")[0] == 2
