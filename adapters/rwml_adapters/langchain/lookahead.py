"""Asks a world model what a risky tool will do, before it runs: a middleware of `create_agent`.

A quality aid, no security boundary: what the model does not foresee, or too late, runs. Nothing
that goes wrong with the world model reaches the agent. Source: LangChain's `AgentMiddleware`.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import Future, wait
from typing import Any

from langchain.agents.middleware import AgentMiddleware
from langchain.agents.middleware.types import ModelRequest
from langchain_core.messages import ToolMessage
from langgraph.errors import GraphBubbleUp
from langgraph.prebuilt.tool_node import ToolCallRequest

import rwml
from rwml import forking
from rwml.content import NOT_RUN_MARK
from rwml.errors import UsageError, WorldModelError
from rwml.redaction import describe
from rwml.schema import Trajectory
from rwml.world_model import Prediction
from rwml.world_model.lookahead import (
    MODES,
    Lookahead,
    LookaheadReport,
    Mode,
    Verdict,
    looks_bad,
    summarise,
)
from rwml_adapters.langchain.asking import Asked, Outcome, wait_for
from rwml_adapters.langchain.messages import to_message, tool_results
from rwml_adapters.langchain.situations import Situations
from rwml_adapters.langchain.snapshots import Snapshot

BUDGET_S = 2.0
"""How long a tool waits for its prediction (ours)."""
PATIENCE = 2
"""How many budgets a request may take: one that hangs must not keep a thread of the world model's
for long, and ``shadow`` is to see how late it was (ours)."""
MAX_UNDER_WAY = 64
"""Look-aheads at once; more calls pass unasked (ours)."""
KEPT = 10_000
"""Look-aheads that the report is made of; the oldest go first (ours)."""
NOT_RUN = Outcome(ran=False, result=None, bad=None)
REFUSED = "rwml: the world model's endpoint refused a prompt, the agent goes on: status %s"
logger = logging.getLogger("rwml")

Judge = Callable[[str], bool]
Decide = Callable[[Lookahead], bool]


class LookaheadMiddleware(AgentMiddleware):
    """Looks ahead before risky tools run.

    >>> create_agent(model, tools, middleware=[LookaheadMiddleware(world, tools=["refund"])])

    ``shadow`` asks while the tool runs, adds nothing to its latency and changes nothing: it shows
    what the other modes would be worth. ``advise`` holds a call back once, if it was warned of, and
    tells the agent what is expected; the same call again runs. ``block`` asks `decide`, also where
    nothing was foreseen.

    Args:
        world: that is asked.
        tools: names of those that are risky; others are left alone.
        mode: ``shadow``, ``advise`` or ``block``.
        judge: whether a tool's answer, foreseen or real, is bad; by default whether it begins like
            an error.
        decide: in the mode ``block``: whether the call may run; by default unless it was warned of.
            It may interrupt the graph, to ask a person. A `decide` of your own is asked of every
            call: where nothing was foreseen, `Lookahead.prediction` is None, and ``verdict.gone``
            says why. A person's answer therefore counts, even if there is no prediction any more
            when the graph is resumed.
        budget_s: how long a call waits for its prediction; then it goes on without.
        recorder: keeps the look-aheads in its store, beside `report`; redacted, never trained on,
            and none of an agent whose source or tenant was opted out.

    Raises:
        UsageError: there is no such mode, no tool, no time, or a `decide` that nothing asks.
    """

    def __init__(
        self,
        world: rwml.WorldModel,
        *,
        tools: Collection[str],
        mode: Mode = "shadow",
        judge: Judge = looks_bad,
        decide: Decide | None = None,
        budget_s: float = BUDGET_S,
        recorder: rwml.Recorder | None = None,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise UsageError(f"a mode is one of {', '.join(MODES)}, not {mode!r}")
        if isinstance(tools, str) or not tools:
            raise UsageError("name the risky tools: tools=['refund', ...]")
        if not budget_s > 0:
            raise UsageError(f"budget_s must be more than 0 s, not {budget_s:g}")
        if decide is not None and mode != "block":
            raise UsageError(f"decide is asked in the mode 'block', not in {mode!r}")
        self._world = world
        self._risky = frozenset(tools)
        self._mode: Mode = mode
        self._judge = judge
        self._decide: Decide = decide or (lambda ahead: not ahead.verdict.warned)
        self._budget_s = budget_s
        self._recorder = recorder
        self._situations = Situations()
        self._changed = threading.Condition()
        self._under_way: set[Asked] = set()
        self._kept: deque[Lookahead] = deque(maxlen=KEPT)
        forking.register(self, child=LookaheadMiddleware._in_child)

    @property
    def lookaheads(self) -> list[Lookahead]:
        """Those that are over, the last `KEPT` of them."""
        with self._changed:
            return list(self._kept)

    def report(self) -> LookaheadReport:
        """How good they were."""
        return summarise(ahead.verdict for ahead in self.lookaheads)

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Waits until nothing is under way; False when time ran out."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._under_way, timeout_s)

    def _in_child(self) -> None:
        """After a fork: what is under way is the parent's, and so is who held the lock."""
        self._changed = threading.Condition()
        self._under_way = set()
        self._situations.in_child()

    def wrap_model_call(self, request: ModelRequest, handler: Callable[[ModelRequest], Any]) -> Any:
        """Notes the system prompt and the tools, which a tool call does not know."""
        response = handler(request)
        self._note(request, response)
        return response

    async def awrap_model_call(
        self, request: ModelRequest, handler: Callable[[ModelRequest], Awaitable[Any]]
    ) -> Any:
        """As `wrap_model_call`."""
        response = await handler(request)
        self._note(request, response)
        return response

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Any]
    ) -> Any:
        """Looks ahead, where the tool is risky."""
        asked = self._ask(request)
        if asked is None:
            return handler(request)
        try:
            if asked.future is not None and self._mode != "shadow":
                wait([asked.future], timeout=self._budget_s)
            held = self._held(asked)
            if held is not None:
                return held
            output = handler(request)
        except BaseException as error:
            self._ran(asked, error)
            raise
        self._ran(asked, output)
        return output

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Any]]
    ) -> Any:
        """As `wrap_tool_call`."""
        asked = self._ask(request)
        if asked is None:
            return await handler(request)
        try:
            if asked.future is not None and self._mode != "shadow":
                await wait_for(asked.future, self._budget_s)
            held = self._held(asked)
            if held is not None:
                return held
            output = await handler(request)
        except BaseException as error:
            self._ran(asked, error)
            raise
        self._ran(asked, output)
        return output

    def _note(self, request: ModelRequest, response: Any) -> None:
        try:
            self._situations.note(request, response)
        except Exception as error:  # noqa: BLE001 - never into the agent
            _warn("what the agent was asked with", error)

    def _ask(self, request: ToolCallRequest) -> Asked | None:
        """Starts a look-ahead; None for a tool that is not risky, or where even that fails."""
        if request.tool_call["name"] not in self._risky:
            return None
        began = time.perf_counter()
        try:
            asked = Asked(self._situations.alone(request), began)
            self._start(asked, request)
        except Exception as error:  # noqa: BLE001 - never into the agent
            _warn("a look-ahead", error)
            return None
        if asked.future is not None:
            asked.future.add_done_callback(functools.partial(self._answered, asked))
        asked.added_s = time.perf_counter() - began
        return asked

    def _start(self, asked: Asked, request: ToolCallRequest) -> None:
        """Asks the world model, unless too much is under way."""
        with self._changed:
            if len(self._under_way) >= MAX_UNDER_WAY:
                return
            self._under_way.add(asked)
        try:
            asked.situation = self._situations.of(request)
            asked.future = self._world.submit(
                asked.situation.trajectory,
                asked.situation.action,
                timeout_s=PATIENCE * self._budget_s,
            )
        except Exception as error:  # noqa: BLE001 - one that fails at once is counted like the others
            asked.future = Future[Prediction]()
            asked.future.set_exception(error)

    def _held(self, asked: Asked) -> ToolMessage | None:
        """What the agent is told in place of the tool; None where the tool may run."""
        if self._mode == "shadow":
            return None
        asked.stop_waiting()
        try:
            ahead = self._look(asked, NOT_RUN)
            if self._may_run(asked, ahead):
                return None
            text = _advice(ahead)
        except GraphBubbleUp:  # a person is asked
            raise
        except Exception as error:  # noqa: BLE001 - never into the agent
            _warn("the decision on a look-ahead", error)
            return None
        asked.added_s = time.perf_counter() - asked.began
        self._end(asked, NOT_RUN)
        call = asked.situation.call
        return ToolMessage(NOT_RUN_MARK + text, tool_call_id=call.id, name=call.name)

    def _may_run(self, asked: Asked, ahead: Lookahead) -> bool:
        if self._mode == "block":
            return self._decide(ahead)  # also where nothing was foreseen: a person may have said no
        return not ahead.verdict.warned or asked.situation.was_held_back

    def _answered(self, asked: Asked, future: Future[Prediction]) -> None:
        """The prediction came, failed, or was given up; the tool may still run."""
        asked.answered = asked.answered or time.perf_counter()
        error = None if future.cancelled() else future.exception()
        if error is not None:
            _warn("the world model", error)
        elif not future.cancelled() and future.result().problem == "refused":
            logger.warning(REFUSED, future.result().status)
        self._settle(asked)

    def _ran(self, asked: Asked, output: Any) -> None:
        """The tool ran, or raised; or the call was cut off before."""
        try:
            if isinstance(output, Exception) and not isinstance(output, GraphBubbleUp):
                self._end(asked, Outcome(True, str(output), True))
            elif isinstance(output, BaseException):
                self._drop(asked)  # it comes again when the graph is resumed, or never
            else:
                name = asked.situation.call.id
                messages = [m for m in tool_results(output) if m.tool_call_id == name]
                text = "\n".join(to_message(Snapshot(each)).content or "" for each in messages)
                failed = any(each.status == "error" for each in messages)
                self._end(asked, Outcome(True, text, failed or self._judge(text)))
        except Exception as error:  # noqa: BLE001 - never into the agent
            self._drop(asked)
            _warn("the end of a look-ahead", error)

    def _end(self, asked: Asked, outcome: Outcome) -> None:
        asked.outcome = outcome
        self._settle(asked)

    def _settle(self, asked: Asked) -> None:
        """Keeps the look-ahead once it is known what happened, and in ``shadow`` what was said."""
        with self._changed:
            waits = self._mode == "shadow" and asked.future is not None and asked.answered is None
            if asked.is_over or asked.outcome is None or waits:
                return
            asked.is_over = True
        try:
            ahead = self._look(asked, asked.outcome)
            with self._changed:
                self._kept.append(ahead)
            if self._recorder is not None:
                with self._recorder.guard():
                    _record(self._recorder, ahead, of=asked.situation.trajectory)
        except Exception as error:  # noqa: BLE001 - never into the agent
            _warn("a look-ahead", error)
        finally:
            self._leave(asked)

    def _drop(self, asked: Asked) -> None:
        """The look-ahead counts for nothing."""
        with self._changed:
            was_over, asked.is_over = asked.is_over, True
        if not was_over:
            self._leave(asked)

    def _leave(self, asked: Asked) -> None:
        with self._changed:
            self._under_way.discard(asked)
            self._changed.notify_all()

    def _look(self, asked: Asked, outcome: Outcome) -> Lookahead:
        """The look-ahead as far as it is known now."""
        waits = self._mode != "shadow"
        gone, text, took_s = asked.foreseen(self._budget_s, waits=waits)
        return Lookahead(
            call=asked.situation.call,
            prediction=text,
            result=outcome.result,
            verdict=Verdict(
                mode=self._mode,
                gone=gone,
                warned=None if text is None else bool(self._judge(text)),
                ran=outcome.ran,
                bad=outcome.bad,
                predicted_s=took_s,
                added_s=asked.added_s,
            ),
            thread_id=asked.situation.thread_id,
            tenant=asked.situation.tenant,
        )


