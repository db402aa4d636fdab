"""Engines: what runs the model, on loopback, without a key, for the gateway only.

So far `transformers serve`, which ships with transformers. It is told the model by the relative
name of a link in its working directory: in a path it would read ``@`` as a revision. Its
``/v1/models`` lists the hub cache and fails where there is none: it gets an empty one (LiteLLM
asks), and only a completion says that it is up.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from rwml_trainer.serving.capabilities import EngineName
from rwml_trainer.serving.process import ServerProcess, free_port, python, wait_for_completion

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
        url: OpenAI-compatible base URL, ending in ``/v1``; it asks for no key.
        model: what it calls its model.
        process: its process; stop it with `ServerProcess.stop`.
    """

    name: EngineName
    url: str
    model: str
    process: ServerProcess

    def wait(self, deadline: float) -> None:
        """Returns once the engine answers a completion; raises ServingError if it never does."""
        wait_for_completion(
            url=self.url, model=self.model, key=None, needs=[self.process], deadline=deadline
        )


def start_transformers(model_folder: Path, work: Path) -> Engine:
    """Starts `transformers serve` for a model folder; it loads while this returns.

    Args:
        model_folder: config, safetensors, tokenizer with a chat template.
        work: folder for its log, the link to the model and an empty hub cache; made if missing.
    """
    work.mkdir(parents=True, exist_ok=True, mode=0o700)
    hub_cache = work / "hub"
    hub_cache.mkdir(exist_ok=True)
    link = work / MODEL_LINK
    link.unlink(missing_ok=True)
    link.symlink_to(model_folder.resolve(), target_is_directory=True)
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
