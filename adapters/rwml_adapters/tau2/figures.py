"""Figures over tau2 trajectories: how often the agent called tools in ways that cannot work.

A call is invalid when no tool has its name, its arguments are no JSON object, or they do not fit
the tool's schema (RWML app. E: unknown tool, wrong arguments). A call that is well formed and fails
all the same is no invalid one. Only the trajectories are read, no benchmark.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

from pydantic import JsonValue
from pydantic_core import to_json

from rwml.schema import Tool, ToolCall, Trajectory

Fault = Literal["unknown_tool", "malformed", "wrong_arguments"]


def summarize(trajectories: Sequence[Trajectory]) -> dict[str, JsonValue]:
    """Success and mean reward of each domain, share of invalid tool calls, and how runs ended."""
    calls = 0
    faults: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    domains: dict[str, list[Trajectory]] = {}
    for trajectory in trajectories:
        domains.setdefault(trajectory.source.partition(":")[2], []).append(trajectory)
        ended[str(trajectory.outcome.breakdown.get("termination_reason", "unknown"))] += 1
        tools = {tool.name: tool for tool in trajectory.tools}
        for step in trajectory.steps:
            for call in step.action.tool_calls:
                calls += 1
                fault = fault_of(call, tools)
                if fault is not None:
                    faults[fault] += 1
    invalid = sum(faults.values())
    return {
        "tool_calls": calls,
        "invalid_tool_calls": invalid,
        "invalid_tool_call_share": invalid / calls if calls else None,
        "invalid_by_fault": dict(faults),
        "by_domain": {name: _figures(found) for name, found in sorted(domains.items())},
        "termination_reasons": dict(ended),
    }


def fault_of(call: ToolCall, tools: Mapping[str, Tool]) -> Fault | None:
    """What is wrong with a call, before any tool looks at it; None where nothing is.

    Args:
        call: of the agent.
        tools: that the agent has, by name.
    """
    if call.name not in tools:
        return "unknown_tool"
    if call.raw_arguments is not None:
        return "malformed"
    schema = tools[call.name].parameters
    # A Python function takes no argument that it does not name; the schemas do not say so.
    if "properties" in schema and call.arguments.keys() - dict(schema["properties"] or {}).keys():  # type: ignore[arg-type,call-overload]  # an object
        return "wrong_arguments"
    validator = _validator(to_json(schema))
    return None if validator.is_valid(call.arguments) else "wrong_arguments"


def _figures(trajectories: Sequence[Trajectory]) -> dict[str, JsonValue]:
    judged = [t.outcome.success for t in trajectories if t.outcome.success is not None]
    rewards = [t.outcome.reward for t in trajectories if t.outcome.reward is not None]
    return {
        "episodes": len(trajectories),
        "judged": len(judged),
        "success_rate": sum(judged) / len(judged) if judged else None,
        "mean_reward": sum(rewards) / len(rewards) if rewards else None,
    }


@lru_cache(maxsize=256)
def _validator(schema: bytes) -> Any:
    import json

    from jsonschema import Draft202012Validator

    return Draft202012Validator(json.loads(schema))
