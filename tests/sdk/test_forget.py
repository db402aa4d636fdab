"""`Store.forget` and `rwml forget`: the subject goes, to the last byte, and nothing else."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, event

from rwml import Message, Outcome, Step, Store, ToolCall, Trajectory, open_store
from rwml.errors import DatasetError, StoreError, UsageError
from rwml.exports import Format, export_store, ledger_path, manifest_path
from rwml.exports.ledger import Entry, add_entry
from rwml.exports.manifest import make_origin, read_manifest, write_manifest
from rwml.exports.rewriting import find_exports, mark_forgotten, remove_rows
from rwml.files import file_sha256
from rwml.schema import Provenance
from rwml.serialisation import LARGE_CHARS, dump
from rwml.store import Subject, erasure
from rwml.store.batches import Batch, header_row
from rwml.testing import make_trajectory

CANARY = "canary-7f3a9c"


@pytest.fixture(autouse=True)
def state_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a server's exports are listed: not in the tester's own home."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))


def told(text: str, *, id: str = "told", **fields) -> Trajectory:
    step = Step(
        index=0,
        action=Message(role="assistant", content="Who are you?"),
        observation=(Message(role="user", content=text),),
        kind="user",
        status="ok",
    )
    return Trajectory(id=id, source="x", steps=(step,), **fields)


def test_one_trajectory(store: Store) -> None:
    store.add(make_trajectory(1))
    store.add(make_trajectory(10))
    gone = store.forget(Subject(trajectory="shop-1"))
    assert (gone.keys, gone.steps) == (("shop-1",), 4)
    assert [t.id for t in store.trajectories()] == ["shop-10"]
    assert store.counts().orphans == 0
    assert store.forget(Subject(trajectory="shop-1")).keys == ()


def test_a_thread_by_metadata_or_provenance(store: Store) -> None:
    action = Message(role="assistant", content="thread 7")
    seen = Step(index=0, action=action, provenance=Provenance(thread_id="7"))
    other = Step(index=0, action=action, provenance=Provenance(thread_id="77", run_id="7"))
    store.add(Trajectory(id="header", source="x", metadata={"thread_id": "7"}))
    store.add(Trajectory(id="number", source="x", metadata={"thread_id": 7}))
    store.add(Trajectory(id="step", source="x", steps=(seen,)))
    store.add(Trajectory(id="other", source="x", metadata={"thread_id": "77"}, steps=(other,)))
    assert store.forget(Subject(thread="7")).keys == ("header", "number", "step")
    assert [t.id for t in store.trajectories()] == ["other"]


@pytest.mark.parametrize(
    "text",
    ["plain", 'a "quoted" name', "back\\slash", "two\nlines", "nul \x00", "José ☃", "100%_"],
)
def test_match_finds_a_text_wherever_it_stands(store: Store, text: str) -> None:
    call = ToolCall(id="c", name="f", arguments={text: [1]})
    raw = ToolCall(id="c", name="f", raw_arguments="{" + text)
    holders = [
        told(f"I am {text}.", id="content"),
        told(json.dumps({"name": text}), id="json inside"),
        told(json.dumps({"name": text}, ensure_ascii=False), id="json inside, not ascii"),
        told(json.dumps({"deep": json.dumps([text])}), id="json twice"),
        told("-", id="header", metadata={"a": {"b": text}}),
        told("-", id="task", task_id=text),
        told("-", id=f"id {text}"),
        *(
            Trajectory(
                id=name,
                source="x",
                steps=(Step(index=0, action=Message(role="assistant", tool_calls=(made,))),),
            )
            for name, made in (("key", call), ("raw", raw))
        ),
    ]
    for holder in holders:
        store.add(holder)
    store.add(told("a quoted name, a pattern: 100xx, PLAIN"))
    said = Message(role="user", content=f"{'x' * LARGE_CHARS} {text}")
    large = Trajectory(id="large", source="x", initial=(said,))
    store.write_batch(Batch(headers=[header_row(large, dump(large)[1])]))  # as a recorder has it
    holders.append(large)
    assert sorted(store.find(Subject(match=text))) == sorted(
        erasure.as_key(holder.id) for holder in holders
    )
    store.forget(Subject(match=text))
    assert [t.id for t in store.trajectories()] == ["told"]


def test_steps_without_a_trajectory_are_found(store: Store) -> None:
    (lost,) = told(CANARY).steps
    store.write(steps_by_trajectory=[("lost", lost)])
    assert store.forget(Subject(match=CANARY)).steps == 1
    assert store.counts().orphans == 0


def test_many_are_removed_in_one_go(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "CHUNK", 3)
    for task in range(10):
        store.add(make_trajectory(task))
    gone = store.forget(Subject(match="You help the customers"))
    assert (len(gone.keys), gone.steps) == (10, 40)
    assert store.counts().trajectories == 0


def test_all_or_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.add(make_trajectory(1))

    def fails(connection: object, keys: object) -> int:
        erasure.remove(connection, keys)  # type: ignore[arg-type]
        raise StoreError("the disk is full")

    monkeypatch.setattr("rwml.store.database.remove", fails)
    with pytest.raises(StoreError, match="disk is full"):
        store.forget(Subject(trajectory="shop-1"))
    assert list(store.trajectories()) == [make_trajectory(1)]


@pytest.mark.parametrize("given", [{}, {"match": ""}, {"thread": "a", "match": "b"}])
def test_exactly_one_subject(given: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        Subject(**given)


@pytest.fixture
def careless_sqlite() -> Iterator[None]:
    """SQLite as most builds have it: it leaves deleted bytes where they are (Debian's does not)."""

    def configure(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA secure_delete=OFF")

    event.listen(Engine, "connect", configure)
    yield
    event.remove(Engine, "connect", configure)


def test_no_byte_is_left_in_the_files(tmp_path: Path, careless_sqlite: None) -> None:
    path = tmp_path / "rwml.db"

    def holders() -> list[str]:
        return [f.name for f in tmp_path.iterdir() if CANARY.encode() in f.read_bytes()]

    with open_store(f"sqlite:///{path}") as store:
        for task in range(50):
            store.add(make_trajectory(task))
        store.add(told(CANARY * 3000, id="a"))  # overflow pages
        store.add(told(f"{CANARY} in an index", id="b", task_id=CANARY))
        store.add(told(CANARY, id="c"))
        store.add(told("overwritten", id="c"))  # what was there before is free space now
        assert holders() != []
        gone = store.forget(Subject(match=CANARY))
        assert (gone.keys, gone.erased) == (("a", "b"), True)
        assert holders() == []  # while it is open: database, -wal, -shm, lock
        assert store.counts().trajectories == 51
    assert holders() == []


def test_a_reader_in_the_way_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "SCRUB_WAIT_MS", 10)
    url = f"sqlite:///{tmp_path / 'rwml.db'}"
    with open_store(url) as store, open_store(url) as other:
        store.add(told(CANARY))
        with other._reading() as connection:
            connection.exec_driver_sql("BEGIN")
            connection.exec_driver_sql("select count(*) from steps").scalar()
            assert store.forget(Subject(match=CANARY)).erased is False
        assert store.counts().trajectories == 0
        assert store.forget(Subject(match=CANARY)).erased is True


def test_command_changes_nothing_without_yes(rwml, url: str, store: Store) -> None:
    store.add(told(CANARY))
    code, out, err = rwml("forget", "--store", url, "--match", CANARY, "--json")
    name = told(CANARY).id
    other = {"other_keys": 0, "waiting_elsewhere": 0, "unreadable_files": 0}
    expected = {"would_remove": 1, "ids": [name], "datasets": [], "exports": [], **other}
    assert (code, json.loads(out), err) == (0, expected, "")
    assert (
        f"would remove 1 of 1 trajectories; nothing is changed without --yes\n  {name}"
        in (rwml("forget", "--store", url, "--match", CANARY)[1])
    )
    assert store.counts().trajectories == 1
    code, out, _ = rwml("forget", "--store", url, "--match", CANARY, "--yes", "--json")
    erased = True if url.startswith("sqlite") else None
    gone = {"removed": 1, "steps": 1, "erased": erased, "delivered": 0}
    expected = {**gone, "datasets": [], "exports": [], **other}
    assert (code, json.loads(out)) == (0, expected)
    assert store.counts().trajectories == 0
    code, out, _ = rwml("forget", "--store", url, "--match", CANARY)
    assert (code, "nothing to remove" in out) == (1, True)


@pytest.mark.parametrize("arguments", [[], ["--match", ""], ["--match", "a", "--thread", "b"]])
def test_command_wants_one_subject(rwml, url: str, store: Store, arguments: list[str]) -> None:
    code, out, err = rwml("forget", "--store", url, "--yes", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_datasets_and_runs_are_named(rwml, url: str, store: Store, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    store.add(told(CANARY, id="a"))
    store.add(told("somebody else", id="a/b"))
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    run.mkdir()
    ids = {"train": ["a/0/0", "a/1/0", "a/b/0/0"], "validation": ["a/2/0", "ab/0/0"]}
    for split, names in ids.items():
        pq.write_table(pa.table({"id": names, "prompt": names}), data / f"{split}.parquet")
    (run / "run.json").write_text(json.dumps({"dataset": str(data)}))
    arguments = ["--match", CANARY, "--dataset", data, "--dataset", run, "--json"]
    for extra, name in ([], "would_remove"), (["--yes"], "removed"):
        code, out, err = rwml("forget", "--store", url, *arguments, *extra)
        assert code == 0, err
        found = json.loads(out)
        assert found[name] == 1
        assert found["datasets"] == [
            {"folder": str(data), "dataset": str(data), "rows": 3},
            {"folder": str(run), "dataset": str(data), "rows": 3},
        ]


def test_a_dataset_that_cannot_be_read_stops_before_anything_is_removed(
    rwml, url: str, store: Store, tmp_path: Path
) -> None:
    store.add(told(CANARY))
    (tmp_path / "train.parquet").write_text("no parquet")
    for folder in (tmp_path, tmp_path / "none"):
        code, out, err = rwml(
            "forget", "--store", url, "--match", CANARY, "--dataset", folder, "--yes"
        )
        assert (code, out, err.count("\n")) == (2, "", 1)
    assert store.counts().trajectories == 1


def test_datasets_need_the_train_extra(
    rwml, url: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train.parquet").touch()
    monkeypatch.setattr("rwml.extras.find_spec", lambda name: None)
    code, _, err = rwml("forget", "--store", url, "--thread", "a", "--dataset", tmp_path)
    assert (code, "install 'rwml[train]'" in err) == (2, True)


def export_three(store: Store, out: Path, format: Format = "openai") -> bytes:
    """Exports two others, and between them one that holds the canary; returns what it wrote."""
    store.add(make_trajectory(1, source="a"))
    store.add(told(CANARY, id="b", outcome=Outcome(reward=1.0)))
    store.add(make_trajectory(2, source="c"))
    export_store(store, out, format=format)
    return out.read_bytes()


def holds(text: str, *files: Path) -> list[str]:
    return [file.name for file in files if text.encode() in file.read_bytes()]


def test_exports_are_named_and_left_as_they_are(
    rwml, url: str, store: Store, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    before = export_three(store, out)
    export_store(store, tmp_path / "without.jsonl", format="openai", source="a-1")
    command = ("forget", "--store", url, "--match", CANARY, "--json")
    expected = [{"file": str(out), "format": "openai", "rows": 1, "state": "intact"}]
    for extra, number in (
        ([], "would_remove"),
        (["--exports"], "would_remove"),
        (["--yes"], "removed"),
    ):
        code, printed, err = rwml(*command, *extra)
        assert code == 0, err
        found = json.loads(printed)
        assert (found[number], found["exports"]) == (1, expected)
        assert out.read_bytes() == before


@pytest.mark.parametrize("format", ["openai", "trl", "art", "parquet", "verl"])
def test_exports_are_written_again_without_the_subject(
    rwml, url: str, store: Store, tmp_path: Path, format: Format
) -> None:
    pytest.importorskip("pyarrow")
    out, expected = tmp_path / "out", tmp_path / "expected"
    export_three(store, out, format)
    out.chmod(0o640)
    flags = ("--store", url, "--trajectory", "b", "--exports", "--yes", "--json")
    code, printed, err = rwml("forget", *flags)
    assert code == 0, err
    assert holds(CANARY, out, manifest_path(out)) == []
    export_store(store, expected, format=format)
    if format != "verl":  # whose rows keep the index that they had
        assert read_any(out, format) == read_any(expected, format)
    states = [(file["rows"], file["state"]) for file in json.loads(printed)["exports"]]
    assert states == [(1, "rewritten")]
    manifest = read_manifest(manifest_path(out))
    assert [run.trajectory for run in manifest.runs()] == ["a-1", "c-2"]
    assert manifest.is_current()
    assert out.stat().st_mode & 0o777 == 0o640
    assert holds('"b"', manifest_path(out), ledger_path(url)) == []


def read_any(path: Path, format: str) -> list[dict]:
    if format in ("parquet", "verl"):
        import pyarrow.parquet as pq

        return pq.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_was_forgotten_before_is_found_in_exports_later(
    rwml, url: str, store: Store, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    export_three(store, out)
    command = ("forget", "--store", url, "--match", CANARY)
    assert rwml(*command, "--yes")[0] == 0
    assert store.counts().trajectories == 2
    code, printed, _ = rwml(*command)
    assert (code, f"{out}: 1 rows come from them" in printed) == (0, True)
    code, printed, _ = rwml(*command, "--exports", "--yes", "--json")
    assert (code, json.loads(printed)["exports"][0]["state"]) == (0, "rewritten")
    assert (len(read_any(out, "openai")), holds(CANARY, out)) == (2, [])
    assert rwml(*command, "--exports", "--yes")[0] == 1  # nothing is left to do


def test_an_export_that_was_changed_is_left_alone(
    rwml, url: str, store: Store, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    export_three(store, out)
    with out.open("a") as file:
        file.write("mine\n")
    before = out.read_bytes()
    command = ("forget", "--store", url, "--match", CANARY, "--exports", "--yes")
    code, printed, _ = rwml(*command)
    assert (code, "changed since" in printed) == (1, True)
    assert store.counts().trajectories == 2
    assert out.read_bytes() == before


def test_exports_that_are_gone_or_lost_their_manifest_are_said(
    rwml, url: str, store: Store, tmp_path: Path
) -> None:
    gone, bare, moved = (tmp_path / name for name in ("gone", "bare", "moved"))
    for file in (gone, bare):
        export_three(store, file)
    gone.rename(moved)
    manifest_path(gone).rename(manifest_path(moved))
    manifest_path(bare).unlink()
    command = ("forget", "--store", url, "--match", CANARY, "--json")
    found = json.loads(rwml(*command)[1])["exports"]
    assert {file["file"]: (file["rows"], file["state"]) for file in found} == {
        str(gone): (None, "missing"),
        str(bare): (None, "unknown"),
    }
    copies = ("--export-file", moved, "--exports", "--yes")
    code, printed, _ = rwml(*command, *copies)
    assert code == 0
    states = {file["file"]: file["state"] for file in json.loads(printed)["exports"]}
    assert states[str(moved)] == "rewritten"
    assert holds(CANARY, moved) == []
    code, _, err = rwml(*command, "--export-file", bare)
    assert (code, err.count("\n")) == (2, 1)


def test_a_path_that_another_store_wrote_to_since_is_not_touched(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path / name}" for name in ("one.db", "two.db")]
    out = tmp_path / "out"
    for url in urls:
        with open_store(url) as store:
            export_three(store, out)
    assert find_exports(urls[0], ["b"]) == []
    assert [found.rows for found in find_exports(urls[1], ["b"])] == [1]


def test_an_export_that_cannot_be_written_again_is_as_it_was(
    store: Store, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    before = export_three(store, out), manifest_path(out).read_bytes()
    (found,) = find_exports(url, ["b"])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rwml.exports.rewriting.copy_rows", full)
    with pytest.raises(DatasetError, match="No space left"):
        remove_rows(found, ["b"])
    assert (out.read_bytes(), manifest_path(out).read_bytes()) == before


def test_marking_twice_is_marking_once(store: Store, url: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_three(store, out)
    (found,) = find_exports(url, ["b"])
    mark_forgotten(found, ["b"])
    (again,) = find_exports(url, [])
    mark_forgotten(again, [])
    assert [run.forgotten for run in read_manifest(manifest_path(out)).runs()] == [
        False,
        True,
        False,
    ]
    assert find_exports(url, []) == [again]


@given(
    owners=st.lists(st.sampled_from("abcd")),
    first=st.sets(st.sampled_from("abcd")),
    second=st.sets(st.sampled_from("abcd")),
)
def test_what_is_left_of_any_export_is_the_others(
    tmp_path_factory: pytest.TempPathFactory, owners: list[str], first: set[str], second: set[str]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    url, out = f"sqlite:///{folder / 'rwml.db'}", folder / "out"
    rows = [f"{owner}{place}" for place, owner in enumerate(owners)]
    out.write_text("".join(f"{row}\n" for row in rows))
    origin = make_origin(export="e", format="openai", store=url, source=None)
    with write_manifest(manifest_path(out), origin) as manifest:
        for owner in owners:
            manifest.add(owner)
        manifest.finish(file_sha256(out))
    add_entry(ledger_path(url), Entry(str(out), "e"))
    for found in find_exports(url, first):
        mark_forgotten(found, first)  # forgotten once, and the file left as it was
    assert out.read_text().split() == rows
    for found in find_exports(url, second):
        assert found.rows == sum(owner in first | second for owner in owners)
        assert remove_rows(found, second).state == "rewritten"
    assert out.read_text().split() == [row for row in rows if row[0] not in first | second]
    left = read_manifest(manifest_path(out))
    assert left.is_current()
    assert find_exports(url, first | second) == []
