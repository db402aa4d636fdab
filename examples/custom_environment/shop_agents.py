"""Who acts in the shop: a script that needs no LLM, or any LiteLLM model."""

import random
from collections.abc import Sequence
from typing import Any

from shop_tools import TOOLS

from rwml import Message, ToolCall
from rwml.extras import require

TIMEOUT_S = 120.0


def ask_script(error_rate: float, messages: Sequence[Message], *, seed: int) -> Message:
    """Looks the order up and cancels it if it is pending; in a hurry, it cancels at once."""
    is_hasty = random.Random(seed).random() < error_rate  # noqa: S311 - a script, not security
    order = (messages[1].content or "").split()[-1]
    answers = [message.content for message in messages if message.role == "tool"]
    plan = ["cancel_order"] if is_hasty else ["order_status", "cancel_order"]
    if answers and not is_hasty and answers[0] != "pending":
        return Message(role="assistant", content=f"Order {order} cannot be cancelled any more.")
    if len(answers) == len(plan):
        return Message(role="assistant", content=f"Order {order} is cancelled.")
    name = plan[len(answers)]
    call = ToolCall(id=f"call_{len(answers)}", name=name, arguments={"order": order})
    return Message(role="assistant", tool_calls=(call,))


def ask_model(model: str, messages: Sequence[Message], *, seed: int) -> Message:
    """Asks a LiteLLM model; its key is where LiteLLM looks for it."""
    require("litellm", "litellm")
    import litellm

    answer: Any = litellm.completion(
        model=model,
        messages=[message.to_openai() for message in messages],
        tools=[tool.to_openai() for tool in TOOLS],
        seed=seed,
        timeout=TIMEOUT_S,
    )
    return Message.from_openai(answer.choices[0].message.model_dump())
