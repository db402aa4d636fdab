"""`rwml.instrument`: switches integrations on by entry point, and really off again."""

import functools
import logging
import os
import subprocess
import sys
import time
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import sqlalchemy as sa

import rwml
from rwml import instrumentation
from rwml.capture import Capture
from rwml.errors import AdapterError, MissingExtraError, UsageError
from rwml.retention import Retention, Sweeper
from rwml.store.tables import trajectories
from rwml.testing import make_trajectory

switched: list[str] = []


def works(recorder: rwml.Recorder):
    switched.append("on")
    recorder.record(rwml.Trajectory(id="t", source="test"))
    return lambda: switched.append("off")


def lacks(recorder: rwml.Recorder):
    raise MissingExtraError("langgraph", "langchain_core")


def breaks(recorder: rwml.Recorder):
    raise ZeroDivisionError("oops")


def bad_undo(recorder: rwml.Recorder):
    def undo() -> None:
        raise ZeroDivisionError

    return undo


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RWML_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def plug_in(monkeypatch: pytest.MonkeyPatch):
    """Makes functions of this module the installed integrations."""
    switched.clear()
    monkeypatch.setitem(sys.modules, "plugged", sys.modules[__name__])

    def plug(*names: str) -> None:
        found = [EntryPoint(n, f"plugged:{n}", instrumentation.ENTRY_POINT_GROUP) for n in names]
        monkeypatch.setattr(instrumentation, "entry_points", lambda group: found)

    return plug


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'rwml.db'}"


def test_on_and_off(plug_in, url: str) -> None:
    plug_in("works", "lacks")
    with rwml.instrument(store=url) as handle:
        assert handle.names == ("works",)
        assert switched == ["on"]
    handle.uninstrument()
    assert switched == ["on", "off"]
    assert handle.recorder.stats.written == 1
    with rwml.open_store(url, create=False) as store:
        assert store.counts().trajectories == 1


