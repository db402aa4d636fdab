"""What of the traffic is recorded at all: sampling, and opt-outs by tenant, source and tool.

A trajectory is taken whole or not at all, and every process gives the same answer, so that no part
of a conversation is missing because another process saw it. The arguments and results of a tool
that was opted out must not reach a disk; where it cannot be told whose result a text is, it is
taken for one of them. Source: ours.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from rwml.errors import UsageError
from rwml.schema import NOT_RECORDED_KEY, Message, Step, ToolCall, Trajectory

NOT_RECORDED = "<NOT_RECORDED>"
"""Stands for the result of a tool that was opted out; never a training target."""
UNKNOWN_TOOL = "(unknown)"
"""Named there for a result that answers no known call and names no tool."""
TENANT_KEY = "tenant"
"""Metadata key under which a trajectory names its tenant."""

_SAMPLE_DOMAIN = b"rwml-sample\0"  # apart from every other hash of a thread, such as the split's
_HASH_BYTES = 8


@dataclass(frozen=True, kw_only=True)
class Capture:
    """Which trajectories are taken, and what of them is left out.

    Attributes:
        sample: share of the trajectories that is taken, 0 to 1. All of one thread are taken or
            none; a larger share takes what a smaller one takes, and more.
        skip_tenants: tenants (``metadata["tenant"]``, compared as text) of whom none is taken.
        skip_sources: sources of which none is taken.
        skip_tools: names of tools whose arguments and results are never stored. That they were
            called stays. What a model or a user says about them in its own words stays too.

    Raises:
        UsageError: `sample` is no number from 0 to 1, or another is no collection of names.
    """

    sample: float = 1.0
    skip_tenants: Collection[str] = ()
    skip_sources: Collection[str] = ()
    skip_tools: Collection[str] = ()

    def __post_init__(self) -> None:
        sample = self.sample
        is_number = isinstance(sample, (int, float)) and not isinstance(sample, bool)
        if not is_number or math.isnan(sample) or not 0 <= sample <= 1:
            raise UsageError(f"sample must be a number from 0 to 1, such as 0.1, not {sample!r}")
        for field in ("skip_tenants", "skip_sources", "skip_tools"):
            object.__setattr__(self, field, _names(field, getattr(self, field)))

    def takes(self, header: Trajectory) -> bool:
        """Whether a new trajectory is recorded; its steps are not looked at."""
        return self.allows(header) and self.samples(header)

    def allows(self, header: Trajectory) -> bool:
        """Whether nobody opted out of it."""
        tenant = header.metadata.get(TENANT_KEY)
        opted_out = tenant is not None and str(tenant) in self.skip_tenants
        return not opted_out and header.source not in self.skip_sources

    def samples(self, header: Trajectory) -> bool:
        """Whether it is in the sample; not to be asked of what goes on with a recorded one."""
        if self.sample >= 1:
            return True
        thread = header.metadata.get("thread_id")
        text = f"id:{header.id}" if thread in (None, "") else f"thread:{thread}"
        digest = hashlib.sha256(_SAMPLE_DOMAIN + text.encode("utf-8", "surrogatepass")).digest()
        place = int.from_bytes(digest[:_HASH_BYTES], "big")
        return place < self.sample * 2 ** (8 * _HASH_BYTES)

    def hide(self, record: Step) -> Step:
        """The step without what was opted out; the same object where there is nothing."""
        if not self.skip_tools:
            return record
        (action, *observation), tools = self._hide_messages((record.action, *record.observation))
        if not tools:
            return record
        return record.model_copy(
            update={
                "action": action,
                "observation": tuple(observation),
                # the same text once more, as numbers
                "token_ids": record.token_ids if action is record.action else None,
                "logprobs": record.logprobs if action is record.action else None,
                "metadata": {**record.metadata, NOT_RECORDED_KEY: sorted(tools)},
            }
        )

    def hide_header(self, record: Trajectory) -> Trajectory:
        """The trajectory, with its steps if it has any, without what was opted out.

        A history among the initial messages holds calls and results as well. The same object
        where there is nothing to hide.
        """
        if not self.skip_tools:
            return record
        update: dict[str, object] = {}
        initial, tools = self._hide_messages(record.initial)
        if tools:
            metadata = {**record.metadata, NOT_RECORDED_KEY: sorted(tools)}
            update = {"initial": tuple(initial), "metadata": metadata}
        steps = tuple(self.hide(step) for step in record.steps)
        if any(new is not old for new, old in zip(steps, record.steps, strict=True)):
            update["steps"] = steps
        return record.model_copy(update=update) if update else record

    def _hide_messages(self, messages: Iterable[Message]) -> tuple[list[Message], set[str]]:
        """Messages in their order, and the tools of which something was hidden."""
        shown: list[Message] = []
        hidden: set[str] = set()
        called: dict[str, set[str]] = {}  # names by id; two calls may share an id
        unanswered: dict[str, set[str]] = {}  # of the last action, and opted out
        for message in messages:
            if message.role == "assistant":
                for call in message.tool_calls:
                    called.setdefault(call.id, set()).add(call.name)
                skipped = {call.id for call in message.tool_calls if call.name in self.skip_tools}
                unanswered = {key: called[key] & set(self.skip_tools) for key in skipped}
                shown.append(self._hide_calls(message) if skipped else message)
                hidden |= set().union(*unanswered.values())
                continue
            if message.role == "tool":
                tools = self._tools_behind(message, called)
                unanswered.pop(message.tool_call_id or "", None)
            else:  # of an agent that gets its results as plain text
                tools = set().union(*unanswered.values())
            shown.append(_without_text(message) if tools else message)
            hidden |= tools
        return shown, hidden

    def _tools_behind(self, result: Message, called: dict[str, set[str]]) -> set[str]:
        """The tools that were opted out, of which this may be a result."""
        names = called.get(result.tool_call_id or "", set())
        if result.name:
            names = names | {result.name}
        return names & set(self.skip_tools) if names else {UNKNOWN_TOOL}

    def _hide_calls(self, action: Message) -> Message:
        calls = tuple(
            ToolCall(id=call.id, name=call.name) if call.name in self.skip_tools else call
            for call in action.tool_calls
        )
        return action.model_copy(update={"tool_calls": calls})


def _without_text(message: Message) -> Message:
    return Message(
        role=message.role,
        content=NOT_RECORDED,
        tool_call_id=message.tool_call_id,
        name=message.name,
    )


def _names(field: str, given: Any) -> frozenset[str]:
    wrong = UsageError(f'{field} must be a list of names, such as ["one"], not {given!r}')
    if not isinstance(given, Collection) or isinstance(given, (str, bytes)):
        raise wrong
    names = [name for name in given if isinstance(name, str) and name]
    if len(names) < len(given):
        raise wrong
    return frozenset(names)
