"""How predictable recorded traffic is, by kind and tool: what to know before paying for a GPU.

Where most next states repeat, or copying the last message is nearly right, there is little to
learn; where each one is new whatever the context, there may be nothing that can be learned.
Hashes of texts are kept, not texts, but for a small sample of each tool (ours).
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pydantic import JsonValue

from rwml.encoders import Encoder, gaps
from rwml.prompts.profiles import result_text
from rwml.schema import Transition
from rwml_trainer.dataset.files import Row
from rwml_trainer.dataset.splitting import Split, hash_share

SAMPLE = 64
"""Rows of each tool whose gaps are measured, the same ones every time (ours)."""
COMMON_TEXTS = 1_000
"""Repeated next states of a tool whose text is kept (ours)."""


class _Sampled(NamedTuple):
    order: float  # negated, since heapq keeps the smallest
    next_state: str
    last: str


@dataclass
class _Group:
    """What was seen of one tool, or of one kind without a tool."""

    transitions: int = 0
    rows: int = 0
    train: int = 0
    easy: int = 0
    duplicates: int = 0
    states: Counter[int] = field(default_factory=Counter)
    pairs: set[int] = field(default_factory=set)
    texts: dict[int, str] = field(default_factory=dict)
    sample: list[_Sampled] = field(default_factory=list)

    def add(self, row: Row, side: Split | None, last: str) -> None:
        self.rows += 1
        self.train += side == "train"
        state = _digest(row["next_state"])
        pair = _digest(repr(row["prompt"]), row["next_state"])
        self.duplicates += pair in self.pairs
        self.pairs.add(pair)
        self.states[state] += 1
        if self.states[state] == 2 and len(self.texts) < COMMON_TEXTS:
            self.texts[state] = row["next_state"]
        item = _Sampled(-hash_share(row["id"]), row["next_state"], last)
        if len(self.sample) < SAMPLE:
            heapq.heappush(self.sample, item)
        else:
            heapq.heappushpop(self.sample, item)

    def most_frequent(self) -> str:
        """The commonest next state; where none repeats, one of the sample."""
        if not self.texts:
            return max(self.sample).next_state
        return max(self.texts.items(), key=lambda item: (self.states[item[0]], item[1]))[1]


class Report:
    """Takes in transitions and what became of them; `figures` sums it up."""

    def __init__(self, *, mask_tools: bool) -> None:
        self._mask_tools = mask_tools
        self._groups: dict[tuple[str, str | None], _Group] = {}

    def add(self, transition: Transition, row: Row | str, side: Split | None) -> None:
        """Takes in a transition that became a row, or was left out for a reason."""
        group = self._groups.setdefault((transition.kind, transition.tool), _Group())
        group.transitions += 1
        if isinstance(row, str):
            return
        context = [message for message in transition.context if message.role != "system"]
        last = result_text(context[-1], masked=self._mask_tools).text if context else ""
        group.add(row, side, last)

    def drop_easy(self, row: Row) -> None:
        """Takes in that the filter dropped a training row."""
        self._groups[row["kind"], row["tool"]].easy += 1

    def figures(self, encoder: Encoder | None) -> dict[str, JsonValue]:
        """Figures by kind, and by tool.

        ``rows``: transitions that became rows; ``duplicates``: rows whose prompt and next state
        came before; ``repeated``: share of rows whose next state is that of another row, whatever
        the context; ``entropy_bits``: of next states; ``kept``: share of transitions that is
        trained on or held out; ``most_frequent`` and ``copy_last``: the predictors that always
        answer the commonest next state, or the last message: share that is exact and mean gap, on
        a sample; None where no encoder is given.
        """
        kinds: dict[str, list[_Group]] = {}
        tools: dict[str, JsonValue] = {}
        for (kind, tool), group in sorted(
            self._groups.items(), key=lambda g: (g[0][0], g[0][1] or "")
        ):
            kinds.setdefault(kind, []).append(group)
            if tool is not None:
                tools[tool] = _figures([group], encoder)
        return {
            "by_kind": {kind: _figures(groups, encoder) for kind, groups in kinds.items()},
            "by_tool": tools,
        }


def _figures(groups: Sequence[_Group], encoder: Encoder | None) -> JsonValue:
    counts = [count for group in groups for count in group.states.values()]
    rows = sum(group.rows for group in groups)
    transitions = sum(group.transitions for group in groups)
    easy = sum(group.easy for group in groups)
    figures: dict[str, JsonValue] = {
        "transitions": transitions,
        "rows": rows,
        "train": sum(group.train for group in groups) - easy,
        "duplicates": sum(group.duplicates for group in groups),
        "distinct": len(counts),
        "repeated": sum(count for count in counts if count > 1) / rows if rows else None,
        "entropy_bits": _entropy(counts) if rows else None,
        "easy": easy,
        "kept": (rows - easy) / transitions,
    }
    answered = [(s, group.most_frequent()) for group in groups for s in group.sample]
    targets = [sampled.next_state for sampled, _ in answered]
    figures["most_frequent"] = _trivial([answer for _, answer in answered], targets, encoder)
    figures["copy_last"] = _trivial([sampled.last for sampled, _ in answered], targets, encoder)
    return figures


def _trivial(answers: list[str], targets: list[str], encoder: Encoder | None) -> JsonValue:
    if not targets:
        return None
    exact = sum(a.strip() == t for a, t in zip(answers, targets, strict=True)) / len(targets)
    gap = math.fsum(gaps(encoder, answers, targets)) / len(targets) if encoder else None
    return {"rows": len(targets), "exact": exact, "gap": gap}


def _entropy(counts: Sequence[int]) -> float:
    total = sum(counts)
    return -math.fsum(count / total * math.log2(count / total) for count in counts)


def _digest(*texts: str) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    return int.from_bytes(digest.digest(), "big")
