"""Trajectories as files that other tools read, streamed in bounded memory.

Texts are written as they are stored: what redaction took out is not in an export either. These
are plain views of the recording; the masked, split and measured examples of a world model are
made by `rwml build`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from rwml.extras import require
from rwml.files import whole_file
from rwml.schema import Message, Trajectory, Transition

Format = Literal["openai", "trl", "parquet"]
ROW_GROUP = 512
"""Rows of one Parquet row group: bounds memory while writing (ours)."""
TEXT_COLUMNS = ("id", "source", "task_id", "kind", "status", "tool")
JSON_COLUMNS = ("context", "action", "next_state")


def export_openai(trajectories: Iterable[Trajectory], out: Path) -> int:
    """Writes ``{"messages": [...], "tools": [...]}`` per trajectory; returns how many lines.

    A tool's results follow in the order of its calls; a last action without an answer is kept.
    """
    return _write_lines(map(openai_line, trajectories), out)


def export_trl(transitions: Iterable[Transition], out: Path) -> int:
    """Writes ``{"prompt": [...], "completion": [...]}`` per transition: context, then action.

    Returns:
        How many lines.
    """
    return _write_lines(map(trl_line, transitions), out)


def export_parquet(transitions: Iterable[Transition], out: Path) -> int:
    """Writes one Parquet row per transition, messages as JSON text; returns how many rows.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    require("train", "pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.string()) for name in (*TEXT_COLUMNS, *JSON_COLUMNS)])
    waiting, number = iter(transitions), 0
    with whole_file(out) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        while rows := [parquet_row(transition) for transition in islice(waiting, ROW_GROUP)]:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            number += len(rows)
    return number


def openai_line(trajectory: Trajectory) -> dict[str, JsonValue]:
    """A trajectory as one conversation in OpenAI's form."""
    messages = list(trajectory.initial)
    for step in trajectory.steps:
        messages += [step.action, *step.ordered_observation()]
    return {"messages": _wire(messages), "tools": [tool.to_openai() for tool in trajectory.tools]}


def trl_line(transition: Transition) -> dict[str, JsonValue]:
    """A transition as TRL's conversational prompt and completion."""
    return {"prompt": _wire(transition.context), "completion": _wire([transition.action])}


def parquet_row(transition: Transition) -> dict[str, str | None]:
    """A transition as the columns of the Parquet file."""
    return {
        **{name: getattr(transition, name) for name in TEXT_COLUMNS},
        "context": _dumps(_wire(transition.context)),
        "action": _dumps(transition.action.to_openai()),
        "next_state": _dumps(_wire(transition.next_state)),
    }


def _write_lines(lines: Iterator[dict[str, JsonValue]], out: Path) -> int:
    number = 0
    with whole_file(out) as temporary, temporary.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(_dumps(line) + "\n")
            number += 1
    return number


def _wire(messages: Iterable[Message]) -> list[JsonValue]:
    return [message.to_openai() for message in messages]


def _dumps(value: JsonValue) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
