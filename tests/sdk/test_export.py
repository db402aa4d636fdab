"""`rwml export`: what was recorded, in other tools' formats, whole or not there."""

import json
import logging
import math
import stat
from pathlib import Path
from typing import Any

import pytest

from rwml import Message, Outcome, Step, Store, Tool, ToolCall, Trajectory, open_store
from rwml.errors import UsageError
from rwml.exports import Format, Options, export_store, ledger_path, manifest_path, writing
from rwml.exports.ledger import Entry, add_entry, read_entries
from rwml.exports.manifest import read_manifest
from rwml.prompts import render_next_state, render_prompt
from rwml.schema import Transition, Usage
from rwml.testing import make_trajectory


@pytest.fixture(autouse=True)
def state_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a server's exports are listed: not in the tester's own home."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))


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
    assert json.loads(printed) == {
        "out": str(out),
        "format": "openai",
        "rows": 3,
        "left_out": {},
        "manifest": f"{out}.manifest.jsonl",
    }
    first, *_ = found = lines(out)
    assert len(found) == 3
    made = make_trajectory(0)
    assert [Message.from_openai(message) for message in first["messages"]] == [
        *made.initial,
        *(message for step in made.steps for message in (step.action, *step.observation)),
    ]
    assert first["tools"] == [tool.to_openai() for tool in made.tools]
    for file in (out, manifest_path(out), ledger_path(url)):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_parallel_results_follow_their_calls(store: Store, tmp_path: Path) -> None:
    made = tuple(ToolCall(id=name, name="f") for name in ("a", "b"))
    seen = tuple(Message(role="tool", content=name, tool_call_id=name) for name in ("b", "a"))
    action = Message(role="assistant", tool_calls=made)
    step = Step(index=0, action=action, observation=seen, kind="tool", status="ok")
    store.add(Trajectory(id="t", source="x", steps=(step,)))
    assert export_store(store, tmp_path / "out", format="openai").rows == 1
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

    monkeypatch.setattr(writing, "GROUP_ROWS", 5)  # several groups
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


def read_rows(path: Path) -> list[dict[str, Any]]:
    pq = pytest.importorskip("pyarrow.parquet")
    return pq.read_table(path).to_pylist()


@pytest.mark.parametrize("profile", ["paper", "compact"])
def test_verl(rwml, url: str, filled: Store, tmp_path: Path, profile: Any) -> None:
    pytest.importorskip("pyarrow")
    out = tmp_path / "out.parquet"
    extra = ["--profile", profile] if profile != "paper" else []
    arguments = ("--store", url, "--out", out, "--format", "verl", "--history", "2", *extra)
    code, printed, err = rwml("export", *arguments, "--json")
    assert code == 0, err
    assert json.loads(printed)["rows"] == 16
    expected = filled.transitions(history=2)
    for index, (row, made) in enumerate(zip(read_rows(out), expected, strict=True)):
        assert set(row) == {"data_source", "prompt", "ability", "reward_model", "extra_info"}
        assert row["data_source"] == f"rwml/{made.source}"
        assert row["prompt"] == render_prompt(made, profile=profile)
        target = render_next_state(made, mask=True)
        assert row["reward_model"] == {"style": "rule", "ground_truth": target}
        plain = {name: getattr(made, name) for name in ("id", "split", "task_id", "kind", "tool")}
        assert row["extra_info"] == {"index": index, "source": made.source, **plain}


