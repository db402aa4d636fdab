"""Forgetting a person whose name was never stored: by the pseudonyms that stand for it."""

import json
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from rwml import Message, Recorder, Step, Store, Trajectory, open_store
from rwml.schema import Provenance
from rwml.store import Subject
from rwml.store.erasure import other_keys

ANN = "ann@example.com"


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of servers' stores: not in the tester's own home."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))


@pytest.fixture
def live(url: str) -> Iterator[Recorder]:
    """A recorder that goes on while others forget."""
    with Recorder(store=url) as recorder:
        yield recorder


def step(index: int, text: str, **fields) -> Step:
    return Step(index=index, action=Message(role="assistant", content=text), **fields)


def record(url: str, text: str, *, id: str = "told") -> None:
    with Recorder(store=url) as recorder:
        recorder.record(Trajectory(id=id, source="x", steps=(step(0, text),)))
        assert recorder.flush(30)


@pytest.mark.parametrize(
    "subject",
    [
        Subject(match="ann@example.com"),
        Subject(match="ANN@example.com"),
        Subject(thread="chat of ann@example.com"),
        Subject(trajectory="chat of ann@example.com: 1"),
    ],
)
def test_what_was_redacted_is_found_by_what_stands_for_it(url: str, subject: Subject) -> None:
    with Recorder(store=url) as recorder:
        for name in ("ann", "bob"):
            thread = f"chat of {name}@example.com"
            with recorder.trajectory(
                id=f"{thread}: 1", source="mine", metadata={"thread_id": thread}
            ) as t:
                t.act({"role": "assistant", "content": f"Is it {name}@example.com?"})
                t.observe({"role": "user", "content": "yes"})
        assert recorder.flush(30)
    with open_store(url) as store:
        assert "example.com" not in str(list(store.trajectories()))
        assert len(store.forget(subject).keys) == 1
        (left,) = store.trajectories()
        assert left.id.startswith("chat of <EMAIL>: 1")
        assert store.find(Subject(match="bob@example.com"))
        with store._reading() as connection:
            assert connection.exec_driver_sql("select count(*) from pseudonyms").scalar() == 1


def test_a_thread_is_found_in_the_steps_alone(url: str) -> None:
    seen = Provenance(thread_id=ANN)
    with Recorder(store=url) as recorder:
        one = step(0, "hello", provenance=seen)
        recorder.record(Trajectory(id="one", source="x", steps=(one,)))
        recorder.record(Trajectory(id="other", source="x", steps=(step(0, ANN),)))
        assert recorder.flush(30)
    with open_store(url) as store:
        assert ANN not in str(list(store.trajectories()))
        assert store.find(Subject(thread=ANN)) == ["one"]
        assert store.find(Subject(match=ANN)) == ["one", "other"]
        assert store.find(Subject(thread="bob@example.com")) == []


def test_who_goes_on_after_being_forgotten_is_found_again(url: str, live: Recorder) -> None:
    live.record(Trajectory(id="a", source="x", steps=(step(0, f"{ANN}, bob@example.com"),)))
    assert live.flush(30)
    with open_store(url) as store:
        assert store.forget(Subject(match=ANN)).keys == ("a",)
        assert store.find(Subject(match=ANN)) == []
        live.record_step("a", step(1, f"To {ANN}"))
        live.record_step("a", step(2, "to nobody"))
        assert live.flush(30)
        with store._reading() as connection:
            bodies = connection.execute(sa.text("select body from steps order by step_index"))
            assert "To <EMAIL_1>" in bodies.scalars().all()[0]
        gone = store.forget(Subject(match=ANN))
        assert (gone.keys, gone.steps) == (("a",), 2)
        assert store.find(Subject(match="bob@example.com")) == []


def test_pseudonyms_of_other_keys_are_told(rwml, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2):
        monkeypatch.setenv("RWML_KEY", f"the key of machine {number}")
        record(url, ANN, id=f"chat {number}")
        record(url, "nobody", id=f"nobody {number}")
    command = ("forget", "--store", url)

    def look(*arguments: str) -> tuple[int, int]:
        found = json.loads(rwml(*command, *arguments, "--json")[1])
        return found.get("would_remove", found.get("removed")), found["other_keys"]

    assert look("--match", ANN) == (1, 1)
    assert look("--match", ANN, "--yes") == (1, 1)
    code, out, _ = rwml(*command, "--match", ANN)
    assert (code, "nothing to remove" in out, "pseudonyms of 1 other" in out) == (1, True, True)
    assert "RWML_KEY" in rwml(*command, "--thread", "7")[1]
    assert "RWML_KEY" in rwml(*command, "--trajectory", ANN)[1]
    assert "RWML_KEY" not in rwml(*command, "--trajectory", "nobody 1")[1]
    monkeypatch.delenv("RWML_KEY")  # a third, in a file
    assert look("--match", ANN) == (0, 1)
    monkeypatch.setenv("RWML_KEY", "the key of machine 1")
    assert look("--match", ANN, "--yes") == (1, 0)
    assert "RWML_KEY" not in rwml(*command, "--match", ANN)[1]
    with open_store(url) as store:
        assert [t.id for t in store.trajectories()] == ["nobody 1", "nobody 2"]


def test_the_key_of_no_store_is_made_by_asking(url: str, store: Store) -> None:
    assert other_keys(store) == 0
    assert store.find(Subject(match=ANN)) == []  # makes one
    record(url, ANN)
    assert other_keys(store) == 0


def make_older(store: Store) -> None:
    """Takes a store back to version 2."""

    def work(connection: sa.Connection) -> None:
        connection.exec_driver_sql("alter table pseudonyms drop column key_check")
        connection.exec_driver_sql("update rwml_schema set version = 2")

    store._transact(work)


def test_of_older_pseudonyms_nobody_knows_the_key(
    rwml, url: str, store: Store, live: Recorder
) -> None:
    live.record(Trajectory(id="a", source="x", steps=(step(0, ANN),)))
    assert live.flush(30)
    made = columns(url)
    make_older(store)
    with open_store(url) as migrated:
        assert columns(url) == made
        assert other_keys(migrated) is None
        code, out, _ = rwml("forget", "--store", url, "--match", ANN, "--json")
        assert (code, json.loads(out)["other_keys"], json.loads(out)["would_remove"]) == (
            0,
            None,
            1,
        )
        assert "older rwml" in rwml("forget", "--store", url, "--match", ANN)[1]
        live.record_step("a", step(1, f"again {ANN}"))  # whoever uses one has its key
        assert live.flush(30)
        assert other_keys(migrated) == 0


def test_an_older_store_without_pseudonyms_has_no_keys(url: str, store: Store) -> None:
    make_older(store)
    with open_store(url) as migrated:
        assert other_keys(migrated) == 0


def columns(url: str) -> list[tuple[str, str, bool]]:
    engine = sa.create_engine(url)
    found = sa.inspect(engine).get_columns("pseudonyms")
    engine.dispose()
    return [(column["name"], str(column["type"]), column["nullable"]) for column in found]
