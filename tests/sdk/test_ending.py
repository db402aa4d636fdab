"""SIGTERM: what is recorded is written, and a host program's handler stays its own."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from rwml import open_store
from rwml.ending import close_on_sigterm


def test_nothing_is_done_where_a_handler_is_in_place() -> None:
    def mine(*_: object) -> None: ...

    former = signal.signal(signal.SIGTERM, mine)
    try:
        close_on_sigterm(lambda: None, is_busy=lambda: False)()
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, former)


def test_it_can_be_undone_and_never_undoes_what_is_not_its_own() -> None:
    former = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        undo = close_on_sigterm(lambda: None, is_busy=lambda: False)
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        undo()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        undo = close_on_sigterm(lambda: None, is_busy=lambda: False)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        undo()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, former)


@pytest.mark.parametrize("is_busy", [False, True])
def test_a_signal_in_the_middle_of_recording_waits_for_its_end(
    tmp_path: Path, is_busy: bool
) -> None:
    program = """
        import os, signal, sys, rwml
        recorder = rwml.instrument(store=sys.argv[1]).recorder
        with recorder.trajectory(id="t", source="mine") as t:
            t.act({"role": "assistant", "content": "x"})
        lock = recorder._counters.lock
        if sys.argv[2] == "True":
            with lock:
                os.kill(os.getpid(), signal.SIGTERM)
                for _ in range(1000): pass
        else:
            os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    """
    url = f"sqlite:///{tmp_path / 'rwml.db'}"
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), url, str(is_busy)],
        timeout=60,
        check=False,
    )
    assert ended.returncode == -signal.SIGTERM
    with open_store(url, create=False) as store:
        assert [len(t.steps) for t in store.trajectories()] == [1]
