"""Building: rows a second, against ``datasets.map`` with one process doing the same work."""

from __future__ import annotations

import tempfile
from pathlib import Path

from datasets import Dataset, disable_progress_bars
from pydantic import JsonValue
from tests.benchmarks.measure import Result, rates
from tests.benchmarks.reading import fill_store, run_script

from rwml import Store, Transition, open_store
from rwml.prompts import render_next_state, render_prompt
from rwml.schema import Message, Tool
from rwml.testing import make_trajectory
from rwml_trainer.dataset import build_dataset
from rwml_trainer.generation import render_chat
from rwml_trainer.models import load_tokenizer
from rwml_trainer.recipes import load_recipe
from rwml_trainer.small_models import SMOLLM2, resolve_model

TASKS = 40
LENGTH = 12
TOOLS = 14
"""As many as an agent of tau2 has."""
FEW, MORE, MILLION = 20_000, 60_000, 1_000_000
"""Transitions of the stores whose memory is measured, and of that it is reckoned for."""
POLICY_LINES = 90
"""About as long as the policy of tau2's airline."""

_BUILD = """
import sys
from pathlib import Path
from tests.benchmarks.measure import peak_mib
from rwml import open_store
from rwml_trainer.dataset import Report, build_dataset
from rwml_trainer.models import load_tokenizer
from rwml_trainer.recipes import load_recipe
from rwml_trainer.small_models import SMOLLM2, resolve_model
recipe = load_recipe("logs", {"model": SMOLLM2})
with open_store(sys.argv[1], create=False) as store:
    manifest = build_dataset(
        store, Path(sys.argv[2]), recipe=recipe, tokenizer=load_tokenizer(resolve_model(SMOLLM2)),
        report=Report(mask_tools=True),
    )
print(manifest.transitions, peak_mib())
"""


def build_stream_mib() -> Result:
    """Peak memory in MiB of building a million transitions, report and all, against a small store.

    Reckoned from two stores: what each transition adds between them is added up to a million.
    """
    with tempfile.TemporaryDirectory() as name:
        peaks = {}
        for count in (FEW, MORE):
            url = fill_store(Path(name) / f"{count}.db", count)
            _, peaks[count] = run_script(_BUILD, url, f"{name}/{count}")
    slope = max(0.0, (peaks[MORE] - peaks[FEW]) / (MORE - FEW))
    value = peaks[MORE] + slope * (MILLION - MORE)
    return Result("build_stream_mib", value, "MiB", peaks[FEW], value / peaks[FEW])


def build_rows_per_s_vs_map() -> Result:
    """Rows a second from a store to Parquet files, on prompts as long as those of tau2.

    Both mask, render with the chat template, count tokens, leave out what is too long and write
    Parquet. The baseline is what one writes with ``datasets``: a dataset of the transitions, a
    function per row, a filter, a file.
    """
    recipe = load_recipe(
        "tau2-qwen3-8b", {"model": SMOLLM2, "filter.enabled": False, "data.split_by": "task"}
    )
    tokenizer = load_tokenizer(resolve_model(SMOLLM2))
    data = recipe.data
    disable_progress_bars()

    def make_row(row: dict[str, str]) -> dict[str, object]:
        transition = Transition.model_validate_json(row["transition"])
        target = render_next_state(transition, mask=data.mask_tools)
        prompt = render_prompt(transition, profile=data.profile) or []
        text = render_chat(tokenizer, prompt)
        return {
            "prompt": prompt,
            "next_state": target,
            "kind": transition.kind,
            "id": transition.id,
            "source": transition.source,
            "task_id": transition.task_id,
            "tool": transition.tool,
            "fits": len(tokenizer.encode(text, add_special_tokens=False)) <= data.max_prompt_tokens
            and len(tokenizer.encode(target, add_special_tokens=False)) <= data.max_target_tokens,
        }

    with tempfile.TemporaryDirectory() as name, open_store(f"sqlite:///{name}/rwml.db") as store:
        folder = Path(name)
        rows = _fill(store)

        def ours() -> None:
            build_dataset(store, folder / "data", recipe=recipe, tokenizer=tokenizer)

        def baseline() -> None:
            found = store.transitions(history=data.history)
            raw = Dataset.from_list([{"transition": t.model_dump_json()} for t in found])
            made = raw.map(make_row, remove_columns=["transition"], load_from_cache_file=False)
            kept = made.filter(lambda row: row["fits"], load_from_cache_file=False)
            kept.remove_columns("fits").to_parquet(str(folder / "map.parquet"))

        ours()  # the first call of both imports what it needs
        baseline()
        return rates(
            "build_rows_per_s_vs_map", ours=ours, baseline=baseline, units=rows, unit="rows/s"
        )


def _fill(store: Store) -> int:
    """Conversations with a long policy and many tools; returns their transitions."""
    policy = "\n".join(
        f"{line}. Before you change order {line * 37}, list the details of the action and ask the "
        f"user to confirm (yes); then call the tool once."
        for line in range(POLICY_LINES)
    )
    properties: dict[str, JsonValue] = {
        name: {"type": "string", "description": f"The {name} of the order, such as '#W{n}417'."}
        for n, name in enumerate(("order_id", "user_id", "item_ids", "reason", "payment"))
    }
    tools = tuple(
        Tool(
            name=f"tool_{number}",
            description="Looks an order up, or changes it. " * 4,
            parameters={"type": "object", "properties": properties},
        )
        for number in range(TOOLS)
    )
    total = 0
    for task in range(TASKS):
        trajectory = make_trajectory(task, length=LENGTH)
        initial = (Message(role="system", content=policy), *trajectory.initial[1:])
        store.add(trajectory.model_copy(update={"initial": initial, "tools": tools}))
        total += len(trajectory.steps)
    return total
