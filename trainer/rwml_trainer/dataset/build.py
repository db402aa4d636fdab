"""Builds GRPO examples from a store (RWML sec. 2.2, app. C.1).

Select transitions, cut the context to H turns, mask tool results, render the prompt, split, write,
drop what is too easy. Each transition either becomes a row or is counted under the reason why not.
Transitions are streamed: memory does not grow with the text of the store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rwml.errors import DatasetError, UsageError
from rwml.files import file_sha256, whole_folder, write_json
from rwml.schema import Transition
from rwml.sightings import INNER_SOURCES, Sightings
from rwml.store import Store
from rwml_trainer.dataset.files import (
    MANIFEST,
    Filtered,
    Manifest,
    Row,
    RowWriter,
    Tokens,
    file_name,
    is_dataset,
)
from rwml_trainer.dataset.report import Report
from rwml_trainer.dataset.rows import REASONS, RowMaker, group_key
from rwml_trainer.dataset.selecting import Selection
from rwml_trainer.dataset.splitting import SPLITS, Split, SplitPlan, plan_split
from rwml_trainer.models import template_sha256
from rwml_trainer.recipes import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Watch = Callable[[Iterable[Transition]], Iterable[Transition]]


class EasyFilter(Protocol):
    """Drops easy training rows of a dataset folder that is being built."""

    def __call__(self, folder: Path, *, on_drop: Callable[[Row], None]) -> Filtered:
        """Rewrites the training rows; `on_drop` is called with each row that is dropped."""
        ...


def build_dataset(
    store: Store,
    out: Path,
    *,
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    source: str | None = None,
    selection: Selection | None = None,
    watch: Watch = iter,
    easy_filter: EasyFilter | None = None,
    report: Report | None = None,
) -> Manifest:
    """Builds a dataset folder.

    Args:
        store: where the transitions are.
        out: folder; an older dataset in it is replaced when the new one is whole.
        recipe: its ``data`` section decides everything.
        tokenizer: measures prompts and targets, with its chat template.
        source: only transitions of this source.
        selection: of them; None for all.
        watch: wraps the transitions, to show progress.
        easy_filter: drops easy training rows; None to keep all.
        report: takes in what is read and kept, to say how predictable it is.

    Returns:
        The manifest, which is on disk when this returns.

    Raises:
        DatasetError: the store holds no usable transition, or only one task.
        UsageError: `out` is a file, or a folder with something else in it.
    """
    check_folder(out)
    selection = selection or Selection()
    seen, groups = _look_over(store, source, selection)
    if not groups:
        of = f" of source {source!r}" if source else ""
        of += " in this selection" if selection != Selection() else ""
        raise DatasetError(f"{store.url} holds no transition{of}: record something first")
    data = recipe.data
    plan = plan_split(
        groups,
        validation_share=data.validation_share,
        held_out_share=data.held_out_share,
        by=data.split_by,
    )
    maker = RowMaker(data, tokenizer)
    counted = _Counted.empty()
    with whole_folder(out) as folder:
        transitions = watch(store.transitions(history=data.history, source=source))
        chosen = (each for each in transitions if selection.takes(each))
        _write_rows(chosen, folder, plan, maker, seen, counted, report)
        for split in ("train", "validation"):
            if not counted.kinds[split]:
                raise DatasetError(
                    f"no {split} row is left of {counted.total} transitions (dropped: "
                    f"{dict(counted.dropped)}): raise data.max_target_tokens or "
                    f"data.max_prompt_tokens, or record more tasks"
                )

        def drop_easy(row: Row) -> None:
            counted.kinds["train"][row["kind"]] -= 1
            counted.dropped["easy"] += 1
            if report is not None:
                report.drop_easy(row)

        filtered = easy_filter(folder, on_drop=drop_easy) if easy_filter else None
        manifest = _describe(folder, recipe, maker, plan, counted, filtered)
        manifest = manifest.model_copy(
            update={
                "source": source,
                "selection": None if selection == Selection() else selection,
                "template_sha256": template_sha256(tokenizer),
                "store": {"url": store.url, **asdict(store.counts(source=source))},
            }
        )
        write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    return manifest


@dataclass
class _Counted:
    """Counts of a build; tasks are those that left a row before the filter."""

    total: int
    dropped: Counter[str]
    kinds: dict[Split, Counter[str]]
    tasks: dict[Split, set[str]]

    @classmethod
    def empty(cls) -> _Counted:
        return cls(
            total=0,
            dropped=Counter(dict.fromkeys(REASONS, 0)),
            kinds={split: Counter() for split in SPLITS},
            tasks={split: set() for split in SPLITS},
        )


def _look_over(
    store: Store, source: str | None, selection: Selection
) -> tuple[Sightings, set[str]]:
    """What outer recorders saw, and the groups of the transitions that are taken."""
    seen, groups = Sightings(), set[str]()
    inner = any(store.counts(source=name).transitions for name in INNER_SOURCES)
    for transition in store.transitions(history=0, source=source):
        if inner:  # else nothing can have a twin
            seen.note(transition)
        if selection.takes(transition):
            groups.add(group_key(transition))
    return seen, groups


def _write_rows(
    transitions: Iterable[Transition],
    folder: Path,
    plan: SplitPlan,
    maker: RowMaker,
    seen: Sightings,
    counted: _Counted,
    report: Report | None,
) -> None:
    with ExitStack() as stack:
        writers = {s: stack.enter_context(RowWriter(folder / file_name(s))) for s in SPLITS}
        for transition in transitions:
            counted.total += 1
            group = group_key(transition)
            side = plan.side(group, transition.id)
            # A task that is first recorded while we read has no side yet: the next build has it.
            row = maker(transition) if side else "arrived_late"
            if seen.has_twin_of(transition):
                row = "recorded_twice"
            if report is not None:
                report.add(transition, row, side)
            if isinstance(row, str) or side is None:
                counted.dropped[str(row)] += 1
                continue
            writers[side].add(row)
            counted.kinds[side][row["kind"]] += 1
            counted.tasks[side].add(group)


def _describe(
    folder: Path,
    recipe: Recipe,
    maker: RowMaker,
    plan: SplitPlan,
    counted: _Counted,
    filtered: Filtered | None,
) -> Manifest:
    """The manifest, but for what only the store and the tokenizer know."""
    tallies = {"prompt": maker.prompt_tokens, "target": maker.target_tokens}
    return Manifest(
        recipe=recipe.data,
        seed=recipe.seed,
        templates=maker.templates,
        source=None,
        model=recipe.model,
        template_sha256="",
        store={},
        transitions=counted.total,
        rows={split: counted.kinds[split].total() for split in SPLITS},
        tasks={split: len(counted.tasks[split]) for split in SPLITS},
        kinds={split: dict(counted.kinds[split]) for split in SPLITS},
        dropped=dict(counted.dropped),
        masking=dict(maker.masking),
        tokens={
            name: Tokens(mean=round(tally.mean, 1), max=tally.largest)
            for name, tally in tallies.items()
        },
        held_out=plan.held_out,
        filtered=filtered,
        sha256={file_name(split): file_sha256(folder / file_name(split)) for split in SPLITS},
    )


def check_folder(out: Path) -> None:
    """Refuses a place whose contents are no dataset: building would destroy them.

    Raises:
        UsageError: `out` is a file, or a folder with something else in it.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: name a folder")
    if out.is_dir() and any(out.iterdir()) and not is_dataset(out):
        raise UsageError(f"{out} is not empty and holds no dataset: choose another --out")
