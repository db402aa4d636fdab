"""Packed rows: the prompt of a group once, then its completions, instead of one row for each.

The completions of a prompt see the prompt and themselves, never each other, and their positions
go on where the prompt ends, so that every log-probability and gradient is what separate rows give
(ours; the paper trains on plain rows). Each completion begins with a copy of the prompt's last
token, which predicts its first: logits are needed at the completions only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "rwml_shared_prefix"
"""Name under which transformers knows the attention of packed rows."""

KNOWN_LAYERS = frozenset({"full_attention", "sliding_attention"})
"""Kinds of layers that the attention of packed rows stands for."""

Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where prompts and completions lie in a packed row of length L.

    Attributes:
        groups: per group, the span of its prompt and the span of its completions.
        positions: of each token in its own sequence, of shape (L).
        owners: number of the completion that a token belongs to, of shape (L); -1 in prompts.
    """

    groups: tuple[tuple[Span, Span], ...]
    positions: torch.Tensor
    owners: torch.Tensor
    _masks: dict[tuple[int, int | None], torch.Tensor] = field(default_factory=dict)

    @property
    def windows(self) -> set[int | None]:
        """How far back the layers that were run so far look; None among them for no limit."""
        return {window for _, window in self._masks}

    def mask(self, group: int, window: int | None) -> torch.Tensor:
        """What the completions of a group see: True where a token may be looked at.

        Args:
            group: number of the group.
            window: how far back a layer looks, in tokens; None for no limit.

        Returns:
            Of shape (1, 1, completion tokens, prompt tokens + completion tokens); made once.
        """
        if (group, window) not in self._masks:
            prompt, completions = self.groups[group]
            keys = torch.cat([torch.arange(*prompt), torch.arange(*completions)])
            keys = keys.to(self.positions.device)
            owner, position = self.owners[completions[0] : completions[1]], self.positions
            distance = position[completions[0] : completions[1], None] - position[None, keys]
            seen = self.owners[None, keys] == owner[:, None]
            seen |= self.owners[None, keys] < 0
            seen &= distance >= 0
            if window is not None:
                seen &= distance < window
            self._masks[group, window] = seen[None, None]
        return self._masks[group, window]


