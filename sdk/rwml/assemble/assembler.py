"""The online assembler: one completion in, the records that it makes or changes out.

Every action is known by the digest of its whole history. A request names the action it answers by
the prefix that ends with its last assistant message; what follows is the observation. It must
never pair by order or by time, and never guess: what cannot be linked starts a trajectory of its
own and is counted.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable

from rwml.assemble.completion import Completion
from rwml.assemble.digests import Digests, Hasher
from rwml.assemble.state import (
    Action,
    AssemblyStats,
    Early,
    Observation,
    Reply,
    Trail,
    first_step,
    read_reply,
)
from rwml.errors import UsageError
from rwml.schema import Fingerprint, Message, Step, Tool, Trajectory
from rwml.trajectory_recorder import complete_step

KEPT_TRAJECTORIES = 10_000
"""Trajectories kept open, the least recently used is closed first (ours)."""

Record = Trajectory | tuple[str, Step]
"""What is to be written: a trajectory without its steps, or a step with its trajectory's id."""


class Assembler:
    """Assembles trajectories from completions, one at a time. Not for several threads at once.

    The transitions do not depend on the order in which completions are added, as long as cut
    histories come after what was cut; ids and the place of branches do. `assemble` puts whole
    files in order first.

    Args:
        key: secret of 1 to 64 bytes for the digests. Ids are derived from it: the same key gives
            the same ids for the same completions.
        source: of the trajectories.
        fingerprint: put on each of them.
        kept: how many trajectories stay open; None for all of them.
        closed: called with the id of each trajectory that was closed to bound the memory.

    Raises:
        UsageError: the key or `kept` cannot be used.
    """

    def __init__(
        self,
        *,
        key: bytes,
        source: str,
        fingerprint: Fingerprint | None = None,
        kept: int | None = KEPT_TRAJECTORIES,
        closed: Callable[[str], object] | None = None,
    ) -> None:
        if kept is not None and kept < 1:
            raise UsageError(f"an assembler must keep 1 trajectory or more, not {kept}")
        self.hasher = Hasher(key)
        self._source = source
        self._fingerprint = fingerprint or Fingerprint()
        self._kept = kept
        self._closed = closed
        self._counts: Counter[str] = Counter()
        self._trails: OrderedDict[str, Trail] = OrderedDict()
        self._actions: dict[bytes, Action] = {}
        self._open_tails: dict[bytes, dict[bytes, Action]] = {}
        self._awaited: OrderedDict[bytes, dict[Observation, Early]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._trails)

    @property
    def stats(self) -> AssemblyStats:
        """Counters so far."""
        return AssemblyStats(**self._counts, hashed=self.hasher.hashed)

    def add(self, completion: Completion) -> list[Record]:
        """Takes one completion.

        Returns:
            The records to write, in order; writing them again changes nothing. Empty for a
            duplicate.
        """
        return self.place(completion, self.hasher.completion(completion))

    def place(self, completion: Completion, digests: Digests) -> list[Record]:
        """As `add`, for a completion whose digests (by this assembler's `hasher`) are known."""
        self._count("completions")
        known = self._actions.get(digests.action) if digests.action is not None else None
        if known is not None:
            self._count("duplicates")
            self._touch(known.home)
            return []
        records: list[Record] = []
        action = self._find(completion, digests)
        trail = early = None
        if action is None:
            early = self._look_back(completion, digests, records)
        else:
            reply = read_reply(completion, digests.messages, (digests.last or 0) + 1)
            trail = self._observe(action, reply, completion, records)
        if completion.response is None or digests.action is None:
            self._count("failed")
            return records
        step = first_step(completion, completion.response)
        if trail is not None and trail.tip is action:
            self._continue(trail, step, completion.tools, records)
        elif action is None and self._begin(completion, digests, step, records):
            return records
        else:
            if action is not None:
                self._count("branches")
            trail = self._start(digests.action, completion, completion.messages, step, records)
            records.append((trail.header.id, step))
            if early is not None and early.trail is None:
                early.trail = trail
        self._enter(trail, completion, digests, records)
        return records

    def _find(self, completion: Completion, digests: Digests) -> Action | None:
        """The action that a request answers: by its whole history, else by the tail it kept."""
        if digests.parent is None or digests.wanted_tail is None:
            return None
        if digests.last == len(completion.messages) - 1:  # nothing came back: a prefilled answer
            self._count("unlinked")
            return None
        found = self._actions.get(digests.parent)
        if found is not None:
            return found
        candidates = list(self._open_tails.get(digests.wanted_tail, {}).values())
        if len(candidates) == 1:
            self._count("relinked")
            found = candidates[0]
            self._actions[digests.parent] = found  # a retry of this request finds it at once
            found.home.keys.append(digests.parent)
            return found
        self._count("ambiguous" if candidates else "unlinked")
        return None

    def _look_back(
        self, completion: Completion, digests: Digests, records: list[Record]
    ) -> Early | None:
        """The last action is unknown: an earlier one may be known, and its observation is here."""
        end = digests.last
        if end is None:
            return None
        early = None
        if digests.parent is not None and end + 1 < len(completion.messages):
            reply = read_reply(completion, digests.messages, end + 1)
            waiting = self._awaited.setdefault(digests.parent, {})
            early = waiting.setdefault(reply.digests, Early(reply))
            while self._kept is not None and len(self._awaited) > self._kept:
                self._awaited.popitem(last=False)
        for place in range(end - 1, -1, -1):
            if completion.messages[place].role != "assistant":
                continue
            action = self._actions.get(digests.prefixes[place + 1])
            if action is not None:
                if place + 1 < end and not action.replies:
                    reply = read_reply(completion, digests.messages, place + 1, end)
                    self._settle(action, action.home, reply, records)
                return early
            end = place
        return early

    def _observe(
        self, action: Action, reply: Reply, completion: Completion, records: list[Record]
    ) -> Trail | None:
        """Notes what came back of an action; returns the trajectory in which it did."""
        known = action.replies.get(reply.digests)
        if known is not None:
            self._touch(known)
            return None if known.closed else known
        if not action.replies:
            self._settle(action, action.home, reply, records)
            return action.home
        if completion.response is None:
            return None
        for before, trail in action.replies.items():
            # asked again with more messages, and without an answer in between
            if trail.tip is action and reply.digests[: len(before)] == before and not trail.closed:
                del action.replies[before]
                self._settle(action, trail, reply, records)
                return trail
        context = completion.messages[: -len(reply.messages) - 1]
        return self._fork(action, reply, completion, context, records)

    def _settle(self, action: Action, trail: Trail, reply: Reply, records: list[Record]) -> None:
        """The last step of a trajectory gets its observation."""
        pending = trail.step.model_copy(update={"observation": (), "kind": None, "status": "ok"})
        trail.step = complete_step(
            pending, reply.messages, status="error" if reply.failed else "ok"
        )
        action.replies[reply.digests] = trail
        self._close_tail(action)
        self._touch(trail)
        records.append((trail.header.id, trail.step))

    def _fork(
        self,
        action: Action,
        reply: Reply,
        completion: Completion,
        context: tuple[Message, ...],
        records: list[Record],
    ) -> Trail:
        """The same action with another observation: a trajectory that begins with it."""
        self._count("branches")
        step = action.step.model_copy(update={"index": 0})
        name = self.hasher.join(b"fork", action.key, *reply.digests)
        trail = self._start(name, completion, context, step, records)
        trail.tip = action
        self._settle(action, trail, reply, records)
        return trail

    def _start(
        self,
        name: bytes,
        completion: Completion,
        context: tuple[Message, ...],
        step: Step,
        records: list[Record],
    ) -> Trail:
        thread_id = completion.thread_id
        header = Trajectory(
            id=f"{self._source}-{name.hex()}",
            source=self._source,
            initial=context,
            tools=completion.tools,
            fingerprint=self._fingerprint,
            started_at=step.started_at,
            metadata={} if thread_id is None else {"thread_id": thread_id},
        )
        records.append(header)
        trail = Trail(header=header, step=step)
        self._touch(trail)
        return trail

    def _continue(
        self, trail: Trail, step: Step, tools: tuple[Tool, ...], records: list[Record]
    ) -> None:
        """One more step of a trajectory."""
        names = {tool.name for tool in trail.header.tools}
        more = tuple(tool for tool in tools if tool.name not in names)
        if more:
            all_tools = trail.header.tools + more
            trail.header = trail.header.model_copy(update={"tools": all_tools})
            records.append(trail.header)
        trail.step = step.model_copy(update={"index": trail.step.index + 1})
        self._touch(trail)
        records.append((trail.header.id, trail.step))

    def _enter(
        self, trail: Trail, completion: Completion, digests: Digests, records: list[Record]
    ) -> None:
        """Makes a trajectory's last step known as an action that waits for its observation."""
        if digests.action is None or digests.tail is None:
            return
        action = self._know(digests.action, digests.tail, trail)
        trail.tip = action
        self._open_tails.setdefault(action.tail, {})[action.key] = action
        self._hear_early(action, completion, records)

    def _begin(
        self, completion: Completion, digests: Digests, step: Step, records: list[Record]
    ) -> bool:
        """A first action that came late begins the trajectory that the next one had to begin."""
        if digests.action is None or digests.tail is None:
            return False
        waiting = self._awaited.get(digests.action, {}).values()
        begun = ((early.reply, early.trail) for early in waiting if early.trail is not None)
        able = ((r, t) for r, t in begun if not t.closed and t.step.index == 0)
        reply, trail = next(able, (None, None))
        if reply is None or trail is None:
            return False
        next_step = trail.step.model_copy(update={"index": 1})
        update = {"initial": completion.messages, "started_at": step.started_at}
        trail.header = trail.header.model_copy(update=update)
        records.append(trail.header)
        trail.step = step
        action = self._know(digests.action, digests.tail, trail)
        self._settle(action, trail, reply, records)
        self._count("late")
        trail.step = next_step
        records.append((trail.header.id, next_step))
        self._hear_early(action, completion, records)
        return True

    def _know(self, key: bytes, tail: bytes, trail: Trail) -> Action:
        action = Action(key=key, tail=tail, step=trail.step, home=trail)
        trail.keys.append(key)
        self._actions[key] = action
        return action

    def _hear_early(self, action: Action, completion: Completion, records: list[Record]) -> None:
        """What came back of an action was known before the action was."""
        for early in self._awaited.pop(action.key, {}).values():
            if early.reply.digests in action.replies:
                continue
            if action.replies:
                self._fork(action, early.reply, completion, completion.messages, records)
            else:
                self._count("late")
                self._settle(action, action.home, early.reply, records)

    def _close_tail(self, action: Action) -> None:
        fitting = self._open_tails.get(action.tail, {})
        fitting.pop(action.key, None)
        if not fitting:
            self._open_tails.pop(action.tail, None)

    def _touch(self, trail: Trail) -> None:
        """Marks a trajectory as used just now; the least recently used one is closed."""
        if trail.closed:
            return
        self._trails[trail.header.id] = trail
        self._trails.move_to_end(trail.header.id)
        while self._kept is not None and len(self._trails) > self._kept:
            name, oldest = self._trails.popitem(last=False)
            oldest.closed = True
            for key in oldest.keys:
                action = self._actions.pop(key, None)
                if action is not None:
                    self._close_tail(action)
            self._count("evicted")
            if self._closed is not None:
                self._closed(name)

    def _count(self, name: str) -> None:
        self._counts[name] += 1
