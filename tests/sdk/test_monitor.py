"""`rwml monitor`: alarms where the world changed, at a rate that is known, and nowhere else."""

from __future__ import annotations

import functools
import json
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import rwml
from rwml.errors import UsageError, WorldModelError
from rwml.prompts import format_label
from rwml.schema import Trajectory, Transition
from rwml.testing import BagOfWordsEncoder, OpenAIServer, TrajectoryBuilder, memory_store
from rwml.world_model import Prediction, Scored
from rwml.world_model.baseline import Baseline, ToolBaseline
from rwml.world_model.drift import Group, find_shifts
from rwml.world_model.metrics import show
from rwml.world_model.monitoring import (
    Monitor,
    ToolReport,
    check_baseline,
    describe,
    look,
)
from rwml.world_model.selection import Selection

pytest.importorskip("openai")
pytest.importorskip("scipy")

LOOKS = 600
RATE = 0.1


def draw(generator: random.Random, *, rise: float = 0.0) -> list[Group]:
    """Groups as they are in production: alike within, heavy-tailed, tied, of many sizes."""
    groups = []
    for _ in range(generator.randint(8, 20)):
        level = generator.choice([0.0, 0.0, 0.0, 0.1, 0.9]) + rise
        size = generator.choice([1, 1, 2, 3, 12])
        values = [level + generator.choice([0.0, 0.0, 0.05]) for _ in range(size)]
        groups.append(Group(sum(values), size))
    return groups


def test_of_looks_at_unchanged_traffic_no_more_raise_an_alarm_than_stated() -> None:
    generator = random.Random(7)
    alarms = 0
    for seed in range(LOOKS):
        tools = {f"tool {n}": (draw(generator), draw(generator)) for n in range(3)}
        shifts = find_shifts(tools, false_alarms=RATE, min_shift=0.0, resamples=300, seed=seed)
        alarms += any(shift.is_alarm for shift in shifts.values())
    slack = 3 * (RATE * (1 - RATE) / LOOKS) ** 0.5
    assert 0 < alarms / LOOKS <= RATE + slack


def test_a_test_that_ignores_groups_would_not_keep_the_rate() -> None:
    """The simulation can fail: take each transition for itself, and there are too many alarms."""
    generator = random.Random(7)
    alarms = 0
    for seed in range(60):
        pair = [
            [Group(g.total / g.count, 1) for g in draw(generator) for _ in range(g.count)]
            for _ in range(2)
        ]
        shifts = find_shifts(
            {"a": (pair[0], pair[1])}, false_alarms=RATE, min_shift=0, resamples=300, seed=seed
        )
        alarms += shifts["a"].is_alarm
    assert alarms / 60 > RATE + 3 * (RATE * (1 - RATE) / 60) ** 0.5


@functools.cache
def called(name: str, thread: int) -> Transition:
    built = TrajectoryBuilder(metadata={"thread_id": f"{thread}"}).user("Go.")
    (transition,) = built.calls((name, {})).returns("x").build().transitions()
    return transition


def test_tools_that_are_hardly_predictable_raise_no_more_alarms_than_stated() -> None:
    """The reference period decides which tools are tested: those that were lucky in it."""
    generator, looks, tools, alarms, apart = random.Random(7), 150, 10, 0, 0
    for _ in range(looks):
        monitor, reference = Monitor(BagOfWordsEncoder(), mask_tools=False), []
        for name in (f"tool {place}" for place in range(tools)):
            before, now = ([generator.gauss(0.5, 0.1) for _ in range(10)] for _ in range(2))
            sums = {"groups": tuple((level, 1) for level in before)}
            reference.append(tool(0.5, 0.5, name=name).model_copy(update=sums))
            for thread, level in enumerate(now):
                monitor.add(called(name, thread), Scored(Prediction("y"), "x", level))
        reports = monitor.compare(reference, false_alarms=RATE, min_shift=0.0)
        apart += sum(report.status == "unpredictable" for report in reports)
        alarms += any(report.status == "drift" for report in reports)
    assert 0.5 < apart / (tools * looks) < 0.98, "few are tested, as the case wants it"
    assert 0 < alarms / looks <= RATE + 3 * (RATE * (1 - RATE) / looks) ** 0.5


