"""`rwml.instrument`: switches integrations on by entry point, and really off again."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import rwml
from rwml import instrumentation
from rwml.errors import AdapterError, MissingExtraError, UsageError

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
