"""What must not be stored: the policy that a recorder is given.

A policy says what is hidden and where; a session of it, one per trajectory, does it. It is made
cheaply, can be pickled, and holds no pseudonyms. Hiding is the default: what stays must be said.
Source: ours.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from rwml.errors import UsageError
from rwml.extras import require
from rwml.redaction.detectors import Detector, presidio_detector
from rwml.redaction.paths import Paths
from rwml.redaction.session import Finding, RedactionSession
from rwml.redaction.texts import may_hold_in_pieces, record_hint

Engine = Literal["builtin", "presidio"]
BENCHMARKS = ("tau2", "alfworld")
"""Sources whose people are made up, and whose order numbers look like phone numbers."""
_KIND = re.compile(r"[A-Z][A-Z0-9_]{0,39}")


@dataclass(frozen=True, kw_only=True)
class Redaction:
    r"""What is hidden before a record is stored, and what stays.

    Args:
        secrets: hide API keys, tokens, passwords, private keys, credentials in URLs, and what
            stands behind the name of a secret.
        personal_data: hide e-mail addresses, phone numbers, payment cards and IBANs. None hides
            them, but not in benchmarks (see `for_source`).
        custom: patterns of your own by their kind, such as ``{"ORDER": r"\bORD-\d{6}\b"}``: a
            match becomes ``<ORDER_1>``. With one, every record is walked through. A match may have
            up to `rwml.redaction.texts.OVERLAP_CHARS` characters.
        allow: paths of what is left as it is; secrets are hidden there too (see
            `rwml.redaction.paths`).
        deny: paths of what is replaced by ``<DENIED>``, whatever it holds. They win over `allow`.
        engine: ``presidio`` asks the patterns of presidio-analyzer as well.
        detectors: finders of your own, such as a `PresidioDetector` with a language model.

    Raises:
        UsageError: a pattern or a path cannot be read; the message names it.
        MissingExtraError: the engine is not installed.
    """

    secrets: bool = True
    personal_data: bool | None = None
    custom: Mapping[str, str | re.Pattern[str]] = field(default_factory=dict)
    allow: Sequence[str] = ()
    deny: Sequence[str] = ()
    engine: Engine = "builtin"
    detectors: Sequence[Detector] = ()

    def __post_init__(self) -> None:
        if self.engine not in get_args(Engine):
            raise UsageError(
                f"unknown engine {self.engine!r}: use one of {', '.join(get_args(Engine))}"
            )
        if self.engine == "presidio":
            require("presidio", "presidio_analyzer")
        custom = {kind: _compiled(kind, pattern) for kind, pattern in self.custom.items()}
        object.__setattr__(self, "custom", custom)
        for name in ("allow", "deny"):
            paths = getattr(self, name)
            if paths:
                Paths(paths)
            object.__setattr__(self, name, tuple(paths))
        object.__setattr__(self, "detectors", tuple(self.detectors))

    def for_source(self, source: str) -> Redaction:
        """The policy for a trajectory of this source.

        Benchmarks (``tau2:retail``, ``alfworld``) keep their personal data, unless
        ``personal_data=True`` was asked for.
        """
        is_benchmark = source.partition(":")[0] in BENCHMARKS
        return self._for_benchmarks if is_benchmark and self.personal_data is None else self

    def session(
        self,
        *,
        key: bytes,
        known: Mapping[bytes, str] | Callable[[], Mapping[bytes, str]] | None = None,
        report: Callable[[Finding], None] | None = None,
    ) -> RedactionSession:
        """What hides the values of one trajectory.

        Args:
            key: of the digests of values, 1 to 64 bytes; a store has one.
            known: pseudonyms by digest that the trajectory has already (see
                `RedactionSession.used_names`), or what brings them when the first is needed.
            report: told of everything that is hidden.

        Raises:
            UsageError: the key cannot be used.
        """
        known = {} if known is None else known
        return RedactionSession(rules=self._rules, key=key, known=known, report=report)

    def __getstate__(self) -> dict[str, Any]:
        """All but what is made of it: that cannot be pickled, and is made again."""
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

    @functools.cached_property
    def _rules(self) -> Rules:
        detectors = self.detectors
        if self.engine == "presidio":
            detectors = (*detectors, presidio_detector())
        return Rules(self, detectors)

    @functools.cached_property
    def _for_benchmarks(self) -> Redaction:
        return replace(self, personal_data=False)


class Rules:
    """A policy as sessions use it; shared by them and never changed.

    Args:
        policy: the policy.
        detectors: its detectors, that of its engine included.
    """

    def __init__(self, policy: Redaction, detectors: Sequence[Detector]) -> None:
        self.secrets = policy.secrets
        self.personal = policy.personal_data is not False
        self.custom = tuple((kind, re.compile(pattern)) for kind, pattern in policy.custom.items())
        self.detectors = tuple(detectors)
        self.allow = Paths(policy.allow) if policy.allow else None
        self.deny = Paths(policy.deny) if policy.deny else None
        self._may_hold = record_hint(secrets=self.secrets, personal=self.personal)
        keys = self.deny.keys if self.deny else []
        self._tries_all = bool(self.custom or self.detectors or None in keys)
        self._denied_keys = tuple(f'"{key}"' for key in keys)

    def may_change(self, body: str) -> bool:
        """Whether a record's JSON may hold anything to hide: False is a proof, True a guess."""
        if self._tries_all or may_hold_in_pieces(body, self._may_hold):
            return True
        return any(key in body for key in self._denied_keys)


def _compiled(kind: str, pattern: str | re.Pattern[str]) -> re.Pattern[str]:
    if not isinstance(kind, str) or not _KIND.fullmatch(kind):
        raise UsageError(f"the kind {kind!r} is no name such as 'ORDER': use A-Z, 0-9 and _")
    try:
        compiled = re.compile(pattern)
    except (re.error, TypeError) as error:
        raise UsageError(f"the pattern of {kind} cannot be read: {pattern!r}: {error}") from error
    if not isinstance(compiled.pattern, str):
        raise UsageError(f"the pattern of {kind} is for bytes: give one for text")
    return compiled
