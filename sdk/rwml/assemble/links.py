"""Which known action a request answers: by its whole history, by a kept tail, or as a user's turn.

What fits several actions, or none, is not guessed: the counters say how often that happened.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from rwml.assemble.completion import Completion
from rwml.assemble.digests import Digests, Hasher
from rwml.assemble.known import KnownActions
from rwml.assemble.state import Action, read_reply
from rwml.records import Continuation


class Link(NamedTuple):
    """What a request goes on with.

    Attributes:
        action: None where it is not known here.
        start: index of the request's first message after the action.
        continues: what another process may know the action by; only where none is known here.
    """

    action: Action | None
    start: int = 0
    continues: Continuation | None = None


def find_link(
    completion: Completion,
    digests: Digests,
    *,
    known: KnownActions,
    hasher: Hasher,
    counts: Counter[str],
) -> Link:
    """The action that a request answers.

    Args:
        completion: with the request.
        digests: of it.
        known: the actions it may answer.
        hasher: made the digests.
        counts: counters of `AssemblyStats`.
    """
    if digests.last is None or digests.parent is None or digests.wanted_tail is None:
        return _find_turn(completion, digests, known=known, hasher=hasher, counts=counts)
    start = digests.last + 1
    if start == len(completion.messages):  # nothing came back: a prefilled answer
        counts["unlinked"] += 1
        return Link(None)
    found = known.by_history(digests.parent, completion)
    if found is not None:
        return Link(found, start)
    candidates = known.by_tail(digests.wanted_tail)
    if len(candidates) == 1:
        counts["relinked"] += 1
        action = next(iter(candidates))
        known.alias(digests.parent, action)  # a retry of this request finds it at once
        return Link(action, start)
    if candidates:
        counts["ambiguous"] += 1
        return Link(None)
    counts["unlinked"] += 1
    reply = read_reply(completion, digests.messages, start)
    return Link(
        None,
        start,
        Continuation(digests.parent, digests.wanted_tail, reply.messages, reply.failed),
    )


def agent_key(completion: Completion, digests: Digests, hasher: Hasher) -> bytes | None:
    """Names the agent of a thread: by what the caller says, and by its system prompt."""
    agent = completion.caller.agent
    if agent is None or completion.thread_id is None:
        return None
    return hasher.join(b"agent", digests.head, agent.encode("utf-8", "surrogatepass"))


def _find_turn(
    completion: Completion,
    digests: Digests,
    *,
    known: KnownActions,
    hasher: Hasher,
    counts: Counter[str],
) -> Link:
    """The answer that a user replies to, where the agent is not given the history."""
    agent = agent_key(completion, digests, hasher) if completion.caller.says else None
    action = None if agent is None else known.by_turn(agent, completion, digests)
    if action is not None:
        counts["relinked"] += 1
    return Link(action, len(completion.messages) - 1)
