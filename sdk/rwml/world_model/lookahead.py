"""What was foreseen before tools ran, beside what really happened, and how good it was.

A look-ahead is kept as a trajectory of its own with the source ``lookahead``: redacted like
everything that is recorded, and never a training example, since half of its observation is
simulated. Source: ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal

from pydantic import JsonValue

from rwml.capture import TENANT_KEY
from rwml.content import SIMULATED_MARK, is_simulated
from rwml.errors import StoreError
from rwml.schema import Message, Step, ToolCall, Trajectory
from rwml.statistics import Interval, quantile, wilson
from rwml.store import Store

SOURCE = "lookahead"
METADATA_KEY = "lookahead"
Mode = Literal["shadow", "advise", "block"]
MODES: tuple[Mode, ...] = ("shadow", "advise", "block")
Gone = Literal["late", "fault", "busy", "unformed", "refused"]
"""Why nothing was foreseen: the answer came after the budget, or not at all; the world model or its
endpoint failed; too many look-aheads were under way; the answer held no prediction; the endpoint
did not take the prompt."""
QUANTILES = {"p50": 0.5, "p90": 0.9, "max": 1.0}
_BAD = re.compile(
    r"""
    \s*
    (?: [\[{(<"']* (?:error|exception|fail(?:ed|ure)?|denied|forbidden|invalid|unauthori[sz]ed)\b
      | traceback\b
      | [a-z_.]* (?:error|exception) \s* [:(]
    )
    """,
    re.IGNORECASE | re.VERBOSE,
)


def looks_bad(text: str) -> bool:
    """Whether a tool's answer begins like an error: what is warned of by default (rule: ours)."""
    return _BAD.match(text) is not None


@dataclass(frozen=True)
class Verdict:
    """What a look-ahead came to, without any text of it.

    Attributes:
        mode: in which it was made.
        gone: why nothing was foreseen in time; None where something was.
        warned: whether what was foreseen was bad; None where nothing was.
        ran: whether the tool ran after all.
        bad: whether what really happened was; None where the tool did not run.
        predicted_s: seconds that the prediction took, in time or not; None where none came.
        added_s: seconds that the call took longer for it.
    """

    mode: Mode
    gone: Gone | None
    warned: bool | None
    ran: bool
    bad: bool | None
    predicted_s: float | None
    added_s: float


@dataclass(frozen=True)
class Lookahead:
    """One call of a risky tool.

    Attributes:
        call: of the tool.
        prediction: what was foreseen; None where nothing was.
        result: what the tool said; None where it did not run.
        verdict: what it came to.
        thread_id: of the conversation; None where that has none.
        tenant: whose conversation it is; None where nobody says.
        at: when it was recorded, in UTC; None until then.
    """

    call: ToolCall
    prediction: str | None
    result: str | None
    verdict: Verdict
    thread_id: str | None = None
    tenant: str | None = None
    at: datetime | None = None

    def as_trajectory(self, id: str) -> Trajectory:
        """The trajectory that keeps it.

        Args:
            id: unlike that of any other.
        """
        said = [f"{SIMULATED_MARK}{self.prediction or ''}"]
        said += [] if self.result is None else [self.result]
        about: dict[str, JsonValue] = dict(asdict(self.verdict))
        step = Step(
            index=0,
            action=Message(role="assistant", tool_calls=(self.call,)),
            observation=tuple(
                Message(role="tool", content=text, tool_call_id=self.call.id) for text in said
            ),
            kind="tool",
            status="error" if self.verdict.bad else "ok",
            metadata={METADATA_KEY: about},
        )
        now = datetime.now(UTC)
        of = {"thread_id": self.thread_id, TENANT_KEY: self.tenant}
        whose: dict[str, JsonValue] = {key: name for key, name in of.items() if name}
        return Trajectory(id=id, source=SOURCE, steps=(step,), started_at=now, metadata=whose)


@dataclass(frozen=True)
class LookaheadReport:
    """How good the look-aheads were.

    Attributes:
        calls: of risky tools.
        foreseen: of these, those with a prediction in time.
        gone: the others, by reason.
        warned: of the foreseen, those that were warned of.
        held: calls that did not run.
        judged: foreseen calls that ran, so that the truth is known; precision and recall are of
            these.
        bad: of the judged, those that went badly.
        precision: share of the judged warnings that were right; None without one.
        recall: share of what went badly that was warned of; None where nothing did. Wilson's
            intervals: calls of one conversation are alike, so that they are rather too narrow.
        added_s: quantiles of the seconds that calls took longer; None without calls.
        predicted_s: quantiles of the seconds that predictions took.
    """

    calls: int
    foreseen: int
    gone: dict[str, int]
    warned: int
    held: int
    judged: int
    bad: int
    precision: Interval | None
    recall: Interval | None
    added_s: dict[str, float] | None
    predicted_s: dict[str, float] | None


def summarise(verdicts: Iterable[Verdict]) -> LookaheadReport:
    """Sums verdicts up."""
    given = list(verdicts)
    gone = [each.gone for each in given if each.gone is not None]
    judged = [each for each in given if each.warned is not None and each.bad is not None]
    right = sum(bool(each.warned and each.bad) for each in judged)
    warned = sum(bool(each.warned) for each in judged)
    bad = sum(bool(each.bad) for each in judged)
    return LookaheadReport(
        calls=len(given),
        foreseen=len(given) - len(gone),
        gone={name: gone.count(name) for name in sorted(set(gone))},
        warned=sum(bool(each.warned) for each in given),
        held=sum(not each.ran for each in given),
        judged=len(judged),
        bad=bad,
        precision=wilson(right, warned) if warned else None,
        recall=wilson(right, bad) if bad else None,
        added_s=_quantiles([each.added_s for each in given]),
        predicted_s=_quantiles([e.predicted_s for e in given if e.predicted_s is not None]),
    )


def read_lookaheads(store: Store) -> Iterator[Lookahead]:
    """The look-aheads that a store holds.

    Raises:
        StoreError: one was written by another rwml.
    """
    for trajectory in store.trajectories(source=SOURCE):
        thread, tenant = (trajectory.metadata.get(key) for key in ("thread_id", TENANT_KEY))
        for step in trajectory.steps:
            about = step.metadata.get(METADATA_KEY)
            try:
                verdict = Verdict(**about)  # type: ignore[arg-type]  # what we wrote
            except TypeError as error:
                raise StoreError(
                    f"the look-ahead {trajectory.id} was written by another rwml: {error}"
                ) from error
            foreseen = [m.content for m in step.observation if is_simulated(m.content)]
            real = [m.content for m in step.observation if not is_simulated(m.content)]
            said = (foreseen[0] or "").removeprefix(SIMULATED_MARK) if foreseen else ""
            yield Lookahead(
                call=step.action.tool_calls[0],
                prediction=said or None,
                result=real[0] if real else None,
                verdict=verdict,
                thread_id=None if thread is None else str(thread),
                tenant=None if tenant is None else str(tenant),
                at=trajectory.started_at,
            )


def _quantiles(seconds: Sequence[float]) -> dict[str, float] | None:
    ordered = sorted(seconds)
    if not ordered:
        return None
    return {name: quantile(ordered, share) for name, share in QUANTILES.items()}
