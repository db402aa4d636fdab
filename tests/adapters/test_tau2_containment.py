"""What tau2 does to the process stays inside its episodes, also when several overlap."""

from __future__ import annotations

import contextvars
import gc
import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("tau2.registry")

import litellm
from loguru import logger

from rwml_adapters.tau2.containment import contained, uncollected
from rwml_adapters.tau2.package import ensure_tau2

ensure_tau2()


def tell(text: str) -> None:
    """What `print` does."""
    sys.stdout.write(f"{text}\n")


def test_only_what_an_episode_prints_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def episode(name: str) -> None:
        with contained():
            # LangGraph's threads run in a copy of the context
            context = contextvars.copy_context()
            worker = threading.Thread(target=context.run, args=(tell, f"node of {name}"))
            worker.start()
            worker.join()
            tell(f"{name} begins")
            inside.set()
            go_on.wait(30)
            tell(f"{name} ends")

    before = sys.stdout
    with ThreadPoolExecutor(2) as threads:
        running = [threads.submit(episode, name) for name in ("a", "b")]
        assert inside.wait(30)
        tell("the host's own")
        go_on.set()
        for one in running:
            one.result(30)
    assert sys.stdout is before
    tell("afterwards")
    captured = capsys.readouterr()
    assert captured.out.splitlines() == ["the host's own", "afterwards"]
    assert sorted(captured.err.splitlines()) == sorted(
        text for n in "ab" for text in (f"node of {n}", f"{n} begins", f"{n} ends")
    )


def test_what_is_global_is_put_back_by_the_last_to_leave() -> None:
    heard: list[str] = []
    sink = logger.add(lambda message: heard.append(message.record["message"]), level="DEBUG")
    random.seed(3)
    expected = random.Random(3).random()
    advice = litellm.suppress_debug_info
    first, second = contained(), contained()
    try:
        with first:
            with second:
                random.random()
                assert litellm.suppress_debug_info is True
                log_as_tau2("inside")
            assert litellm.suppress_debug_info is True
            log_as_tau2("still inside")
        assert litellm.suppress_debug_info is advice
        assert random.random() == expected
        log_as_tau2("outside")
    finally:
        logger.remove(sink)
    assert heard == ["outside"]


def log_as_tau2(message: str) -> None:
    exec(compile(f"logger.info({message!r})", "tau2/run.py", "exec"),
         {"logger": logger, "__name__": "tau2.run"})  # fmt: skip


@pytest.mark.parametrize("collecting", [True, False])
def test_the_collector_is_paused_by_the_first_and_goes_on_as_it_was(collecting: bool) -> None:
    before = gc.isenabled()
    (gc.enable if collecting else gc.disable)()
    try:
        with uncollected():
            with uncollected():
                assert not gc.isenabled()
            assert not gc.isenabled()
        assert gc.isenabled() is collecting
    finally:
        (gc.enable if before else gc.disable)()


def test_an_exception_leaves_nothing_behind() -> None:
    before = sys.stdout, gc.isenabled(), litellm.suppress_debug_info
    with pytest.raises(KeyError), contained(), uncollected():
        raise KeyError("x")
    assert (sys.stdout, gc.isenabled(), litellm.suppress_debug_info) == before
