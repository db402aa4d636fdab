"""WM SFT: supervised next-state prediction, as baseline (RWML sec. 3.1) and as warm start (ours).

The label is empty think tags and the next state. Logits are computed at the labels only: for a
small model with a large vocabulary they are what dominates memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainingArguments

from rwml.cli.output import say
from rwml.prompts import format_label
from rwml_trainer.checkpoints import newest_whole
from rwml_trainer.dataset import Row
from rwml_trainer.generation import render_chat
from rwml_trainer.metrics import watched
from rwml_trainer.processes import on_first, process_count
from rwml_trainer.recipes import Recipe
from rwml_trainer.resuming import WholeCheckpoints, saving
from rwml_trainer.saving import save_trained

IGNORED = -100
"""Label of positions that are not learned (PyTorch's cross entropy)."""


def warm_start(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    *,
    recipe: Recipe,
    out: Path,
    scratch: Path,
    metrics: Path,
    checkpoints: Path,
) -> None:
    """Trains a model to predict next states in the tag format, and saves what was trained.

    Args:
        model: a `PeftModel` with a trainable LoRA adapter, or a whole model; changed in place.
        rows: training rows.
        recipe: its ``warm_start`` section decides.
        out: folder of the weights.
        scratch: folder that the trainer may write to.
        metrics: file to which one line per step is added.
        checkpoints: folder of the checkpoints; the newest whole one there is gone on from.

    Raises:
        UsageError: the step cannot be shared among this many processes.
    """
    settings = recipe.warm_start
    accumulated = settings.accumulated(process_count())
    done, checkpoint = on_first(lambda: newest_whole(checkpoints, report=say)) or (0, None)
    with watched(
        metrics, stage="warm_start", label="warm start", steps=settings.steps, done=done
    ) as watch:
        trainer = LabelOnlyTrainer(
            model=model,
            args=TrainingArguments(
                output_dir=str(scratch),
                max_steps=settings.steps,
                per_device_train_batch_size=settings.micro_batch_size,
                gradient_accumulation_steps=accumulated,
                learning_rate=settings.learning_rate,
                lr_scheduler_type="cosine",
                warmup_steps=max(1, settings.steps // 10),
                logging_steps=1,
                report_to=[],
                disable_tqdm=True,
                remove_unused_columns=False,
                bf16=recipe.dtype == "bfloat16",
                use_cpu=not torch.cuda.is_available(),
                dataloader_pin_memory=False,
                seed=recipe.seed,
                **saving(settings.save_steps),
            ),
            checkpoints=checkpoints,
            train_dataset=[encode_row(tokenizer, row) for row in rows],  # type: ignore[arg-type]
            data_collator=LeftPadding(tokenizer.pad_token_id),
            callbacks=[watch],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        save_trained(trainer, out)


def encode_row(tokenizer: Any, row: Row) -> dict[str, list[int]]:
    """Token ids of prompt and label, and labels that leave the prompt out."""
    prompt = tokenizer.encode(render_chat(tokenizer, row["prompt"]), add_special_tokens=False)
    label = tokenizer.encode(format_label(row["next_state"]), add_special_tokens=False)
    label = [*label, tokenizer.eos_token_id]
    return {"input_ids": prompt + label, "labels": [IGNORED] * len(prompt) + label}


class LeftPadding:
    """Collates rows with padding on the left, so that all labels stand at the end."""

    def __init__(self, pad_token_id: int) -> None:
        self._pad = pad_token_id

    def __call__(self, rows: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        """Returns ``input_ids``, ``attention_mask`` and ``labels``, of shape (rows, length)."""
        length = max(len(row["input_ids"]) for row in rows)
        gaps = [length - len(row["input_ids"]) for row in rows]
        pairs = list(zip(gaps, rows, strict=True))
        return {
            "input_ids": torch.tensor([[self._pad] * n + row["input_ids"] for n, row in pairs]),
            "attention_mask": torch.tensor(
                [[0] * n + [1] * len(row["input_ids"]) for n, row in pairs]
            ),
            "labels": torch.tensor([[IGNORED] * n + row["labels"] for n, row in pairs]),
        }


class LabelOnlyTrainer(WholeCheckpoints, Trainer):
    """A Trainer whose model computes logits only where labels are."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Mean cross entropy over label tokens (over the whole accumulated batch, if known)."""
        labels = inputs["labels"]
        learned = (labels != IGNORED).any(dim=0).nonzero()
        kept = labels.shape[1] - int(learned[0])
        output = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            logits_to_keep=kept + 1,
        )
        total = torch.nn.functional.cross_entropy(
            output.logits[:, :-1].float().flatten(0, 1),
            labels[:, -kept:].flatten(),
            ignore_index=IGNORED,
            reduction="sum",
        )
        loss = total / (
            (labels != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        )
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # the processes' gradients are averaged
        return (loss, output) if return_outputs else loss
