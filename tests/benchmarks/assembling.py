"""Assembling trajectories from a log of completions, against a rescan of full histories.

The log holds interleaved conversations of agents that call tools; each line is a request with the
whole history, and its response. The baseline is a correct assembler without hashes: it reads each
line as a whole and compares the history with those of all open trajectories. A second baseline
compares parsed JSON and makes messages only of what is new, which is the best that can be done
without looking at the text.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from tests.benchmarks.measure import Result, rates

from rwml.assemble import Assembler, Completion, LineReader
from rwml.records import HeaderRecord
from rwml.schema import Message

CONVERSATIONS = 3
STEPS = 200
PAYLOAD = "A line of a result that a tool has found. " * 49  # 2 KB
KEY = b"the key of a benchmark"
Pairs = set[tuple[str, str]]
"""Ids of calls, and the results that came back."""


def assemble_vs_naive() -> list[Result]:
    """Lines per second on 200-step trajectories, and how the time grows with their length."""
    lines = _log(STEPS)
    if not _ours(lines) == _naive(lines) == _naive_json(lines):
        raise RuntimeError("the assemblers do not agree")
    found = [
        rates(
            name,
            ours=partial(_run, _ours, lines),
            baseline=partial(_run, baseline, lines),
            units=len(lines),
            unit="lines/s",
            rounds=3,
        )
        for name, baseline in (
            ("assemble_vs_naive", _naive),
            ("assemble_vs_naive_json", _naive_json),
        )
    ]
    return [*found, _growth()]


def _run(assembler: Callable[[list[str]], Pairs], lines: list[str]) -> None:
    assembler(lines)


def _growth() -> Result:
    """Time per character of log at 400 steps, against 100 steps: 1 or less is linear."""
    short, long = (_seconds_per_character(steps) for steps in (100, 400))
    return Result(
        name="assemble_time_per_character_400_vs_100_steps",
        value=long * 1e9,
        unit="ns",
        baseline=short * 1e9,
        ratio=long / short,
    )


def _seconds_per_character(steps: int) -> float:
    lines = _log(steps)
    times: list[float] = []
    for _ in range(3):
        started = time.perf_counter()
        _ours(lines)
        times.append(time.perf_counter() - started)
    return statistics.median(times) / sum(map(len, lines))


def _log(steps: int) -> list[str]:
    """Requests with their whole history, as a gateway writes them."""
    lines: list[str] = []
    histories = [
        [
            {"role": "system", "content": "You help. " + "Be kind. " * 100},
            {"role": "user", "content": f"Find everything about {number}."},
        ]
        for number in range(CONVERSATIONS)
    ]
    for step in range(steps):
        for number, history in enumerate(histories):
            name = f"call-{number}-{step}"
            function = {"name": "find", "arguments": json.dumps({"part": step})}
            call = {"id": name, "type": "function", "function": function}
            answer: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [call]}
            lines.append(json.dumps({"model": "m", "messages": history, "response": answer}))
            result = f"{number} {step}: {PAYLOAD}"
            history += [answer, {"role": "tool", "tool_call_id": name, "content": result}]
    return lines


def _ours(lines: Iterable[str]) -> Pairs:
    assembler = Assembler(key=KEY, source="bench")
    reader = LineReader(assembler.hasher, response="response")
    pairs: Pairs = set()
    for line in lines:
        _, history = reader.read(line)
        completion = Completion(messages=history.messages, response=history.response)
        for record in assembler.place(completion, history.digests_of(completion)):
            if not isinstance(record, HeaderRecord):
                _note(pairs, record.step.action, record.step.observation)
    return pairs


def _naive(lines: Iterable[str]) -> Pairs:
    """Reads messages, and compares them with the messages of every open trajectory."""
    return _rescan(lines, Message.from_openai, lambda message: message)


def _naive_json(lines: Iterable[str]) -> Pairs:
    """The same on parsed JSON; only what is new becomes a message."""
    return _rescan(lines, lambda wire: wire, Message.from_openai)


def _rescan(
    lines: Iterable[str], read: Callable[[Any], Any], to_message: Callable[[Any], Message]
) -> Pairs:
    open_histories: list[list[Any]] = []
    pairs: Pairs = set()
    for line in lines:
        fields = json.loads(line)
        request = [read(wire) for wire in fields["messages"]]
        answer = read(fields["response"])
        fitting = [known for known in open_histories if request[: len(known)] == known]
        known = max(fitting, key=len, default=None)
        if known is None:
            open_histories.append([*request, answer])
            continue
        new = tuple(to_message(message) for message in request[len(known) :])
        _note(pairs, to_message(known[-1]), new)
        known[:] = [*request, answer]
    return pairs


def _note(pairs: Pairs, action: Message, observation: tuple[Message, ...]) -> None:
    for call, message in zip(action.tool_calls, observation, strict=False):
        pairs.add((call.id, message.content or ""))
