"""The registry of a serving folder: immutable versions, the names that move over them, orders.

`registry.json` is the one truth, also across restarts: what was served, with the hashes of its
weights, and which version each name means. `rwml serve promote` writes an order into it, and the
running server, which looks at the file, carries it out and writes what became of it. So the owner
of the folder is the only one who can give orders; there is no door to guard. The file is always
replaced as a whole, under a lock.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from rwml.errors import ModelError, UsageError
from rwml.files import file_sha256, make_private, whole_file
from rwml.prompts import Profile
from rwml_trainer.runs import Stage
from rwml_trainer.serving.trials import Candidate, Ended

REGISTRY = "registry.json"
LOCK_TIMEOUT_S = 10.0
OrderKind = Literal["promote", "rollback", "canary", "withdraw"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Version(_Frozen):
    """A model that can be served, for ever the same.

    Attributes:
        name: what its alias is called.
        step: GRPO steps behind its weights; 0 for a model that was not trained here.
        folder: absolute path of config, safetensors and tokenizer.
        source: folder of the run, or the model folder.
        stage: of the run; None for a model folder.
        profile: prompt profile that the run was trained with; None for a model folder.
        weights: SHA-256 of each safetensors file by its name.
        template_sha256: of the chat template.
        tools: whether the chat template shows tools.
        added_at: in UTC.
    """

    name: str
    step: int
    folder: str
    source: str
    stage: Stage | None
    profile: Profile | None
    weights: dict[str, str]
    template_sha256: str
    tools: bool
    added_at: datetime

    @property
    def id(self) -> str:
        """``NAME@STEP``."""
        return f"{self.name}@{self.step}"

    def is_same_model(self, other: Version) -> bool:
        """Whether weights and template are equal."""
        return (self.weights, self.template_sha256) == (other.weights, other.template_sha256)


class Order(_Frozen):
    """What somebody wants of the running server; `share` is of a canary's conversations."""

    ticket: str
    kind: OrderKind
    version: str
    asked_at: datetime
    share: float | None = None


class Outcome(_Frozen):
    """What became of an order; `found_wanting` tells a failed check from a broken machine."""

    ticket: str
    version: str
    ok: bool
    message: str
    at: datetime
    found_wanting: bool = False


class Alias(_Frozen):
    """A name that moves.

    Attributes:
        current: the version that it means.
        former: those before, the newest last.
        order: what the server has not carried out yet.
        outcome: of the last order.
        candidate: that is tried on a share of the name's conversations.
        trial: how the last one ended.
    """

    current: str
    former: tuple[str, ...] = ()
    order: Order | None = None
    outcome: Outcome | None = None
    candidate: Candidate | None = None
    trial: Ended | None = None

    def moved(self, version: str, kind: OrderKind) -> Alias:
        """The name after a promotion, or after a rollback, which forgets what it left."""
        if version == self.current:
            return self
        if kind == "rollback" and self.former and self.former[-1] == version:
            return self.model_copy(update={"current": version, "former": self.former[:-1]})
        former = (*self.former, self.current)
        return self.model_copy(update={"current": version, "former": former})


class Contents(_Frozen):
    """What `registry.json` holds: versions and aliases by their names."""

    versions: dict[str, Version] = {}
    aliases: dict[str, Alias] = {}


@dataclass
class Draft:
    """The contents while they are changed."""

    versions: dict[str, Version]
    aliases: dict[str, Alias]


