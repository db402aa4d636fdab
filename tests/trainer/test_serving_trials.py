"""The test that ends a trial: what it holds for whatever the failures are, and what it finds."""

from __future__ import annotations

from math import comb

import pytest

from rwml_trainer.serving.trials import ALARM_AT, FALSE_ALARMS, Arm, Trial, evidence

SHARES = (0.01, 0.05, 0.3, 0.5, 0.9)
FAILURES = 150


def trial(candidate: int, current: int, *, share: float) -> Trial:
    return Trial(id="t", share=share, current=Arm(failed=current), candidate=Arm(failed=candidate))


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("failures", [1, 2, 7, 40])
def test_equal_versions_give_evidence_of_one_on_average(share: float, failures: int) -> None:
    mean = sum(
        comb(failures, k)
        * share**k
        * (1 - share) ** (failures - k)
        * evidence(k, failures - k, share=share)
        for k in range(failures + 1)
    )
    assert mean == pytest.approx(1)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("fails", [1.0, 0.7], ids=["equal", "better"])
def test_looking_after_every_failure_raises_no_more_alarms_than_stated(
    share: float, fails: float
) -> None:
    """Exactly: the chance that an alarm is ever raised, over all orders of the failures."""
    chance = share * fails / (share * fails + 1 - share)
    quiet, alarmed = {0: 1.0}, 0.0  # chance of each number of the candidate's failures
    for seen in range(1, FAILURES + 1):
        after: dict[int, float] = {}
        for k, weight in quiet.items():
            after[k] = after.get(k, 0.0) + weight * (1 - chance)
            after[k + 1] = after.get(k + 1, 0.0) + weight * chance
        quiet = {}
        for k, weight in after.items():
            if evidence(k, seen - k, share=share) >= ALARM_AT:
                alarmed += weight
            else:
                quiet[k] = weight
    assert 0 < alarmed <= FALSE_ALARMS


@pytest.mark.parametrize(("share", "needed"), [(0.01, 2), (0.05, 2), (0.2, 4), (0.5, 8)])
def test_a_candidate_that_alone_fails_is_found_soon(share: float, needed: int) -> None:
    assert not trial(needed - 1, 0, share=share).is_alarm
    assert trial(needed, 0, share=share).is_alarm


def test_failures_of_both_are_no_alarm() -> None:
    assert not trial(5, 95, share=0.05).is_alarm
    assert not trial(0, 1_000, share=0.05).is_alarm
    assert trial(30, 70, share=0.05).is_alarm


def test_evidence_stays_a_number() -> None:
    assert evidence(10**6, 0, share=0.01) > ALARM_AT
    assert evidence(0, 10**6, share=0.99) == pytest.approx(0)


def test_a_trial_tells_its_figures() -> None:
    shown = Trial(
        id="t",
        share=0.1,
        current=Arm(conversations=90, failed=1),
        candidate=Arm(conversations=10, failed=4),
    )
    assert str(shown) == "4 of 10 conversations failed, 1 of 90 of the current version"
    assert Trial.model_validate_json(shown.model_dump_json()) == shown