def test_what_is_not_tested_is_counted_all_the_same() -> None:
    pair = ([Group(0.1 + 0.001 * n, 1) for n in range(8)], [Group(0.5, 1)] * 7 + [Group(0.1, 1)])
    others = {f"other {n}": pair for n in range(40)}
    found = find_shifts({"a": pair, **others}, untested=list(others), false_alarms=0.01)
    alone = find_shifts({"a": pair}, false_alarms=0.01)
    assert (alone["a"].is_alarm, found["a"].is_alarm) == (True, False)
    assert found["a"].p_value is not None
    assert found["other 0"].p_value is None


def test_a_change_is_found_in_the_tool_that_changed() -> None:
    generator = random.Random(3)
    tools = {f"tool {n}": (draw(generator), draw(generator)) for n in range(5)}
    tools["tool 2"] = (tools["tool 2"][0], draw(generator, rise=0.6))
    shifts = find_shifts(tools)
    assert [name for name, shift in shifts.items() if shift.is_alarm] == ["tool 2"]
    assert shifts["tool 2"].shift > 0.4


def test_a_fall_a_small_rise_and_too_few_groups_raise_no_alarm() -> None:
    low, high = ([Group(value, 1)] * 30 for value in (0.1, 0.5))
    slightly = [Group(0.12, 1)] * 30
    shifts = find_shifts(
        {"fell": (high, low), "rose": (low, slightly), "few": (low, high[:7]), "none": (low, [])}
    )
    assert not any(shift.is_alarm for shift in shifts.values())
    assert shifts["rose"].p_value == pytest.approx(0, abs=0.001)
    assert shifts["few"].p_value is None
    assert "none" not in shifts


def tool(
    surprise: float, trivial: float | None, *, name: str = "get", groups: int = 20
) -> ToolBaseline:
    return ToolBaseline(
        kind="tool",
        tool=name,
        transitions=groups,
        groups=((surprise, 1),) * groups,
        trivial_gap=trivial,
    )


def test_what_no_model_does_better_at_than_a_trivial_one_is_not_predictable() -> None:
    assert tool(0.2, 0.6).is_predictable
    assert tool(0.05, 0.0).is_predictable, "nearly exact, and so is the trivial predictor"
    assert not tool(0.6, 0.6).is_predictable
    assert not tool(0.57, 0.6).is_predictable
    assert not tool(0.6, 0.6, groups=0).is_predictable


OK = '{"status": "ok"}'
BROKEN = '{"error": {"code": 503, "message": "upstream is away"}}'
"""What `get` says before and after its environment changed."""


def shop(task: int, *, result: str = OK, month: int = 10, times: int = 1) -> Trajectory:
    """One thread: `get` says what it says, and `roll` something that nobody can know."""
    generator = random.Random(f"{task} {month}")
    built = TrajectoryBuilder(
        f"shop-{month}-{task}",
        source="shop",
        metadata={"thread_id": f"{month}-{task}"},
        started_at=datetime(2026, month, 1 + task % 27, tzinfo=UTC),
    ).user(f"Get {task}.")
    for _ in range(times):
        built.calls(("get", {"id": task})).returns(result)
        noise = " ".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=9))
        built.calls(("roll", {})).returns(noise)
    return built.build()


def answer(body: Mapping[str, Any]) -> str:
    """A model that knows `get` as it was, and guesses at `roll`."""
    action = str(body["messages"][-1]["content"]).split("# Potential assistant response")[1]
    if "roll(" in action:
        return format_label("z z z z")
    return format_label('{"type":"object","properties":{"status":{"type":"string"}}}')


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer(answer=answer) as running:
        yield running


@pytest.fixture
def world(server: OpenAIServer) -> Iterator[rwml.WorldModel]:
    with rwml.WorldModel(server.url, model="w", encoder=BagOfWordsEncoder()) as made:
        yield made


