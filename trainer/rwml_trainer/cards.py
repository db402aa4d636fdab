"""The model card of a merged model: what it was made from, how, and how well it predicts.

A card is made to be passed on. It holds no paths, URLs or names of environment variables of the
machine that trained, and it says what is not known, the licence of the base model above all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from rwml.cli.output import printable
from rwml.errors import UsageError
from rwml_trainer.runs import Lineage, Run, Stage
from rwml_trainer.small_models import LICENCES
from rwml_trainer.world_eval import describe

CARD = "README.md"
PAPER = "https://arxiv.org/abs/2602.05842"
UNKNOWN = "unknown"
"""The hub's own word for a licence that nobody has stated."""
README_BYTES = 1_000_000
"""A base model's README that is larger is not read (ours)."""
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]{0,39}")
_PRIVATE = re.compile(r"://|^[~/\\.]|^[A-Za-z]:\\")
_PRIVATE_KEYS = ("_env", "_url", "api_base", "templates")


class Figures(BaseModel):
    """A predictor's figures in a report; see `rwml_trainer.world_eval.summarise`."""

    model_config = ConfigDict(frozen=True)

    reward: float
    reward_ci95: tuple[float, float]
    skill: float | None
    format_rate: float
    exact: float


class Comparison(BaseModel):
    """A paired difference in a report; see `rwml_trainer.world_eval.compare`."""

    model_config = ConfigDict(frozen=True)

    compared: tuple[str, str]
    difference: float
    ci95: tuple[float, float]
    verdict: str


class Evaluated(BaseModel):
    """Whose weights a report is about."""

    model_config = ConfigDict(frozen=True)

    weights_sha256: dict[str, str]


class Results(BaseModel):
    """What a card needs of the report that `rwml eval world` writes."""

    model_config = ConfigDict(frozen=True)

    split: str
    rows: int
    tasks: int
    seeds: int
    best_trivial: str
    run: Evaluated | None
    comparisons: tuple[Comparison, ...]
    constant: Figures
    copy_last: Figures
    base: Figures | None = None
    warm_start: Figures | None = None
    trained: Figures | None = Field(default=None)

    def predictors(self) -> dict[str, Figures]:
        """Figures by predictor, trivial ones first."""
        names = ("constant", "copy_last", "base", "warm_start", "trained")
        found = {name: getattr(self, name) for name in names}
        return {name: figures for name, figures in found.items() if figures is not None}


def read_results(path: Path) -> Results:
    """Reads a report of `rwml eval world`.

    Raises:
        UsageError: the file is missing, or something else.
    """
    try:
        return Results.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise UsageError(
            f"{path} is no report of 'rwml eval world' ({where}: {error.errors()[0]['msg']}): name "
            f"the report.json in its --out"
        ) from error


def model_card(run: Run, *, stage: Stage, weights_sha256: str, results: Results | None) -> str:
    """The card as Markdown with the front matter of the Hugging Face hub.

    Args:
        run: that was merged.
        stage: whose weights.
        weights_sha256: hash of the run's weights at that stage.
        results: of an evaluation of these weights; None where there was none.
    """
    from huggingface_hub import ModelCardData

    base = public_name(run.base_model)
    licence = base_licence(run)
    data = ModelCardData(
        base_model=None if _is_local(run.base_model) else run.base_model,
        library_name="transformers",
        license=licence,
        pipeline_tag="text-generation",
        tags=["rwml", "world-model", *(["grpo"] if stage == "trained" and run.steps else [])],
    )
    what = "LoRA adapter, merged" if run.weights == "lora" else "all weights"
    how = f"{run.steps} steps of GRPO" if stage == "trained" else "WM SFT, before GRPO"
    if not run.steps:
        how = "WM SFT alone"
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {_text(run.name)}",
        f"A world model: it predicts what comes back to an agent after an action, inside "
        f"`<next_state>` tags. Trained by [RWML]({PAPER}) from {_code(base)}: {how} ({what}; "
        f"weights `{weights_sha256[:16]}`).",
        "## Licence",
        _licence_text(base, licence),
        "## Results",
        _results(results),
        "## Data",
        _data(run.data),
        "## Recipe",
        _recipe(run),
    ]
    return "\n\n".join(parts) + "\n"