class Registry:
    """A registry on disk.

    Args:
        folder: of the server; made when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / REGISTRY
        self._lock = FileLock(folder / f".{REGISTRY}.lock", timeout=LOCK_TIMEOUT_S, mode=0o600)

    def read(self) -> Contents:
        """All of it, as it is now; empty where nothing was written yet.

        Raises:
            ModelError: the file is none of ours.
        """
        try:
            return Contents.model_validate_json(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return Contents()
        except (OSError, ValidationError, ValueError) as error:
            raise ModelError(f"{self.path} is no registry: move it away to begin anew") from error

    def add(self, version: Version) -> Version:
        """Adds a version, or finds it there.

        Raises:
            ModelError: its name is taken by another model.
        """
        with self._changing() as draft:
            known = draft.versions.get(version.id)
            if known is not None and not known.is_same_model(version):
                raise ModelError(
                    f"{version.id} is another model already (from {known.source}), and versions "
                    f"never change: choose a --name NAME@STEP that is free"
                )
            draft.versions[version.id] = version if known is None else known
            return draft.versions[version.id]

    def move(self, version: Version, kind: OrderKind = "promote") -> None:
        """Makes a version the one that its name means."""
        with self._changing() as draft:
            alias = draft.aliases.get(version.name, Alias(current=version.id))
            draft.aliases[version.name] = alias.moved(version.id, kind)

    def order(
        self,
        kind: Literal["promote", "rollback", "canary"],
        wanted: str,
        *,
        share: float | None = None,
        asked_at: datetime | None = None,
        compared_with: str | None = None,
    ) -> Order:
        """Asks the running server for another version.

        Args:
            kind: ``promote`` to a version; ``canary``, to try one; or ``rollback`` of a name: the
                end of its trial, if there is one, else the version before.
            wanted: the version's name; for a rollback the alias.
            share: of a canary's conversations.
            asked_at: when it was decided, where it took gates until now: a version that was
                withdrawn since then stays so.
            compared_with: the version that gates compared it with; None without gates.

        Raises:
            UsageError: there is no such version or nothing to go back to, it is current already,
                another one is tried, another order waits, or the name moved during the gates.
        """
        with self._changing() as draft:
            name, version = _wanted(draft, kind, wanted)
            alias = draft.aliases[name]
            tried = alias.candidate
            if tried is not None and tried.version != version:
                raise UsageError(
                    f"{tried.version} is tried on {tried.percent} of {name}'s conversations: "
                    f"promote it, or end that with 'rwml serve rollback {name}'"
                )
            if alias.order is not None:
                raise UsageError(
                    f"{alias.order.kind} of {alias.order.version} is under way: wait for it"
                )
            if alias.current == version:
                raise UsageError(f"{name} is {version} already")
            if compared_with is not None and alias.current != compared_with:
                raise UsageError(
                    f"{name} is {alias.current} by now, and {version} was compared with "
                    f"{compared_with}: run the gates again"
                )
            is_end = kind == "rollback" and tried is not None
            order = Order(
                ticket=uuid.uuid4().hex,
                kind="withdraw" if is_end else kind,
                version=version,
                asked_at=asked_at or datetime.now(UTC),
                share=share,
            )
            draft.aliases[name] = alias.model_copy(update={"order": order})
            return order

    def settle(self, name: str, outcome: Outcome) -> None:
        """Notes what became of a name's order, which is then done."""
        with self._changing() as draft:
            update = {"order": None, "outcome": outcome}
            draft.aliases[name] = draft.aliases[name].model_copy(update=update)

    def begin_trial(self, name: str, candidate: Candidate) -> None:
        """Notes what is tried on a share of a name's conversations."""
        with self._changing() as draft:
            draft.aliases[name] = draft.aliases[name].model_copy(update={"candidate": candidate})

    def end_trial(self, name: str, ended: Ended) -> None:
        """Notes that it is not tried any more, and why."""
        with self._changing() as draft:
            update = {"candidate": None, "trial": ended}
            draft.aliases[name] = draft.aliases[name].model_copy(update=update)

    @contextmanager
    def _changing(self) -> Iterator[Draft]:
        make_private(self.folder)
        with self._lock:
            contents = self.read()
            draft = Draft(dict(contents.versions), dict(contents.aliases))
            yield draft
            changed = Contents(versions=draft.versions, aliases=draft.aliases)
            if changed != contents:
                with whole_file(self.path) as temporary:
                    temporary.write_text(changed.model_dump_json(indent=2), encoding="utf-8")


def weights_of(folder: Path) -> dict[str, str]:
    """SHA-256 of each safetensors file of a folder."""
    return {path.name: file_sha256(path) for path in sorted(folder.glob("*.safetensors"))}


def check_unchanged(version: Version) -> None:
    """Refuses a version whose weights are not those that were registered.

    Raises:
        ModelError: a file is missing, added or changed.
    """
    if weights_of(Path(version.folder)) != version.weights:
        raise ModelError(
            f"the weights of {version.id} in {version.folder} are not those that were added: "
            f"versions never change; add them under another name"
        )


def _wanted(draft: Draft, kind: OrderKind, wanted: str) -> tuple[str, str]:
    """The alias and the version that an order is about."""
    name = wanted.partition("@")[0]
    alias = draft.aliases.get(name)
    if alias is None:
        known = ", ".join(sorted(draft.aliases)) or "nothing yet"
        raise UsageError(f"no model named {name!r} is served here: {known}")
    if kind == "rollback":
        if alias.candidate is not None:
            return name, alias.candidate.version
        if not alias.former:
            raise UsageError(
                f"{name} has been {alias.current} from the start: nothing to go back to"
            )
        return name, alias.former[-1]
    if wanted not in draft.versions:
        known = ", ".join(v.id for v in draft.versions.values() if v.name == name)
        raise UsageError(
            f"there is no version {wanted!r} ({known}): add it with 'rwml serve add RUN'"
        )
    return name, wanted
