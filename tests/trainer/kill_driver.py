"""Trains a tiny world model again and again in forked processes that kill themselves.

Usage: kill_driver.py FOLDER MODEL WEIGHTS POINTS. Prints one JSON object: what became of a run
that was left alone, and, for each point where a run was killed, of that run after it was resumed
(and killed a second time, and resumed again); ``torn`` is a run that was killed as its last step
began and whose newest checkpoint was then cut. A point counts events: file operations inside the
run's folder, and the begin and end of training steps.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from transformers import TrainerCallback
from transformers.trainer_callback import CallbackHandler

from rwml import open_store
from rwml.testing import make_trajectory
from rwml_trainer import training
from rwml_trainer.dataset import build_dataset
from rwml_trainer.models import load_tokenizer
from rwml_trainer.recipes import Recipe, load_recipe
from rwml_trainer.rewards import NextStateReward, completion_text

FILE_EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"}
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WRITES = os.O_WRONLY | os.O_RDWR


def recipe_of(model: str, weights: str) -> Recipe:
    """Two stages of more than an epoch; in GRPO each generation serves two steps."""
    overrides: dict[str, Any] = {
        "model": model,
        "weights": weights,
        "lora.targets": "all-linear",
        "data.max_prompt_tokens": 600,
        "data.max_target_tokens": 300,
        "warm_start.steps": 8,
        "warm_start.save_steps": 3,
        "warm_start.batch_size": 2,
        "warm_start.micro_batch_size": 1,
        "grpo.steps": 9,
        "grpo.group_size": 2,
        "grpo.prompts_per_step": 4,
        "grpo.groups_per_pass": 2,
        "grpo.num_iterations": 2,
        "grpo.save_steps": 2,
        "grpo.beta": 0.05,
        "grpo.max_new_tokens": 6,
    }
    return load_recipe("demo", overrides)


class BagOfLetters:
    """An encoder that needs no weights."""

    name = "letters"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([[text.count(letter) + 0.1 for letter in LETTERS] for text in texts])


class LetterReward(NextStateReward):
    """Differs between completions that are far from any format, as a random model's are."""

    def __call__(self, **columns: Any) -> list[float | None]:
        texts = [completion_text(completion) for completion in columns["completions"]]
        return [float(sum(map(ord, text)) % 7) for text in texts]


class Killer:
    """Counts events, and kills its own process at one of them."""

    def __init__(self, run: Path, kill_at: int | None) -> None:
        self.run = str(run)
        self.kill_at = kill_at
        self.events = 0
        self.last_begin = 0

    def count(self) -> None:
        self.events += 1
        if self.events == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in FILE_EVENTS or not str(args[0]).startswith(self.run):
            return
        if event != "open" or (isinstance(args[2], int) and args[2] & WRITES):
            self.count()

    def install(self) -> None:
        sys.addaudithook(self.audit)
        fsync = os.fsync

        def counted(descriptor: int) -> None:
            self.count()
            fsync(descriptor)

        os.fsync = counted  # it has no audit event
        killer = self

        class Steps(TrainerCallback):
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                killer.count()
                killer.last_begin = killer.events

            def on_step_end(self, *_: Any, **__: Any) -> None:
                killer.count()

        start = CallbackHandler.__init__

        def with_steps(handler: Any, callbacks: Any, *rest: Any) -> None:
            start(handler, [*callbacks, Steps()], *rest)

        CallbackHandler.__init__ = with_steps  # type: ignore[method-assign]


def in_child(work: Callable[[], None], log: Path) -> int:
    """Runs `work` in a fork; its exit code, negative for a signal."""
    child = os.fork()
    if not child:
        code = 1
        try:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            work()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder: Path, model: str, weights: str, points: str) -> None:
    torch.set_num_threads(1)
    recipe = recipe_of(model, weights)
    url = f"sqlite:///{folder / 'rwml.db'}"
    with open_store(url) as store:
        for task in range(4):
            store.add(make_trajectory(task))
        build_dataset(store, folder / "data", recipe=recipe, tokenizer=load_tokenizer(model))
    training.make_reward = lambda _: LetterReward(encoder=BagOfLetters(), tau_d=0.4)

    def run(out: Path, kill_at: int | None = None) -> int:
        def work() -> None:
            killer = Killer(out, kill_at)
            killer.install()
            training.train(folder / "data", out, recipe=recipe, resume=True)
            (folder / "events").write_text(f"{killer.events} {killer.last_begin}")

        return in_child(work, folder / "log")

    def result(out: Path) -> dict[str, Any]:
        trained = [*out.glob("lora_adapter/*.safetensors"), *out.glob("weights/*.safetensors")]
        if not trained:
            return {"log": (folder / "log").read_text()[-4000:]}
        lines = (out / "metrics.jsonl").read_text().splitlines()
        return {
            "weights": hashlib.sha256(trained[0].read_bytes()).hexdigest(),
            "rewards": json.loads((out / "run.json").read_text())["rewards"],
            "steps": [[json.loads(line)["stage"], json.loads(line)["step"]] for line in lines],
        }

    if run(folder / "whole"):
        sys.exit((folder / "log").read_text()[-4000:])
    events, last_begin = map(int, (folder / "events").read_text().split())
    report: dict[str, Any] = {"events": events, "killed": {}}
    chosen = range(1, events + 1) if points == "all" else points_of(events, int(points))
    for point in chosen:
        out = folder / f"killed-{point}"
        codes = [run(out, point), run(out, max(1, (events - point) // 2)), run(out), run(out)]
        report["killed"][point] = {"codes": codes, **result(out)}
        shutil.rmtree(out)
    out = folder / "torn"
    code = run(out, last_begin)
    kept = sorted((out / "checkpoints" / "grpo").glob("step-*"))
    os.truncate(kept[-1] / "optimizer.pt", 100)
    report["torn"] = {"codes": [code, run(out)], **result(out)}
    report["torn"]["kept"] = [path.name for path in kept]
    report["log"] = (folder / "log").read_text()[-4000:]
    report["whole"] = result(folder / "whole")
    sys.stdout.write(json.dumps(report))


def points_of(events: int, count: int) -> list[int]:
    """Spread over the run, at odd distances so that they fall on different kinds of events."""
    return sorted({1 + round((events - 1) * place / (count - 1)) for place in range(count)})


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