def statuses(reports: list[ToolReport]) -> dict[str, str]:
    return {report.name: report.status for report in reports}


def looked(world: rwml.WorldModel, *trajectories: Trajectory, **selection: Any) -> Monitor:
    with memory_store() as store:
        for trajectory in trajectories:
            store.add(trajectory)
        return look(world, store, Selection(**selection))


def test_a_changed_environment_is_told_from_what_was_never_predictable(
    world: rwml.WorldModel,
) -> None:
    before = looked(world, *(shop(task) for task in range(20))).measured()
    same = looked(world, *(shop(task, month=11) for task in range(20)))
    assert statuses(same.compare(before)) == {"get": "steady", "roll": "unpredictable"}
    broken = looked(world, *(shop(task, month=11, result=BROKEN) for task in range(20)))
    reports = broken.compare(before)
    assert statuses(reports) == {"get": "drift", "roll": "unpredictable"}
    (get, roll) = reports
    assert get.baseline == pytest.approx(0, abs=1e-6)
    assert get.surprise == get.shift == pytest.approx(1, abs=0.2)
    assert get.p_value is not None
    assert get.p_value < 0.001
    assert roll.p_value is None
    assert roll.trivial_gap is not None
    few = looked(world, *(shop(task, month=11, result=BROKEN) for task in range(7)))
    assert statuses(few.compare(before))["get"] == "too few"
    assert statuses(broken.compare([tool(0.0, 0.5, name="other")])) == {"get": "new", "roll": "new"}
    assert statuses(broken.compare(None)) == {"get": "measured", "roll": "measured"}


def test_an_empty_message_is_not_embedded(world: rwml.WorldModel) -> None:
    class Strict(BagOfWordsEncoder):
        """As OpenAI's embeddings: an empty text is refused."""

        def encode(self, texts: Sequence[str]) -> Any:
            assert all(text.strip() for text in texts)
            return super().encode(texts)

    came = ("alpha", "beta", "gamma")

    def measured(*said: str) -> float | None:
        monitor = Monitor(Strict(), mask_tools=False)
        for last, result in zip(said, came, strict=True):
            built = TrajectoryBuilder(result).user(last).calls(("get", {})).returns(result)
            (transition,) = built.build().transitions()
            monitor.add(transition, Scored(Prediction("y"), result, 0.5))
        (found,) = monitor.measured()
        return found.trivial_gap

    constant = pytest.approx(2 / 3, abs=1e-6)
    assert measured(*came) == pytest.approx(0, abs=1e-6)
    assert measured("", *came[1:]) == pytest.approx(1 / 3, abs=1e-6)
    assert measured("", "", " ") == constant


def test_one_thread_that_says_much_is_one_thread(world: rwml.WorldModel) -> None:
    before = looked(world, *(shop(task) for task in range(20))).measured()
    loud = shop(0, month=11, result=BROKEN, times=30)
    assert statuses(looked(world, loud).compare(before))["get"] == "too few"


def test_a_sample_is_the_same_every_time_and_a_period_has_bounds(world: rwml.WorldModel) -> None:
    with memory_store() as store:
        for task in range(100):
            store.add(shop(task, month=10 + task % 2))
        store.add(shop(0).model_copy(update={"id": "timeless", "started_at": None}))

        def picked(**selection: Any) -> list[str]:
            return [t.id for t in Selection(**selection).pick(store, history=1)]

        everything = picked()
        assert len(everything) == 202
        few, more = picked(sample=0.1), picked(sample=0.5)
        assert few == picked(sample=0.1)
        assert set(few) < set(more) < set(everything)
        assert 5 < len(few) < 45
        november = datetime(2026, 11, 1, tzinfo=UTC)
        assert len(picked(since=november)) == len(picked(until=november)) == 100
        assert picked(source="nothing") == []
    with pytest.raises(UsageError, match="ends before it begins"):
        Selection(since=november, until=datetime(2026, 10, 1, tzinfo=UTC))
    with pytest.raises(UsageError, match="a share such as"):
        Selection(sample=0)