@dataclass(frozen=True, kw_only=True)
class Packed:
    """One packed row of several groups: all prompts, then all completions.

    Attributes:
        input_ids: of shape (1, L).
        labels: the token that each completion position predicts, of shape (1, N).
        places: row and column of each label in the (rows, completion length) of the plain batch.
        layout: for the attention.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    places: tuple[torch.Tensor, torch.Tensor]
    layout: Layout


def pack(input_ids: torch.Tensor, attention_mask: torch.Tensor, completion: int) -> Packed | None:
    """Packs rows of left-padded prompts and right-padded completions.

    Args:
        input_ids: of shape (rows, prompt length + completion length).
        attention_mask: 0 at padding, same shape.
        completion: completion length.

    Returns:
        The packed row; None where there is nothing to share or to score.
    """
    groups = _group(input_ids, attention_mask, completion)
    if groups is None:
        return None
    tokens: list[int] = []
    positions: list[int] = []
    owners: list[int] = []
    prompt_spans: list[Span] = []
    for prompt in groups:
        prompt_spans.append((len(tokens), len(tokens) + len(prompt) - 1))
        tokens += prompt[:-1]
        positions += range(len(prompt) - 1)
    owners += [-1] * len(tokens)
    spans: list[tuple[Span, Span]] = []
    labels: list[int] = []
    rows: list[int] = []
    columns: list[int] = []
    for (prompt, members), prompt_span in zip(groups.items(), prompt_spans, strict=True):
        start = len(tokens)
        for row, answer in members:
            tokens += [prompt[-1], *answer[:-1]]
            positions += range(len(prompt) - 1, len(prompt) - 1 + len(answer))
            owners += [row] * len(answer)
            labels += answer
            rows += [row] * len(answer)
            columns += range(len(answer))
        spans.append((prompt_span, (start, len(tokens))))

    def tensor(values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=input_ids.device)

    return Packed(
        input_ids=tensor(tokens)[None],
        labels=tensor(labels)[None],
        places=(tensor(rows), tensor(columns)),
        layout=Layout(groups=tuple(spans), positions=tensor(positions), owners=tensor(owners)),
    )


def _group(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, completion: int
) -> dict[tuple[int, ...], list[tuple[int, list[int]]]] | None:
    """Rows and their completion tokens by prompt; rows without a completion are left out."""
    groups: dict[tuple[int, ...], list[tuple[int, list[int]]]] = {}
    ids, kept = input_ids.tolist(), attention_mask.tolist()
    rows = 0
    for row, (tokens, mask) in enumerate(zip(ids, kept, strict=True)):
        pairs = list(zip(tokens, mask, strict=True))
        prompt = tuple(token for token, keep in pairs[:-completion] if keep)
        answer = [token for token, keep in pairs[-completion:] if keep]
        if not prompt:
            return None
        if answer:
            groups.setdefault(prompt, []).append((row, answer))
            rows += 1
    return groups if 0 < len(groups) < rows else None


def runs_of_prompts(prompt_ids: torch.Tensor, prompt_mask: torch.Tensor) -> list[Span]:
    """Spans of consecutive rows with one prompt."""
    rows = list(zip(prompt_ids.tolist(), prompt_mask.tolist(), strict=True))
    starts = [i for i, row in enumerate(rows) if i == 0 or row != rows[i - 1]]
    return list(zip(starts, [*starts[1:], len(rows)], strict=True))


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    shared_prefix: Layout | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it: SDPA, and piece by piece for a packed row.

    A prompt attends to itself with SDPA's causal kernel, and its completions to the prompt and
    themselves with a mask of their own size: no mask of the whole row is ever made.
    """
    if shared_prefix is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, sliding_window=sliding_window, **kwargs
        )
    kwargs.pop("is_causal", None)
    prompts, answers = [], []
    for number, (prompt, completions) in enumerate(shared_prefix.groups):
        own = slice(*prompt)
        if prompt[1] > prompt[0]:
            band = _band(prompt[1] - prompt[0], sliding_window, query.device)
            prompts.append(
                sdpa_attention_forward(
                    module, query[:, :, own], key[:, :, own], value[:, :, own], band, **kwargs
                )[0]
            )
        mine = slice(*completions)
        answers.append(
            sdpa_attention_forward(
                module,
                query[:, :, mine],
                torch.cat([key[:, :, own], key[:, :, mine]], dim=2),
                torch.cat([value[:, :, own], value[:, :, mine]], dim=2),
                shared_prefix.mask(number, sliding_window),
                **kwargs,
            )[0]
        )
    return torch.cat([*prompts, *answers], dim=1), None


def _band(length: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    """Causal mask of a prompt that is longer than the layer's window; None for plain causal."""
    if window is None or length <= window:
        return None
    places = torch.arange(length, device=device)
    distance = places[:, None] - places[None]
    return ((distance >= 0) & (distance < window))[None, None]


def install(model: Any) -> str | None:
    """Makes a model use the attention of packed rows; other rows go through SDPA as before.

    Args:
        model: a `PreTrainedModel`.

    Returns:
        None when done, else why this model cannot.
    """
    config = model.config.get_text_config()
    if config._attn_implementation != "sdpa":
        return f"its attention is {config._attn_implementation}, not sdpa"
    other = set(getattr(config, "layer_types", None) or ()) - KNOWN_LAYERS
    if other:
        return f"it has layers of another kind ({', '.join(sorted(other))})"
    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    model.set_attn_implementation(ATTENTION)
    return None


def hidden_window(config: Any, layout: Layout) -> bool:
    """Whether a model that was run has sliding layers that did not tell how far back they look."""
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    slides = "sliding_attention" in kinds if kinds else window is not None
    return slides and layout.windows <= {None}


def uninstall(model: Any) -> None:
    """Gives a model its SDPA attention back."""
    if model.config.get_text_config()._attn_implementation == ATTENTION:
        model.set_attn_implementation("sdpa")


@contextmanager
def last_positions(backbone: torch.nn.Module, count: int) -> Iterator[None]:
    """Within the block, the backbone gives only the last `count` hidden states to the head."""

    def cut(_module: Any, _args: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[:, -count:]
        return output

    handle = backbone.register_forward_hook(cut)
    try:
        yield
    finally:
        handle.remove()
