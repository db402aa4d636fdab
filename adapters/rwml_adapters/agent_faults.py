"""What ends an episode because of the agent itself, among all that is raised around it.

Everything else that an agent's graph or model raises is a fault of the infrastructure, which is
tried again and never counts as a failure.
"""

from __future__ import annotations

from rwml.schema import Outcome

_FAULTS = {
    "GraphRecursionError": "the graph went round without an answer",
    "ContextWindowExceededError": "the conversation is longer than the model's context",
}
"""Exceptions, by name: their packages need not be installed."""


def agent_fault(error: Exception) -> Outcome | None:
    """The outcome where the agent itself could not go on; None for a fault around it."""
    for kind in type(error).__mro__:
        if kind.__name__ in _FAULTS:
            return Outcome(
                status="truncated",
                success=False,
                reward=0.0,
                breakdown={
                    "termination_reason": "agent_error",
                    "error_type": type(error).__name__,
                    "reason": _FAULTS[kind.__name__],
                },
            )
    return None
