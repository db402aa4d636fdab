"""The engines behind a gateway: started, checked, restarted when they crash, and swapped.

A promotion is a swap of processes: the new engine is up and checked before the name moves; requests
in flight end on the old one, which stops when the last of them has. A trial starts alike, but the
name stays, and the candidate leaves when it fails. Everything here runs in the server's main
thread, whose children the engines are; clients are the gateway's concern.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from rwml.errors import RwmlError, ServingError, UsageError
from rwml_trainer.serving import canary
from rwml_trainer.serving.canary import CanaryError, Findings
from rwml_trainer.serving.candidates import Candidates
from rwml_trainer.serving.engine import Engine, start_transformers
from rwml_trainer.serving.folders import check_model_folder
from rwml_trainer.serving.gateway import Gateway
from rwml_trainer.serving.process import ServerProcess
from rwml_trainer.serving.registry import Order, Outcome, Registry, Version, check_unchanged
from rwml_trainer.serving.routing import Table, Target
from rwml_trainer.serving.trials import How, Trial

StartEngine = Callable[[Path, Path], Engine]
"""From a model folder, and a folder for what the engine writes, to an engine that loads."""
Notify = Callable[[str], None]

ENGINES = "engines"
ENGINE_GRACE_S = 5.0
"""An engine is asked to end when nothing is in flight any more."""
RESTARTS = 5
"""Attempts to bring back a crashed engine (ours); then the server gives up and says so."""
LONGEST_PAUSE_S = 30.0
LEAVING_S = 600.0
"""What requests to a version have left once its name has moved on (ours)."""


@dataclass
class Running:
    """An engine and the version that it runs."""

    version: Version
    engine: Engine
    findings: Findings | None = None
    state: Literal["ready", "down", "leaving"] = "ready"
    leaving_since: float = 0.0


class Fleet:
    """All engines of a server.

    Args:
        registry: of the serving folder.
        start_engine: starts one.
        notify: called with one line about each change.
        start_timeout_s: seconds that an engine has to come up.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        start_engine: StartEngine = start_transformers,
        notify: Notify,
        start_timeout_s: float,
    ) -> None:
        self._registry = registry
        self._start_engine = start_engine
        self._notify = notify
        self._start_timeout_s = start_timeout_s
        self._running: dict[str, Running] = {}
        self._aliases: dict[str, str] = {}
        self._candidates = Candidates(registry, notify=notify)
        self._gateway: Gateway | None = None

    @property
    def engines(self) -> tuple[ServerProcess, ...]:
        """Processes of the engines, in the order they were started."""
        return tuple(running.engine.process for running in self._running.values())

    def table(self) -> Table:
        """What the gateway is to serve."""
        versions = {
            name: Target(
                url=running.engine.url,
                model=running.engine.model,
                engine=running.engine.name,
                tools=running.version.tools,
                state=running.state,
            )
            for name, running in self._running.items()
        }
        tried = self._candidates.tried
        return Table(versions=versions, aliases=self._aliases, candidates=tried)

    def launch(self, versions: Iterable[Version]) -> None:
        """Starts an engine for each; they load while this returns.

        Raises:
            ModelError: the weights are not those that were added, or the folder is unsafe.
        """
        for version in versions:
            self._running[version.id] = Running(version, self._start(version))
            self._aliases[version.name] = version.id

    def connect(self, gateway: Gateway, deadline: float) -> None:
        """Waits for the engines, checks them, and opens the gateway to clients.

        Raises:
            ServingError: an engine or the gateway did not come up, or fails its check.
        """
        for running in self._running.values():
            running.engine.wait(deadline)
            running.findings = canary.check(running.engine, running.version)
            self._notify(f"{running.version.id} is up: {running.findings}")
        self._gateway = gateway
        self._candidates.forget_traffic()
        gateway.control.serve(self.table(), deadline=deadline)

    def attend(self) -> None:
        """One round: restarts what crashed, carries out orders, stops what nobody uses any more.

        A candidate that fails is withdrawn.

        Raises:
            ServingError: the gateway died, or an engine does not come back.
        """
        assert self._gateway is not None  # noqa: S101 - `connect` comes first
        self._gateway.process.check()
        self._watch_traffic()
        for running in list(self._running.values()):
            if running.engine.process.has_ended:
                for name in self._candidates.of(running.version.id):
                    how = f"its engine died ({running.engine.process.how_it_ended})"
                    self._notify(self._withdraw(name, "crashed", how))
                self._bring_back(running)
            elif running.state == "leaving":
                self._let_go(running)
        for name, alias in self._registry.read().aliases.items():
            if alias.order is not None:
                self._carry_out(name, alias.order)

    def close(self) -> None:
        """Stops all engines."""
        for running in self._running.values():
            running.engine.process.stop(ENGINE_GRACE_S)

    def _start(self, version: Version) -> Engine:
        folder = Path(version.folder)
        check_unchanged(version)
        check_model_folder(folder)
        return self._start_engine(folder, self._registry.folder.resolve() / ENGINES / version.id)

    def _start_and_check(self, version: Version) -> Running:
        """An engine that is up and answers; none is left where that fails."""
        running = Running(version, self._start(version))
        try:
            running.engine.wait(time.monotonic() + self._start_timeout_s)
            running.findings = canary.check(running.engine, version)
        except BaseException:  # also Ctrl+C: nobody else knows of it yet
            running.engine.process.stop(ENGINE_GRACE_S)
            raise
        return running

    def _bring_back(self, running: Running) -> None:
        from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

        version, process = running.version, running.engine.process
        process.stop(ENGINE_GRACE_S)  # what it started may still be there
        if running.state == "leaving":
            self._forget(version)
            return
        kept = process.log.with_suffix(".crashed.log")
        process.log.replace(kept)
        how = f"died ({process.how_it_ended}, log: {kept})"
        self._notify(f"the engine of {version.id} {how}: it is restarted")
        running.state = "down"
        self._publish()
        for attempt in Retrying(
            stop=stop_after_attempt(RESTARTS),
            wait=wait_exponential(max=LONGEST_PAUSE_S),
            retry=retry_if_exception_type(ServingError),
            reraise=True,
        ):
            with attempt:
                self._running[version.id] = self._start_and_check(version)
        self._publish()
        self._notify(f"{version.id} is up again")

    def _carry_out(self, name: str, order: Order) -> None:
        wanting = False
        try:
            message = self._do(name, order)
        except (RwmlError, OSError) as error:  # no memory, or no disk: we stay as we are
            wanting = isinstance(error, CanaryError)
            message, ok = " ".join(str(error).split()), False
        else:
            ok = True
        self._notify(f"{order.kind}: {message}")
        self._registry.settle(
            name,
            Outcome(
                ticket=order.ticket,
                version=order.version,
                ok=ok,
                message=message,
                at=datetime.now(UTC),
                found_wanting=wanting,
            ),
        )

    def _swap(self, name: str, order: Order) -> str:
        """Moves a name to another version once that has been checked; says what was done."""
        if name not in self._aliases:
            raise UsageError(f"this server does not serve {name}: start it with a run of that name")
        version = self._registry.read().versions[order.version]
        current = self._running[self._aliases[name]]
        if current.version.id == version.id:  # it was ordered before this server moved the name
            self._registry.move(version, order.kind)
            return f"{name} is {version.id} already"
        new = self._running.get(version.id)
        if new is None:
            self._notify(f"starting {version.id}")
            new = self._start_and_check(version)
        try:
            if order.kind == "promote":  # one goes back to what one had, whatever the new one can
                self._compare(new, current)
            self._registry.move(version, order.kind)  # first: if it cannot be written nothing moves
        except (RwmlError, OSError):
            if version.id not in self._running:
                new.engine.process.stop(ENGINE_GRACE_S)
            raise
        new.state = "ready"
        self._running[version.id] = new
        self._aliases[name] = version.id
        current.state, current.leaving_since = "leaving", time.monotonic()
        self._publish()
        return f"{name} is {version.id} ({new.findings}), and was {current.version.id}"

    def _compare(self, new: Running, current: Running) -> None:
        if new.findings is not None and current.findings is not None:
            canary.check_against(
                new.findings,
                version=new.version.id,
                current=current.findings,
                of=current.version.id,
            )

    def _let_go(self, running: Running) -> None:
        """Stops an engine whose name has moved on, when its last request has ended."""
        assert self._gateway is not None  # noqa: S101 - `connect` comes first
        version = running.version
        is_late = time.monotonic() - running.leaving_since > LEAVING_S
        if self._gateway.control.count(version.id) and not is_late:
            return
        self._forget(version)
        running.engine.process.stop(ENGINE_GRACE_S)
        self._notify(f"{version.id} stopped" + (": its requests took too long" if is_late else ""))

    def _forget(self, version: Version) -> None:
        del self._running[version.id]
        self._publish()

    def _publish(self) -> None:
        if self._gateway is not None:
            self._gateway.control.serve(self.table())

    def _do(self, name: str, order: Order) -> str:
        """Carries out an order; says what was done."""
        self._candidates.check(name, order)
        if order.kind == "withdraw":
            return self._withdraw(name, "ended", "it was ended by 'rwml serve rollback'")
        if order.kind == "canary":
            return self._try(name, order)
        trial = self._trial(name)
        told = self._swap(name, order)
        if name in self._candidates.tried:
            self._candidates.end(name, "promoted", "it was promoted", trial)
            self._publish()
        return told

    def _try(self, name: str, order: Order) -> str:
        """Gives a version that has been checked a share of a name's new conversations."""
        if name not in self._aliases:
            raise UsageError(f"this server does not serve {name}: start it with a run of that name")
        version = self._registry.read().versions[order.version]
        current = self._running[self._aliases[name]]
        if current.version.id == version.id:  # it was ordered before this server moved the name
            raise UsageError(f"{name} is {version.id} already")
        new = self._running.get(version.id)
        if new is None:
            self._notify(f"starting {version.id}")
            new = self._start_and_check(version)
        try:
            self._compare(new, current)
            candidate = self._candidates.begin(name, order)
        except (RwmlError, OSError):
            if version.id not in self._running:
                new.engine.process.stop(ENGINE_GRACE_S)
            raise
        new.state = "ready"
        self._running[version.id] = new
        self._publish()
        return (
            f"{version.id} ({new.findings}) answers {candidate.percent} of the conversations with "
            f"{name} that begin from now on, {current.version.id} the others"
        )

    def _watch_traffic(self) -> None:
        """Takes back candidates that are shown to fail more often, and keeps figures for `list`."""
        if self._gateway is not None and self._candidates.is_report_due:
            report = self._gateway.control.report()
            for name, why in self._candidates.failing(report).items():
                self._notify(self._withdraw(name, "failing", why))
            self._candidates.keep(report)

    def _withdraw(self, name: str, how: How, why: str) -> str:
        """Takes a candidate's share away: what is in flight ends on it. Says what was done."""
        trial, version = self._trial(name), self._candidates.tried[name].version
        running = self._running[version]
        running.state, running.leaving_since = "leaving", time.monotonic()
        self._candidates.end(name, how, why, trial)
        self._publish()
        return f"{version} is not tried any more: {why}; {name} is {self._aliases[name]}"

    def _trial(self, name: str) -> Trial | None:
        """The figures of a name's trial."""
        if self._gateway is None or name not in self._candidates.tried:
            return None
        return self._gateway.control.report().trials.get(name)
