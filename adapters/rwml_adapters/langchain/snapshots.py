"""What LangChain's messages are at the time of a call, taken cheaply in the agent's thread.

Text is immutable, so a reference is enough; lists and dicts are copied. LangGraph hands the same
message objects over again and again: each is looked at once, and recognised from then on as long as
it lives and its fields are the same objects. Turning snapshots into rwml's messages is left to the
writer's thread (`rwml_adapters.langchain.messages`), whose results they keep.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from operator import attrgetter, is_
from typing import Any

from langchain_core.messages import BaseMessage

from rwml.schema import Message, Tool

KEPT_MESSAGES = 100_000
"""Living messages that are recognised; beyond that all are looked at anew (ours)."""
KEPT_TOOL_LISTS = 64
"""Lists of tools that are recognised (ours)."""
MAX_DEPTH = 60
"""Deeper values are cut off, with a tag: a record around them could not be read again (ours)."""
MAX_CONTAINERS = 100_000
"""Lists and dicts in one value; more are cut off, with a tag (ours)."""
ADDITIONAL = ("reasoning_content", "__openai_role__")
"""What is recorded of the fields that only some providers have."""
_CONTENT = attrgetter("content")
_CALLS = attrgetter("tool_calls")
_STRINGS = frozenset((str,))
_LEAVES = frozenset((str, int, float, bool, type(None), bytes))


class Snapshot:
    """A message as it was.

    The fields from `message` on are the writer's: made when they are first needed, and the same
    whoever makes them.

    Attributes:
        fields: LangChain's, of which those that are recorded are copied.
        seen_content: what was there, to see whether it was replaced.
        seen_calls: likewise; None where it is no action.
        seen_status: likewise.
        size: characters of its text.
        message: as rwml has it.
        digest: of that.
        before: digest of the history in front of it, when it was last part of one.
        prefix: digest of that history with the message.
    """

    size = 1_000
    message: Message | None = None
    digest: bytes | None = None
    before: bytes | None = None
    prefix = b""
    ref: weakref.ref[BaseMessage] | None = None

    def __init__(self, message: BaseMessage) -> None:
        self.fields: dict[str, Any] = message.__dict__.copy()
        fields = self.fields
        self.seen_content = content = fields.get("content")
        self.seen_calls = calls = fields.get("tool_calls")
        self.seen_status: Any = fields.get("status")
        if type(content) is str:
            self.size = len(content)
        else:
            fields["content"] = freeze(content)
        if calls is None:
            fields.pop("artifact", None)  # a tool's, never shown to the model
        elif calls:
            fields["tool_calls"] = [{**call, "args": freeze(call["args"])} for call in calls]
        if fields.get("invalid_tool_calls"):
            fields["invalid_tool_calls"] = freeze(fields["invalid_tool_calls"])
        more = fields.get("additional_kwargs")
        if more:
            fields["additional_kwargs"] = {
                name: freeze(more[name]) for name in ADDITIONAL if name in more
            }

    @property
    def is_error(self) -> bool:
        """Whether it is the result of a tool that failed."""
        return self.seen_status == "error"


class Snapshots:
    """Takes snapshots, and recognises messages; may be used from any thread."""

    def __init__(self) -> None:
        self._known: dict[int, Snapshot] = {}
        self._tools: dict[int, OfferedTools] = {}

    def __len__(self) -> int:
        return len(self._known)

    def of(self, message: BaseMessage) -> Snapshot:
        """One message."""
        found = self._known.get(id(message))
        if found is not None:
            fields = message.__dict__
            if (
                fields.get("content") is found.seen_content
                and fields.get("tool_calls") is found.seen_calls
                and fields.get("status") is found.seen_status
            ):
                return found
        return self._take(message)

    def of_all(
        self, messages: list[BaseMessage], before: History | None = None
    ) -> tuple[list[Snapshot], History]:
        """A history; messages that only say that another is to be removed are left out.

        Args:
            messages: of a request.
            before: what was returned for an earlier request of the same conversation. Used up.

        Returns:
            Snapshots, and what makes the next request of the conversation cheap.
        """
        done = 0 if before is None else before.covers(messages)
        history = before if before is not None and done else History()
        if len(messages) > done:
            history.extend(messages[done:], self.of)
        if history.has_removals:
            return [each for each in history.taken if not _is_removal(each)], history
        return history.taken.copy(), history

    def of_tools(self, tools: Any) -> OfferedTools | None:
        """The tools of a call, in any form that LangChain knows."""
        if not tools:
            return None
        found = self._tools.get(id(tools))
        if found is not None and found.is_still(tools):
            return found
        found = OfferedTools(tools)
        if len(self._tools) >= KEPT_TOOL_LISTS:
            self._tools.clear()
        self._tools[id(tools)] = found
        return found

    def _take(self, message: BaseMessage) -> Snapshot:
        taken = Snapshot(message)
        known = self._known
        if len(known) >= KEPT_MESSAGES:
            known.clear()
        key = id(message)
        ref = _Ref(message, _forget)
        ref.known, ref.key, taken.ref = known, key, ref
        known[key] = taken
        return taken


class History:
    """The messages of a request, held as long as their run lasts, and how they were seen.

    Not for several threads at once.

    Attributes:
        taken: snapshots of all of them.
        has_removals: whether one of them only says that another is to be removed.
    """

    __slots__ = ("_actions", "_calls", "_contents", "_messages", "has_removals", "taken")

    def __init__(self) -> None:
        self._messages: list[BaseMessage] = []
        self._contents: list[Any] = []
        self._actions: list[Any] = []
        self._calls: list[Any] = []
        self.taken: list[Snapshot] = []
        self.has_removals = False

    def covers(self, messages: list[BaseMessage]) -> int:
        """How many of these messages it is: all of its own if they are as they were, else none."""
        mine = self._messages
        if (
            len(messages) >= len(mine)
            and all(map(is_, mine, messages))
            and list(map(_CONTENT, mine)) == self._contents
            and list(map(_CALLS, self._actions)) == self._calls
        ):
            return len(mine)
        return 0

    def extend(self, messages: list[BaseMessage], take: Callable[[BaseMessage], Snapshot]) -> None:
        """Adds messages at the end, with the snapshots that `take` gives."""
        self._messages += messages
        for message in messages:
            each = take(message)
            self.taken.append(each)
            self._contents.append(each.seen_content)
            if each.seen_calls is not None:
                self._actions.append(message)
                self._calls.append(each.seen_calls)
            elif _is_removal(each):
                self.has_removals = True


class OfferedTools:
    """A list of tools as it was; held, so that its place in memory stays its own."""

    def __init__(self, tools: Any) -> None:
        self._list = tools
        self._each = list(tools)
        self.copies = [freeze(tool) if type(tool) is dict else tool for tool in self._each]
        self.read: tuple[Tool, ...] | None = None

    def is_still(self, tools: Any) -> bool:
        """Whether it is that list, of the same objects."""
        return (
            tools is self._list
            and len(tools) == len(self._each)
            and all(map(is_, tools, self._each))
        )


class _Ref(weakref.ref):
    """Takes a message that has died out of those that are known, before its place is reused."""

    __slots__ = ("key", "known")

    key: int
    known: dict[int, Snapshot]


def _is_removal(taken: Snapshot) -> bool:
    return taken.fields.get("type") == "remove"


def _forget(ref: Any) -> None:
    if getattr(ref.known.get(ref.key), "ref", None) is ref:
        ref.known.pop(ref.key, None)


def freeze(value: Any) -> Any:
    """A copy of a JSON-like value that later changes do not reach; what is no JSON as its text."""
    kind = type(value)
    if kind in _LEAVES:
        return value
    if (
        kind is dict
        and _STRINGS.issuperset(map(type, value))
        and _LEAVES.issuperset(map(type, value.values()))
    ):
        return value.copy()  # flat, as most arguments are
    return _copy(value, 0, [MAX_CONTAINERS])


def _copy(value: Any, depth: int, left: list[int]) -> Any:
    kind: Any = type(value)
    if kind in _LEAVES:
        return value
    is_list: bool = kind is list or isinstance(value, (list, tuple))
    if not is_list and kind is not dict and not isinstance(value, Mapping):
        return _text(value)
    left[0] -= 1
    if depth >= MAX_DEPTH or left[0] < 0:
        return "<nested too deeply>" if left[0] >= 0 else "<too many parts>"
    depth += 1
    if not is_list:
        mapping: Any = value
        return {
            key if type(key) is str else _text(key): item
            if type(item) in _LEAVES
            else _copy(item, depth, left)
            for key, item in mapping.items()
        }
    return [item if type(item) in _LEAVES else _copy(item, depth, left) for item in value]


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - a stranger's method, in the agent's thread
        return f"<{type(value).__name__}>"