def base_licence(run: Run) -> str:
    """Licence of a run's base model: of weights known by name, else as the model's README says."""
    known = LICENCES.get(str(run.recipe.get("model")))
    if known:
        return known
    readme = Path(run.base_model) / CARD
    found: Any = None
    if readme.is_file() and readme.stat().st_size <= README_BYTES:
        import yaml
        from huggingface_hub import metadata_load

        with suppress(OSError, ValueError, yaml.YAMLError):
            found = (metadata_load(readme) or {}).get("license")
    return found if isinstance(found, str) and _LICENCE.fullmatch(found) else UNKNOWN


def public_name(value: str) -> str:
    """A model's name as it may be passed on: of a local folder only what it is called."""
    return Path(value).name if _is_local(value) else value


def _licence_text(base: str, licence: str) -> str:
    if licence == UNKNOWN:
        return (
            f"The licence of the base model {_code(base)} is not known here. Look it up before "
            f"you use this model or pass it on: these weights are derived from it."
        )
    return f"The base model {_code(base)} says {_code(licence)}; these weights are derived from it."


def _results(results: Results | None) -> str:
    if results is None:
        return "Not evaluated. `rwml eval world` writes a report, `rwml merge --results` adds it."
    drawn = f"{results.seeds} sampled predictions a row" if results.seeds else "greedy predictions"
    lines = [
        f"Next states of {results.rows} {_text(results.split.replace('_', '-'))} rows of "
        f"{results.tasks} tasks, {drawn}. Intervals are over tasks; skill is what is added to the "
        f"best trivial predictor ({_text(results.best_trivial)}), 1 is perfect.",
        "",
        *_table(
            ("predictor", "reward", "95% interval", "skill", "format", "exact"),
            [
                (
                    name,
                    f"{figures.reward:.3f}",
                    f"{figures.reward_ci95[0]:.3f} to {figures.reward_ci95[1]:.3f}",
                    "-" if figures.skill is None else f"{figures.skill:.3f}",
                    f"{figures.format_rate:.3f}",
                    f"{figures.exact:.3f}",
                )
                for name, figures in results.predictors().items()
            ],
        ),
        "",
    ]
    lines += [f"- {_text(describe(told.model_dump()))}" for told in results.comparisons]
    return "\n".join(lines)


def _data(data: Lineage | None) -> str:
    if data is None:
        return "The run did not note what it was trained on."
    rows = ", ".join(f"{count} {name.replace('_', '-')}" for name, count in data.rows.items())
    sources = ", ".join(f"{_code(name)} ({count} rows)" for name, count in data.sources.items())
    lines = [
        f"- rows: {rows}",
        f"- trained on: {sources}",
        f"- held out: {_text(data.held_out)}",
        f"- prompts: {_code(data.profile)}; tool results "
        f"{'masked to their schema' if data.is_masked else 'as they were'}",
        f"- left out of {data.transitions} transitions: {_counts(data.dropped)}",
    ]
    lines += [f"- {_code(name)}: SHA-256 {_code(value)}" for name, value in data.sha256.items()]
    return "\n".join(lines)


def _recipe(run: Run) -> str:
    rows = [
        (_code(key), _code(_public(key, value)), _text(public_name(run.origins.get(key, "-"))))
        for key, value in _flat(run.recipe)
    ]
    return "\n".join(_table(("setting", "value", "from"), rows))


def _flat(values: dict[str, JsonValue], prefix: str = "") -> list[tuple[str, JsonValue]]:
    flat: list[tuple[str, JsonValue]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            flat += _flat(value, f"{prefix}{key}.")
        else:
            flat.append((f"{prefix}{key}", value))
    return flat


def _public(key: str, value: JsonValue) -> str:
    """A setting's value, without what only means something on the machine that trained."""
    if isinstance(value, str) and (key.endswith(_PRIVATE_KEYS) or "://" in value):
        return "(left out)"
    return public_name(value) if isinstance(value, str) else str(value)


def _is_local(name: str) -> bool:
    return bool(_PRIVATE.search(name))


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {_text(reason)}" for reason, n in counts.items() if n) or "none"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _text(text: str) -> str:
    """A text of somebody else's as plain words of a line of Markdown."""
    flat = " ".join(printable(text).split())
    return re.sub(r"([\\`*_{}\[\]<>#|!&~$])", r"\\\1", flat)


def _code(text: str) -> str:
    """A text of somebody else's as code in a line or table of Markdown."""
    flat = " ".join(printable(text).split()).replace("`", "'").replace("|", "\\|")
    return f"`{flat}`"
