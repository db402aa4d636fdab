"""Gate 4: any value anywhere; nothing is raised, and what is stored is strict JSON and says all."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from tests.gates.common import figure, run
from tests.gates.hostile import HOSTILE
from tests.gates.record_hostile import CHECKED, HEADERS, PLACES, places

from rwml import Recorder, Trajectory, open_store
from rwml.content import well_formed
from rwml.snapshot import as_content, to_json

NO_VALUES = {
    "role", "message", "observed", "usage", "latency", "provenance", "status", "kind", "outcome",
    "tool", "initial message", "fingerprint",
}  # fmt: skip
"""Places that take only what the schema knows: what is none is left out alone, and counted."""


def refuse(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is no JSON")


def stored_form(value: Any) -> Any:
    """A snapshot as a store gives it back: no half of a surrogate pair."""
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, list):
        return [stored_form(item) for item in value]
    if isinstance(value, dict):
        return {well_formed(key): stored_form(item) for key, item in value.items()}
    return value


def as_stored(name: str, place: str) -> Any:
    """What must stand in the store; None where an id of the value's own makes it differ."""
    value = HOSTILE[name]()
    if place in ("arguments", "step metadata"):
        return stored_form(to_json({"v": value}))
    if place == "all arguments":
        plain = stored_form(to_json(value))
        return plain if isinstance(plain, dict) else {}
    content = as_content(value)
    return stored_form(content) if isinstance(content, str) else None


def found(trajectory: Trajectory, place: str) -> Any:
    step = trajectory.steps[-1]
    if place in ("result", "error"):
        return step.observation[0].content
    if place == "content":
        return step.action.content
    if place == "step metadata":
        return step.metadata
    return step.action.tool_calls[0].arguments


def bodies(path: Path) -> Iterator[str]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for table in ("trajectories", "steps"):
            for (body,) in connection.execute(f"select body from {table}"):
                yield body


def test_hostile_values_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "rwml.db"
    told = run("record_hostile", f"sqlite:///{path}", timeout_s=280)
    number = 0
    for body in bodies(path):
        json.loads(body, parse_constant=refuse)
        number += 1
    changes = {"uuid", "datetime", "weakref"}  # another value each time
    different: list[str] = []
    with open_store(f"sqlite:///{path}", create=False) as store:
        stored = {t.id: t for t in store.trajectories()}
    for name in set(HOSTILE) - changes:
        for place in set(CHECKED) & set(places(name)):
            wanted = as_stored(name, place)
            trajectory = stored[f"{name}/{place}"]
            if wanted is not None and found(trajectory, place) != wanted:
                different.append(f"{name}/{place}")
    figure(
        "4_hostile",
        values=len(HOSTILE),
        places=len(PLACES) + len(HEADERS),
        raised=len(told["raised"]),
        failed=told["failed"],
        different=len(different),
        rows=number,
    )
    assert told["raised"] == []
    assert (told["failed"], told["accepted"]) == (0, told["written"])
    assert set(told["refused"]) <= NO_VALUES
    assert not different


@pytest.mark.parametrize("name", sorted(set(HOSTILE)))
def test_a_snapshot_is_strict_json_and_shares_nothing(name: str) -> None:
    value = HOSTILE[name]()
    plain = to_json(value)
    text = json.dumps(plain, allow_nan=False)
    assert to_json(plain) == plain or '"$type"' in text
    for below in walk(plain):
        assert type(below) in (dict, list, str, int, float, bool, type(None))
        assert below is not value or type(value) in (str, int)


def walk(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, dict | list):
        for below in value.values() if isinstance(value, dict) else value:
            yield from walk(below)


def test_the_value_stored_is_the_one_at_call_time(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"ids": [1, {"deep": {2}}]}
    about: dict[str, Any] = {"list": [1]}
    schema: dict[str, Any] = {"type": "object", "properties": {"a": {}}}
    said: list[Any] = [{"type": "text", "text": "first"}]
    call = {"id": "c", "function": {"name": "f", "arguments": arguments}}
    tool = {"name": "f", "parameters": schema}
    with (
        Recorder(store=f"sqlite:///{tmp_path / 'rwml.db'}") as recorder,
        recorder.trajectory(id="t", source="gate", metadata=about, tools=[tool]) as t,
    ):
        t.act({"role": "assistant", "tool_calls": [call]}, metadata=about)
        t.observe({"role": "tool", "tool_call_id": "c", "content": said})
        arguments["ids"][1]["deep"].add(3)
        arguments.clear()
        about["list"].append(2)
        schema["properties"]["a"]["type"] = "later"
        said[0]["text"] = "later"
    with open_store(f"sqlite:///{tmp_path / 'rwml.db'}") as store:
        (trajectory,) = store.trajectories()
    (step,) = trajectory.steps
    kept = {"ids": [1, {"deep": {"$type": "set", "items": [2]}}]}
    assert step.action.tool_calls[0].arguments == kept
    assert step.observation[0].content == "first"
    assert trajectory.metadata == step.metadata == {"list": [1]}
    assert trajectory.tools[0].parameters == {"type": "object", "properties": {"a": {}}}
