"""Training: GRPO steps with shared prefixes against stock TRL, and the memory they take.

The model is SmolLM2-135M's shape with random weights and fewer layers; its vocabulary shrinks by
the same share, so that the head costs what it costs in the real one. On a GPU it is not shrunk.
On a CPU one thread is used: two that share cores with others mostly wait for each other.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tests.benchmarks.measure import Result, peak_mib, rates
from transformers import LlamaConfig, LlamaForCausalLM
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from rwml_trainer.grpo.trainer import SharedPrefixTrainer
from rwml_trainer.models import load_tokenizer, quiet_libraries
from rwml_trainer.testing import make_tiny_model

LAYERS, VOCABULARY = 30, 49_152
SMALL = 2
"""Layers on a CPU."""
ROUNDS = 3
WORDS = "the customer asks for a refund of the order, and the agent looks it up. "


@dataclass(frozen=True)
class Shape:
    """Tokens of the prompt, tokens of each completion, completions of the prompt."""

    prompt: int
    completion: int
    group: int

    @property
    def suffix(self) -> str:
        """Of the benchmark's name."""
        return f"{self.prompt}_{self.completion}_{self.group}"


MAIN = Shape(1_500, 64, 8)
SHORT = Shape(300, 48, 8)
LONG = Shape(6_000, 128, 16)
"""Only on a GPU."""


def grpo_step_vs_trl() -> list[Result]:
    """Forward and backward passes per second of one group, generation left out."""
    results = [_step_rates("grpo_step_vs_trl", MAIN, _pass)]
    results.append(_step_rates(f"grpo_step_vs_trl_{SHORT.suffix}", SHORT, _pass))
    if torch.cuda.is_available():
        results.append(_step_rates(f"grpo_step_vs_trl_{LONG.suffix}", LONG, _pass))
    return results


def grpo_full_step_vs_trl() -> list[Result]:
    """Optimiser steps per second: generation, reference, forward, backward, update."""
    return [
        _step_rates("grpo_full_step_vs_trl", MAIN, _full_step),
        _step_rates(f"grpo_full_step_vs_trl_{SHORT.suffix}", SHORT, _full_step),
    ]


def train_peak_mib() -> Result:
    """Peak memory of a full step above the memory before it, each in a process of its own."""
    peaks = {}
    for kind in ("ours", "stock"):
        done = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.training", kind],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        peaks[kind] = float(json.loads(done.stdout.splitlines()[-1]))
    return Result(
        name="train_peak_mib",
        value=peaks["ours"],
        unit="MiB",
        baseline=peaks["stock"],
        ratio=peaks["ours"] / peaks["stock"],
    )


def _step_rates(name: str, shape: Shape, work: Callable[[Any, Shape], None]) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        trainers = {kind: _trainer(kind, shape, Path(folder)) for kind in ("ours", "stock")}
        for trainer in trainers.values():
            work(trainer, shape)  # the first time allocates
        return rates(
            name,
            ours=lambda: work(trainers["ours"], shape),
            baseline=lambda: work(trainers["stock"], shape),
            units=1,
            unit="steps/s",
            rounds=ROUNDS,
        )


def _trainer(kind: str, shape: Shape, folder: Path) -> Any:
    """A trainer of either kind on the same weights, ready to step."""
    quiet_libraries()
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    tokenizer: Any = load_tokenizer(str(make_tiny_model(folder / "tokenizer")))
    layers = LAYERS if torch.cuda.is_available() else SMALL
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY * layers // LAYERS,
        hidden_size=576,
        intermediate_size=1_536,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8_192,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    more: dict[str, Any] = {} if kind == "stock" else {"report": _must_share}
    made: Any = GRPOTrainer if kind == "stock" else SharedPrefixTrainer
    trainer = made(
        model=get_peft_model(LlamaForCausalLM(config).bfloat16(), lora),
        reward_funcs=lambda completion_ids, **_: [float(sum(ids) % 7) for ids in completion_ids],
        args=_settings(shape, folder),
        train_dataset=Dataset.from_list([{"prompt": _prompt(tokenizer, shape.prompt)}]),
        processing_class=tokenizer,
        **more,
    )
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    return trainer


def _settings(shape: Shape, folder: Path) -> GRPOConfig:
    return GRPOConfig(
        output_dir=str(folder / "out"),
        max_steps=1,
        num_generations=shape.group,
        per_device_train_batch_size=shape.group,
        max_completion_length=shape.completion,
        generation_kwargs={"min_new_tokens": shape.completion},
        beta=0.001,
        loss_type="grpo",
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )


def _must_share(reason: str) -> None:
    raise RuntimeError(reason)


def _prompt(tokenizer: Any, tokens: int) -> list[dict[str, str]]:
    """A chat of so many tokens, its template included, to a token or two."""

    def chat(text: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": text}]

    ids = tokenizer.encode(WORDS * tokens, add_special_tokens=False)
    rendered = tokenizer.apply_chat_template(chat(""), tokenize=False, add_generation_prompt=True)
    frame = len(tokenizer.encode(rendered, add_special_tokens=False))
    return chat(tokenizer.decode(ids[: tokens - frame]))


def _pass(trainer: Any, shape: Shape) -> None:
    """Forward and backward of one group of made-up completions."""
    if trainer._buffered_inputs is None:
        row = trainer.train_dataset[0]
        batch = trainer._prepare_inputs([row] * shape.group)
        trainer._buffered_inputs = [dict(batch)]
    loss = trainer.compute_loss(trainer.model, trainer._buffered_inputs[0])
    trainer.accelerator.backward(loss)
    trainer.model.zero_grad()
    _wait()


def _full_step(trainer: Any, shape: Shape) -> None:
    trainer.training_step(trainer.model, [trainer.train_dataset[0]] * shape.group, None)
    trainer.optimizer.step()
    trainer.model.zero_grad()
    _wait()


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _peak(kind: str) -> float:
    """MiB that a full step of the main shape takes at most, above what was there before."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(kind, MAIN, Path(folder))
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            _full_step(trainer, MAIN)
            return (torch.cuda.max_memory_allocated() - before) / 2**20
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
        before = psutil.Process().memory_info().rss
        _full_step(trainer, MAIN)
        return peak_mib() - before / 2**20


if __name__ == "__main__":
    sys.stdout.write(f"{_peak(sys.argv[1])}\n")
