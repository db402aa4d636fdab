"""The gateway: what it adds to a request beside a stock LiteLLM proxy, and promotion under traffic.

The engine is a stub, so that what is measured is what stands in front of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from tests.benchmarks.measure import Result
from tests.trainer.served_stub import serving
from tests.trainer.stub_engine import DELAY

from rwml_trainer.serving.process import free_port
from rwml_trainer.serving.registry import Order, Registry
from rwml_trainer.serving.server import Served
from rwml_trainer.serving.versions import add_version
from rwml_trainer.testing import make_tiny_model

CLIENTS = 16
REQUESTS = 20
ROUNDS = 3
DELAY_S = 0.05
RATE = 20
"""Requests a second while a version is promoted."""
BODY = {"model": "world", "messages": [{"role": "user", "content": "hi"}]}
START_S = 120


def gateway_added_ms_vs_plain_litellm() -> list[Result]:
    """Milliseconds added to an engine that answers in 50 ms, 16 clients at once; p50 and p99."""
    with tempfile.TemporaryDirectory() as folder, _environment(DELAY, str(DELAY_S)):
        work = Path(folder)
        model = make_tiny_model(work / "model")
        with serving(model, work / "out") as served:
            target = served.fleet.table().versions["world@1"]
            with _plain_litellm(work, target.url) as (plain, key):
                urls = {
                    "engine": (target.url, "none"),
                    "ours": (served.endpoint, served.key),
                    "baseline": (plain, key),
                }
                times = _alternate(urls)
    direct = statistics.median(times["engine"])
    results = []
    for name, share in (("", 0.5), ("_p99", 0.99)):
        ours, baseline = (
            1000 * (_quantile(times[each], share) - direct) for each in ("ours", "baseline")
        )
        results.append(
            Result(
                name=f"gateway_added_ms_vs_plain_litellm{name}",
                value=ours,
                unit="ms",
                baseline=baseline,
                ratio=ours / baseline,
            )
        )
    return results


def promote_dropped() -> Result:
    """Requests that failed while a name moved to another version, at 20 requests a second."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        model = make_tiny_model(work / "one")
        other = make_tiny_model(work / "two", seed=2)
        with serving(model, work / "out") as served:
            registry = Registry(work / "out")
            add_version(registry, other, name="world@2")
            done = threading.Event()
            with ThreadPoolExecutor(RATE) as pool:
                traffic = pool.submit(_traffic, served.endpoint, served.key, done, pool)
                _swap(served, registry, registry.order("promote", "world@2"))
                _swap(served, registry, registry.order("rollback", "world"))
                done.set()
                statuses = traffic.result()
    failed = sum(status != 200 for status in statuses)
    return Result("promote_dropped", float(failed), "requests", float(len(statuses)), float(failed))


def _swap(served: Served, registry: Registry, order: Order) -> None:
    served.attend()
    outcome = registry.read().aliases["world"].outcome
    if outcome is None or outcome.ticket != order.ticket or not outcome.ok:
        raise RuntimeError(f"the name did not move: {outcome}")
    served.attend()


def _traffic(url: str, key: str, done: threading.Event, pool: ThreadPoolExecutor) -> list[int]:
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(headers=headers, trust_env=False, timeout=60) as client:

        def one() -> int:
            try:
                return client.post(f"{url}/chat/completions", json=BODY).status_code
            except httpx.HTTPError:
                return 0

        asked = []
        while not done.wait(1 / RATE):
            asked.append(pool.submit(one))
        return [each.result() for each in asked]


def _alternate(urls: dict[str, tuple[str, str]]) -> dict[str, list[float]]:
    """Seconds of each request; the targets take turns, so that noise hits all."""
    times: dict[str, list[float]] = {name: [] for name in urls}
    for number in range(ROUNDS + 1):
        for name, (url, key) in urls.items():
            measured = asyncio.run(_load(url, key))
            if number:  # the first round warms up
                times[name] += measured
    return times


async def _load(url: str, key: str) -> list[float]:
    async def client_of_many(client: httpx.AsyncClient) -> list[float]:
        times = []
        for _ in range(REQUESTS):
            started = time.perf_counter()
            answer = await client.post(f"{url}/chat/completions", json=BODY)
            times.append(time.perf_counter() - started)
            answer.raise_for_status()
        return times

    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(headers=headers, trust_env=False, timeout=60) as client:
        found = await asyncio.gather(*(client_of_many(client) for _ in range(CLIENTS)))
    return [each for times in found for each in times]


def _quantile(times: list[float], share: float) -> float:
    return sorted(times)[min(int(share * len(times)), len(times) - 1)]


@contextmanager
def _plain_litellm(work: Path, engine: str) -> Iterator[tuple[str, str]]:
    """A stock proxy without callbacks; yields its URL and key."""
    key = f"sk-{secrets.token_urlsafe(16)}"
    params = {"model": "openai/stub", "api_base": engine, "api_key": "none"}
    config: dict[str, Any] = {
        "model_list": [{"model_name": "world", "litellm_params": params}],
        "general_settings": {"master_key": key},
    }
    (work / "plain.yaml").write_text(json.dumps(config))
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "litellm.proxy.proxy_cli",
        "--config",
        str(work / "plain.yaml"),
    ]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    env = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION"}
    with (work / "plain.log").open("w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_S
        while not _is_up(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((work / "plain.log").read_text()[-2000:])
            time.sleep(0.2)
        yield f"{url}/v1", key
    finally:
        process.terminate()
        process.wait(30)


def _is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/liveliness", trust_env=False).is_success
    except httpx.TransportError:
        return False


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
