"""Generation that runs equal prompts once: the cache of one is copied to all completions.

What is sampled is what transformers' own `generate` samples, up to rounding; only the first pass
over the prompts is shorter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import DynamicCache


@contextmanager
def shared_prefill(model: Any) -> Iterator[None]:
    """Within the block, the model's `generate` runs each distinct prompt once.

    Args:
        model: a `PreTrainedModel`; an adapter model's own `generate` ends in that of its base.
    """
    generate = model.generate

    def generate_shared(*args: Any, **kwargs: Any) -> Any:
        ids, mask = kwargs.get("input_ids"), kwargs.get("attention_mask")
        if ids is not None and mask is not None and ids.shape[1] > 1:
            cache = _fill(model, ids, mask)
            if cache is not None:
                kwargs["past_key_values"] = cache
        return generate(*args, **kwargs)

    model.generate = generate_shared
    try:
        yield
    finally:
        del model.generate  # the class's own shows again


def _fill(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> DynamicCache | None:
    """Cache of all but the last token of every row; None where no prompts are equal."""
    rows = torch.stack([ids, mask.to(ids.dtype)], dim=2)
    distinct, owner = torch.unique(rows, dim=0, return_inverse=True)
    if len(distinct) == len(ids):
        return None
    some, kept = distinct[:, :-1, 0], distinct[:, :-1, 1]
    cache = DynamicCache(config=model.config.get_text_config())
    with torch.no_grad():
        model.base_model(
            input_ids=some,
            attention_mask=kept,
            position_ids=(kept.cumsum(dim=1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
        )
    cache.batch_select_indices(owner)
    return cache
