"""Decoding that keeps a prompt's keys and values once for all completions of its group.

Plain decoding copies them to every completion and reads every copy at every token. Here the queries
of a group meet one copy in one matrix product, and only their own tokens apart; the softmax goes
over both (ours; the split is that of Hydragen, arXiv 2402.05099, sec. 3.1). All of it is computed
in float32, so that what differs from plain attention is rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from transformers import AttentionInterface, Cache
from transformers.cache_utils import DynamicLayer

from rwml_trainer.grpo.packing import ATTENTION

DECODING = "rwml_shared_cache"
"""Name under which transformers knows the attention of shared caches; it asks for no mask."""


class SharedLayer(DynamicLayer):
    """A layer's keys and values: of each prompt once, and of each completion its own.

    Attributes:
        prompt_keys: of shape (prompts, key heads, P, head size), float32.
        prompt_values: likewise.
        unseen: added to the scores of prompt tokens, -inf at padding, of shape (prompts, 1, 1, P);
            None where there is no padding.
    """

    def __init__(
        self, keys: torch.Tensor, values: torch.Tensor, unseen: torch.Tensor | None
    ) -> None:
        super().__init__()
        self.prompt_keys, self.prompt_values = keys.float(), values.float()
        self.unseen = unseen

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds a token of each completion; returns those of the completions alone."""
        return super().update(key_states.float(), value_states.float(), *args, **kwargs)

    def get_seq_length(self) -> int:
        """Tokens of a row: its prompt's and its own."""
        return self.prompt_keys.shape[-2] + super().get_seq_length()

    def attend(self, query: torch.Tensor, scaling: float) -> torch.Tensor:
        """Attention of the rows' newest tokens to all before them.

        Args:
            query: of shape (rows, heads, 1, head size); the rows of a prompt follow each other.
            scaling: of the scores.

        Returns:
            Of shape (rows, 1, heads, head size), in the query's dtype.
        """
        rows, heads, tokens, size = query.shape
        if tokens != 1 or self.keys is None or self.values is None:
            raise RuntimeError("a shared cache decodes one token at a time")
        prompts, key_heads, length, _ = self.prompt_keys.shape
        group, repeats = rows // prompts, heads // key_heads

        def by_prompt(rows_first: torch.Tensor) -> torch.Tensor:
            split = rows_first.reshape(prompts, group, key_heads, repeats, -1).transpose(1, 2)
            return split.reshape(prompts, key_heads, group * repeats, -1)

        def by_row(prompts_first: torch.Tensor) -> torch.Tensor:
            split = prompts_first.reshape(prompts, key_heads, group, repeats, -1).transpose(1, 2)
            return split.reshape(rows, key_heads, repeats, -1)

        scaled = query.float().reshape(rows, key_heads, repeats, size) * scaling
        shared = by_prompt(scaled) @ self.prompt_keys.transpose(-1, -2)
        if self.unseen is not None:
            shared = shared + self.unseen
        own = scaled @ self.keys.transpose(-1, -2)
        weights = torch.cat([by_row(shared), own], dim=-1).softmax(dim=-1)
        seen = by_row(by_prompt(weights[..., :length]) @ self.prompt_values)
        seen = seen + weights[..., length:] @ self.values
        return seen.reshape(rows, 1, heads, size).to(query.dtype)


class SharedCache(Cache):
    """Keys and values of the prompts' cache, for `group` completions of each."""

    def __init__(self, prompts: Cache, mask: torch.Tensor) -> None:
        """Takes over a cache that was filled with the prompts.

        Args:
            prompts: of full-attention layers.
            mask: 0 at padding, of shape (prompts, P).
        """
        unseen = None
        if not mask.bool().all():
            unseen = torch.zeros(mask.shape, device=mask.device)
            unseen = unseen.masked_fill(mask == 0, float("-inf"))[:, None, None]
        filled: Any = prompts.layers
        layers: list[Any] = [SharedLayer(one.keys, one.values, unseen) for one in filled]
        super().__init__(layers=layers)


def can_share(model: Any) -> bool:
    """Whether all layers of a model look back without limit, through SDPA.

    Args:
        model: a `PreTrainedModel`.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    slides = not kinds and getattr(config, "sliding_window", None) is not None
    return (
        config._attn_implementation in ("sdpa", ATTENTION)
        and kinds <= {"full_attention"}
        and not slides
    )


@contextmanager
def decoding(model: Any, cache: SharedCache) -> Iterator[None]:
    """Within the block, the model's attention reads this cache.

    Args:
        model: a `PreTrainedModel` that `can_share`.
        cache: to be given to its forward pass or `generate` as ``past_key_values``.
    """
    AttentionInterface.register(DECODING, _attend)
    before = model.config.get_text_config()._attn_implementation
    token = _CACHE.set(cache)
    model.set_attn_implementation(DECODING)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
        _CACHE.reset(token)


_CACHE: ContextVar[SharedCache] = ContextVar("rwml_shared_cache")


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it; keys and values are the cache's own."""
    layer: Any = _CACHE.get().layers[module.layer_idx]  # type: ignore[index]
    with torch.autocast(query.device.type, enabled=False):
        return layer.attend(query, query.shape[-1] ** -0.5 if scaling is None else scaling), None
