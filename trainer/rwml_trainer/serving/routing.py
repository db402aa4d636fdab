"""Which models the gateway has: immutable versions, the names that move over them, what is running.

A name is resolved once, when a request is let in: the request ends on that version, wherever the
name has moved meanwhile. All of it belongs to the gateway's event loop; no lock is needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from pydantic import BaseModel, ConfigDict

from rwml_trainer.serving.capabilities import EngineName
from rwml_trainer.serving.conversations import Conversations, Place
from rwml_trainer.serving.keys import Key
from rwml_trainer.serving.traffic import Report, Traffic
from rwml_trainer.serving.trials import Candidate


class Target(BaseModel):
    """A version that has, or had, an engine.

    Attributes:
        url: base URL of the engine, ending in ``/v1``.
        model: what the engine calls it.
        engine: kind of the engine.
        tools: whether its chat template shows tools.
        state: ``ready``; ``down`` while the engine is restarted; ``leaving`` once its name has
            moved on: what is in flight ends, nothing new is let in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    model: str
    engine: EngineName
    tools: bool = False
    state: Literal["ready", "down", "leaving"] = "ready"


class Table(BaseModel):
    """All that the gateway knows of its models.

    Attributes:
        versions: by their names, ``NAME@STEP``.
        aliases: from ``NAME`` to a version.
        candidates: by ``NAME``, the version that is tried on a share of its conversations.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    versions: dict[str, Target] = {}
    aliases: dict[str, str] = {}
    candidates: dict[str, Candidate] = {}

    def resolve(self, name: str) -> str | None:
        """The version that a name means now; None where it means none that can be asked."""
        version = self.aliases.get(name, name)
        target = self.versions.get(version)
        return None if target is None or target.state == "leaving" else version

    def sides(self, name: str) -> list[str]:
        """The versions that a name's conversations have: one, or two while one is tried."""
        current, candidate = self.resolve(name), self.candidates.get(name)
        return [current or name, *([] if candidate is None else [candidate.version])]

    def names(self, key: Key) -> list[str]:
        """What a key may ask for: aliases first."""
        known = [*self.aliases, *self.versions]
        return [name for name in known if self.resolve(name) and key.may_ask(name)]


class Switchboard:
    """The table that counts now, and how many requests are in flight.

    Attributes:
        table: replaced as a whole.
        draining: whether the server ends, and lets nobody in.
        traffic: what requests came to.
    """

    def __init__(self, table: Table | None = None) -> None:
        self.table = table or Table()
        self.draining = False
        self.traffic = Traffic()
        self._conversations = Conversations()
        self._in_flight: Counter[str] = Counter()

    def place(self, name: str, conversation: bytes, key: Key) -> Place | None:
        """The version that answers a request, which its whole conversation has.

        Args:
            name: that was asked for, with a step or without.
            conversation: see `conversations.conversation_of`.
            key: whose it is: one that may not ask for a candidate gets none.

        Returns:
            None where the name means nothing that can be asked.
        """
        version = self.table.resolve(name)
        if version is None:
            return None
        if version == name:
            return Place(version)
        candidate = self.table.candidates.get(name)
        if candidate is not None and not key.may_ask(candidate.version):
            candidate = None
        return self._conversations.place(name, conversation, current=version, candidate=candidate)

    def report(self) -> Report:
        """What there is to tell of traffic and trials."""
        trials = {
            name: self._conversations.trial(candidate)
            for name, candidate in self.table.candidates.items()
        }
        return Report(versions=self.traffic.shown(), trials=trials)

    @property
    def is_idle(self) -> bool:
        """Whether nothing at all is in flight."""
        return not self._in_flight.total()

    def in_flight(self, version: str) -> int:
        """Requests to a version that have not ended."""
        return self._in_flight[version]

    @contextmanager
    def counted(self, version: str) -> Iterator[None]:
        """Counts a request for as long as the block runs."""
        self._in_flight[version] += 1
        try:
            yield
        finally:
            self._in_flight[version] -= 1
