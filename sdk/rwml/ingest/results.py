"""Results of tools from records of their own: which calls failed, and what no later request shows.

The requests that follow say what came back of an action; a tool's own record adds whether it
failed, and the last results of a run that ended there. Results are kept by trace and by thread in
bounded memory. A call id that two different results claim is left alone: nothing is guessed.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

from rwml.assemble import Completion
from rwml.ingest.items import ToolRun
from rwml.schema import Message, Step
from rwml.trajectory_recorder import complete_step

KEPT_RESULTS = 20_000
"""Results that are kept, by trace and by thread, the oldest goes first (ours)."""
KEPT_CHARS = 16 * 2**20
"""Characters of all results that are kept (ours)."""

_Key = tuple[str, str, str]


class ToolResults:
    """Results by trace and thread."""

    def __init__(self) -> None:
        self._results: OrderedDict[_Key, ToolRun | None] = OrderedDict()
        self._chars = 0
        self._failures = 0

    def add(self, result: ToolRun) -> None:
        """Keeps a result."""
        self._failures += result.failed
        for scope, name in (("trace", result.trace_id), ("thread", result.thread_id)):
            if name is None:
                continue
            key = (scope, name, result.call_id)
            if key not in self._results:
                self._results[key] = result
                self._chars += _size(result)
            elif (known := self._results[key]) is not None and not _same(known, result):
                self._results[key] = None
                self._chars -= _size(known)
        while len(self._results) > KEPT_RESULTS or self._chars > KEPT_CHARS:
            _, lost = self._results.popitem(last=False)
            self._chars -= _size(lost)

    def mark(self, completion: Completion) -> Completion:
        """The completion with the calls in its request that are known to have failed."""
        if not self._failures:
            return completion
        where = completion.provenance
        scopes = (where.trace_id if where else None, completion.thread_id)
        failed = {
            message.tool_call_id
            for message in completion.messages
            if message.role == "tool"
            and message.tool_call_id is not None
            and (found := self._find(*scopes, message.tool_call_id)) is not None
            and found.failed
        }
        if failed <= completion.failed_calls:
            return completion
        return replace(completion, failed_calls=completion.failed_calls | failed)

    def complete(self, step: Step) -> Step:
        """A pending step with what its tools are known to have answered.

        While a call is unanswered the step stays pending.
        """
        where = step.provenance
        if step.status != "pending" or step.observation or where is None:
            return step
        found = [
            result
            for call in step.action.tool_calls
            if (result := self._find(where.trace_id, where.thread_id, call.id)) is not None
            and result.message is not None
            and not _before(result, step)
        ]
        answers = tuple(result.message for result in found if result.message is not None)
        if not answers:
            return step
        is_whole = len(answers) == len(step.action.tool_calls)
        failed = any(result.failed for result in found)
        done = complete_step(
            step.model_copy(update={"status": "ok"}), answers, status="error" if failed else "ok"
        )
        return done if is_whole else done.model_copy(update={"status": "pending"})

    def _find(self, trace_id: str | None, thread_id: str | None, call_id: str) -> ToolRun | None:
        for scope, name in (("trace", trace_id), ("thread", thread_id)):
            key = (scope, name or "", call_id)
            if name is not None and key in self._results:
                return self._results[key]
        return None


def _same(one: ToolRun, other: ToolRun) -> bool:
    return one.failed == other.failed and _text(one.message) == _text(other.message)


def _text(message: Message | None) -> str | None:
    return None if message is None else message.content


def _size(result: ToolRun | None) -> int:
    return len(_text(result.message) or "") if result is not None else 0


def _before(result: ToolRun, step: Step) -> bool:
    """Whether a tool ran before the action that is said to have called it: an id used again."""
    if result.started_at is None or step.started_at is None:
        return False
    return result.started_at < step.started_at