def test_store_from_the_environment(plug_in, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in("works")
    monkeypatch.delenv("RWML_STORE", raising=False)
    with pytest.raises(UsageError, match="RWML_STORE"):
        rwml.instrument()
    monkeypatch.setenv("RWML_STORE", url)
    rwml.instrument().uninstrument()
    with rwml.open_store(url, create=False) as store:
        assert store.counts().trajectories == 1


def test_a_missing_framework_names_its_extra(plug_in, url: str) -> None:
    plug_in("lacks")
    with pytest.raises(MissingExtraError, match=r"rwml\[langgraph\]"):
        rwml.instrument(store=url)


def test_a_broken_plug_in_does_not_stop_the_others(plug_in, url: str) -> None:
    plug_in("breaks", "not_there", "works")
    with rwml.instrument(store=url) as handle:
        assert handle.names == ("works",)
    plug_in("breaks")
    with pytest.raises(AdapterError, match=r"'breaks'.*oops"):
        rwml.instrument(store=url)


def test_no_plug_in_at_all(plug_in, url: str) -> None:
    plug_in()
    with pytest.raises(UsageError):
        rwml.instrument(store=url)


def test_recorder_is_closed_even_if_undoing_fails(plug_in, url: str) -> None:
    plug_in("bad_undo")
    handle = rwml.instrument(store=url)
    with pytest.raises(ZeroDivisionError):
        handle.uninstrument()
    handle.recorder.record(rwml.Trajectory(source="test"))
    assert handle.recorder.stats.dropped == 1


def test_without_any_framework_it_says_what_to_install(url: str) -> None:
    code = (
        "import sys\n"
        "sys.modules['langchain_core'] = None\n"  # as if it were not installed
        "sys.modules['litellm'] = None\n"
        "import rwml\n"
        "try:\n"
        "    rwml.instrument(store=sys.argv[1])\n"
        "except rwml.RwmlError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, url], capture_output=True, text=True, check=True, timeout=60
    )
    assert "install 'rwml[langgraph]'" in done.stdout
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def taps(recorder: rwml.Recorder):
    """An agent that goes through four trajectories."""
    for task in range(4):
        made = make_trajectory(task)
        recorder.record(made.model_copy(update={"metadata": {"tenant": f"tenant-{task}"}}))
    return lambda: None


def stored(url: str) -> list[rwml.Trajectory]:
    with rwml.open_store(url, create=False) as store:
        return list(store.trajectories())


def test_disabled_records_nothing(
    plug_in, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plug_in("works", "breaks")
    monkeypatch.setenv("RWML_DISABLED", "1")
    monkeypatch.setenv("RWML_TTL", "nonsense")
    caplog.set_level(logging.INFO, logger="rwml")
    for target in (url, None):
        with rwml.instrument(store=target, metrics=True) as handle:
            assert handle.names == ()
            handle.recorder.record(make_trajectory(1))
            with handle.recorder.trajectory(source="mine") as trajectory:
                trajectory.act({"role": "assistant", "content": "Hello."})
            assert handle.recorder.flush()
        assert handle.recorder.stats == rwml.RecorderStats()
    assert switched == []
    assert not Path(url.removeprefix("sqlite:///")).parent.joinpath("rwml.db").exists()
    assert [r.levelname for r in caplog.records] == ["INFO", "INFO"]


def test_a_recorder_by_hand_is_disabled_too(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RWML_DISABLED", "1")
    with rwml.Recorder(store=url) as recorder:
        recorder.record(make_trajectory(1))
        assert recorder.flush()
    assert not Path(url.removeprefix("sqlite:///")).exists()


def test_what_is_given_reaches_the_recorder(plug_in, url: str) -> None:
    plug_in("taps")
    capture = Capture(skip_tenants=["tenant-1"], skip_tools=["get_order"])

    def redact(text: str) -> str:
        return text.replace("customers of a shop", "<PEOPLE>")

    rwml.instrument(store=url, capture=capture, redact=redact).uninstrument()
    found = stored(url)
    assert [t.id for t in found] == ["shop-0", "shop-2", "shop-3"]
    assert found[0].initial[0].content == "You help the <PEOPLE>."
    assert all(call.arguments == {} for s in found[0].steps for call in s.action.tool_calls)


def test_the_environment_fills_what_is_not_given(
    plug_in, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plug_in("taps")
    monkeypatch.setenv("RWML_STORE", url)
    monkeypatch.setenv("RWML_SKIP_TENANTS", "tenant-1,tenant-3")
    rwml.instrument().uninstrument()
    assert [t.id for t in stored(url)] == ["shop-0", "shop-2"]
    assert caplog.records == []
    rwml.instrument(capture=Capture(skip_tenants=["tenant-0"])).uninstrument()
    assert [t.id for t in stored(url)] == ["shop-0", "shop-1", "shop-2", "shop-3"]
    assert "capture= was given" in caplog.text


def test_redaction_from_the_environment(plug_in, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in("leaks")
    for name, is_there in (("secrets", False), ("default", False), ("none", True)):
        monkeypatch.setenv("RWML_REDACT", name)
        rwml.instrument(store=url).uninstrument()
        (found,) = stored(url)
        assert (SECRET in found.model_dump_json()) == is_there, name


SECRET = "sk-0123456789abcdefghijkl"


def leaks(recorder: rwml.Recorder):
    message = rwml.Message(role="user", content=f"my key is {SECRET}")
    recorder.record(rwml.Trajectory(id="t", source="test", initial=(message,)))
    return lambda: None


def test_a_bad_variable_is_told_at_start(
    plug_in, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug_in("works")
    monkeypatch.setenv("RWML_SAMPLE", "most")
    with pytest.raises(UsageError, match=r"RWML_SAMPLE.*example"):
        rwml.instrument(store=url)
    assert switched == []
    assert not Path(url.removeprefix("sqlite:///")).exists()


def test_retention_is_enforced_while_it_records(
    plug_in, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon = functools.partial(Sweeper, first_s=0, every_s=0.01)
    monkeypatch.setattr("rwml.recorder.Sweeper", soon)
    with rwml.open_store(url) as store:
        store.add(make_trajectory(7))
        old = sa.update(trajectories).values(recorded_at=0.0)
        store._transact(lambda connection: connection.execute(old))
    plug_in("works")
    with rwml.instrument(store=url, retention=Retention(ttl_s=3600)):
        deadline = time.monotonic() + 30
        while any(t.id == "shop-7" for t in stored(url)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert [t.id for t in stored(url)] == ["t"]


def test_metrics_only_when_they_are_asked_for(
    plug_in, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("opentelemetry.metrics", reason="needs opentelemetry-api")
    plug_in("works")
    seen: list[str] = []

    def see(recorder: rwml.Recorder):
        seen.append("on")
        return lambda: seen.append("off")

    monkeypatch.setattr(instrumentation, "observe", see)
    rwml.instrument(store=url).uninstrument()
    assert seen == []
    rwml.instrument(store=url, metrics=True).uninstrument()
    assert seen == ["on", "off"]
    monkeypatch.setenv("RWML_METRICS", "1")
    rwml.instrument(store=url, metrics=False).uninstrument()
    assert seen == ["on", "off"]
    rwml.instrument(store=url).uninstrument()
    assert seen == ["on", "off", "on", "off"]


def test_metrics_without_opentelemetry_say_what_to_install(
    plug_in, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug_in("works")
    monkeypatch.setattr("rwml.extras.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"rwml\[otel\]"):
        rwml.instrument(store=url, metrics=True)
    assert switched == []