def test_the_actions_of_two_versions_are_told_apart() -> None:
    with memory_store() as store:
        for step in (1, 2):
            trajectory = shop(step)
            acted = tuple(
                each.model_copy(update={"model": f"world@{step}"}) for each in trajectory.steps
            )
            store.add(trajectory.model_copy(update={"steps": acted}))
        store.add(shop(3))

        def picked(model: str | None) -> set[str]:
            selection = Selection(from_model=model)
            return {t.trajectory_id for t in selection.pick(store, history=1)}

        assert picked("world@2") == {"shop-10-2"}
        assert picked("world") == {"shop-10-1", "shop-10-2"}
        assert picked("worl") == set()
        assert len(picked(None)) == 3


def test_what_was_recorded_twice_is_scored_once(world: rwml.WorldModel) -> None:
    with memory_store() as store:
        store.add(shop(1))
        store.add(shop(1).model_copy(update={"id": "gateway", "source": "litellm"}))
        ids = [transition.id for transition in Selection().pick(store, history=1)]
    assert ids == ["shop-10-1/0/0", "shop-10-1/1/0"]


def test_nothing_to_score_is_told(world: rwml.WorldModel) -> None:
    with pytest.raises(UsageError, match="holds no such transition"):
        looked(world)
    with (
        OpenAIServer(answer=lambda body: "hm") as server,
        rwml.WorldModel(server.url, model="w", encoder=BagOfWordsEncoder()) as mute,
        pytest.raises(WorldModelError, match="no transition could be scored by w: 2 format"),
    ):
        looked(mute, shop(1))


def test_another_model_or_prompt_makes_another_baseline(
    server: OpenAIServer, world: rwml.WorldModel
) -> None:
    with memory_store() as store:
        store.add(shop(1))
        selection = Selection()
        baseline = describe(world, store, selection, look(world, store, selection))
    check_baseline(baseline, world)
    with (
        rwml.WorldModel(server.url, model="v", encoder=BagOfWordsEncoder()) as other,
        pytest.raises(UsageError, match="another model, so surprise does not compare"),
    ):
        check_baseline(baseline, other)


def test_a_look_begins_where_its_baseline_ends(world: rwml.WorldModel) -> None:
    def at(month: int, day: int) -> datetime:
        return datetime(2026, month, day, tzinfo=UTC)

    with memory_store() as store:
        for task in range(3):
            store.add(shop(task))

        def measured(**chosen: Any) -> Baseline:
            selection = Selection(**chosen)
            return describe(world, store, selection, look(world, store, selection))

        baseline = measured(since=at(10, 2))
        assert baseline.latest == at(10, 3)
        assert Baseline.model_validate_json(baseline.model_dump_json()) == baseline
        for task in range(3):
            store.add(shop(task, month=11))
        picked = {t.trajectory_id for t in Selection().after(baseline).pick(store, history=1)}
    assert picked == {"shop-11-0", "shop-11-1", "shop-11-2"}
    later, chosen = Selection().after(baseline), Selection(since=at(10, 3))
    assert not later.overlaps(baseline)
    assert chosen.after(baseline) is chosen
    assert chosen.overlaps(baseline)
    assert Selection().overlaps(baseline)
    back = Selection(until=at(10, 2))
    assert back.after(baseline) is back
    assert not back.overlaps(baseline)
    assert not Selection(source="a").overlaps(baseline.model_copy(update={"source": "b"}))
    of_one = baseline.model_copy(update={"from_model": "world@1"})
    assert not Selection(from_model="world@2").overlaps(of_one)
    assert Selection(from_model="world@2").after(of_one) == Selection(from_model="world@2")
    assert Selection(from_model="world").overlaps(of_one)
    timeless = baseline.model_copy(update={"latest": None})
    assert Selection().after(timeless) == Selection()
    assert Selection().overlaps(timeless)


