"""TRL's GRPO trainer with the prompt of a group run once, in training and in generation.

What a step computes stays TRL's: same loss, same gradients (tests hold them to 1e-4 relative in
fp32). A probe compares packed with plain log-probabilities on the real model first; where they
differ, everything goes the stock way, with one line that says so.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from peft import PeftModel
from torch.nn import functional
from transformers.trainer_utils import SaveStrategy
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import RepeatSampler, split_tensor_dict

from rwml.errors import UsageError
from rwml_trainer.grpo import packing
from rwml_trainer.grpo.packing import Packed
from rwml_trainer.grpo.prefill import shared_prefill
from rwml_trainer.resuming import WholeCheckpoints

PADDINGS = (1, 9)
"""Tokens of padding that change nothing but the rounding: what a packed row may differ by."""

Logps = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]


class SharedPrefixTrainer(GRPOTrainer):
    """`GRPOTrainer` whose groups share their prompt.

    Args:
        *args: as of `GRPOTrainer`.
        report: told in one line why a model falls back to plain rows.
        shared_prefix: False for TRL's own way.
        **kwargs: as of `GRPOTrainer`.

    Attributes:
        shares_prefix: whether groups share their prompt; None until the first step has probed.
    """

    args: GRPOConfig
    model: Any

    def __init__(
        self,
        *args: Any,
        report: Callable[[str], None],
        shared_prefix: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._report = report
        self.shares_prefix: bool | None = None if shared_prefix else False
        if shared_prefix and self.is_deepspeed_enabled:
            self._fall_back("packed rows are not tested with DeepSpeed")
        elif shared_prefix:
            reasons = [packing.install(model) for model in self._transformers()]
            for reason in filter(None, reasons[:1]):
                self._fall_back(reason)

    def give_back(self) -> None:
        """Leaves the model as it was, for use after the training."""
        for model in self._transformers():
            packing.uninstall(model)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """One micro-batch, as TRL's; the buffer is shuffled by groups, so that they stay whole."""
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)
        if self.shares_prefix is None:
            self._probe()
            if not self._all_share() and self.shares_prefix:
                self._fall_back("another process cannot run packed rows")
        if not self.shares_prefix:
            return super()._prepare_inputs(generation_batch)
        steps = int(self.args.steps_per_generation or 1)
        if self._step % (steps * self.num_iterations) == 0 or self._buffered_inputs is None:
            batch = shuffle_groups(self._generate_and_score_completions(generation_batch))
            self._buffered_inputs = split_tensor_dict(batch, steps)
        return self._buffered_inputs[self._step % steps]

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        elsewhere = self.use_vllm or self.use_transformers_continuous_batching
        if elsewhere or not self.shares_prefix:
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        with shared_prefill(self._transformer(self.model)):
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **multimodal: Any,
    ) -> Logps:
        """Log-probabilities (and entropies) of completion tokens, 0 at padding, as TRL's."""
        stock = super()._get_per_token_logps_and_entropies
        options: dict[str, Any] = {
            "compute_entropy": compute_entropy,
            "compute_aux_loss": compute_aux_loss,
        }
        images = any(value is not None for value in multimodal.values())
        if not self.shares_prefix or compute_aux_loss or images:
            return stock(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size,
                **options,
                **multimodal,
            )
        logps: list[torch.Tensor] = []
        entropies: list[torch.Tensor] = []
        size = batch_size or len(input_ids)
        for ids, mask in zip(input_ids.split(size), attention_mask.split(size), strict=True):
            packed = packing.pack(ids, mask, logits_to_keep)
            if packed is None:
                scores, entropy, _ = stock(model, ids, mask, logits_to_keep, **options)
            else:
                shape = (len(ids), logits_to_keep)
                scores, entropy = self._score(model, packed, shape, compute_entropy)
            logps.append(scores)
            entropies += [] if entropy is None else [entropy]
        return torch.cat(logps), torch.cat(entropies) if entropies else None, None

    def _score(
        self, model: Any, packed: Packed, shape: Sequence[int], compute_entropy: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Runs a packed row through TRL's fused head and puts the values back in their places."""
        backbone = self._transformer(model).base_model
        # A mask of four dimensions is passed on untouched, so that none of the row's size is made.
        unused = torch.ones((1, 1, 1, 1), dtype=torch.bool, device=packed.input_ids.device)
        with (
            self.accelerator.autocast(),
            packing.last_positions(backbone, packed.labels.shape[1]),
        ):
            output = model(
                input_ids=packed.input_ids,
                attention_mask=unused,
                position_ids=packed.layout.positions[None],
                shift_labels=packed.labels,
                fused_lm_head=True,
                shared_prefix=packed.layout,
            )

        def plain(values: torch.Tensor) -> torch.Tensor:
            return values.new_zeros(shape).index_put(packed.places, values[0])

        return plain(output.log_probs), plain(output.entropy) if compute_entropy else None

    def _probe(self) -> None:
        """Decides whether groups share their prompt, by comparing on a small batch."""
        self.shares_prefix = False  # the stock way, while comparing
        inner = self._transformer(self.model)
        config = inner.config.get_text_config()
        ids, mask, kept = probe_batch(config.vocab_size, self.accelerator.device)
        packed = packing.pack(ids, mask, kept)
        if packed is None:
            raise RuntimeError("the probe has groups")
        scored = mask[:, -kept:].bool()

        def stock(padding: int) -> torch.Tensor:
            wide_ids, wide_mask = (functional.pad(t, (padding, 0)) for t in (ids, mask))
            score = self._get_per_token_logps_and_entropies
            return score(self.model, wide_ids, wide_mask, kept)[0][scored]

        try:
            with torch.no_grad():
                plain, *padded = (stock(padding) for padding in (0, *PADDINGS))
                ours, _ = self._score(self.model, packed, (len(ids), kept), False)
        except (RuntimeError, TypeError, ValueError, AttributeError) as error:
            return self._fall_back(f"it cannot run a packed row ({error})")
        scale = plain.abs().mean()
        gap = (ours[scored] - plain).abs().mean() / scale
        rounding = torch.finfo(torch.bfloat16 if self.args.bf16 else inner.dtype).eps
        noise = max((other - plain).abs().mean() / scale for other in padded)
        if not gap <= max(1e-4, rounding, 2 * noise):  # NaN too
            return self._fall_back(f"packed and plain log-probabilities differ by {gap:.1e}")
        if packing.hidden_window(config, packed.layout):
            return self._fall_back("its layers look back a window that they do not tell")
        self.shares_prefix = True
        return None

    def _all_share(self) -> bool:
        """Whether every process may pack: one that does not sees other batches."""
        mine = torch.tensor([int(bool(self.shares_prefix))], device=self.accelerator.device)
        return all(torch.as_tensor(self.accelerator.gather(mine)).tolist())

    def _fall_back(self, reason: str) -> None:
        self.shares_prefix = False
        self.give_back()
        self._report(f"each completion runs its own prompt, which is slower: {reason}")

    def _transformers(self) -> list[Any]:
        models = (self.model, self.ref_model)
        return [self._transformer(model) for model in models if model is not None]

    def _transformer(self, model: Any) -> Any:
        """The model of transformers inside wrappers and LoRA."""
        inner = self.accelerator.unwrap_model(model)
        return inner.get_base_model() if isinstance(inner, PeftModel) else inner


class EpochSampler(RepeatSampler):
    """TRL's sampler with an order that depends on seed and epoch alone.

    TRL's own goes on from the order of the epoch before, which a resumed training has not seen.
    """

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Generator[int, Any, None]:
        if self.shuffle:
            self.generator.manual_seed((self.seed or 0) + self.epoch)
        return super().__iter__()


class WorldModelTrainer(WholeCheckpoints, SharedPrefixTrainer):
    """The trainer of GRPO runs: shared prefixes, whole checkpoints, an order that can be resumed.

    Args:
        args: TRL's settings.
        **kwargs: as of `SharedPrefixTrainer` and `WholeCheckpoints`.

    Raises:
        UsageError: checkpoints would fall between the passes over one generation. TRL resumes
            from such a one without a word, with other completions.
    """

    def __init__(self, *, args: GRPOConfig, **kwargs: Any) -> None:
        window = int(args.steps_per_generation or 1) * args.num_iterations
        saved_each = int(args.save_steps) * args.gradient_accumulation_steps
        if args.save_strategy != SaveStrategy.NO and saved_each % window:
            raise UsageError(
                f"save_steps x gradient accumulation ({saved_each}) must be a multiple of "
                f"steps_per_generation x num_iterations ({window}): a checkpoint inside a "
                f"generation could not be resumed"
            )
        super().__init__(args=args, **kwargs)

    def _get_train_sampler(self, dataset: Any = None) -> EpochSampler:  # type: ignore[override]
        stock: Any = super()._get_train_sampler(dataset)
        return EpochSampler(
            data_source=stock.data_source,
            mini_repeat_count=stock.mini_repeat_count,
            batch_size=stock.batch_size,
            repeat_count=stock.repeat_count,
            shuffle=stock.shuffle,
            seed=stock.seed,
        )


def shuffle_groups(batch: dict[str, Any]) -> dict[str, Any]:
    """TRL's generated batch with its groups in random order, each still whole."""
    runs = packing.runs_of_prompts(batch["prompt_ids"], batch["prompt_mask"])
    order = [row for run in torch.randperm(len(runs)).tolist() for row in range(*runs[run])]
    return {
        key: value[order] if isinstance(value, torch.Tensor) and value.ndim else value
        for key, value in batch.items()
    }


def probe_batch(vocabulary: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Rows of two made-up prompts with completions of several lengths, padded as TRL pads.

    Returns:
        Token ids, mask, completion length.
    """
    prompts, answers = (24, 24, 24, 17, 17), (8, 5, 1, 8, 3)
    width, kept = max(prompts), max(answers)
    noise = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (len(prompts), width + kept), generator=noise)
    mask = torch.ones_like(ids)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        ids[row, :width] = ids[prompts.index(prompt), :width]
        mask[row, : width - prompt] = 0
        mask[row, width + answer :] = 0
    return ids.to(device), mask.to(device), kept
