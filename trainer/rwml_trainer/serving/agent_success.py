"""The gate on success: both versions play the same episodes of a benchmark, as `rwml eval` does.

Runner, scoring and comparison are those of `rwml eval` and `rwml compare`; an engine of each
version stands where the model is. Only a difference that its interval shows stops a promotion.
"""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from pathlib import Path

from pydantic import JsonValue

from rwml.cli.endpoints import NO_KEY
from rwml.demo.stages import run_json
from rwml.environments import comparing
from rwml.errors import ServingError, UsageError
from rwml.files import make_private
from rwml_trainer.serving.apart import GATES, engine_of
from rwml_trainer.serving.engine import start_transformers
from rwml_trainer.serving.fleet import StartEngine
from rwml_trainer.serving.registry import Version

KEY = "no-key"


def compare_agents(
    environment: str,
    *,
    candidate: Version,
    current: Version,
    tasks: int | None,
    folder: Path,
    start_engine: StartEngine | None = None,
) -> dict[str, JsonValue]:
    """Plays episodes with both versions, the current one first.

    Args:
        environment: words after ``rwml eval``: a name, and options of its own. It takes
            ``--model``, ``--api-base`` and ``--api-key-file``, as tau2 and alfworld do.
        candidate: what would be promoted.
        current: what its name means now.
        tasks: of the split, the first ones; None for all.
        folder: serving folder, which keeps the results.
        start_engine: starts an engine, of one version after the other; by default
            `transformers serve`.

    Returns:
        What `rwml compare` says, ``base`` being the current version, and ``results``: the folder
        with both evaluations.

    Raises:
        UsageError: there is no such environment, or it takes no model.
        ModelError, ServingError: an engine does not start, or no episode could be scored.
    """
    words = shlex.split(environment)
    if not words or words[0].startswith("-"):
        raise UsageError("--gate-agent names an environment first, such as 'tau2 --domain retail'")
    out = folder.resolve() / GATES / f"{candidate.id}-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    make_private(out)
    key = out / KEY  # no key of the user's goes to an engine
    limit = [] if tasks is None else ["--tasks", str(tasks)]
    reports = {}
    for side, version in (("current", current), ("candidate", candidate)):
        with engine_of(version, start_engine or start_transformers, folder) as engine:
            key.write_text(engine.key or NO_KEY, encoding="utf-8")
            model = ["--model", f"openai/{engine.model}", "--api-base", engine.url]
            where = ["--api-key-file", str(key), "--out", str(out / side)]
            run_json(["eval", *words, *limit, *model, *where])
        reports[side] = comparing.read_report(out / side)
    compared = comparing.compare(reports["current"], reports["candidate"])
    if compared["unpaired"]:
        raise ServingError(
            f"{compared['unpaired']} episodes broke off with one version and not with the other, "
            f"which is no comparison: see the errors in {out}"
        )
    return {**compared, "compared": [candidate.id, current.id], "results": str(out)}
