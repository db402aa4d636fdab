"""The actions that an assembler knows, by what later traffic may name them.

An action is named by its whole history, by the tail of a cut one, by the ids of its tool calls, or
as the answer that a user's next message replies to. Where a name fits several, the nearest in the
tree of runs is meant; where none is nearer, nobody can tell and none is returned. Thousands of
conversations may begin alike, so those of one run, place or thread are found without a search.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from rwml.assemble.completion import Caller, Completion, ToolResult
from rwml.assemble.digests import Digests
from rwml.assemble.state import Action, Name, Trail

MAX_ALIKE = 64
"""Conversations of other runs with one history: of more, nobody can tell which is meant (ours)."""


class KnownActions:
    """Actions of open trajectories. Not for several threads at once."""

    def __init__(self) -> None:
        # An action alone, as nearly every name has but one, or several by their numbers.
        self._named: dict[Name, Action | dict[int, Action]] = {}

    def add(self, action: Action) -> None:
        """Makes an action known; it waits for its observation."""
        names: list[Name] = [
            ("site", action.key, action.caller.site),
            *_history(action.key, action),
        ]
        if action.parent is not None:
            names.append(("parent", action.key, action.parent))
        self._add(action, names)
        for name in _open_names(action):
            self._name(name, action)

    def alias(self, key: bytes, action: Action) -> None:
        """Lets a history name an action, one that was cut for instance."""
        self._add(action, _history(key, action))

    def settle(self, action: Action) -> None:
        """Its observation is known: only its whole history names it now."""
        for name in _open_names(action):
            self._remove(name, action.number)

    def forget(self, trail: Trail) -> None:
        """A trajectory is closed."""
        for names, number in trail.names:
            for name in names:
                self._remove(name, number)
        if trail.tip is not None and trail.tip.home is trail:
            self.settle(trail.tip)

    def same(self, digests: Digests, completion: Completion) -> Action | None:
        """The action of which a completion is a retry, a replay or a second copy."""
        key = digests.action
        if key is None or ("history", key) not in self._named:
            return None
        parent = None
        if digests.parent is not None:
            parent = self.by_history(digests.parent, completion)
        number = None if parent is None else parent.number
        found = [*self._get("site", key, completion.caller.site)]
        if number is not None:
            found += self._get("parent", key, number)
        return next((a for a in found if _is_retry(a, completion.caller, number)), None)

    def by_history(self, key: bytes, completion: Completion) -> Action | None:
        """The action that this history leads to."""
        runs, where = completion.caller.runs, completion.provenance
        found = self._get("run", key, runs[:1])
        if not found:
            found = self._get("history", key)
            if len(found) > MAX_ALIKE:
                return None
        return _nearest(found, runs, None if where is None else where.checkpoint_ns)

    def by_tail(self, tail: bytes) -> Collection[Action]:
        """The open actions that a cut history may mean."""
        return self._get("tail", tail)

    def by_result(self, result: ToolResult) -> Action | None:
        """The open action that made the call which a tool answers."""
        call_id = result.message.tool_call_id or ""
        found = self._get("call", call_id, result.thread_id or result.runs[:1])
        if not found and result.thread_id is None:  # a tool that was called by hand
            found = self._get("any call", call_id)
            return next(iter(found)) if len(found) == 1 else None
        return _nearest(found, result.runs, result.checkpoint_ns)

    def by_turn(self, agent: bytes, completion: Completion, digests: Digests) -> Action | None:
        """The answer of an earlier run that the user's next message replies to."""
        found = self._get("answer", agent)
        action = next(iter(found)) if len(found) == 1 else None
        if action is None or action.caller.runs[:1] == completion.caller.runs[:1]:
            return None
        return None if action.request == digests.request else action  # asked again

    def _get(self, *name: object) -> Collection[Action]:
        found = self._named.get(name)
        if found is None:
            return ()
        return found.values() if isinstance(found, dict) else (found,)

    def _add(self, action: Action, names: list[Name]) -> None:
        for name in names:
            self._name(name, action)
        action.home.names.append((names, action.number))

    def _name(self, name: Name, action: Action) -> None:
        found = self._named.setdefault(name, action)
        if isinstance(found, dict):
            found[action.number] = action
        elif found is not action:
            self._named[name] = {found.number: found, action.number: action}

    def _remove(self, name: Name, number: int) -> None:
        found = self._named.get(name)
        if isinstance(found, dict):
            found.pop(number, None)
            if not found:
                del self._named[name]
        elif found is not None and found.number == number:
            del self._named[name]


def _history(key: bytes, action: Action) -> list[Name]:
    return [("history", key), ("run", key, action.caller.runs[:1])]


def _open_names(action: Action) -> Iterator[Name]:
    yield "tail", action.tail
    scope = action.thread_id or action.caller.runs[:1]
    for call in action.step.action.tool_calls:
        yield "call", call.id, scope
        yield "any call", call.id
    if action.agent is not None:
        yield "answer", action.agent


def _is_retry(known: Action, caller: Caller, parent: int | None) -> bool:
    """Whether equal completions are one call.

    A place in a run that is run again says the same twice, and so does a later run that goes on
    from the same action. Two equal calls below the same parent run are two calls, as when a node
    draws several samples.
    """
    before, now = known.caller.runs, caller.runs
    if before[-1:] == now[-1:]:
        return True
    if parent is not None and known.parent is not None and parent != known.parent:
        return False
    if known.caller.site != caller.site:
        return parent is not None and parent == known.parent and before[:1] != now[:1]
    return len(now) < 2 or before[-2:-1] != now[-2:-1]


def _nearest(
    actions: Collection[Action], runs: Sequence[object], checkpoint_ns: str | None
) -> Action | None:
    if len(actions) <= 1:
        return next(iter(actions), None)
    found = list(actions)
    place = (checkpoint_ns or "").split("|")
    near = [
        (_shared(a.caller.runs, runs), _shared((a.checkpoint_ns or "").split("|"), place))
        for a in found
    ]
    best = max(near)
    nearest = [action for action, nearness in zip(found, near, strict=True) if nearness == best]
    if best > (0, 0):
        return nearest[-1]  # of several tries the last is what the agent went on with
    waiting = [action for action in nearest if not action.replies]
    return waiting[0] if len(waiting) == 1 else None


def _shared(first: Sequence[object], second: Sequence[object]) -> int:
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other or one == "":
            break
        count += 1
    return count
