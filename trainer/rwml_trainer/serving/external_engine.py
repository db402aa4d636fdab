"""An engine that somebody else runs: asked for what it has, and watched.

The watch is a small process that stands where the engine's own would: it ends when the engine does
not answer any more, and so an engine that is away is treated like one that crashed (the gateway
answers 503, and the version is checked again when it is back), but for as long as it takes.
``python -m`` this module is it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from rwml.errors import ServingError, UsageError
from rwml.extras import require
from rwml_trainer.serving.capabilities import EngineName
from rwml_trainer.serving.engine import QUIET, Engine
from rwml_trainer.serving.gateway import ENGINE_KEY
from rwml_trainer.serving.process import ServerProcess, python
from rwml_trainer.serving.registry import Version

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
ASK_S = 10.0
"""For a list of models (ours): it takes a loaded engine milliseconds."""
WATCH_EVERY_S = 5.0
AWAY = frozenset({502, 503, 504})
"""Statuses of a proxy whose engine is away (RFC 9110, 15.6)."""
MISSED = 3
"""Asked so often in vain (ours), an engine is away."""


@dataclass(frozen=True, kw_only=True)
class External:
    """An engine at a URL.

    Attributes:
        url: OpenAI-compatible base URL, ending in ``/v1``.
        key: bearer key that it asks for; None where it asks for none.
        kind: whose table of capabilities counts.
        tools: whether it was started to read tool calls.
    """

    url: str
    key: str | None
    kind: EngineName
    tools: bool = True

    def start(self, version: Version, work: Path) -> Engine:
        """Finds a version there, and begins to watch.

        Args:
            version: the engine must have a model of this name, ``NAME@STEP``.
            work: folder for the log of the watch; made if missing.

        Raises:
            ServingError: the engine answers, and has no such model.
        """
        try:
            names = [name for name, _ in list_models(self.url, self.key)]
        except ServingError:
            pass  # it may come up yet: the wait for it says what is wrong
        else:
            if version.id not in names:
                raise ServingError(
                    f"the engine at {self.url} has no {version.id} ({', '.join(names) or 'none'}): "
                    f"give its model that name (vLLM: --served-model-name {version.id})"
                )
        work.mkdir(parents=True, exist_ok=True, mode=0o700)
        process = ServerProcess(
            name="engine",
            command=[*python("rwml_trainer.serving.external_engine"), self.url],
            env={**os.environ, **QUIET, ENGINE_KEY: self.key or ""},
            folder=work,
            log=work / "engine.log",
        )
        return Engine(
            self.kind,
            self.url,
            version.id,
            process,
            self.key,
            tools=self.tools,
            is_elsewhere=True,
        )


def find_external(
    url: str, *, key: str | None, kind: Literal["auto", "vllm", "transformers"]
) -> External:
    """Asks an engine what it is.

    Args:
        url: base URL, ending in ``/v1``.
        key: bearer key; None for none.
        kind: whose table of capabilities counts; ``auto``: vLLM's for an engine that says it is
            vLLM, and for any other that of `transformers serve`, which promises least.

    Raises:
        UsageError: the URL is none, or others could read what goes there.
        ServingError: nobody answers, or with something else than a list of models.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise UsageError(f"{url!r} is no base URL of an engine: http://127.0.0.1:8001/v1 is one")
    if parts.username or parts.password:
        raise UsageError("name the engine's key by --engine-key-env, not in its URL")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise UsageError(
            f"{url} is neither https nor on this machine, and prompts would go there unencrypted: "
            f"put TLS before the engine, or forward a local port to it (ssh -L)"
        )
    url = url.rstrip("/")
    owners = {owner for _, owner in list_models(url, key)}
    if kind == "auto":
        kind = "vllm" if "vllm" in owners else "transformers"
    return External(url=url, key=key, kind=kind)


def list_models(url: str, key: str | None) -> list[tuple[str, str]]:
    """Name and owner of each model that an engine has.

    Raises:
        ServingError: nobody answers, or with something else.
    """
    require("serve", "httpx")
    import httpx

    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        answer = httpx.get(f"{url}/models", headers=headers, timeout=ASK_S, trust_env=False)
        answer.raise_for_status()
        return [(model["id"], model.get("owned_by") or "") for model in answer.json()["data"]]
    except httpx.HTTPStatusError as error:
        raise ServingError(
            f"the engine at {url} answers {error.response.status_code} when asked for its models: "
            f"is its key right (--engine-key-env, --engine-key-file)?"
        ) from error
    except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ServingError(
            f"there is no engine at {url} ({error}): start it, or correct --engine-url"
        ) from error


def watch(url: str, key: str | None, *, pause: Callable[[float], None] = time.sleep) -> None:
    """Returns when an engine was asked `MISSED` times running and did not answer.

    Any answer will do: one that says no is there. Only a proxy before it may answer for one that
    is not (`AWAY`).
    """
    import httpx

    headers = {"Authorization": f"Bearer {key}"} if key else {}
    missed = 0
    with httpx.Client(headers=headers, timeout=ASK_S, trust_env=False) as client:
        while missed < MISSED:
            pause(WATCH_EVERY_S)
            try:
                status = client.get(f"{url}/models").status_code
                why = f"status {status}" if status in AWAY else None
            except httpx.HTTPError as error:
                why = str(error)
            if why is not None:
                print(f"no answer from {url}: {why}", flush=True)  # noqa: T201 - into its log
            missed = 0 if why is None else missed + 1


if __name__ == "__main__":
    watch(sys.argv[1], os.environ.get(ENGINE_KEY))
    sys.exit(1)
