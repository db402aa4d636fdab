"""`rwml redact --dry-run`: it tells what would be hidden, never the value, and writes nothing."""

import json

import pytest

from rwml import Message, Step, Store, ToolCall, Trajectory
from rwml.testing import make_trajectory

MAIL, KEY = "ann@example.com", "sk-proj-Zq8vR2xLw9TnB4mKd7Yc"


def leaky(id: str = "leaky", source: str = "langgraph") -> Trajectory:
    call = ToolCall(id="c", name="login", arguments={"password": "hunter2", MAIL: "x"})
    step = Step(
        index=0,
        action=Message(role="assistant", content=f"I write to {MAIL} now.", tool_calls=(call,)),
        observation=(Message(role="tool", tool_call_id="c", content=f"{MAIL} has {KEY}"),),
        kind="tool",
        status="ok",
    )
    return Trajectory(id=id, source=source, steps=(step,), metadata={"note": "bob@example.com"})


@pytest.fixture
def filled(store: Store) -> Store:
    for task in (1, 2):
        store.add(make_trajectory(task))
    store.add(leaky())
    return store


def test_json_counts_kinds_and_shows_examples(rwml, url: str, filled: Store) -> None:
    code, out, _ = rwml("redact", "--dry-run", "--store", url, "--json")
    assert code == 0
    found = json.loads(out)
    steps = sum(len(t.steps) for t in filled.trajectories())
    assert (found["trajectories"], found["records"]) == (3, 3 + steps)
    assert found["records_changed"] == 2
    assert found["kinds"] == {"API_KEY": 1, "EMAIL": 4, "SECRET": 1}
    assert [(e["trajectory"], e["path"], e["kind"]) for e in found["examples"]] == [
        ("leaky", "metadata.note", "EMAIL"),
        ("leaky", "steps.0.action.content", "EMAIL"),
        ("leaky", "steps.0.action.tool_calls.0.arguments.password", "SECRET"),
        ("leaky", "steps.0.action.tool_calls.0.arguments", "EMAIL"),
        ("leaky", "steps.0.observation.0.content", "EMAIL"),
        ("leaky", "steps.0.observation.0.content", "API_KEY"),
    ]
    second = found["examples"][1]
    assert (second["before"], second["pseudonym"], second["after"]) == (
        "I write to ",
        "<EMAIL_2>",
        " now.",
    )
    for text in (MAIL, KEY, "hunter2", "bob@"):
        assert text not in out


def test_text_shows_outlines_and_changes_nothing(rwml, url: str, filled: Store) -> None:
    before = list(filled.trajectories())
    code, out, _ = rwml("redact", "--dry-run", "--store", url, "--limit", "2")
    assert code == 0
    assert "steps.0.action.content" in out
    assert "I write to [a... (15 characters) -> <EMAIL_2>] now." in out
    assert "arguments.password" not in out, "two examples were asked for"
    assert "2 of" in out
    for text in (MAIL, KEY, "hunter2"):
        assert text not in out
    assert list(filled.trajectories()) == before


def test_one_trajectory_one_source_and_none(rwml, url: str, filled: Store) -> None:
    def count(*arguments: str) -> int:
        out = rwml("redact", "--dry-run", "--store", url, "--json", *arguments)[1]
        return json.loads(out)["trajectories"]

    assert count("--trajectory", "leaky") == 1
    assert count("--source", "langgraph") == 1
    clean = rwml("redact", "--dry-run", "--store", url, "--trajectory", "shop-1")
    assert (clean[0], clean[1].startswith("nothing to hide in")) == (0, True)
    for arguments in (("--trajectory", "nobody"), ("--source", "nowhere")):
        code, out, err = rwml("redact", "--dry-run", "--store", url, *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)


def test_benchmarks_are_looked_at_for_secrets_unless_asked(rwml, url: str, store: Store) -> None:
    store.add(leaky(source="tau2:retail"))

    def kinds(*arguments: str) -> dict[str, int]:
        out = rwml("redact", "--dry-run", "--store", url, "--json", *arguments)[1]
        return json.loads(out)["kinds"]

    assert kinds() == {"API_KEY": 1, "SECRET": 1}
    assert kinds("--personal-data")["EMAIL"] == 4


def test_an_id_is_not_shown_as_it_is(rwml, url: str, store: Store) -> None:
    store.add(leaky(id=f"chat of {MAIL}"))
    out = rwml("redact", "--dry-run", "--store", url)[1]
    assert MAIL not in out
    assert "chat of <EMAIL>-" in out


def test_nothing_is_rewritten(rwml, url: str, filled: Store) -> None:
    code, out, err = rwml("redact", "--store", url)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--dry-run" in err


def test_a_store_that_is_not_there(rwml, tmp_path) -> None:
    code, out, err = rwml("redact", "--dry-run", "--store", f"sqlite:///{tmp_path}/none.db")
    assert (code, out, err.count("\n")) == (2, "", 1)
