"""Trials of a candidate on a share of a name's conversations, and the test that ends them.

Each new conversation is drawn for the candidate with the trial's share as its chance, whatever it
is about. So where the candidate fails no more often than the current version, a conversation that
fails was the candidate's with at most that chance, one after the other: however the traffic
changes, and however many requests a conversation repeats, since it counts once. That is tested
against candidates that fail more often, by their likelihood ratio, averaged over `RATIOS` (a
mixture of Wald's sequential tests, 1945; Robbins 1970, "Statistical Methods Related to the Law of
the Iterated Logarithm"). Such an average is a non-negative supermartingale that starts at 1, so by
Ville's inequality (1939) it ever reaches 1 / a in at most a share a of trials, looked at as often
as one likes. `rwml monitor` tests one look at a time, and would raise false alarms here: a server
looks twice a second.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

FALSE_ALARMS = 0.01
"""Share of trials of a candidate that fails no more often which ever raise an alarm, at most; that
of `rwml monitor` for one look."""
RATIOS = (1.5, 2.0, 3.0, 5.0, 10.0, 100.0, 1000.0)
"""How many times as often a candidate may fail: the alternatives (ours). Below the first one
nothing is looked for: a candidate that fails 1.2 times as often is not found."""
ALARM_AT = 1 / FALSE_ALARMS
_LARGEST_LOG = 700.0  # about what a float can hold

How = Literal["failing", "crashed", "ended", "promoted"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Candidate(_Frozen):
    """A version that answers a share of a name's new conversations.

    Attributes:
        version: ``NAME@STEP``.
        share: of the conversations that begin, above 0 and below 1.
        trial: unlike that of any other trial; the draw depends on it.
        since: when it began, in UTC.
    """

    version: str
    share: float = Field(gt=0, lt=1)
    trial: str
    since: datetime

    @property
    def percent(self) -> str:
        """The share as people write it."""
        return f"{100 * self.share:.4g}%"


class Arm(_Frozen):
    """What became of the conversations that were drawn for a version.

    Attributes:
        conversations: that were.
        failed: of them, those with an answer that failed, each once.
    """

    conversations: int = 0
    failed: int = 0


class Trial(_Frozen):
    """Both sides of a trial.

    Attributes:
        id: of the trial.
        share: see `Candidate`.
        current: of the version that the name means.
        candidate: of the other one.
    """

    id: str
    share: float
    current: Arm = Arm()
    candidate: Arm = Arm()

    @property
    def evidence(self) -> float:
        """How much likelier the failures are if the candidate fails more often: see the module."""
        return evidence(self.candidate.failed, self.current.failed, share=self.share)

    @property
    def is_alarm(self) -> bool:
        """Whether the candidate is shown to fail more often."""
        return self.evidence >= ALARM_AT

    def __str__(self) -> str:
        candidate, current = self.candidate, self.current
        return (
            f"{candidate.failed} of {candidate.conversations} conversations failed, "
            f"{current.failed} of {current.conversations} of the current version"
        )


class Ended(_Frozen):
    """How a name's last trial ended.

    Attributes:
        candidate: that was tried.
        how: ``failing`` and ``crashed`` are the server's own doing.
        why: in words.
        trial: its figures; None where the gateway did not tell.
        at: when, in UTC.
    """

    candidate: Candidate
    how: How
    why: str
    trial: Trial | None
    at: datetime


def evidence(candidate: int, current: int, *, share: float) -> float:
    """The test's statistic after a number of conversations that failed.

    Args:
        candidate: that were drawn for the candidate.
        current: for the current version.
        share: chance that a conversation is drawn for the candidate.
    """
    logs = []
    for ratio in RATIOS:
        chance = share * ratio / (share * ratio + 1 - share)  # that a failure is the candidate's
        rest = (1 - share) / (share * ratio + 1 - share)
        logs.append(candidate * math.log(chance / share) + current * math.log(rest / (1 - share)))
    largest = max(logs)
    scaled = math.fsum(math.exp(each - largest) for each in logs) / len(logs)
    return math.exp(min(largest + math.log(scaled), _LARGEST_LOG))
