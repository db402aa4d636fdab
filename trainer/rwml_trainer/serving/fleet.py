"""The engines behind a gateway: started, checked, restarted when they crash, and swapped.

A promotion is a swap of processes: the new engine is up and checked before the name moves; requests
in flight end on the old one, which stops when the last of them has. A trial starts alike, but the
name stays, and the candidate leaves when it fails. All that is known here belongs to the server's
main thread; only engines are waited for in others (`starting`), so that one can be restarted while
another is promoted. Clients are the gateway's concern.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from datetime import UTC, datetime

from rwml.errors import RwmlError, UsageError
from rwml_trainer.serving import canary, control
from rwml_trainer.serving.canary import CanaryError
from rwml_trainer.serving.candidates import Candidates
from rwml_trainer.serving.control import GatewaySilentError
from rwml_trainer.serving.engine import StartEngine, start_transformers
from rwml_trainer.serving.gateway import Gateway
from rwml_trainer.serving.process import POLL_S, ServerProcess
from rwml_trainer.serving.registry import Order, OrderKind, Outcome, Registry, Version
from rwml_trainer.serving.routing import Table, Target
from rwml_trainer.serving.starting import ENGINE_GRACE_S, Running, Started, Starter
from rwml_trainer.serving.traffic import Report
from rwml_trainer.serving.trials import How, Trial

Notify = Callable[[str], None]
_OPPOSITE: dict[OrderKind, OrderKind] = {"promote": "rollback", "rollback": "promote"}

ENGINES = "engines"
LEAVING_S = 600.0
"""What requests to a version have left once its name has moved on (ours)."""
AGAIN_S = 1.0
"""What a gateway that did not answer has to answer the next time (ours)."""


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
        self._notify = notify
        self._starter = Starter(
            registry.folder.resolve() / ENGINES,
            start_engine=start_engine,
            timeout_s=start_timeout_s,
        )
        self._running: dict[str, Running] = {}
        self._aliases: dict[str, str] = {}
        self._candidates = Candidates(registry, notify=notify)
        self._gateway: Gateway | None = None
        self._is_told = True
        self._is_silent = False
        self._restarts: dict[str, Future[Started]] = {}

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
                tools=running.version.tools and running.engine.tools,
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
            self._running[version.id] = Running(version, self._starter.launch(version))
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

        A gateway that does not answer is asked again in the next round; until then no name moves.
        A candidate that fails is withdrawn.

        Raises:
            ServingError: the gateway died, or an engine of ours does not come back.
        """
        assert self._gateway is not None  # noqa: S101 - `connect` comes first
        self._gateway.process.check()
        self._look_after()
        for restart in self._restarts.values():
            if restart.done():  # else it is taken back in the next round
                restart.result()
        if not self._is_told:
            return
        try:
            for running in list(self._running.values()):
                if running.state == "leaving":
                    self._let_go(running)
        except GatewaySilentError as error:
            self._note_silence(error)
            return
        for name, alias in self._registry.read().aliases.items():
            if alias.order is not None:
                self._carry_out(name, alias.order)

    def close(self) -> None:
        """Stops all engines."""
        self._candidates.write_ends()
        self._starter.close()

    def _start_and_check(self, version: Version) -> Running:
        """An engine that is up and answers; others are looked after while it comes up."""
        start = self._restarts.pop(version.id, None)
        if start is None:
            start = self._starter.start(version)
        else:
            self._starter.give_up(start)  # else an order could wait for somebody else's engine
        while wait([start], POLL_S).not_done:
            self._look_after()
        engine, findings = start.result()
        return Running(version, engine, findings)

    def _look_after(self) -> None:
        """Restarts what crashed and takes back what is up again; waits for no engine."""
        self._watch_traffic()
        for running in list(self._running.values()):
            if running.engine.process.has_ended and running.version.id not in self._restarts:
                for name in self._candidates.of(running.version.id):
                    why = f"its engine died ({running.engine.process.how_it_ended})"
                    self._notify(self._withdraw(name, "crashed", why))
                self._bring_back(running)
        for name, restart in list(self._restarts.items()):
            running = self._running.get(name)
            is_wanted = running is not None and running.state != "leaving"
            if not is_wanted:
                self._starter.give_up(restart)
            if restart.done() and not (is_wanted and restart.exception()):
                del self._restarts[name]
                self._take_back(running if is_wanted else None, restart)
        self._tell()

    def _bring_back(self, running: Running) -> None:
        version, process = running.version, running.engine.process
        is_elsewhere = running.engine.is_elsewhere
        process.stop(ENGINE_GRACE_S)  # what it started may still be there
        if running.state == "leaving":
            self._forget(version)
            return
        kept = process.log.with_suffix(".crashed.log")
        process.log.replace(kept)
        how = f"died ({process.how_it_ended}, log: {kept}): it is restarted"
        if is_elsewhere:
            how = f"does not answer (log: {kept}): it is asked until it does"
        self._notify(f"the engine of {version.id} {how}")
        running.state, self._is_told = "down", False
        self._restarts[version.id] = self._starter.restart(version, is_elsewhere=is_elsewhere)

    def _take_back(self, running: Running | None, restart: Future[Started]) -> None:
        """Puts an engine that was restarted where the crashed one was; None: its name moved on."""
        if running is not None:
            running.engine, running.findings = restart.result()
            running.state, self._is_told = "ready", False
            self._notify(f"{running.version.id} is up again")
        elif not restart.exception():
            restart.result().engine.process.stop(ENGINE_GRACE_S)

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
            new.state, new.leaving_since = "leaving", time.monotonic()  # until the name has moved
        try:
            if order.kind == "promote":  # one goes back to what one had, whatever the new one can
                self._compare(new, current)
            self._registry.move(version, order.kind)  # first: if it cannot be written nothing moves
        except (RwmlError, OSError):
            if version.id not in self._running:
                new.engine.process.stop(ENGINE_GRACE_S)
            raise
        self._running[version.id] = new
        former = new.state, current.state
        new.state, current.state = "ready", "leaving"
        current.leaving_since = time.monotonic()
        self._aliases[name] = version.id
        try:
            self._publish()
        except GatewaySilentError as error:  # it may still hear of it, so both engines stay
            self._note_silence(error)
            new.state, current.state = former
            self._aliases[name] = current.version.id
            self._registry.move(current.version, _OPPOSITE[order.kind])
            raise GatewaySilentError(f"{name} stays {current.version.id}: {error}") from error
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
        self._tell(anew=True)

    def _tell(self, *, anew: bool = False) -> None:
        """Tells the gateway what it does not know; where it is silent, with the next call."""
        if anew or not self._is_told:
            try:
                self._publish()
            except GatewaySilentError as error:
                self._note_silence(error)

    def _publish(self) -> None:
        """Tells the gateway what counts now.

        Raises:
            GatewaySilentError: it may count later, or never.
        """
        self._is_told = False
        if self._gateway is not None:
            patience_s = AGAIN_S if self._is_silent else control.ANSWER_S
            self._gateway.control.serve(self.table(), deadline=time.monotonic() + patience_s)
        if self._is_silent:
            self._notify("the gateway answers again")
        self._is_told, self._is_silent = True, False

    def _note_silence(self, error: GatewaySilentError) -> None:
        if not self._is_silent:
            self._notify(f"{error}; it is asked again, and no name moves until it answers")
        self._is_told, self._is_silent = False, True

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
            self._tell(anew=True)
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
        self._tell(anew=True)
        if not self._is_told:  # it may still hear of it, so the engine stays until then
            self._withdraw(name, "ended", "the gateway does not answer")
            raise GatewaySilentError(f"{version.id} is not tried: the gateway does not answer")
        return (
            f"{version.id} ({new.findings}) answers {candidate.percent} of the conversations with "
            f"{name} that begin from now on, {current.version.id} the others"
        )

    def _watch_traffic(self) -> None:
        """Takes back candidates that are shown to fail more often, and keeps figures for `list`."""
        if not self._candidates.is_report_due:
            return
        self._candidates.write_ends()
        report = self._report()
        if report is not None:
            for name, why in self._candidates.failing(report).items():
                self._notify(self._withdraw(name, "failing", why))
            self._candidates.keep(report)

    def _withdraw(self, name: str, how: How, why: str) -> str:
        """Takes a candidate's share away: what is in flight ends on it. Says what was done."""
        trial, version = self._trial(name), self._candidates.tried[name].version
        running = self._running[version]
        running.state, running.leaving_since = "leaving", time.monotonic()
        self._candidates.end(name, how, why, trial)
        self._tell(anew=True)
        return f"{version} is not tried any more: {why}; {name} is {self._aliases[name]}"

    def _trial(self, name: str) -> Trial | None:
        """The figures of a name's trial."""
        report = self._report() if name in self._candidates.tried else None
        return None if report is None else report.trials.get(name)

    def _report(self) -> Report | None:
        """What the gateway saw; None where it is silent."""
        if self._gateway is None or not self._is_told:
            return None
        try:
            return self._gateway.control.report()
        except GatewaySilentError as error:
            self._note_silence(error)
            return None