def test_gauges_are_shown(world: rwml.WorldModel) -> None:
    pytest.importorskip("opentelemetry.sdk.metrics", reason="needs opentelemetry-sdk")
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    before = looked(world, *(shop(task) for task in range(20))).measured()
    now = looked(world, *(shop(task, month=11, result=BROKEN) for task in range(20)))
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    for _ in range(2):  # a look, and the next one
        show(now.compare(before), provider)
    data = reader.get_metrics_data()
    assert data is not None
    ((scope,),) = [resource.scope_metrics for resource in data.resource_metrics]
    shown = {
        metric.name: {str((p.attributes or {})["tool"]): p.value for p in metric.data.data_points}  # type: ignore[union-attr]
        for metric in scope.metrics
    }
    provider.shutdown()
    assert set(shown) == {"rwml.surprise", "rwml.surprise.baseline", "rwml.surprise.alarm"}
    assert shown["rwml.surprise.alarm"] == {"get": 1, "roll": 0}
    assert shown["rwml.surprise"]["get"] > 0.5 > shown["rwml.surprise.baseline"]["get"]


def rwml_monitor(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rwml", "monitor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_the_command(server: OpenAIServer, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'rwml.db'}"
    with rwml.open_store(url) as store:
        for task in range(20):
            store.add(shop(task))
            store.add(shop(task, month=11, result=BROKEN))
    asked = ["--store", url, "--model", "w", "--api-base", server.url]
    asked += ["--encoder", "bag", "--encoder-url", server.url]
    file = tmp_path / "baseline.json"
    period = ["--until", "2026-11-01"]
    done = rwml_monitor(*asked, *period, "--write-baseline", str(file))
    assert done.returncode == 0, done.stderr
    assert "get" in done.stdout
    assert "shop-10" not in file.read_text()
    done = rwml_monitor(*asked, "--baseline", str(file), "--json")
    assert done.returncode == 1, done.stderr
    assert "from 2026-10-20T00:00:00 UTC on" in done.stderr
    assert "warning" not in done.stderr
    told = json.loads(done.stdout)
    assert (told["alarms"], told["false_alarm_rate"]) == (["get"], 0.01)
    assert {each["tool"]: each["status"] for each in told["tools"]} == {
        "get": "drift",
        "roll": "unpredictable",
    }
    done = rwml_monitor(*asked, *period, "--since", "2026-10-01", "--baseline", str(file))
    assert done.returncode == 0, done.stderr
    assert "overlaps with that of the baseline, which ends 2026-10-20" in done.stderr


def test_wrong_usage_of_the_command(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from rwml.cli.monitor import monitor
    from rwml.cli.plugins import make_typer

    app = make_typer("test")
    app.command()(monitor)

    def fails(*arguments: str) -> str:
        store = ["--store", f"sqlite:///{tmp_path / 'none.db'}", "--api-base", "http://127.0.0.1:1"]
        found = CliRunner().invoke(app, [*store, *arguments]).exception
        assert isinstance(found, UsageError), found
        return str(found)

    assert "name the world model" in fails()
    for address in ("localhost:4000/v1", "retail", ""):
        said = fails("--model", "retail", "--api-base", address)
        assert "an endpoint looks like http://" in said
    assert "5% or 0.05, not '0%'" in fails("--model", "w", "--sample", "0%")
    assert "5% or 0.05, not '105%'" in fails("--model", "w", "--sample", "105%")
    assert "--false-alarms is a share" in fails("--model", "w", "--false-alarms", "no")
    assert "a time looks like" in fails("--model", "w", "--since", "yesterday")
    assert "add --encoder" in fails("--model", "w", "--encoder-url", "http://127.0.0.1:1")
    assert "add --encoder-url" in fails("--model", "w", "--encoder-key-env", "KEY")
    file = tmp_path / "baseline.json"
    assert "no baseline at" in fails("--model", "w", "--baseline", str(file))
    file.write_text('{"version": 99}')
    assert "another rwml" in fails("--model", "w", "--baseline", str(file))
    file.write_text("[]")
    assert "is no baseline" in fails("--model", "w", "--baseline", str(file))
