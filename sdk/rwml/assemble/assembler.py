"""The online assembler: one completion in, the records that it makes or changes out.

Every action is known by the digest of its whole history. A request names the action it answers by
the prefix that ends with its last assistant message; what follows is the observation. It must
never pair by order or by time, and never guess: what cannot be linked starts a trajectory of its
own and is counted.
"""

from __future__ import annotations

import itertools
from collections import Counter, OrderedDict
from collections.abc import Callable

from rwml.assemble.completion import Completion, ToolResult
from rwml.assemble.digests import Digests, Hasher
from rwml.assemble.known import KnownActions
from rwml.assemble.links import agent_key, find_link
from rwml.assemble.state import (
    Action,
    AssemblyStats,
    Early,
    Observation,
    Reply,
    Trail,
    new_step,
    read_reply,
)
from rwml.assemble.trails import OpenTrails
from rwml.records import Continuation, HeaderRecord, Record, StepRecord
from rwml.schema import Fingerprint, Message, Outcome, Step, Tool, Trajectory
from rwml.trajectory_recorder import complete_step

KEPT_TRAJECTORIES = 10_000
"""Trajectories kept open, the least recently used is closed first (ours)."""


class Assembler:
    """Assembles trajectories from completions, one at a time. Not for several threads at once.

    The transitions do not depend on the order in which completions are added, as long as cut
    histories come after what was cut; ids and the place of branches do. `assemble` puts whole
    files in order first.

    Args:
        key: secret of 1 to 64 bytes for the digests, or a hasher with one. Ids are derived from
            it: the same key gives the same ids for the same completions.
        source: of the trajectories.
        fingerprint: put on each of them.
        kept: how many trajectories stay open; None for all of them.
        kept_bytes: how much memory they may take together, roughly; None for any amount.
        closed: called with the id of each trajectory that was closed to bound the memory.

    Raises:
        UsageError: the key or a bound cannot be used.
    """

    def __init__(
        self,
        *,
        key: bytes | Hasher,
        source: str,
        fingerprint: Fingerprint | None = None,
        kept: int | None = KEPT_TRAJECTORIES,
        kept_bytes: int | None = None,
        closed: Callable[[str], object] | None = None,
    ) -> None:
        self.hasher = key if isinstance(key, Hasher) else Hasher(key)
        self._source = source
        self._fingerprint = fingerprint or Fingerprint()
        self._closed = closed
        self._counts: Counter[str] = Counter()
        self._trails = OpenTrails(kept=kept, kept_bytes=kept_bytes, closed=self._close)
        self._known = KnownActions()
        self._numbers = itertools.count()
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
        known = self._known.same(digests, completion)
        if known is not None:
            self._count("duplicates")
            self._trails.touch(known.home)
            return []
        records: list[Record] = []
        action, start, continues = find_link(
            completion, digests, known=self._known, hasher=self.hasher, counts=self._counts
        )
        trail = early = None
        if action is None:
            early = self._look_back(completion, digests, records)
        else:
            reply = read_reply(completion, digests.messages, start)
            trail = self._observe(action, reply, completion, records)
        if completion.response is None or digests.action is None:
            self._count("failed")
            return records
        if trail is not None and trail.tip is action:
            index = trail.step.index + 1
            step = new_step(completion, completion.response, index=index)
            self._continue(trail, step, completion.tools, records)
            self._enter(trail, completion, digests, action, records)
            return records
        step = new_step(completion, completion.response)
        if action is None and self._begin(completion, digests, step, records):
            return records
        if action is not None:
            self._count("branches")
        name = completion.name or self._name(digests.action)
        trail = self._start(name, completion, completion.messages, step, records, continues)
        if early is not None and early.trail is None:
            early.trail = trail
        self._enter(trail, completion, digests, action, records)
        return records

    def result(self, result: ToolResult) -> list[Record]:
        """Takes what a tool said, before a request shows it to the model; see `add`.

        What answers no open action is left alone, as the history will say the same.
        """
        action = self._known.by_result(result)
        if action is None or action.home.tip is not action:
            self._count("orphans")
            return []
        call_id = result.message.tool_call_id or ""
        if action.results.get(call_id) == result:
            return []
        action.results[call_id] = result
        return self._show(action, action.observed())

    def interrupt(self, result: ToolResult) -> list[Record]:
        """Takes that a tool was cut off; its message is not looked at but for the call's id."""
        action = self._known.by_result(result)
        if action is None or action.home.tip is not action:
            return []
        return self._show(action, action.observed("interrupted"))

    def improve(self, name: str, better: Callable[[Step], Step]) -> None:
        """Changes what is known of a trajectory's last step besides its texts.

        Args:
            name: id of the trajectory.
            better: model or usage added, for instance.
        """
        trail = self._trails.get(name)
        if trail is not None:
            trail.step = better(trail.step)
            if trail.tip is not None and trail.tip.home is trail:
                trail.tip.step = better(trail.tip.step)

    def complete(self, name: str) -> list[Record]:
        """Takes that the run which recorded a trajectory came to its end."""
        trail = self._trails.get(name)
        if trail is None or trail.header.outcome.status != "unknown":
            return []
        outcome = Outcome(status="completed")
        trail.header = trail.header.model_copy(update={"outcome": outcome})
        return [HeaderRecord(trail.header)]

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
            while self._trails.kept is not None and len(self._awaited) > self._trails.kept:
                self._awaited.popitem(last=False)
        for place in range(end - 1, -1, -1):
            if completion.messages[place].role != "assistant":
                continue
            action = self._known.by_history(digests.prefixes[place + 1], completion)
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
            self._trails.touch(known)
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
        """The last step of a trajectory gets its observation, unless the tools said it already."""
        is_news = trail is not action.home or bool(action.replies)
        if is_news or not action.is_answered_by(reply):
            step = trail.step
            if step.observation or step.status == "error":  # what was known before was less
                step = step.model_copy(update={"observation": (), "kind": None, "status": "ok"})
            status = "error" if reply.failed else "ok"
            trail.step = complete_step(step, reply.messages, status=status)
            records.append(StepRecord(trail.header.id, trail.step, action.key, action.tail))
        action.replies[reply.digests] = trail
        self._known.settle(action)
        self._trails.touch(trail)

    def _show(self, action: Action, step: Step) -> list[Record]:
        """The last step of a trajectory is known better."""
        trail = action.home
        trail.step = step
        self._trails.touch(trail)
        return [StepRecord(trail.header.id, step, action.key, action.tail)]

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
        origin = completion.name and action.home.header.id.encode("utf-8", "surrogatepass")
        name = self._name(self.hasher.join(b"fork", action.key, *reply.digests, origin or b""))
        trail = self._start(name, completion, context, step, records, step_too=False)
        trail.tip = action
        self._settle(action, trail, reply, records)
        return trail

    def _name(self, digest: bytes) -> str:
        return f"{self._source}-{digest.hex()}"

    def _start(
        self,
        name: str,
        completion: Completion,
        context: tuple[Message, ...],
        step: Step,
        records: list[Record],
        continues: Continuation | None = None,
        *,
        step_too: bool = True,
    ) -> Trail:
        thread_id = completion.thread_id
        thread = {} if thread_id is None else {"thread_id": thread_id}
        header = Trajectory(
            id=name,
            source=self._source,
            initial=context,
            tools=completion.tools,
            fingerprint=self._fingerprint,
            started_at=step.started_at,
            metadata={**thread, **completion.about},
        )
        records.append(HeaderRecord(header, continues=continues))
        trail = Trail(header=header, step=step)
        self._trails.grow(trail, context)
        self._trails.touch(trail)
        return trail

    def _continue(
        self, trail: Trail, step: Step, tools: tuple[Tool, ...], records: list[Record]
    ) -> None:
        """One more step of a trajectory."""
        names = {tool.name for tool in trail.header.tools} if tools else ()
        more = tuple(tool for tool in tools if tool.name not in names)
        if more:
            all_tools = trail.header.tools + more
            trail.header = trail.header.model_copy(update={"tools": all_tools})
            records.append(HeaderRecord(trail.header))
        trail.step = step
        self._trails.touch(trail)

    def _enter(
        self,
        trail: Trail,
        completion: Completion,
        digests: Digests,
        parent: Action | None,
        records: list[Record],
    ) -> None:
        """Makes a trajectory's last step known as an action that waits for its observation."""
        action = self._know(trail, completion, digests, parent)
        if action is None:
            return
        records.append(StepRecord(trail.header.id, trail.step, action.key, action.tail))
        trail.tip = action
        self._hear_early(action, completion, records)

    def _begin(
        self, completion: Completion, digests: Digests, step: Step, records: list[Record]
    ) -> bool:
        """A first action that came late begins the trajectory that the next one had to begin."""
        if digests.action is None:
            return False
        waiting = self._awaited.get(digests.action, {}).values()
        begun = ((early.reply, early.trail) for early in waiting if early.trail is not None)
        able = ((r, t) for r, t in begun if not t.closed and t.step.index == 0)
        reply, trail = next(able, (None, None))
        if reply is None or trail is None:
            return False
        next_step, tip = trail.step.model_copy(update={"index": 1}), trail.tip
        update = {"initial": completion.messages, "started_at": step.started_at}
        trail.header = trail.header.model_copy(update=update)
        records.append(HeaderRecord(trail.header))
        trail.step = step
        action = self._know(trail, completion, digests, None)
        if action is None:
            return False
        self._settle(action, trail, reply, records)
        self._count("late")
        trail.step, trail.tip = next_step, tip
        key, tail = (None, None) if tip is None else (tip.key, tip.tail)
        records.append(StepRecord(trail.header.id, next_step, key, tail))
        self._hear_early(action, completion, records)
        return True

    def _know(
        self, trail: Trail, completion: Completion, digests: Digests, parent: Action | None
    ) -> Action | None:
        if digests.action is None or digests.tail is None:
            return None
        is_answer = not trail.step.action.tool_calls
        action = Action(
            number=next(self._numbers),
            parent=None if parent is None else parent.number,
            key=digests.action,
            tail=digests.tail,
            step=trail.step,
            home=trail,
            request=digests.request,
            thread_id=completion.thread_id,
            caller=completion.caller,
            agent=agent_key(completion, digests, self.hasher) if is_answer else None,
        )
        self._known.add(action)
        self._trails.grow(trail, (trail.step.action,))
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

    def _close(self, trail: Trail) -> None:
        self._known.forget(trail)
        self._count("evicted")
        if self._closed is not None:
            self._closed(trail.header.id)

    def _count(self, name: str) -> None:
        self._counts[name] += 1
