"""Runs ``rwml`` in one of several processes, and notes what each of them saw.

Usage: process_driver.py FOLDER ARGUMENTS...

FOLDER gets ``rank-N.json``: the error that only the first process met, and the hash of the weights
that were trained, as the process holds them when they are saved. Rewards differ within a group, as
those of a random model's texts would not. Under FSDP2 this stands in for a machine with GPUs:
accelerate shards on those alone, torch on the CPU too.
"""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType

from rwml.cli import main
from rwml.errors import UsageError
from rwml.testing import BagOfWordsEncoder
from rwml_trainer import training, warm_start
from rwml_trainer.grpo import running
from rwml_trainer.processes import is_first, on_first
from rwml_trainer.rewards import NextStateReward, completion_text
from rwml_trainer.saving import save_trained

NOTED: dict[str, Any] = {"weights": {}}


class LetterReward(NextStateReward):
    """Differs between completions that are far from any format."""

    def __call__(self, **columns: Any) -> list[float | None]:
        texts = [completion_text(completion) for completion in columns["completions"]]
        return [float(sum(map(ord, text)) % 7) for text in texts]


def pretend_to_have_gpus() -> None:
    """Tells accelerate that the processes share GPUs, which are the CPU."""
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    torch.distributed.init_process_group("gloo")
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)  # type: ignore[method-assign]


def fail_in_the_first() -> None:
    raise UsageError(f"met in the first process: {is_first()}")


def noting_save(trainer: Any, folder: Path) -> None:
    digest, sharded, count = hashlib.sha256(), 0, 0
    for name, weight in sorted(trainer.model.named_parameters()):
        if not weight.requires_grad:
            continue
        sharded += hasattr(weight, "full_tensor")
        count += 1
        whole = weight.full_tensor() if hasattr(weight, "full_tensor") else weight
        digest.update(name.encode() + whole.detach().float().numpy().tobytes())
    NOTED["weights"][folder.name] = digest.hexdigest()
    NOTED["sharded"] = f"{sharded} of {count}"
    NOTED["shares_prefix"] = getattr(trainer, "shares_prefix", None)
    save_trained(trainer, folder)


if os.environ.get("ACCELERATE_USE_FSDP") == "true":
    pretend_to_have_gpus()
try:
    on_first(fail_in_the_first)
except UsageError as error:
    NOTED["error"] = str(error)
training.make_reward = lambda _: LetterReward(encoder=BagOfWordsEncoder(), tau_d=0.4)
warm_start.save_trained = running.save_trained = noting_save
notes, sys.argv = Path(sys.argv[1]), ["rwml", *sys.argv[2:]]
try:
    main()
finally:
    (notes / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(NOTED))
