"""The gate on tool calls: how often two versions call a tool as its schema says, paired.

Where a recorded agent called a tool, a version is given the same messages and tools, and its answer
counts when it calls tools that it has, with arguments that satisfy their JSON schemas. Whether it
is the right call is not asked: that is what playing a benchmark tells (`agent_success`). Only a
difference that its interval shows stops a promotion.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from rwml.cli.output import track
from rwml.errors import ServingError, UsageError
from rwml.extras import require
from rwml.schema import Tool, Transition
from rwml.statistics import MIN_CLUSTERS, paired_difference, verdict
from rwml.store import Store
from rwml_trainer import runs
from rwml_trainer.dataset.splitting import hash_share
from rwml_trainer.serving.apart import engine_of
from rwml_trainer.serving.engine import Engine, start_transformers
from rwml_trainer.serving.fleet import StartEngine
from rwml_trainer.serving.registry import Version

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

ROWS = 100
"""Recorded tool calls at most, where nothing else is asked for (ours)."""
MAX_TOKENS = 512
"""Of an answer (ours): a call takes some dozens."""
REFUSED = (400, 413, 422)
"""Statuses by which an engine says that it does not take a prompt; others are its failures."""
TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Prompt:
    """What a recorded agent saw when it called a tool.

    Attributes:
        id: of the transition.
        group: what is not independent of it.
        messages: in OpenAI's form.
        tools: that it had.
        validators: of the arguments, by the tool's name.
    """

    id: str
    group: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, JsonValue]]
    validators: Mapping[str, Validator]


def compare_tool_calls(
    store: Store,
    *,
    candidate: Version,
    current: Version,
    folder: Path,
    rows: int = ROWS,
    start_engine: StartEngine | None = None,
) -> dict[str, JsonValue]:
    """Asks both versions for the same recorded tool calls.

    Args:
        store: with recorded trajectories; of them, tasks that neither version was trained on.
        candidate: what would be promoted.
        current: what its name means now.
        folder: serving folder, which keeps the engines' logs.
        rows: prompts at most.
        start_engine: starts an engine, of one version after the other; by default
            `transformers serve`.

    Returns:
        Shares of valid calls (``candidate``, ``current``), ``difference``, ``ci95`` over tasks or
        threads, ``verdict``, ``rows`` and ``tasks`` behind it, and how many prompts each engine
        ``refused``, which count as no valid call.

    Raises:
        UsageError: no version is shown tools, or the store holds no such prompt.
        ModelError, ServingError: an engine does not start, or fails.
        MissingExtraError: jsonschema is not installed.
    """
    require("serve", "jsonschema", "referencing", "httpx")
    if not (candidate.tools or current.tools):
        raise UsageError(
            f"the chat templates of {candidate.id} and {current.id} show no tools: there are no "
            f"tool calls to compare"
        )
    prompts = pick_prompts(store, seen_share(candidate, current), rows)
    if not prompts:
        raise UsageError(
            f"{store.url} holds no tool call of a task that neither version was trained on: "
            f"record more, or leave --gate-tools out"
        )
    start = start_engine or start_transformers
    answers = {
        version.id: _ask_all(version, prompts, start, folder) for version in (current, candidate)
    }
    before, after = (
        [
            answer is not None and is_valid(answer, prompt.validators)
            for answer, prompt in zip(answers[version.id], prompts, strict=True)
        ]
        for version in (current, candidate)
    )
    keys = [(prompt.group, place) for place, prompt in enumerate(prompts)]
    difference = paired_difference(
        dict(zip(keys, map(float, before), strict=True)),
        dict(zip(keys, map(float, after), strict=True)),
    )
    return {
        "rows": len(prompts),
        "tasks": difference.clusters,
        "enough_tasks": difference.clusters >= MIN_CLUSTERS,
        "candidate": sum(after) / len(prompts),
        "current": sum(before) / len(prompts),
        "difference": difference.mean,
        "ci95": [difference.low, difference.high],
        "verdict": verdict(difference),
        "refused": {
            "candidate": answers[candidate.id].count(None),
            "current": answers[current.id].count(None),
        },
    }


def seen_share(*versions: Version) -> float:
    """Share of the hash band that no version was trained on; all of it for model folders.

    Raises:
        ModelError: the run of a version is gone, which alone tells.
    """
    shares = [
        runs.read_run(Path(version.source)).validation_share
        for version in versions
        if version.stage is not None
    ]
    return min(shares, default=1.0)


def pick_prompts(store: Store, held_out: float, rows: int) -> list[Prompt]:
    """Recorded prompts that a tool call answered: the same ones every time.

    Args:
        store: with the trajectories.
        held_out: share of the hash band that their groups lie in.
        rows: at most; those with the lowest hashes.
    """
    import heapq

    found = (
        transition
        for transition in store.transitions()
        if transition.action.tool_calls
        and transition.tools
        and transition.context
        and hash_share(transition.group) < held_out
    )
    lowest = heapq.nsmallest(rows, found, key=lambda each: (hash_share(each.id), each.id))
    prompts = (_prompt(transition) for transition in lowest)
    return [prompt for prompt in prompts if prompt is not None]


def is_valid(message: Mapping[str, Any], validators: Mapping[str, Validator]) -> bool:
    """Whether an answer calls known tools, each with arguments that satisfy its schema.

    A schema that refers to elsewhere is satisfied by nothing: it is not fetched.
    """
    from jsonschema import ValidationError
    from referencing.exceptions import Unresolvable

    calls = message.get("tool_calls") or []
    try:
        for call in calls:
            function = call["function"]
            arguments = json.loads(function["arguments"], parse_constant=_refuse)
            validators[function["name"]].validate(arguments)
    except (ValidationError, Unresolvable, *_UNFIT):
        return False
    return bool(calls)


_UNFIT = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What a message or a schema of any shape may come to."""


