"""Generates completions of many prompts with transformers: batched, sorted by length, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rwml.prompts.profiles import Prompt


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
    import torch

    texts = [render_chat(tokenizer, prompt) for prompt in prompts]
    order = sorted(range(len(texts)), key=lambda place: -len(texts[place]))
    completions = [""] * len(texts)
    for first in range(0, len(order), batch_size):
        places = order[first : first + batch_size]
        batch = tokenizer(
            [texts[place] for place in places],
            padding=True,
            padding_side="left",
            add_special_tokens=False,
            return_tensors="pt",
        ).to(model.device)
        with torch.inference_mode():
            output = model.generate(
                **batch,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
            )
        answers = output[:, batch["input_ids"].shape[1] :]
        decoded = tokenizer.batch_decode(answers, skip_special_tokens=True)
        for place, text in zip(places, decoded, strict=True):
            completions[place] = text
        on_rows(len(places))
    return completions


def render_chat(tokenizer: Any, prompt: Prompt) -> str:
    """The text of a chat prompt, by the tokenizer's own template, ready for the answer."""
    return str(tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True))
