"""Generation that runs equal prompts once, and where the model can, keeps their cache once, too.

What is sampled is what transformers' own `generate` samples, up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from rwml.cli.output import say
from rwml_trainer.grpo.packing import runs_of_prompts
from rwml_trainer.grpo.shared_cache import SharedCache, can_share, decoding

TOLERANCES = {torch.bfloat16: 0.02, torch.float16: 0.002}
"""Largest mean gap of log-probabilities by shared and by copied caches, as a share of their mean,
by the dtype of the logits (ours): 0.003 was seen in bfloat16; else `EXACT`."""
EXACT = 1e-4
"""The same in float32."""

_PROVEN: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
"""Models whose caches were compared, and whether both ways gave the same."""


@contextmanager
def shared_prefill(model: Any) -> Iterator[None]:
    """Within the block, the model's `generate` runs the prompt of consecutive equal rows once.

    On a CPU single rows gain, too: nothing is copied at each token, and the products are faster
    than SDPA's kernel for one query.

    Args:
        model: a `PreTrainedModel`, or an adapter model around one.
    """
    generate = model.generate
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model

    def generate_shared(*args: Any, **kwargs: Any) -> Any:
        ids, mask = kwargs.get("input_ids"), kwargs.get("attention_mask")
        if ids is None or mask is None or ids.shape[1] < 2:
            return generate(*args, **kwargs)
        spans = runs_of_prompts(ids, mask)
        group = math.gcd(*(end - start for start, end in spans))
        shares = can_share(inner)
        if group == 1 and not (shares and ids.device.type == "cpu"):
            return generate(*args, **kwargs)
        if not (shares or _keeps_tokens(inner)):
            return generate(*args, **kwargs)
        prompts = _fill(model, ids[::group], mask[::group])
        if not (shares and _is_proven(model, inner, prompts, ids, mask, group)):
            prompts.batch_repeat_interleave(group)
            return generate(*args, **kwargs | {"past_key_values": prompts})
        cache = SharedCache(prompts, mask[::group, :-1])
        with decoding(inner, cache):
            return generate(*args, **kwargs | {"past_key_values": cache})

    model.generate = generate_shared
    try:
        yield
    finally:
        del model.generate  # the class's own shows again


def _keeps_tokens(inner: Any) -> bool:
    """Whether every layer's cache is keys and values, which can be copied to other rows."""
    config = inner.config.get_text_config()
    layers: Any = DynamicCache(config=config).layers
    return all(isinstance(layer, DynamicLayer) for layer in layers)


def _fill(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> DynamicCache:
    """Cache of all but the last token of every row."""
    some, kept = ids[:, :-1], mask[:, :-1]
    cache = DynamicCache(config=model.config.get_text_config())
    with torch.no_grad():
        model.base_model(
            input_ids=some,
            attention_mask=kept,
            position_ids=(kept.cumsum(dim=1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
        )
    return cache


def _is_proven(
    model: Any, inner: Any, prompts: DynamicCache, ids: torch.Tensor, mask: torch.Tensor, group: int
) -> bool:
    """Whether the first token's log-probabilities are the same both ways; looked at once."""
    if inner not in _PROVEN:
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -1:]

        def score(cache: Any) -> torch.Tensor:
            output = model(
                input_ids=ids[:, -1:],
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
            return output.logits[:, -1]

        copied = DynamicCache(config=model.config.get_text_config())
        layers: Any = prompts.layers
        for number, layer in enumerate(layers):
            keys, values = (each.repeat_interleave(group, 0) for each in (layer.keys, layer.values))
            copied.update(keys, values, number)
        with torch.no_grad():
            plain = score(copied)
            try:
                shared = SharedCache(prompts, mask[::group, :-1])
                with decoding(inner, shared):
                    ours = score(shared)
            except (RuntimeError, TypeError, ValueError, AttributeError, LookupError) as error:
                return _copies_from_now_on(inner, f"it cannot decode from one ({error})")
        tolerance = TOLERANCES.get(plain.dtype, EXACT)
        plain, ours = (scores.float().log_softmax(dim=-1) for scores in (plain, ours))
        gap = (ours - plain).abs().mean() / plain.abs().mean()
        if not gap <= tolerance:  # NaN too
            return _copies_from_now_on(inner, f"decoding from one differs by {gap:.1e}")
        _PROVEN[inner] = True
    return _PROVEN[inner]


def _copies_from_now_on(inner: Any, reason: str) -> bool:
    _PROVEN[inner] = False
    say(f"each completion copies its prompt's cache, which is slower: {reason}")
    return False
