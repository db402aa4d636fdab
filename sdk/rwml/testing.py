"""Fakes and builders for tests of rwml, and of code that uses it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rwml.schema import Message, Outcome, Step, Tool, ToolCall, Trajectory

if TYPE_CHECKING:
    import numpy as np

DIMENSIONS = 256


class BagOfWordsEncoder:
    """An encoder without a model: counts words by hash, so that texts sharing words are close.

    Attributes:
        texts: every text it was asked to embed, in order.
    """

    name = "bag-of-words"

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds texts: n strings to an (n, 256) array of unit rows."""
        import numpy as np

        self.texts.extend(texts)
        vectors = np.zeros((len(texts), DIMENSIONS), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split() or [""]:
                digest = hashlib.sha256(word.encode()).digest()
                vectors[row, int.from_bytes(digest[:4], "big") % DIMENSIONS] += 1.0
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_trajectory(task: int, *, source: str = "shop", length: int = 3) -> Trajectory:
    """A conversation with a shop: tool calls, one of which fails, then a question to the user.

    Args:
        task: number of the task; every text depends on it.
        source: of the trajectory.
        length: how many tool calls come before the question.
    """
    steps = [_tool_step(task, index) for index in range(length)]
    steps.append(
        Step(
            index=length,
            action=Message(role="assistant", content=f"Shall I cancel order {task}?"),
            observation=(Message(role="user", content=f"Yes, cancel order {task}, please."),),
            kind="user",
            status="ok",
        )
    )
    return Trajectory(
        id=f"{source}-{task}",
        source=source,
        task_id=str(task),
        initial=(
            Message(role="system", content="You help the customers of a shop."),
            Message(role="user", content=f"Please look at order {task}."),
        ),
        tools=(
            Tool(
                name="get_order",
                description="Look an order up.",
                parameters={
                    "type": "object",
                    "properties": {"order_id": {"type": "string"}},
                    "required": ["order_id"],
                },
            ),
        ),
        steps=tuple(steps),
        outcome=Outcome(status="completed", success=True, reward=1.0),
    )


def _tool_step(task: int, index: int) -> Step:
    call = ToolCall(id=f"call_{index}", name="get_order", arguments={"order_id": f"{task}-{index}"})
    failed = index == 1
    found = {"order_id": f"{task}-{index}", "total": 10.5 * task, "items": [{"name": "lamp"}]}
    result = f"Error: order {task}-{index} not found" if failed else json.dumps(found)
    return Step(
        index=index,
        action=Message(role="assistant", tool_calls=(call,)),
        observation=(Message(role="tool", content=result, tool_call_id=call.id),),
        kind="tool",
        status="error" if failed else "ok",
    )
