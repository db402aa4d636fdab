"""`Store.stats` and `rwml stats`: what is there, and no success where nobody judged."""

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from rwml import Message, Outcome, Step, Store, ToolCall, Trajectory
from rwml.statistics import quantile
from rwml.store import aggregates
from rwml.testing import make_trajectory

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def calls(index: int, *names: str, **fields) -> Step:
    made = tuple(ToolCall(id=f"{index}{n}", name=name) for n, name in enumerate(names))
    seen = tuple(Message(role="tool", content="x", tool_call_id=call.id) for call in made)
    return Step(
        index=index,
        action=Message(role="assistant", tool_calls=made),
        observation=seen,
        **{"kind": "tool", "status": "ok", **fields},
    )


def test_stats_of_a_small_store(store: Store) -> None:
    store.add(
        Trajectory(
            id="a",
            source="x",
            started_at=T0,
            outcome=Outcome(status="completed", success=True),
            steps=(
                calls(0, "look", "look", "buy", model="m1", started_at=T0 + timedelta(hours=1)),
                calls(1, "buy", status="error", model="m2"),
                Step(index=2, action=Message(role="assistant", content="done")),
            ),
        )
    )
    store.add(Trajectory(id="b", source="y", outcome=Outcome(success=False)))
    store.add(Trajectory(id="c", source="y"))
    broken = Outcome(status="infrastructure_error", success=False)
    store.add(Trajectory(id="d", source="y", outcome=broken))
    store.write(steps_by_trajectory=[("nobody's", calls(0, "lost"))])
    found = store.stats()
    assert (found.trajectories, found.steps, found.transitions) == (4, 3, 2)
    assert found.by_source == {"y": 3, "x": 1}
    assert list(found.by_source) == ["y", "x"]  # the largest first
    assert found.by_kind == {"tool": 2}
    assert found.by_status == {"ok": 1, "error": 1, "pending": 1}
    assert found.by_tool == {"buy": 2, "look": 2}
    assert found.by_model == {"m1": 1, "m2": 1}
    assert found.outcomes == {"success": 1, "failed": 1, "unjudged": 1, "infrastructure": 1}
    assert found.success_rate == 0.5
    lengths = [0, 0, 0, 3]
    assert found.steps_per_trajectory == {
        name: quantile(lengths, share) for name, share in aggregates.QUANTILES.items()
    }
    assert (found.first, found.last) == (T0, T0 + timedelta(hours=1))


def test_stats_of_one_source(store: Store) -> None:
    store.add(make_trajectory(1, source="x", length=2))
    store.add(make_trajectory(2, source="y", length=5))
    found = store.stats(source="x")
    assert (found.trajectories, found.steps, found.by_source) == (1, 3, {"x": 1})
    assert found.steps_per_trajectory["max"] == 3


def test_nothing_judged_is_no_rate(store: Store) -> None:
    broken = Outcome(status="infrastructure_error", success=False)
    store.add(Trajectory(id="a", source="x", outcome=broken))
    store.add(Trajectory(id="b", source="x"))
    assert store.stats().success_rate is None


def test_an_empty_store_has_no_quantiles(store: Store) -> None:
    found = store.stats()
    assert set(found.steps_per_trajectory.values()) == {None}
    assert (found.first, found.last, found.success_rate) == (None, None, None)


def test_times_of_all_zones_are_compared(store: Store) -> None:
    east = datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=5)))  # 20:00 the day before
    naive = datetime(2026, 1, 1, 2)  # what a recorder without a zone wrote
    for name, time in (("a", T0), ("b", east), ("c", naive)):
        store.add(Trajectory(id=name, source="x", started_at=time))
    found = store.stats()
    assert (found.first, found.last) == (east, T0 + timedelta(hours=2))


def test_counts_and_stats_agree_over_pages(store: Store) -> None:
    for task in range(40):
        store.add(make_trajectory(task, length=task % 5))
    counts, stats = store.counts(), store.stats()
    assert counts.transitions == stats.transitions == len(list(store.transitions()))
    assert counts.errors == stats.by_status["error"]
    lengths = sorted(task % 5 + 1 for task in range(40))
    assert stats.steps_per_trajectory["p90"] == quantile(lengths, 0.9)


def test_names_beyond_the_bound_are_counted_together(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aggregates, "MAX_NAMES", 2)
    store.add(Trajectory(id="a", source="x", steps=(calls(0, "a", "b", "c", "d", "a"),)))
    assert store.stats().by_tool == {"a": 2, aggregates.OTHER: 2, "b": 1}


def test_command(rwml, url: str, store: Store) -> None:
    store.add(make_trajectory(1))
    store.add(make_trajectory(2, source="[red]\x1b[2J"))
    code, out, err = rwml("stats", "--store", url, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["trajectories"] == 2
    assert found["success_rate"] == 1.0
    assert found["first"] is None
    code, out, _ = rwml("stats", "--store", url)
    assert code == 0
    assert "success rate" in out
    assert "[red]\\x1b[2J" in out  # neither markup nor a way to steer the terminal
    code, out, _ = rwml("stats", "--store", url, "--source", "shop", "--json")
    assert json.loads(out)["by_source"] == {"shop": 1}


def test_no_store_is_wrong_usage(rwml, tmp_path) -> None:
    code, out, err = rwml("stats", "--store", f"sqlite:///{tmp_path}/none.db", "--json")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert list(tmp_path.iterdir()) == []
