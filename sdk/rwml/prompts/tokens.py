"""Counts tokens of prompts that share most of their lines, each line once.

The system prompt, the tools and most of the history come back in every prompt of a trajectory.
Byte-level tokenizers never join words across the end of a line, so that counts of lines add up;
where exactly they part lines a probe finds out, and a tokenizer that does not gets whole texts.
Near a limit the whole text always decides.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CACHE_CHARS = 8_000_000
"""Characters of lines whose counts are kept (ours)."""
MARGIN_TOKENS = 16
MARGIN_SHARE = 0.02
"""So near to a limit the sum over lines is not trusted (ours)."""
_CUTS = (
    re.compile(r"(?<=\n)(?=\S)"),  # newlines are one piece: Qwen, Llama 3
    re.compile(r"(?=\n\S)"),  # the last one stands alone: GPT-2, SmolLM2
)
_PROBE = (
    '<|im_start|>system\nYou\'re an agent.\n\n# Tools\n{"name": "get_order", "n": 12345}\n'
    '  - indented: x_1\n\n\n* été, 订单 №5\r\nuser: a  b?\n"quoted"\n</think>\n42\n\'tis.\n'
)


class TokenCounter:
    """Counts tokens, without special tokens, of texts that repeat each other's lines."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        self._known: dict[str, int] = {}
        self._chars = 0
        whole = self.exact(_PROBE)
        fitting = (cut for cut in _CUTS if sum(self._encode(cut.split(_PROBE))) == whole)
        self._cut = next(fitting, None)

    def exact(self, text: str) -> int:
        """Tokens of a text as the tokenizer counts them."""
        return self._encode([text])[0]

    def count(self, text: str) -> int:
        """Tokens of a text, summed over its lines where that is the same."""
        if self._cut is None:
            return self.exact(text)
        known = self._known
        lines = self._cut.split(text)
        new = list({line for line in lines if line not in known})
        if new:
            self._chars += sum(map(len, new))
            if self._chars > CACHE_CHARS:
                known.clear()
                new = list(set(lines))
                self._chars = sum(map(len, new))
            known.update(zip(new, self._encode(new), strict=True))
        return sum(map(known.__getitem__, lines))

    def within(self, text: str, limit: int) -> int | None:
        """Tokens of a text; None, decided exactly, where there are more than `limit`."""
        count = self.count(text)
        if abs(count - limit) <= max(MARGIN_TOKENS, int(limit * MARGIN_SHARE)):
            count = self.exact(text)
        return count if count <= limit else None

    def _encode(self, texts: list[str]) -> list[int]:
        if self._backend is None:
            return [len(self._tokenizer.encode(text, add_special_tokens=False)) for text in texts]
        found = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [len(encoding) for encoding in found]
