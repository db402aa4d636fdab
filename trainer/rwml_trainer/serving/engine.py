"""Engines: what runs the model, on loopback, for the gateway only.

`start_transformers` starts `transformers serve`, which ships with transformers; `vllm_engine` and
`external_engine` have the others, and `engine_choice` tells which one a server uses. An engine is
told its model by the relative name of a link in its working directory: in a path, `transformers
serve` would read ``@`` as a revision. The ``/v1/models`` of that one lists the hub cache and fails
where there is none: it gets an empty one (LiteLLM asks), and only a completion says that it is up.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rwml_trainer.serving.capabilities import EngineName
from rwml_trainer.serving.process import ServerProcess, free_port, python, wait_for_completion
from rwml_trainer.serving.registry import Version

HOST = "127.0.0.1"
MODEL_LINK = "engine-model"
# The model is a folder: the hub is never asked, and nothing is reported anywhere.
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONFAULTHANDLER": "1",  # a crash of native code says in the log where
}
# On CPU, threads that wait by spinning take the cores from the gateway and from anyone else: with
# both cores of a small machine busy, 20 tokens of SmolLM2 took 11 to 19 s so, 1.3 s like this.
PATIENT = {"OMP_WAIT_POLICY": "passive"}


@dataclass(frozen=True)
class Engine:
    """A started engine.

    Attributes:
        name: its kind.
        url: OpenAI-compatible base URL, ending in ``/v1``.
        model: what it calls its model.
        process: its process; stop it with `ServerProcess.stop`.
        key: bearer key that it asks for; None where it asks for none.
        tools: whether it can read tool calls from what this model writes.
        is_elsewhere: whether somebody else starts and stops it.
    """

    name: EngineName
    url: str
    model: str
    process: ServerProcess
    key: str | None = None
    tools: bool = True
    is_elsewhere: bool = False

    def wait(self, deadline: float) -> None:
        """Returns once the engine answers a completion; raises ServingError if it never does."""
        wait_for_completion(
            url=self.url, model=self.model, key=self.key, needs=[self.process], deadline=deadline
        )


StartEngine = Callable[[Version, Path], Engine]
"""From a version, and a folder for what the engine writes, to an engine that loads."""


def start_transformers(version: Version, work: Path) -> Engine:
    """Starts `transformers serve` for a version; it loads while this returns.

    Args:
        version: its folder has config, safetensors, and a tokenizer with a chat template.
        work: folder for its log, the link to the model and an empty hub cache; made if missing.
    """
    link_model(version, work)
    hub_cache = work / "hub"
    hub_cache.mkdir(exist_ok=True)
    port = free_port()
    process = ServerProcess(
        name="engine",
        command=[
            *python("transformers.cli.transformers"),
            *("serve", MODEL_LINK, "--host", HOST, "--port", str(port)),
        ],
        env={**PATIENT, **os.environ, **QUIET, "HF_HUB_CACHE": str(hub_cache)},
        folder=work,
        log=work / "engine.log",
    )
    return Engine("transformers", f"http://{HOST}:{port}/v1", MODEL_LINK, process)


def link_model(version: Version, work: Path) -> None:
    """Makes an engine's working directory, with the link by which it is told its model."""
    work.mkdir(parents=True, exist_ok=True, mode=0o700)
    link = work / MODEL_LINK
    link.unlink(missing_ok=True)
    link.symlink_to(Path(version.folder).resolve(), target_is_directory=True)