def _refuse(constant: str) -> None:
    """NaN and Infinity, which Python reads, are no JSON."""
    raise ValueError(constant)


def _prompt(transition: Transition) -> Prompt | None:
    """None where a schema is none: nothing can be said of its calls."""
    validators = _validators(transition.tools)
    if validators is None:
        return None
    return Prompt(
        id=transition.id,
        group=transition.group,
        messages=[message.to_openai() for message in transition.context],
        tools=[tool.to_openai() for tool in transition.tools],
        validators=validators,
    )


def _validators(tools: Iterable[Tool]) -> dict[str, Validator] | None:
    from jsonschema import Draft202012Validator, SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry

    made: dict[str, Validator] = {}
    for tool in tools:
        try:
            kind: Any = validator_for(tool.parameters, default=Draft202012Validator)
            kind.check_schema(tool.parameters)
        except (SchemaError, *_UNFIT):
            return None
        # An empty registry: by default a reference in a recorded schema would be fetched.
        made[tool.name] = kind({"type": "object", **tool.parameters}, registry=Registry())
    return made


def _ask_all(
    version: Version, prompts: Sequence[Prompt], start_engine: StartEngine, folder: Path
) -> list[Mapping[str, Any] | None]:
    """The message of each answer; None where the engine refuses the prompt, as too long say."""
    import httpx

    answers: list[Mapping[str, Any] | None] = []
    said = ""
    running = engine_of(version, start_engine, folder)
    with running as engine, httpx.Client(trust_env=False) as client:
        for prompt in track(prompts, label=f"tool calls of {version.id}"):
            answer = _ask(client, engine, version, prompt)
            answers.append(_message(answer, version, prompt))
            said = answer.text[:300]
    if all(answer is None for answer in answers):
        raise ServingError(f"the engine of {version.id} refuses every prompt: {said}")
    return answers


def _ask(client: Any, engine: Engine, version: Version, prompt: Prompt) -> Any:
    import httpx

    body: dict[str, Any] = {"messages": prompt.messages}
    if version.tools:
        body["tools"] = prompt.tools
    try:
        return client.post(
            f"{engine.url}/chat/completions",
            headers={"Authorization": f"Bearer {engine.key}"} if engine.key else {},
            json={"model": engine.model, "max_tokens": MAX_TOKENS, "temperature": 0, **body},
            timeout=TIMEOUT_S,
        )
    except httpx.HTTPError as error:
        engine.process.check()
        raise ServingError(f"the engine of {version.id} fails at {prompt.id}: {error}") from error


def _message(answer: Any, version: Version, prompt: Prompt) -> Mapping[str, Any] | None:
    if answer.status_code in REFUSED:
        return None
    try:
        message = answer.json()["choices"][0]["message"]
        return dict(message)
    except (ValueError, LookupError, TypeError) as error:
        raise ServingError(
            f"the engine of {version.id} answers {prompt.id} with {answer.status_code}: "
            f"{answer.text[:300]}"
        ) from error