def _advice(ahead: Lookahead) -> str:
    expected = f"{ahead.call.name} was held back."
    if ahead.prediction is not None:
        expected += f" What is expected to come back: {ahead.prediction}"
    if ahead.verdict.mode == "block":
        return f"{expected}\nDo something else."
    return f"{expected}\nReconsider; the same call again will run."


def _record(recorder: rwml.Recorder, ahead: Lookahead, *, of: Trajectory) -> None:
    """Records a look-ahead, unless somebody opted out of the agent's conversation."""
    record = ahead.as_trajectory(f"lookahead-{uuid.uuid4().hex}")
    if recorder.allows(record.model_copy(update={"source": of.source, "steps": ()})):
        recorder.record(record)


def _warn(what: str, error: BaseException) -> None:
    logger.warning("rwml: %s failed, the agent goes on: %s", what, _told(error))
    logger.debug("rwml: %s failed", what, exc_info=error)


def _told(error: BaseException) -> str:
    """What went wrong, without what an endpoint said: that may quote the prompt."""
    if not isinstance(error, WorldModelError):
        return describe(error)
    cause = error.__cause__
    status = getattr(cause, "status_code", None)
    reason = f"status {status}" if status else type(cause).__name__ if cause else "no answer"
    return f"{type(error).__name__} ({reason})"
