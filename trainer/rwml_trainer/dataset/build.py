"""Builds GRPO examples from a store (RWML sec. 2.2, app. C.1).

Select transitions, cut the context to H turns, mask tool results, render the prompt, split by
task, write. Each transition either becomes a row or is counted under the reason why not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rwml.errors import DatasetError, UsageError
from rwml.files import file_sha256, whole_folder, write_json
from rwml.prompts import render_next_state, render_prompt
from rwml.prompts.profiles import Prompt
from rwml.schema import Transition
from rwml.sightings import Sightings
from rwml.store import Store
from rwml_trainer.dataset.files import (
    MANIFEST,
    Manifest,
    Row,
    RowWriter,
    file_name,
    is_dataset,
)
from rwml_trainer.dataset.splitting import HeldOut, Split, split_groups
from rwml_trainer.generation import render_chat
from rwml_trainer.models import template_sha256
from rwml_trainer.recipes import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPLITS: tuple[Split, ...] = ("train", "validation")
REASONS = ("too_long", "prompt_too_long", "empty", "arrived_late", "recorded_twice")


def build_dataset(
    store: Store,
    out: Path,
    *,
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    source: str | None = None,
    watch: Callable[[Iterable[Transition]], Iterable[Transition]] = iter,
) -> Manifest:
    """Builds a dataset folder.

    Args:
        store: where the transitions are.
        out: folder; an older dataset in it is replaced when the new one is whole.
        recipe: its ``data`` section decides everything.
        tokenizer: measures prompts and targets, with its chat template.
        source: only transitions of this source.
        watch: wraps the transitions, to show progress.

    Returns:
        The manifest, which is on disk when this returns.

    Raises:
        DatasetError: the store holds no usable transition, or only one task.
        UsageError: `out` is a file, or a folder with something else in it.
    """
    check_folder(out)
    seen, groups = Sightings(), set[str]()
    for transition in store.transitions(history=0, source=source):
        seen.note(transition)
        groups.add(group_key(transition))
    if not groups:
        of = f" of source {source!r}" if source else ""
        raise DatasetError(f"{store.url} holds no transition{of}: record something first")
    sides, held_out = split_groups(groups, validation_share=recipe.data.validation_share)
    with whole_folder(out) as folder:
        return _write(store, folder, sides, held_out, recipe, tokenizer, source, watch, seen)


def _write(
    store: Store,
    out: Path,
    sides: dict[str, Split],
    held_out: HeldOut,
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    source: str | None,
    watch: Callable[[Iterable[Transition]], Iterable[Transition]],
    seen: Sightings,
) -> Manifest:
    make_row = RowMaker(recipe, tokenizer)
    kinds: dict[Split, Counter[str]] = {split: Counter() for split in SPLITS}
    tasks: dict[Split, set[str]] = {split: set() for split in SPLITS}
    dropped: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
    total = 0
    with ExitStack() as stack:
        writers = {s: stack.enter_context(RowWriter(out / file_name(s))) for s in SPLITS}
        for transition in watch(store.transitions(history=recipe.data.history, source=source)):
            total += 1
            key = group_key(transition)
            # A task that is first recorded while we read has no side yet: the next build has it.
            row = make_row(transition) if key in sides else "arrived_late"
            if seen.has_twin_of(transition):
                row = "recorded_twice"
            if isinstance(row, str):
                dropped[row] += 1
                continue
            side = sides[key]
            writers[side].add(row)
            kinds[side][row["kind"]] += 1
            tasks[side].add(key)
    manifest = Manifest(
        recipe=recipe.data,
        source=source,
        model=recipe.model,
        template_sha256=template_sha256(tokenizer),
        store={"url": store.url, **asdict(store.counts(source=source))},
        transitions=total,
        rows={split: kinds[split].total() for split in SPLITS},
        tasks={split: len(tasks[split]) for split in SPLITS},
        kinds={split: dict(kinds[split]) for split in SPLITS},
        dropped=dict(dropped),
        held_out=held_out,
        sha256={file_name(split): file_sha256(out / file_name(split)) for split in SPLITS},
    )
    for split in SPLITS:
        if not manifest.rows[split]:
            raise DatasetError(
                f"no {split} row is left of {total} transitions (dropped: {dict(dropped)}): "
                f"raise data.max_target_tokens or data.max_prompt_tokens, or record more tasks"
            )
    write_json(out / MANIFEST, manifest.model_dump(mode="json"))
    return manifest


def check_folder(out: Path) -> None:
    """Refuses a place whose contents are no dataset: building would destroy them.

    Raises:
        UsageError: `out` is a file, or a folder with something else in it.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: name a folder")
    if out.is_dir() and any(out.iterdir()) and not is_dataset(out):
        raise UsageError(f"{out} is not empty and holds no dataset: choose another --out")


def group_key(transition: Transition) -> str:
    """What stays together on one side of the split: the task, else the thread or trajectory."""
    thread = transition.metadata.get("thread_id")
    name = transition.task_id or (str(thread) if thread else transition.trajectory_id)
    return f"{transition.source}/{name}"


class RowMaker:
    """Turns a transition into a row, or into the reason why it is left out."""

    def __init__(self, recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> None:
        self._data = recipe.data
        self._tokenizer = tokenizer

    def __call__(self, transition: Transition) -> Row | str:
        """The row, or the reason (one of `REASONS`) why there is none."""
        target = render_next_state(transition, mask=self._data.mask_tools)
        if not target:
            return "empty"
        tokens = self._tokenizer.encode(target, add_special_tokens=False)
        if len(tokens) > self._data.max_target_tokens:
            return "too_long"
        prompt = render_prompt(transition, profile=self._data.profile, fits=self._fits)
        if prompt is None:
            return "prompt_too_long"
        return Row(
            prompt=prompt,
            next_state=target,
            kind=transition.kind,
            id=transition.id,
            source=transition.source,
            task_id=transition.task_id,
            tool=transition.tool,
        )

    def _fits(self, prompt: Prompt) -> bool:
        text = render_chat(self._tokenizer, prompt)
        tokens = self._tokenizer.encode(text, add_special_tokens=False)
        return len(tokens) <= self._data.max_prompt_tokens
