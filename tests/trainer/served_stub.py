"""A server on a stub engine, and how tests ask it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from tests.trainer.stub_engine import start_stub

from rwml_trainer.serving.server import Served, serve

DEADLINE_S = 30.0


@contextmanager
def serving(model: Path, out: Path, **options: Any) -> Iterator[Served]:
    """Serves a model folder as ``world@1``; the stub stands where the model would be."""
    with serve(model, name="world@1", out=out, start_engine=start_stub, **options) as served:
        yield served


def root(served: Served) -> str:
    return served.endpoint.removesuffix("/v1")


def ask(
    served: Served,
    content: str = "hi",
    *,
    key: str | None = None,
    headers: dict[str, str] | None = None,
    timeout_s: float = DEADLINE_S,
    **fields: Any,
) -> httpx.Response:
    """One chat completion request."""
    body = {"model": "world", "messages": [{"role": "user", "content": content}], **fields}
    bearer = {"Authorization": f"Bearer {key or served.key}"}
    return httpx.post(
        f"{served.endpoint}/chat/completions",
        headers={**bearer, **(headers or {})},
        json=body,
        trust_env=False,
        timeout=timeout_s,
    )


@contextmanager
def traffic(
    served: Served, *, clients: int = 2, pause_s: float = 0.0, **fields: Any
) -> Iterator[list[httpx.Response]]:
    """Asks again and again while the block runs; all answers are there after it."""
    answers: list[httpx.Response] = []
    stop = threading.Event()

    def go_on() -> None:
        while not stop.wait(pause_s):
            answers.append(ask(served, **fields))

    with ThreadPoolExecutor(clients) as pool:
        running = [pool.submit(go_on) for _ in range(clients)]
        try:
            yield answers
        finally:
            stop.set()
        for each in running:
            each.result()


def text(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


def reason(answer: httpx.Response) -> str:
    return answer.json()["error"]["code"]


def until(condition: Callable[[], object], timeout_s: float = DEADLINE_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
