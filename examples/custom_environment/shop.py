"""An environment of one's own: an agent is asked to cancel orders, which not all may be."""

from functools import partial
from typing import Annotated

import typer
from shop_agents import ask_model, ask_script
from shop_tools import ORDERS, TOOLS, call_tool, open_shop, orders

from rwml import Message, Outcome, Step, Trajectory
from rwml.environments import Environment, Episode, Task, check_split, new_trajectory
from rwml.schema import Fingerprint

RULES = "Cancel the order that the customer names, but only while it is pending: look it up first."


class Shop:
    source, splits, default_max_steps = "shop", ("train", "test"), 6

    def __init__(self, *, model: str | None, error_rate: float) -> None:
        self.agent = model or f"script-{error_rate:g}"
        self.ask = partial(ask_model, model) if model else partial(ask_script, error_rate)

    def tasks(self, split: str) -> list[Task]:
        check_split(self, split)
        ids = list(ORDERS)[:20] if split == "train" else list(ORDERS)[20:]
        return [Task(id=order, split=split, kind=ORDERS[order]) for order in ids]

    def fingerprint(self) -> Fingerprint:
        return Fingerprint(package="shop", version="1", agent=self.agent)

    def play(self, episode: Episode) -> Trajectory:
        order, database = episode.task.id, open_shop()
        wish = Message(role="user", content=f"Please cancel order {order}")
        messages, steps = [Message(role="system", content=RULES), wish], []
        while not steps or (steps[-1].is_complete and len(steps) < episode.max_steps):
            action = self.ask(messages, seed=episode.seed)
            seen = tuple(call_tool(database, call) for call in action.tool_calls)
            answered = {"observation": seen, "kind": "tool", "status": "ok"} if seen else {}
            steps.append(Step(index=len(steps), action=action, **answered))
            messages += [action, *seen]
        wanted = ORDERS | ({order: "cancelled"} if episode.task.kind == "pending" else {})
        status = "truncated" if steps[-1].is_complete else "completed"
        outcome = Outcome(status=status, success=orders(database) == wanted)
        run = {"initial": messages[:2], "tools": TOOLS, "steps": steps, "outcome": outcome}
        return new_trajectory(self, episode, **run)

    def close(self) -> None:
        """Gives nothing back: each episode has a database of its own."""


def shop(
    *,
    model: Annotated[str | None, typer.Option(help="LiteLLM model; default a script.")] = None,
    error_rate: Annotated[float, typer.Option(help="Share of hasty episodes.")] = 0.3,
) -> Environment:
    """An agent cancels orders in a shop, where they may be cancelled."""
    return Shop(model=model, error_rate=error_rate)
