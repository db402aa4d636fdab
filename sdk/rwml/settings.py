"""The environment variables of recording, read in one place.

They are for people who run an agent without changing its code. What code says counts more, except
for `RWML_DISABLED`, which nothing overrides. A value that cannot be read is an error at start,
never a guess: a misspelt retention must not keep, or remove, what it was not meant to. Source:
ours.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar, cast, get_args

from rwml.capture import Capture
from rwml.errors import UsageError
from rwml.retention import Retention, parse_duration, parse_size
from rwml.store.keys import KEY_VARIABLE, MIN_CHARS

RedactionName = Literal["default", "secrets", "none"]
"""Names of redactions that a variable can give; finer ones are made in code."""

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the environment says; None where it says nothing.

    Attributes:
        disabled: ``RWML_DISABLED``: nothing is recorded or opened.
        store: ``RWML_STORE``: the store's URL.
        sample: ``RWML_SAMPLE``: share of the trajectories that is recorded, 0 to 1.
        skip_tenants: ``RWML_SKIP_TENANTS``: tenants that are not recorded, by commas.
        skip_sources: ``RWML_SKIP_SOURCES``: sources that are not recorded, by commas.
        skip_tools: ``RWML_SKIP_TOOLS``: tools of which no arguments or results are stored.
        ttl_s: ``RWML_TTL``: seconds after which a trajectory is removed.
        max_bytes: ``RWML_MAX_SIZE``: bytes that the store's data may need.
        redact: ``RWML_REDACT``: name of a redaction.
        key: ``RWML_KEY``: secret behind hashes and pseudonyms; never shown.
        spool: ``RWML_SPOOL``: folder for what waits while the store is away.
        metrics: ``RWML_METRICS``: the recorder's counters are shown to OpenTelemetry.
    """

    disabled: bool = False
    store: str | None = None
    sample: float | None = None
    skip_tenants: tuple[str, ...] | None = None
    skip_sources: tuple[str, ...] | None = None
    skip_tools: tuple[str, ...] | None = None
    ttl_s: float | None = None
    max_bytes: int | None = None
    redact: RedactionName | None = None
    key: str | None = field(default=None, repr=False)
    spool: Path | None = None
    metrics: bool = False

    @property
    def capture(self) -> Capture | None:
        """What is captured; None where the environment says nothing of it."""
        given = (self.sample, self.skip_tenants, self.skip_sources, self.skip_tools)
        if all(value is None for value in given):
            return None
        return Capture(
            sample=1.0 if self.sample is None else self.sample,
            skip_tenants=self.skip_tenants or (),
            skip_sources=self.skip_sources or (),
            skip_tools=self.skip_tools or (),
        )

    @property
    def retention(self) -> Retention | None:
        """How long things are kept; None where the environment says nothing of it."""
        if self.ttl_s is None and self.max_bytes is None:
            return None
        return Retention(ttl_s=self.ttl_s, max_bytes=self.max_bytes)


def from_environment(environ: Mapping[str, str] | None = None) -> Settings:
    """Reads every variable; an empty one counts as not set.

    Args:
        environ: variables to read in place of the process's own.

    Raises:
        UsageError: a value cannot be read; it names the variable and an example.
    """
    read = _Reader(os.environ if environ is None else environ)
    return Settings(
        disabled=read("RWML_DISABLED", _boolean, example="1") or False,
        store=read("RWML_STORE", str, example="sqlite:///rwml.db"),
        sample=read("RWML_SAMPLE", _share, example="0.1"),
        skip_tenants=read("RWML_SKIP_TENANTS", _list, example="acme,globex"),
        skip_sources=read("RWML_SKIP_SOURCES", _list, example="litellm"),
        skip_tools=read("RWML_SKIP_TOOLS", _list, example="get_salary,send_mail"),
        ttl_s=read("RWML_TTL", parse_duration, example="30d"),
        max_bytes=read("RWML_MAX_SIZE", parse_size, example="5GB"),
        redact=read("RWML_REDACT", _redaction, example="secrets"),
        key=read(KEY_VARIABLE, _key, example="the output of 'openssl rand -hex 32'", secret=True),
        spool=read("RWML_SPOOL", Path, example="/var/lib/rwml"),
        metrics=read("RWML_METRICS", _boolean, example="1") or False,
    )


def is_disabled() -> bool:
    """Whether ``RWML_DISABLED`` is set: the switch works whatever the other variables hold.

    Raises:
        UsageError: it is set to something that is neither yes nor no.
    """
    return _Reader(os.environ)("RWML_DISABLED", _boolean, example="1") or False


@dataclass(frozen=True)
class _Reader:
    """Reads one variable at a time, and says which one was wrong."""

    environ: Mapping[str, str]

    def __call__(
        self, name: str, parse: Callable[[str], Value], *, example: str, secret: bool = False
    ) -> Value | None:
        text = self.environ.get(name, "").strip()
        if not text:
            return None
        try:
            return parse(text)
        except ValueError as error:
            reason = str(error) if isinstance(error, UsageError) else "it cannot be read"
            shown = "" if secret else f" is {text!r}"
            raise UsageError(f"{name}{shown}: {reason} (example: {name}={example})") from None


def _boolean(text: str) -> bool:
    if text.lower() not in (*_TRUE, *_FALSE):
        raise UsageError("say 1 or 0")
    return text.lower() in _TRUE


def _share(text: str) -> float:
    try:
        return Capture(sample=float(text)).sample
    except ValueError:
        raise UsageError("it must be a number from 0 to 1") from None


def _list(text: str) -> tuple[str, ...]:
    return tuple(name for name in (part.strip() for part in text.split(",")) if name)


def _redaction(text: str) -> RedactionName:
    if text not in get_args(RedactionName):
        raise UsageError(f"it must be one of {', '.join(get_args(RedactionName))}")
    return cast(RedactionName, text)


def _key(text: str) -> str:
    if len(text) < MIN_CHARS:
        raise UsageError(f"a key needs at least {MIN_CHARS} characters")
    return text
