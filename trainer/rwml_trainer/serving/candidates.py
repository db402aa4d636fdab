"""What a server tries on which names: begun and ended in the registry, watched by its figures.

The fleet runs the engines and moves the traffic; here is what is known of trials, and what is
written of them and of the traffic.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from rwml.errors import RwmlError, UsageError
from rwml.files import whole_file
from rwml_trainer.serving.canary import CanaryError
from rwml_trainer.serving.registry import Order, Registry
from rwml_trainer.serving.traffic import Kept, Report
from rwml_trainer.serving.trials import FALSE_ALARMS, Candidate, Ended, How, Trial

TRAFFIC = "traffic.json"
TRAFFIC_EVERY_S = 2.0
"""From one writing of it to the next (ours); trials are looked at in every round."""


class Candidates:
    """The candidates of a server.

    Args:
        registry: of the serving folder.
        notify: called with one line where something cannot be written.

    Attributes:
        tried: by alias.
    """

    def __init__(self, registry: Registry, *, notify: Callable[[str], None]) -> None:
        self.tried: dict[str, Candidate] = {}
        self._registry = registry
        self._notify = notify
        self._unwritten: dict[str, Ended] = {}
        self._kept = Report()
        self._kept_at = 0.0

    @property
    def is_report_due(self) -> bool:
        """Whether it is time to look at the traffic."""
        return bool(self.tried) or self._is_keeping_due

    def check(self, name: str, order: Order) -> None:
        """Refuses an order that came too late for what it is about.

        Raises:
            UsageError: something else is tried, or nothing any more.
            CanaryError: its version was withdrawn meanwhile.
            OSError: that cannot be read in the registry, which cannot be written.
        """
        self._write_end(name)
        tried = self.tried.get(name)
        if order.kind == "withdraw":
            if tried is None or tried.version != order.version:
                raise UsageError(f"{order.version} is not tried any more")
            return
        if tried is not None and tried.version != order.version:
            raise UsageError(f"{tried.version} is tried: end that with 'rwml serve rollback'")
        last = self._registry.read().aliases[name].trial
        if last is None or last.candidate.version != order.version:
            return
        if last.how in ("failing", "crashed") and last.at > order.asked_at:
            raise CanaryError(f"{order.version} was withdrawn meanwhile: {last.why}")

    def begin(self, name: str, order: Order) -> Candidate:
        """Begins a trial; a candidate that is tried already gets another share.

        Raises:
            UsageError: the order names no share.
            OSError: it cannot be written, and so is not begun.
        """
        if order.share is None:
            raise UsageError(f"say on which share of {name} {order.version} is to be tried")
        self._write_end(name)  # of one before, which could not be written then
        candidate = Candidate(
            version=order.version,
            share=order.share,
            trial=uuid.uuid4().hex,
            since=datetime.now(UTC),
        )
        self._registry.begin_trial(name, candidate)
        self.tried[name] = candidate
        return candidate

    def end(self, name: str, how: How, why: str, trial: Trial | None) -> None:
        """Ends a name's trial, if there is one, and notes why."""
        candidate = self.tried.pop(name, None)
        if candidate is None:
            return
        ended = Ended(candidate=candidate, how=how, why=why, trial=trial, at=datetime.now(UTC))
        self._unwritten[name] = ended
        try:
            self._write_end(name)
        except (RwmlError, OSError) as error:  # no disk: the traffic goes where it should
            self._notify(f"the end of the trial of {candidate.version} is not noted yet: {error}")

    def failing(self, report: Report) -> dict[str, str]:
        """The names whose candidate is shown to fail more often, and why one can say so."""
        trials = {
            name: report.trials[name]
            for name, candidate in self.tried.items()
            if name in report.trials and report.trials[name].id == candidate.trial
        }
        return {
            name: f"it is shown to fail more often (false alarms: {FALSE_ALARMS:.0%}): {trial}"
            for name, trial in trials.items()
            if trial.is_alarm
        }

    def of(self, version: str) -> list[str]:
        """The names that a version is tried on."""
        return [name for name, candidate in self.tried.items() if candidate.version == version]

    def keep(self, report: Report) -> None:
        """Writes the figures for `rwml serve list`, where it is time and they have changed."""
        if not self._is_keeping_due:
            return
        self._kept_at = time.monotonic()
        if report == self._kept:
            return
        try:
            with whole_file(self._registry.folder / TRAFFIC) as temporary:
                kept = Kept(at=datetime.now(UTC), report=report)
                temporary.write_text(kept.model_dump_json(indent=2), encoding="utf-8")
        except OSError as error:  # no disk: that is no reason to serve nobody
            self._notify(f"the traffic's figures are not written: {error}")
        self._kept = report

    def write_ends(self) -> None:
        """Notes the ends of trials that could not be written when they came."""
        for name in list(self._unwritten):
            with suppress(RwmlError, OSError):  # it was told, and is tried again
                self._write_end(name)

    def _write_end(self, name: str) -> None:
        ended = self._unwritten.get(name)
        if ended is not None:
            self._registry.end_trial(name, ended)
            del self._unwritten[name]

    def forget_traffic(self) -> None:
        """Takes away what another server wrote."""
        (self._registry.folder / TRAFFIC).unlink(missing_ok=True)

    @property
    def _is_keeping_due(self) -> bool:
        return time.monotonic() - self._kept_at >= TRAFFIC_EVERY_S
