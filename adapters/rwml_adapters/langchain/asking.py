"""A look-ahead while it is under way: its prediction, how long that took, what came of the call."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple

from rwml.world_model import Prediction
from rwml.world_model.lookahead import Gone
from rwml_adapters.langchain.situations import Situation


class Outcome(NamedTuple):
    """What came of a call.

    Attributes:
        ran: whether the tool ran.
        result: what it said; None where it did not run.
        bad: whether that was; None where it did not run.
    """

    ran: bool
    result: str | None
    bad: bool | None


class Foreseen(NamedTuple):
    """What came of a prediction.

    Attributes:
        gone: why there is none in time; None where there is one.
        text: the prediction; None where there is none in time.
        took_s: how long it took; None where it never came.
    """

    gone: Gone | None
    text: str | None
    took_s: float | None


@dataclass(eq=False)
class Asked:
    """A look-ahead that is under way.

    Attributes:
        future: its prediction; None where none was asked for.
        began: monotonic seconds.
        answered: when the prediction came, failed or was given up.
        added_s: what the call has waited so far.
        is_late: whether the call stopped waiting for it.
        outcome: of the call; None while it is not known.
        is_over: whether it was kept or dropped.
    """

    situation: Situation
    began: float
    future: Future[Prediction] | None = None
    answered: float | None = None
    added_s: float = 0.0
    is_late: bool = False
    outcome: Outcome | None = None
    is_over: bool = False

    def stop_waiting(self) -> None:
        """The call goes on, with the prediction or without."""
        self.added_s = time.perf_counter() - self.began
        if self.future is None:
            return
        if self.future.done():
            self.answered = self.answered or time.perf_counter()
        else:
            self.is_late = True  # one that is being asked cannot be cancelled, and still answers
            self.future.cancel()

    def foreseen(self, budget_s: float, *, waits: bool) -> Foreseen:
        """What has come of the prediction by now.

        Args:
            budget_s: what takes longer is late.
            waits: whether the call waited for it, so that it was in time if that went on with it.
        """
        future = self.future
        if future is None:
            return Foreseen("busy", None, None)
        if self.answered is None or not future.done() or future.cancelled():
            return Foreseen("late", None, None)
        took_s = self.answered - self.began
        is_late = self.is_late or took_s > budget_s
        if future.exception() is not None:
            return Foreseen("late" if is_late else "fault", None, None)  # a timeout, as a rule
        made = future.result()
        if made.text is None:
            return Foreseen("refused" if made.problem == "refused" else "unformed", None, None)
        if self.is_late or (is_late and not waits):
            return Foreseen("late", None, took_s)
        return Foreseen(None, made.text, took_s)


async def wait_for(future: Future[Prediction], timeout_s: float) -> None:
    """Waits for a future, whatever it comes to; gives it up when time runs out."""
    waiting = asyncio.wrap_future(future)
    try:
        await asyncio.wait([waiting], timeout=timeout_s)
    finally:
        if not waiting.done():
            waiting.cancel()
        elif not waiting.cancelled():
            waiting.exception()  # looked at, else asyncio complains: the future has it, too
