"""How a trajectory or a transition becomes a row of each export format.

`openai` and `trl` are plain views of the recording; `verl` asks the world model's question, as
`rwml build` does; `art` gives OpenPipe ART its trajectories. Sources: OpenAI's chat format, TRL's
conversational prompt-completion, verl 0.9 (`RLHFDataset`, `reward_manager`), openpipe-art 0.5
(`art.Trajectory`). Pure functions: nothing is read or written here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import JsonValue
from pydantic_core import to_json

from rwml.prompts import Profile, render_next_state, render_prompt
from rwml.schema import Message, Step, Trajectory, Transition

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["openai", "trl", "parquet", "verl", "art"]
Reason = Literal["empty_next_state", "no_reward", "infrastructure_error"]
"""Why something has no row; counted, never dropped in silence."""
Row = dict[str, Any]

TEXT_COLUMNS = ("id", "source", "task_id", "kind", "status", "tool")
JSON_COLUMNS = ("context", "action", "next_state")


@dataclass(frozen=True)
class Options:
    """What a caller may choose.

    Attributes:
        history: earlier turns in the context of a transition; None for all.
        profile: prompt profile of ``verl``.
        unrated: whether ``art`` takes trajectories without a reward too, for a judge such as RULER
            to set it. Their lines have no ``reward``.
    """

    history: int | None = None
    profile: Profile = "paper"
    unrated: bool = False


@dataclass(frozen=True)
class Spec:
    """What a format is made of.

    Attributes:
        whole: True where a row is a whole trajectory, False where it is a transition.
        render: an item, its place and the options to a row, or why there is none.
        columns: the Arrow schema of a Parquet file; None for JSON lines.
    """

    whole: bool
    render: Callable[[Any, int, Options], Row | Reason]
    columns: Callable[[], pa.Schema] | None = None


def openai_row(trajectory: Trajectory, index: int, options: Options) -> Row:
    """A trajectory as ``{"messages", "tools"}``: one conversation in OpenAI's form.

    A tool's results follow in the order of its calls; a last action without an answer is kept.
    """
    messages = list(trajectory.initial)
    for step in trajectory.steps:
        messages += [step.action, *step.ordered_observation()]
    return {"messages": _wire(messages), "tools": [tool.to_openai() for tool in trajectory.tools]}


def trl_row(transition: Transition, index: int, options: Options) -> Row:
    """A transition as ``{"prompt", "completion"}`` of TRL: context, then action."""
    return {"prompt": _wire(transition.context), "completion": _wire([transition.action])}


def parquet_row(transition: Transition, index: int, options: Options) -> Row:
    """A transition as text columns, messages as JSON text."""
    return {
        **{name: getattr(transition, name) for name in TEXT_COLUMNS},
        "context": _json(_wire(transition.context)),
        "action": _json(transition.action.to_openai()),
        "next_state": _json(_wire(transition.next_state)),
    }


def verl_row(transition: Transition, index: int, options: Options) -> Row | Reason:
    """A transition as a row of verl's `RLHFDataset`: the world model's question and its answer.

    Tool results are masked to their JSON schema, as the prompt asks for it (RWML app. C.1). verl
    has no reward for a ``data_source`` of ours: name one with ``custom_reward_function``.
    """
    target = render_next_state(transition, mask=True)
    prompt = render_prompt(transition, profile=options.profile)
    if not target or prompt is None:
        return "empty_next_state"
    return {
        "data_source": f"rwml/{transition.source}",  # never one that verl scores by itself
        "prompt": prompt,
        "ability": "world_model",
        "reward_model": {"style": "rule", "ground_truth": target},
        "extra_info": {
            "index": index,
            "split": transition.split,
            "id": transition.id,
            "source": transition.source,
            "task_id": transition.task_id,
            "kind": transition.kind,
            "tool": transition.tool,
        },
    }


def art_row(trajectory: Trajectory, index: int, options: Options) -> Row | Reason:
    """A trajectory as an `art.Trajectory`: recorded actions as choices, the rest as messages.

    `art.utils.trajectory_migration.dict_to_trajectory` reads a line back; `art.Trajectory` alone
    takes a choice for a message. ART groups what it compares: group by ``metadata.task_id``. A
    missing reward is never 0, and a broken infrastructure never the agent's: such trajectories are
    left out (see `Options.unrated`).
    """
    outcome = trajectory.outcome
    if outcome.status == "infrastructure_error":
        return "infrastructure_error"
    rated = outcome.reward is not None and math.isfinite(outcome.reward)
    if not rated and not options.unrated:
        return "no_reward"
    turns: list[JsonValue] = _wire(trajectory.initial)
    for step in trajectory.steps:
        turns += [_choice(step), *_wire(step.ordered_observation())]
    return {
        "messages_and_choices": turns,
        "tools": [tool.to_openai() for tool in trajectory.tools] or None,
        **({"reward": outcome.reward} if rated else {}),
        "metrics": _metrics(trajectory),
        "metadata": {
            "id": trajectory.id,
            "source": trajectory.source,
            "task_id": trajectory.task_id,
            "split": trajectory.split,
            "status": outcome.status,
        },
        "logs": [],
    }


def _metrics(trajectory: Trajectory) -> dict[str, JsonValue]:
    """Numbers of a trajectory; what nobody measured is not there."""
    used = [step.usage for step in trajectory.steps if step.usage is not None]
    tokens = [u.completion_tokens for u in used if u.completion_tokens is not None]
    metrics: dict[str, JsonValue] = {
        "steps": len(trajectory.steps),
        "errors": sum(step.status == "error" for step in trajectory.steps),
    }
    if tokens:
        metrics["completion_tokens"] = sum(tokens)
    if trajectory.outcome.success is not None:
        metrics["success"] = trajectory.outcome.success
    return metrics


def _choice(step: Step) -> dict[str, JsonValue]:
    """An action as OpenAI's `Choice`; token ids are named as vLLM does (``token_id:N``)."""
    ids, scores = step.token_ids or (), step.logprobs or ()
    logprobs: JsonValue = None
    if ids and len(ids) == len(scores) and all(map(math.isfinite, scores)):
        content: list[JsonValue] = [
            {"token": f"token_id:{token}", "logprob": score, "bytes": None, "top_logprobs": []}
            for token, score in zip(ids, scores, strict=True)
        ]
        logprobs = {"content": content, "refusal": None}
    return {
        "index": 0,
        "finish_reason": "tool_calls" if step.action.tool_calls else "stop",
        "logprobs": logprobs,
        "message": step.action.to_openai(),
    }


