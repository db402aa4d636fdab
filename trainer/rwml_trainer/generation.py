"""Generates completions of many prompts with transformers: batched, sorted by length."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from rwml.prompts.profiles import Prompt
from rwml.prompts.tokenizers import render_chat as render_chat


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    batch_size: int,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> list[str]:
    """Completes chat prompts greedily, so that two runs give the same texts.

    Args:
        model: a causal language model in evaluation mode.
        tokenizer: with a chat template and a pad token.
        prompts: n chat prompts.
        max_new_tokens: longest completion.
        batch_size: prompts generated at once; similar lengths go together.
        on_rows: called after each batch with its number of rows.

    Returns:
        n completions, in the order of the prompts, special tokens removed.
    """
    texts = [render_chat(tokenizer, prompt) for prompt in prompts]
    order = sorted(range(len(texts)), key=lambda place: -len(texts[place]))
    completions = [""] * len(texts)
    for first in range(0, len(order), batch_size):
        places = order[first : first + batch_size]
        some = [texts[place] for place in places]
        decoded = _complete(model, tokenizer, some, max_new_tokens=max_new_tokens)
        for place, text in zip(places, decoded, strict=True):
            completions[place] = text
        on_rows(len(places))
    return completions


def sample(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    *,
    seeds: Sequence[Sequence[int]],
    temperature: float,
    max_new_tokens: int,
    batch_size: int,
    on_prompt: Callable[[int, list[str]], None],
) -> None:
    """Samples completions of chat prompts; what a seed gives does not depend on the batch.

    Args:
        model: a causal language model in evaluation mode.
        tokenizer: with a chat template and a pad token.
        prompts: n chat prompts.
        seeds: of the completions of each prompt; as many each.
        temperature: of the sampling.
        max_new_tokens: longest completion.
        batch_size: completions generated at once; those of one prompt stay together.
        on_prompt: called with the place of each prompt and its completions, as they come.
    """
    texts = [render_chat(tokenizer, prompt) for prompt in prompts]
    order = sorted(range(len(texts)), key=lambda place: -len(texts[place]))
    attempts = len(seeds[0]) if seeds else 1
    at_once = max(1, batch_size // attempts)
    for first in range(0, len(order), at_once):
        places = order[first : first + at_once]
        flat = [seed for place in places for seed in seeds[place]]
        noise = _seeded_noise(flat, temperature, str(model.device))
        decoded = _complete(
            model,
            tokenizer,
            [texts[place] for place in places for _ in range(attempts)],
            max_new_tokens=max_new_tokens,
            logits_processor=[noise],
        )
        for number, place in enumerate(places):
            on_prompt(place, decoded[number * attempts : (number + 1) * attempts])


def sampling_seed(seed: int, sample: str, number: int) -> int:
    """Seed of a sample's completion of a number: the same in every run of a recipe's seed."""
    digest = hashlib.sha256(f"{seed}/{sample}/{number}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _seeded_noise(seeds: Sequence[int], temperature: float, device: str) -> Any:
    """Makes greedy decoding sample: the largest of logits and Gumbel noise is a draw from them.

    Each row has its own generator, so that a row's text does not depend on its neighbours.
    """
    import torch

    generators = [torch.Generator(device=device).manual_seed(seed) for seed in seeds]

    def add_noise(input_ids: Any, scores: Any) -> Any:
        noise = torch.empty_like(scores, dtype=torch.float32)
        for row, generator in zip(noise, generators, strict=True):
            row.exponential_(generator=generator)
        return scores.float() / temperature - noise.log()

    return add_noise


def _complete(
    model: Any, tokenizer: Any, texts: Sequence[str], *, max_new_tokens: int, **options: Any
) -> list[str]:
    """Greedy completions of a batch of rendered prompts, special tokens removed."""
    import torch

    # The package's name brings trl along: only who generates waits for it.
    from rwml_trainer.grpo.prefill import shared_prefill

    batch = tokenizer(
        list(texts),
        padding=True,
        padding_side="left",
        add_special_tokens=False,
        return_tensors="pt",
    ).to(model.device)
    with torch.inference_mode(), shared_prefill(model):
        output = model.generate(
            **batch,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            **options,
        )
    answers = output[:, batch["input_ids"].shape[1] :]
    return tokenizer.batch_decode(answers, skip_special_tokens=True)
