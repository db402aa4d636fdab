"""What `rwml serve list` shows: versions, what names mean, traffic, and trials."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue, ValidationError
from rich.table import Table

from rwml.cli.output import render
from rwml.errors import ServingError
from rwml.statistics import wilson

if TYPE_CHECKING:
    from rwml_trainer.serving.registry import Alias, Contents
    from rwml_trainer.serving.traffic import Kept
    from rwml_trainer.serving.trials import Arm, Trial


def read_traffic(serving: Path) -> Kept | None:
    """The figures that a running server last wrote; None where there was no traffic yet.

    Raises:
        ServingError: the file is none of ours.
    """
    from rwml_trainer.serving.candidates import TRAFFIC
    from rwml_trainer.serving.traffic import Kept

    path = serving / TRAFFIC
    try:
        return Kept.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError, ValueError) as error:
        raise ServingError(f"{path} cannot be read: {error}") from error


@dataclass(frozen=True)
class Listing:
    """A serving folder as it is now.

    Attributes:
        contents: of its registry.
        traffic: of the running server.
        is_running: whether there is one.
    """

    contents: Contents
    traffic: Kept | None
    is_running: bool

    def as_json(self) -> dict[str, JsonValue]:
        """For programs."""
        return {
            "running": self.is_running,
            "aliases": {name: self._alias(name) for name in self.contents.aliases},
            "versions": [
                version.model_dump(mode="json")
                | {"id": version.id, "traffic": self._traffic(version.id)}
                for version in self.contents.versions.values()
            ],
            "traffic_at": None if self.traffic is None else self.traffic.at.isoformat(),
        }

    def text(self) -> str:
        """For people: versions, their traffic, and what is tried."""
        versions = _table("version", "means", "added", "from")
        for version in self.contents.versions.values():
            added = f"{version.added_at:%Y-%m-%d %H:%M}"
            versions.add_row(version.id, self._means(version.id), added, version.source)
        traffic = _table("version", "requests", "errors", "95% interval", "p50", "p99")
        seen = {} if self.traffic is None else self.traffic.report.versions
        for version, found in seen.items():
            p50, p99 = ("" if s is None else f"{s:.2f} s" for s in (found.p50_s, found.p99_s))
            errors = _shares(found.errors, found.requests)
            traffic.add_row(version, str(found.requests), *errors, p50, p99)
        lines = ["served now" if self.is_running else "not served now"]
        for name, alias in self.contents.aliases.items():
            lines += self._trial_lines(name, alias)
        return render(versions, *([traffic] if seen else []), "\n".join(lines))

    def _alias(self, name: str) -> dict[str, JsonValue]:
        alias = self.contents.aliases[name]
        shown: dict[str, JsonValue] = {"current": alias.current, "former": list(alias.former)}
        candidate, trial = alias.candidate, self._trial(name)
        if candidate is not None and self.is_running:
            figures = {} if trial is None else _trial_json(trial)
            shown["candidate"] = candidate.model_dump(mode="json") | figures
        if alias.trial is not None:
            figures = {} if alias.trial.trial is None else _trial_json(alias.trial.trial)
            last = alias.trial.model_dump(mode="json", include={"how", "why", "at"})
            shown["last_trial"] = last | alias.trial.candidate.model_dump(mode="json") | figures
        return shown

    def _trial(self, name: str) -> Trial | None:
        candidate = self.contents.aliases[name].candidate
        trial = None if self.traffic is None else self.traffic.report.trials.get(name)
        is_same = trial is not None and candidate is not None and trial.id == candidate.trial
        return trial if is_same else None

    def _means(self, version: str) -> str:
        for name, alias in self.contents.aliases.items():
            if alias.current == version:
                return name
            tried = alias.candidate if self.is_running else None
            if tried is not None and tried.version == version:
                return f"{tried.percent} of {name}"
        return ""

    def _traffic(self, version: str) -> dict[str, JsonValue] | None:
        found = None if self.traffic is None else self.traffic.report.versions.get(version)
        if found is None:
            return None
        rate = _rate(found.errors, found.requests)
        return {**found.model_dump(mode="json"), "error_rate": rate[0], "error_ci95": rate[1]}

    def _trial_lines(self, name: str, alias: Alias) -> list[str]:
        lines = []
        if alias.candidate is not None:
            version, since = alias.candidate.version, alias.candidate.since
            ends = "" if self.is_running else ", until the server ended"
            lines.append(
                f"{version} {'is' if self.is_running else 'was'} tried on "
                f"{alias.candidate.percent} of the conversations with {name} "
                f"since {since:%Y-%m-%d %H:%M}{ends}"
            )
            trial = self._trial(name)
            if trial is not None:
                lines += [_side(version, trial.candidate), _side(alias.current, trial.current)]
        if alias.trial is not None:
            ended = alias.trial
            lines.append(
                f"{ended.candidate.version} was tried until {ended.at:%Y-%m-%d %H:%M}: {ended.why}"
            )
        return lines


def _table(*headings: str) -> Table:
    table = Table()
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _side(version: str, arm: Arm) -> str:
    failed, interval = _shares(arm.failed, arm.conversations)
    return f"  {version}: {arm.conversations} conversations, {failed} failed ({interval})"


def _trial_json(trial: Trial) -> dict[str, JsonValue]:
    from rwml_trainer.serving.trials import ALARM_AT

    return {
        "conversations": {"candidate": _arm(trial.candidate), "current": _arm(trial.current)},
        "evidence": trial.evidence,
        "alarm_at": ALARM_AT,
    }


def _arm(arm: Arm) -> dict[str, JsonValue]:
    rate, interval = _rate(arm.failed, arm.conversations)
    return {
        "begun": arm.conversations,
        "failed": arm.failed,
        "failure_rate": rate,
        "failure_ci95": interval,
    }


def _rate(errors: int, of: int) -> tuple[float | None, JsonValue]:
    if not of:
        return None, None
    found = wilson(errors, of)
    return found.mean, [found.low, found.high]


def _shares(errors: int, of: int) -> tuple[str, str]:
    """Errors with their share, and its interval."""
    if not of:
        return "0", "unknown"
    found = wilson(errors, of)
    return f"{errors} ({found.mean:.1%})", f"{found.low:.1%} to {found.high:.1%}"
