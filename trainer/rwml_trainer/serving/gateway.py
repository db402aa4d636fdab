"""The gateway: the LiteLLM proxy with one key, behind the guard, in a process of its own.

``python -m rwml_trainer.serving.gateway`` is that process. The key lives in a file of mode 0600 and
in the memory of the two processes: never in arguments, configuration or logs. The process starts
with a small environment, because LiteLLM takes orders from dozens of variables (a database, start
hooks, other providers' keys), and without the ``.env`` that it would look for.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rwml_trainer.serving.engine import Engine
from rwml_trainer.serving.guard import BODY_LIMIT, Guard
from rwml_trainer.serving.process import ServerProcess, python, wait_for_completion

KEY_FILE = "key"
DRAIN_S = 8  # less than the grace of `ServerProcess.stop`
PASSED_ON = frozenset({"PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR", "VIRTUAL_ENV"})
PASSED_ON_PREFIXES = ("LC_", "LD_LIBRARY_", "DYLD_", "PYTHON")
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
}


@dataclass(frozen=True)
class Gateway:
    """A started gateway.

    Attributes:
        url: base URL for clients, ending in ``/v1``.
        key_file: file of mode 0600 that holds the key.
        models: names of the models.
        process: its process; stop it with `ServerProcess.stop`.
    """

    url: str
    key_file: Path
    models: tuple[str, ...]
    process: ServerProcess

    def wait(self, engine: Engine, deadline: float) -> None:
        """Returns once a completion comes through; raises ServingError if none ever does."""
        for model in self.models:
            wait_for_completion(
                url=self.url,
                model=model,
                key=self.key_file.read_text(encoding="utf-8"),
                needs=[engine.process, self.process],
                deadline=deadline,
            )


def start(*, models: Mapping[str, Engine], bound: socket.socket, work: Path) -> Gateway:
    """Starts the gateway on a bound socket; it loads while this returns.

    Args:
        models: names that clients use, and the engine behind each.
        bound: bound loopback socket that does not listen yet; the gateway's from now on.
        work: folder for key, configuration and log.
    """
    config, key_file = work / "config.yaml", work / KEY_FILE
    _write_private(config, json.dumps(_config(models), indent=2))  # JSON is YAML
    _write_private(key_file, f"sk-{secrets.token_urlsafe(32)}")
    host, port = bound.getsockname()[:2]
    process = ServerProcess(
        name="gateway",
        command=[
            *python("rwml_trainer.serving.gateway"),
            *("--config", str(config), "--key-file", str(key_file), "--fd", str(bound.fileno())),
        ],
        env=_environment(os.environ),
        folder=work,
        log=work / "gateway.log",
        pass_fds=(bound.fileno(),),
    )
    bound.close()
    url = f"http://{_in_url(host)}:{port}/v1"
    return Gateway(url, key_file, tuple(models), process)


def main() -> None:
    """The gateway's process: loads LiteLLM, puts the guard in front, serves until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--key-file", type=Path, required=True)
    parser.add_argument("--fd", type=int, required=True, help="bound socket to listen on")
    parser.add_argument("--body-limit", type=int, default=BODY_LIMIT)
    arguments = parser.parse_args()
    key = arguments.key_file.read_text(encoding="utf-8")
    os.environ["LITELLM_MASTER_KEY"] = key  # before LiteLLM is imported
    os.environ["CONFIG_FILE_PATH"] = str(arguments.config)
    import uvicorn
    from litellm.proxy.proxy_server import app

    bound = socket.socket(fileno=arguments.fd)
    host, port = bound.getsockname()[:2]
    names = {_in_url(host), "127.0.0.1", "localhost", "[::1]"}
    guard = Guard(
        app,
        key=key,
        hosts=[f"{name}:{port}" for name in names],
        body_limit=arguments.body_limit,
    )
    config = uvicorn.Config(
        guard,
        lifespan="on",
        ws="none",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_S,
    )
    uvicorn.Server(config).run(sockets=[bound])


def _config(models: Mapping[str, Engine]) -> dict[str, object]:
    return {
        "model_list": [
            {
                "model_name": name,
                "litellm_params": {
                    "model": f"openai/{engine.model}",
                    "api_base": engine.url,
                    "api_key": "none",  # the engine asks for none, the client insists on one
                },
            }
            for name, engine in models.items()
        ],
        # A generation that took too long is not asked for once more.
        "litellm_settings": {"telemetry": False, "num_retries": 0},
        "router_settings": {"num_retries": 0, "disable_cooldowns": True},
        "general_settings": {"master_key": "os.environ/LITELLM_MASTER_KEY"},
    }


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    kept = {
        name: value
        for name, value in environment.items()
        if name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES)
    }
    return {**kept, **SETTINGS}


def _write_private(path: Path, text: str) -> None:
    """Writes a file that was never readable by others, not even for a moment."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


if __name__ == "__main__":
    main()