def _json(value: JsonValue) -> str:
    return to_json(value, inf_nan_mode="strings").decode()  # as the store has them


def _wire(messages: Iterable[Message]) -> list[JsonValue]:
    return [message.to_openai() for message in messages]


def _parquet_columns() -> pa.Schema:
    import pyarrow as pa

    return pa.schema([(name, pa.string()) for name in (*TEXT_COLUMNS, *JSON_COLUMNS)])


def _verl_columns() -> pa.Schema:
    import pyarrow as pa

    def texts(*names: str) -> list[tuple[str, pa.DataType]]:
        return [(name, pa.string()) for name in names]

    info = ("split", "id", "source", "task_id", "kind", "tool")
    return pa.schema(
        [
            ("data_source", pa.string()),
            ("prompt", pa.list_(pa.struct(texts("role", "content")))),
            ("ability", pa.string()),
            ("reward_model", pa.struct(texts("style", "ground_truth"))),
            ("extra_info", pa.struct([("index", pa.int64()), *texts(*info)])),
        ]
    )


FORMATS: dict[Format, Spec] = {
    "openai": Spec(whole=True, render=openai_row),
    "trl": Spec(whole=False, render=trl_row),
    "parquet": Spec(whole=False, render=parquet_row, columns=_parquet_columns),
    "verl": Spec(whole=False, render=verl_row, columns=_verl_columns),
    "art": Spec(whole=True, render=art_row),
}