def test_verl_leaves_out_what_has_no_next_state(store: Store, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    said = tuple(
        Step(
            index=index,
            action=Message(role="assistant", content="?"),
            observation=(Message(role="user", content=text),),
            kind="user",
            status="ok",
        )
        for index, text in enumerate(["yes", " ", "no"])
    )
    store.add(Trajectory(id="t", source="x", steps=said))
    made = export_store(store, tmp_path / "out", format="verl")
    assert (made.rows, made.left_out) == (2, {"empty_next_state": 1})
    rows = read_rows(tmp_path / "out")
    assert [row["reward_model"]["ground_truth"] for row in rows] == ["yes", "no"]
    assert [row["extra_info"]["index"] for row in rows] == [0, 1]


def acted(id: str, **fields: Any) -> Trajectory:
    look = ToolCall(id="c", name="look", arguments={"at": "map"})
    seen = Message(role="tool", content="a map", tool_call_id="c")
    steps = (
        Step(
            index=0,
            action=Message(role="assistant", tool_calls=(look,), reasoning="hm"),
            observation=(seen,),
            kind="tool",
            status="ok",
            usage=Usage(prompt_tokens=9, completion_tokens=4),
            token_ids=(5, 6),
            logprobs=(-0.5, -1.5),
        ),
        Step(index=1, action=Message(role="assistant", content="a map")),
    )
    said = (Message(role="user", content="what is there?"),)
    return Trajectory(
        id=id, source="x", initial=said, tools=(Tool(name="look"),), steps=steps, **fields
    )


def test_art(rwml, url: str, store: Store, tmp_path: Path) -> None:
    store.add(
        acted("a", task_id="7", outcome=Outcome(status="completed", reward=0.0, success=False))
    )
    store.add(acted("b"))
    store.add(acted("c", outcome=Outcome(status="infrastructure_error", reward=0.0)))
    store.add(acted("d", outcome=Outcome(reward=math.nan)))
    out = tmp_path / "out.jsonl"
    arguments = ("export", "--store", url, "--out", out, "--format", "art")
    code, printed, err = rwml(*arguments, "--json")
    assert code == 0, err
    found = json.loads(printed)
    assert (found["rows"], found["left_out"]) == (1, {"no_reward": 2, "infrastructure_error": 1})
    (line,) = lines(out)
    assert line["reward"] == 0.0
    assert line["metrics"] == {"steps": 2, "errors": 0, "completion_tokens": 4, "success": False}
    assert line["metadata"] == {
        "id": "a",
        "source": "x",
        "task_id": "7",
        "split": None,
        "status": "completed",
    }
    assert line["logs"] == []
    assert [tool["function"]["name"] for tool in line["tools"]] == ["look"]
    user, call, seen, answer = line["messages_and_choices"]
    assert (user["role"], seen["role"], seen["tool_call_id"]) == ("user", "tool", "c")
    assert (call["finish_reason"], answer["finish_reason"]) == ("tool_calls", "stop")
    assert Message.from_openai(call["message"]) == acted("a").steps[0].action
    assert [(each["token"], each["logprob"]) for each in call["logprobs"]["content"]] == [
        ("token_id:5", -0.5),
        ("token_id:6", -1.5),
    ]
    assert answer["logprobs"] is None
    assert rwml(*arguments, "--unrated")[1].startswith("3 rows in")
    assert [line.get("reward", "none") for line in lines(out)] == [0.0, "none", "none"]
    assert "--unrated takes them" in rwml(*arguments)[1]


def test_numbers_that_json_cannot_hold_become_texts(store: Store, tmp_path: Path) -> None:
    endless = Tool(name="f", parameters={"maximum": math.inf})
    store.add(Trajectory(id="t", source="x", tools=(endless,)))
    export_store(store, tmp_path / "out", format="openai")
    (line,) = lines(tmp_path / "out")
    assert line["tools"][0]["function"]["parameters"] == {"maximum": "Infinity"}


@pytest.mark.parametrize("format", ["openai", "trl", "art", "parquet", "verl"])
def test_the_manifest_says_whose_rows_there_are(
    filled: Store, url: str, tmp_path: Path, format: Format
) -> None:
    pytest.importorskip("pyarrow")
    out = tmp_path / "out"
    made = export_store(filled, out, format=format, source="shop")
    manifest = read_manifest(made.manifest)
    each = 1 if format in ("openai", "art") else 4
    assert [(run.trajectory, run.rows) for run in manifest.runs()] == [
        ("shop-0", each),
        ("shop-1", each),
        ("shop-2", each),
    ]
    assert manifest.rows == made.rows == 3 * each
    assert manifest.is_current()
    origin = manifest.origin
    assert (origin.format, origin.store, origin.source) == (format, filled.url, "shop")
    assert list(read_entries(ledger_path(url))) == [Entry(str(out), origin.export)]
    with out.open("ab") as file:
        file.write(b"\n")
    assert not read_manifest(made.manifest).is_current()


def test_long_contexts_are_written_in_small_groups(
    filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(writing, "GROUP_CHARS", 100)
    export_store(filled, tmp_path / "out", format="parquet")
    with pq.ParquetFile(tmp_path / "out") as file:
        assert file.num_row_groups == file.metadata.num_rows == 16


def test_a_ledger_that_cannot_be_written_is_said(
    filled: Store, url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger_path(url).parent.mkdir(parents=True, exist_ok=True)
    ledger_path(url).mkdir()
    with caplog.at_level(logging.WARNING):
        made = export_store(filled, tmp_path / "out", format="openai")
    assert (made.rows, made.is_traced) == (4, False)
    assert "will not find this export" in caplog.text


def test_a_torn_ledger_line_spoils_no_other(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    add_entry(ledger, Entry("/a", "1"))
    with ledger.open("a") as file:
        file.write('{"file": "/torn')
    add_entry(ledger, Entry("/b", "2"))
    add_entry(ledger, Entry("/a", "3"))
    assert {(entry.file, entry.export) for entry in read_entries(ledger)} == {
        ("/a", "3"),
        ("/b", "2"),
    }


def test_manifests_are_not_written_over(filled: Store, tmp_path: Path) -> None:
    made = export_store(filled, tmp_path / "out", format="openai")
    with pytest.raises(UsageError, match="manifest of another export"):
        export_store(filled, made.manifest, format="openai")
    foreign = manifest_path(tmp_path / "other")
    foreign.write_text("mine")
    with pytest.raises(UsageError, match="no manifest of ours"):
        export_store(filled, tmp_path / "other", format="trl")
    assert foreign.read_text() == "mine"
    assert export_store(filled, tmp_path / "out", format="trl").rows == 16  # an older one of ours


def test_options_are_the_library_s_too(filled: Store, tmp_path: Path) -> None:
    export_store(filled, tmp_path / "out", format="trl", options=Options(history=0))
    lengths = [len(line["prompt"]) for line in lines(tmp_path / "out")]
    assert lengths == [2] * 16


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
        (tmp_path / "out", "art", ["--history", "1"]),
        (tmp_path / "out", "trl", ["--profile", "paper"]),
        (tmp_path / "out", "openai", ["--unrated"]),
        (tmp_path / "out", "csv", []),
    ):
        code, printed, _ = rwml("export", "--store", url, "--out", out, "--format", wanted, *extra)
        assert (code, printed) == (2, "")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", ["parquet", "verl"])
def test_parquet_needs_the_train_extra(
    rwml, url: str, filled: Store, tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rwml.extras.find_spec", lambda name: None)
    out = tmp_path / "out"
    code, _, err = rwml("export", "--store", url, "--out", out, "--format", format)
    assert (code, "install 'rwml[train]'" in err) == (2, True)
    assert not ledger_path(url).exists()


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
        for name in ("rwml.db", "rwml.db.lock", "rwml.db-wal", "rwml.db.exports.jsonl"):
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
