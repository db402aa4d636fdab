"""How a training is started on several GPUs: accelerate's configs, and the exact command.

The configs are data of this package. `accelerate launch` starts one process per GPU, each runs
`rwml train` as it would run alone.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from rwml.errors import UsageError
from rwml_trainer.recipes import Recipe
from rwml_trainer.vllm import server_command

Launcher = Literal["ddp", "zero3", "fsdp2"]
"""A copy of the weights on each GPU; DeepSpeed ZeRO-3; FSDP2."""


class Launch(NamedTuple):
    """What starts a training.

    Attributes:
        config: accelerate's config.
        processes: one for each GPU that trains.
        command: starts the training.
        vllm: starts the vLLM server that has to be up before, with variables in front; None where
            the recipe asks for none.
    """

    config: Path
    processes: int
    command: str
    vllm: str | None


def config_path(launcher: Launcher) -> Path:
    """The config of a launcher, which may be copied and changed."""
    return Path(__file__).parent / f"{launcher}.yaml"


def plan_launch(launcher: Launcher, recipe: Recipe, arguments: Sequence[str]) -> Launch:
    """The command that starts a training by a launcher.

    Args:
        launcher: how weights are spread.
        recipe: its ``compute`` section says on how many GPUs.
        arguments: of `rwml train`.

    Raises:
        UsageError: the recipe is for one process, or a step cannot be shared among them.
    """
    processes = recipe.compute.processes
    if processes < 2:
        raise UsageError(
            f"recipe {recipe.name!r} trains on one device: set compute.gpus to how many there are "
            f"(those of compute.vllm_gpus do not train)"
        )
    recipe.grpo.accumulated(processes)
    if recipe.warm_start.steps or recipe.warm_start.epochs:
        recipe.warm_start.accumulated(processes)
    config = config_path(launcher)
    words = ["accelerate", "launch", "--config_file", str(config)]
    words += ["--num_processes", str(processes), "-m", "rwml", "train", *arguments]
    server = server_command(recipe)
    vllm = None if server is None else f"VLLM_SERVER_DEV_MODE=1 {shlex.join(server)}"
    return Launch(config, processes, shlex.join(words), vllm)
