"""Gate 4, as a program of its own: hands every hostile value to the recorder, everywhere.

`record_hostile STORE [NAMES]` prints what was raised into the caller, and the recorder's counters.
Run on its own, as under pytest a recorder raises what it swallows in production.
"""

from __future__ import annotations

import collections
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from tests.gates.hostile import HOSTILE

from rwml import Recorder
from rwml.trajectory_recorder import TrajectoryRecorder


def call(arguments: Any, *, id: Any = "c", name: Any = "look") -> dict[str, Any]:
    """An action that calls a tool."""
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"id": id, "function": function}]}


def told(t: TrajectoryRecorder, message: Any, **more: Any) -> None:
    """An action, and what came back: each message in turn."""
    t.act({"role": "assistant", "content": "before"})
    t.observe(message, **more)


PLACES: dict[str, Callable[[TrajectoryRecorder, Any], None]] = {
    "content": lambda t, v: t.act({"role": "assistant", "content": v}),
    "part": lambda t, v: told(t, {"role": "user", "content": [{"type": "text", "text": v}]}),
    "media": lambda t, v: told(t, {"role": "user", "content": [{"type": "image", "data": v}]}),
    "result": lambda t, v: told(t, {"role": "tool", "tool_call_id": "c", "content": v}),
    "error": lambda t, v: told(t, {"role": "tool", "content": v}, status="error"),
    "arguments": lambda t, v: t.act(call({"v": v})),
    "all arguments": lambda t, v: t.act(call(v)),
    "call id": lambda t, v: t.act(call({}, id=v)),
    "tool name": lambda t, v: t.act(call({}, name=v)),
    "calls": lambda t, v: t.act({"role": "assistant", "tool_calls": v}),
    "result id": lambda t, v: told(t, {"role": "tool", "tool_call_id": v, "content": "x"}),
    "name": lambda t, v: told(t, {"role": "user", "name": v, "content": "x"}),
    "reasoning": lambda t, v: t.act({"role": "assistant", "reasoning": v}),
    "step metadata": lambda t, v: t.act({"role": "assistant"}, metadata={"v": v}),
    "all step metadata": lambda t, v: t.act({"role": "assistant"}, metadata=v),
    "model": lambda t, v: t.act({"role": "assistant"}, model=v),
    "role": lambda t, v: t.act({"role": v}),
    "message": lambda t, v: t.act(v),
    "observed": lambda t, v: told(t, v),
    "usage": lambda t, v: t.act({"role": "assistant"}, usage=v),
    "latency": lambda t, v: t.act({"role": "assistant"}, latency_s=v),
    "provenance": lambda t, v: t.act({"role": "assistant"}, provenance=v),
    "status": lambda t, v: told(t, {"role": "user", "content": "x"}, status=v),
    "kind": lambda t, v: told(t, {"role": "user", "content": "x"}, kind=v),
    "outcome": lambda t, v: t.finish(v),
}
"""Where a value stands in a trajectory that is being recorded."""
CHECKED = ("content", "result", "error", "arguments", "all arguments", "step metadata")
"""Those of which the stored form is compared with the snapshot's."""
HEAVY = ("bomb", "10 MB")
"""Those that take seconds: short rounds give them in two places."""
IS_FULL = os.environ.get("RWML_SOAK") == "1"
HEADERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "metadata": lambda v: {"metadata": {"v": v}},
    "all metadata": lambda v: {"metadata": v},
    "id": lambda v: {"id": v},
    "source": lambda v: {"source": v},
    "task id": lambda v: {"task_id": v},
    "split": lambda v: {"split": v},
    "tool schema": lambda v: {"tools": [{"name": "f", "parameters": {"v": v}}]},
    "tool": lambda v: {"tools": [v]},
    "tool description": lambda v: {"tools": [{"name": "f", "description": v}]},
    "initial": lambda v: {"messages": [{"role": "system", "content": v}]},
    "initial message": lambda v: {"messages": [v]},
    "fingerprint": lambda v: {"fingerprint": v},
}
"""Where a value stands as a trajectory begins."""


def places(name: str) -> list[str]:
    """Where a value is given; in short rounds, in every fourth of the places not compared."""
    if IS_FULL:
        return [*PLACES, *HEADERS]
    if name in HEAVY:
        return ["result", "arguments"]
    others = [place for place in (*PLACES, *HEADERS) if place not in CHECKED]
    return [*CHECKED, *others[list(HOSTILE).index(name) % 4 :: 4]]


def record(recorder: Recorder, name: str, place: str) -> None:
    """A trajectory with a value in one place."""
    value = HOSTILE[name]()
    about: dict[str, Any] = {"id": f"{name}/{place}", "source": "gate"}
    if place in HEADERS:
        about |= HEADERS[place](value)
    with recorder.trajectory(**about) as t:
        if place in PLACES:
            PLACES[place](t, value)
        else:
            t.act({"role": "assistant", "content": "x"})


def main(url: str, names: str = "") -> None:
    """Records all values in all places."""
    raised: list[str] = []
    refused: collections.Counter[str] = collections.Counter()
    large = {"queue_records": 1 << 30, "queue_bytes": 1 << 40}
    with Recorder(store=url, **large) as recorder:  # type: ignore[arg-type]
        for name in names.split(",") if names else HOSTILE:
            for place in places(name):
                try:
                    record(recorder, name, place)
                except BaseException as error:  # that is what is counted
                    raised.append(f"{name}/{place}: {type(error).__name__}")
                refused[place] += recorder.stats.errors - refused.total()
            recorder.flush(60)
        stats = recorder.stats
    told = {name: getattr(stats, name) for name in ("accepted", "written", "failed", "errors")}
    json.dump({"raised": raised, "refused": +refused, **told}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
