"""Makes a version of a run or a model folder: checked, merged, hashed, added to the registry."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

from rwml.errors import ModelError, UsageError
from rwml.files import make_private
from rwml.prompts import Profile
from rwml_trainer import runs
from rwml_trainer.merging import merge
from rwml_trainer.models import load_tokenizer, template_sha256
from rwml_trainer.serving.folders import check_model_folder
from rwml_trainer.serving.names import NAME
from rwml_trainer.serving.registry import Registry, Version, weights_of

_AT_STEP = re.compile(r"(.+)@([0-9]{1,12})")

VERSIONS = "versions"
Notify = Callable[[str], None]


def add_version(
    registry: Registry,
    source: Path,
    *,
    name: str | None = None,
    stage: runs.Stage = "trained",
    notify: Notify = lambda text: None,
) -> Version:
    """Adds a run or a model folder to a registry.

    Args:
        registry: of the serving folder, which receives merged weights.
        source: folder of a finished run, or a model folder, which stays where it is.
        name: ``NAME``, or ``NAME@STEP`` for another step than the run's; the run's or the folder's
            own name by default.
        stage: which weights of the run.
        notify: called with one line before a slow part.

    Raises:
        UsageError: the name cannot be one.
        ModelError: `source` is neither, is torn, unsafe, has no chat template or another one than
            its run was trained with, or the name is another model's.
    """
    run = read_source(source)
    alias, step = split_name(source, name, run, stage)
    if run is None:
        if stage != "trained":
            raise UsageError(f"{source} is a model folder: it has no stage {stage!r}")
        folder = source.resolve()
    else:
        folder = _merged(registry, source, run, stage, f"{alias}@{step}", notify)
    check_model_folder(folder)
    tokenizer = load_tokenizer(str(folder))  # says so if there is no chat template
    template = template_sha256(tokenizer)
    if run is not None and template != run.template_sha256:
        raise ModelError(f"{folder} has another chat template than {source} was trained with")
    return registry.add(
        Version(
            name=alias,
            step=step,
            folder=str(folder),
            source=str(source.resolve()),
            stage=None if run is None else stage,
            profile=None if run is None else _profile(run),
            weights=weights_of(folder),
            template_sha256=template,
            tools="tools" in str(tokenizer.chat_template),
            added_at=datetime.now(UTC),
        )
    )


def find_source(given: Path, stage: runs.Stage) -> tuple[Path, runs.Stage]:
    """The folder and the stage that ``RUN`` or ``RUN@STEP`` mean; a folder's own name comes first.

    A run can be served at the steps whose weights it keeps: after GRPO, and after its warm start,
    which is step 0.

    Args:
        given: what was asked for.
        stage: of the run, where no step is named.

    Raises:
        UsageError: the run has no such step, or another one than that of the stage.
        ModelError: it is no finished run.
    """
    found = _AT_STEP.fullmatch(str(given))
    if given.exists() or found is None:
        return given, stage
    folder, step = Path(found[1]), int(found[2])
    if not folder.is_dir():
        return given, stage  # whoever reads it says that there is no such folder
    run = runs.read_run(folder)
    steps: dict[int, runs.Stage] = {run.steps: "trained"}
    if run.warm_start:
        steps.setdefault(0, "warm_start")
    if step not in steps:
        known = " and ".join(f"{folder}@{each} ({of})" for each, of in sorted(steps.items()))
        raise UsageError(f"{folder} keeps no weights of step {step}: there is {known}")
    if stage != "trained" and steps[step] != stage:
        raise UsageError(f"step {step} of {folder} is not its {stage}: leave --stage out")
    return folder, steps[step]


def read_source(source: Path) -> runs.Run | None:
    """The run in a folder; None for a model folder.

    Raises:
        ModelError: it is neither, or holds what must not be loaded.
    """
    if (source / runs.MANIFEST).is_file():
        return runs.read_run(source)
    if not (source / "config.json").is_file() or not any(source.glob("*.safetensors")):
        raise ModelError(
            f"{source} is neither a finished run ({runs.MANIFEST}) nor a model folder "
            f"(config.json and safetensors)"
        )
    check_model_folder(source)
    return None


def split_name(
    source: Path, name: str | None, run: runs.Run | None, stage: runs.Stage
) -> tuple[str, int]:
    """Alias and step of a source.

    Raises:
        UsageError: a model cannot be called so.
    """
    if name is None:
        name = source.resolve().name if run is None else run.name
    found = NAME.fullmatch(name)
    if found is None:
        raise UsageError(
            f"a model cannot be served as {name!r}: choose a --name of letters, digits and ._:-, "
            f"with @STEP at the end or without"
        )
    alias, step = found.groups()
    if step is not None:
        return alias, int(step)
    return alias, run.steps if run is not None and stage == "trained" else 0


def _merged(
    registry: Registry, source: Path, run: runs.Run, stage: runs.Stage, id: str, notify: Notify
) -> Path:
    """The run's weights as a folder of their own, beside the registry."""
    check_model_folder(runs.weights_folder(source, stage))
    if Path(run.base_model).is_dir():
        check_model_folder(Path(run.base_model))
    notify(f"merging {source} ({stage})")
    make_private(registry.folder)
    return merge(source, registry.folder.resolve() / VERSIONS / id, stage=stage)


def _profile(run: runs.Run) -> Profile | None:
    data = run.recipe.get("data")
    found = data.get("profile") if isinstance(data, dict) else None
    return next((profile for profile in get_args(Profile) if profile == found), None)
