"""The gateway's start: the LiteLLM proxy behind the guard, in a process of its own.

`gateway_process` is what runs there. It starts with a small environment, because LiteLLM takes
orders from dozens of variables (a database, start hooks, other providers' keys), and without the
``.env`` that it would look for. The session's key lives in a file of mode 0600 and in the memory of
the server: never in arguments, configuration or logs.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from rwml.files import whole_file
from rwml_trainer.serving.control import Control, open_pair
from rwml_trainer.serving.keys import KEYS, KeyFile
from rwml_trainer.serving.process import ServerProcess, python, wait_for_completion
from rwml_trainer.serving.routing import Table, Target

KEY_FILE = "key"
CONFIG = "config.yaml"
RECORDER = "rwml_adapters.litellm.proxy_logger"
ENGINE_KEY = "RWML_ENGINE_KEY"
"""Variable by which a process of ours gets the engines' key, which its arguments would show."""
STOP_GRACE_S = 25.0
"""More than the gateway takes to drain: `http_server.DRAIN_S` and `CLOSE_S`."""
PASSED_ON = frozenset({"PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR", "VIRTUAL_ENV"})
PASSED_ON_PREFIXES = ("LC_", "LD_LIBRARY_", "DYLD_", "PYTHON")
RECORDING_PREFIXES = ("RWML_", "XDG_", "PG")  # recorder, spool, and libpq's own
SETTINGS = {
    "LITELLM_MODE": "PRODUCTION",  # else it loads a .env
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else each start tries a download
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    "LITELLM_LOCAL_POLICY_TEMPLATES": "True",
    "LITELLM_LOCAL_AUTOROUTER_PRESETS": "True",
    "DISABLE_ADMIN_UI": "True",
    "NO_DOCS": "True",
    "NO_REDOC": "True",
    "DO_NOT_TRACK": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONFAULTHANDLER": "1",  # a crash of native code says in the log where
}


@dataclass(frozen=True)
class Gateway:
    """A started gateway.

    Attributes:
        url: base URL for clients, ending in ``/v1``.
        key_file: file of mode 0600 that holds the session's key.
        process: its process; stop it with `stop`.
        control: says what to serve.
    """

    url: str
    key_file: Path
    process: ServerProcess
    control: Control

    def wait(
        self, models: Iterable[str], *, needs: Iterable[ServerProcess], deadline: float
    ) -> None:
        """Returns once a completion of each model comes through; else raises ServingError."""
        for model in models:
            wait_for_completion(
                url=self.url,
                model=model,
                key=self.key_file.read_text(encoding="utf-8"),
                needs=[*needs, self.process],
                deadline=deadline,
            )

    def stop(self) -> None:
        """Ends it: what is in flight may end first."""
        self.process.stop(STOP_GRACE_S)
        self.control.close()


def start(
    *,
    table: Table,
    bound: socket.socket,
    work: Path,
    names: Iterable[str] = (),
    store: str | None = None,
    engine_key: str | None = None,
) -> Gateway:
    """Starts the gateway on a bound socket; it loads while this returns, and serves nothing yet.

    Args:
        table: the models; `Control.serve` is what lets clients ask them.
        bound: bound socket that does not listen yet; the gateway's from now on.
        work: folder for keys, configuration and log.
        names: further host names by which clients call it, besides those of the socket.
        store: URL of the store that its traffic is recorded into; None for none.
        engine_key: bearer key that the engines ask for; None where they ask for none.
    """
    config, key_file = work / CONFIG, work / KEY_FILE
    _write_private(config, json.dumps(proxy_config(table, store=store), indent=2))  # JSON is YAML
    _write_private(key_file, KeyFile(work).renew_session())
    host, port = bound.getsockname()[:2]
    ours, theirs = open_pair()
    passed = (bound.fileno(), theirs.fileno())
    process = ServerProcess(
        name="gateway",
        command=[
            *python("rwml_trainer.serving.gateway_process"),
            *("--config", str(config), "--keys", str(work / KEYS)),
            *("--fd", str(passed[0]), "--control", str(passed[1])),
            *(word for name in names for word in ("--name", name)),
        ],
        env=_environment(os.environ, store, engine_key),
        folder=work,
        log=work / "gateway.log",
        pass_fds=passed,
    )
    bound.close()
    theirs.close()
    return Gateway(f"http://{in_url(host)}:{port}/v1", key_file, process, Control(ours, process))


def proxy_config(table: Table, *, store: str | None) -> dict[str, JsonValue]:
    """LiteLLM's configuration of the gateway."""
    models: list[JsonValue] = [
        deployment(name, each, key=f"os.environ/{ENGINE_KEY}")
        for name, each in table.versions.items()
    ]
    # A generation that took too long is not asked for once more.
    litellm: dict[str, JsonValue] = {
        "telemetry": False,
        "num_retries": 0,
        "enable_post_custom_auth_checks": True,
    }
    if store is not None:
        litellm["callbacks"] = RECORDER
    return {
        "model_list": models,
        "litellm_settings": litellm,
        "router_settings": {"num_retries": 0, "disable_cooldowns": True},
        "general_settings": {
            "master_key": "os.environ/LITELLM_MASTER_KEY",
            "custom_auth": "rwml_trainer.serving.auth.authenticate",
            "custom_auth_run_common_checks": True,
            "cancel_on_disconnect": True,  # nobody reads the answer, and vLLM stops writing it
        },
    }


def deployment(version: str, target: Target, *, key: str) -> dict[str, JsonValue]:
    """A version as LiteLLM's router knows it; the recorder reads its name from `model_info`.

    Args:
        version: its name.
        target: where it is.
        key: that its engine asks for, or where LiteLLM's configuration finds it.
    """
    return {
        "model_name": version,
        "litellm_params": {
            "model": f"openai/{target.model}",
            "api_base": target.url,
            "api_key": key,
        },
        "model_info": {"id": version, "rwml_version": version},
    }


def in_url(host: str) -> str:
    """A host as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def _environment(
    environment: Mapping[str, str], store: str | None, engine_key: str | None
) -> dict[str, str]:
    prefixes = PASSED_ON_PREFIXES + (() if store is None else RECORDING_PREFIXES)
    kept = {
        name: value
        for name, value in environment.items()
        if name in PASSED_ON or name.startswith(prefixes)
    }
    recording = {} if store is None else {"RWML_STORE": store}
    # Where the engine asks for no key, the client still insists on one.
    return {**kept, **recording, **SETTINGS, ENGINE_KEY: engine_key or "none"}


def _write_private(path: Path, text: str) -> None:
    """Writes a file that was never readable by others, not even for a moment."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
