"""A monitor's reference period on disk: how surprising each tool was when all was well.

It holds sums and counts, no text that was recorded and no id.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from rwml.errors import UsageError
from rwml.files import write_json
from rwml.prompts import PromptSettings
from rwml.schema import Kind
from rwml.world_model.drift import Group, mean_surprise

VERSION = 1
ALMOST_EXACT = 0.1
"""A gap below which a prediction is nearly what came back (RWML app. B.1, on tau_d)."""
MIN_SKILL = 0.1
"""A tool whose mean surprise is not this share below that of the best trivial predictor is taken
as one that cannot be predicted (ours)."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ToolBaseline(_Frozen):
    """One tool in the reference period; or one kind, where no single tool was called.

    Attributes:
        kind: who answered.
        tool: None where none or several different ones were called.
        transitions: that were looked at.
        groups: sum and number of the surprises of each task or thread.
        trivial_gap: mean gap of the better of two predictors that know nothing of the action: the
            commonest next state, and a copy of the last message; None where nothing was measured.
    """

    kind: Kind
    tool: str | None
    transitions: int
    groups: tuple[tuple[float, int], ...]
    trivial_gap: float | None

    @property
    def samples(self) -> list[Group]:
        """The groups, for the test."""
        return [Group(total, count) for total, count in self.groups]

    @property
    def surprise(self) -> float | None:
        """Mean surprise; None where there is none."""
        return mean_surprise(self.samples)

    @property
    def is_predictable(self) -> bool:
        """Whether the model does better than the trivial predictors, or is nearly exact."""
        surprise = self.surprise
        if surprise is None:
            return False
        if surprise < ALMOST_EXACT or self.trivial_gap is None:
            return True
        return surprise <= (1 - MIN_SKILL) * self.trivial_gap


class Baseline(_Frozen):
    """A reference period.

    Attributes:
        version: of the file.
        model: name of the world model that was asked.
        encoder: name of what measured gaps.
        prompts: how the model was asked.
        store: URL of the store, without a password.
        source: of the trajectories; None for all.
        from_model: that chose the actions; None for any.
        since: first time that was taken in, ISO 8601; None for no bound.
        until: first time after that.
        latest: when the last trajectory that was looked at began; None where none has a time.
        tools: in order of kind and tool.
    """

    version: int = VERSION
    model: str
    encoder: str
    prompts: PromptSettings
    store: str
    source: str | None
    from_model: str | None = None
    since: str | None
    until: str | None
    latest: AwareDatetime | None = None
    tools: tuple[ToolBaseline, ...]


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Writes the file, whole or not at all."""
    write_json(path, baseline.model_dump(mode="json"))


def read_baseline(path: Path) -> Baseline:
    """Reads the file.

    Raises:
        UsageError: there is none, or it is no baseline of this version.
    """
    if not path.is_file():
        raise UsageError(
            f"no baseline at {path}: write one with 'rwml monitor --write-baseline {path}'"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values.get("version") if isinstance(values, dict) else None
        if isinstance(version, int) and version != VERSION:
            raise UsageError(f"{path} was written by another rwml: write it again")
        return Baseline.model_validate(values)
    except UsageError:
        raise
    except (OSError, ValueError, ValidationError) as error:
        raise UsageError(f"{path} is no baseline: {error}") from error
