"""Every error rwml raises on purpose, by the boundary at which it is raised.

    RwmlError                 the root: catch this to catch all of ours
    |- UsageError             a wrong flag, path or argument                  exit 2
    |- SchemaError            data that does not fit `rwml.schema`            exit 2
    |- StoreError             a store that is missing, newer, or unusable     exit 2
    |  `- StoreUnavailableError  one that is locked or cannot be reached now  exit 2
    |- DatasetError           a dataset that is missing, torn, or unusable    exit 2
    |- RecipeError            a recipe with unknown keys or impossible values exit 2
    |- ModelError             a model folder that cannot be used as it is     exit 2
    |- RewardError            a reward that cannot be configured              exit 2
    |  |- EncoderUnavailableError  an encoder's endpoint that does not answer exit 3
    |  `- RewardHackError     a training that games its reward: stopped       exit 1
    |- WorldModelError        a world model that refuses what it is asked     exit 2
    |  `- WorldModelUnavailableError  one that is busy or out of reach       exit 3
    |- RedactionError         a record that could not be redacted: not stored exit 3
    |- MissingExtraError      an optional dependency that is not installed    exit 2
    |- AdapterError           an integration that failed at its own boundary  exit 3
    |- ServingError           an engine or gateway that did not come up       exit 3

Each also inherits the standard type a caller would expect, can be pickled (worker processes send
them home), and carries the exit code of the command line (design: 2 wrong usage, 3 infrastructure).
Messages are one line and say what to do.
"""

from __future__ import annotations

from typing import ClassVar


class RwmlError(Exception):
    """Root of all errors raised by rwml."""

    exit_code: ClassVar[int] = 3


class UsageError(RwmlError, ValueError):
    """A command or function was called in a way that cannot work."""

    exit_code = 2


class SchemaError(RwmlError, ValueError):
    """Data does not fit the data model in `rwml.schema`."""

    exit_code = 2


class StoreError(RwmlError, OSError):
    """A store is missing, was written by a newer rwml, or cannot be read or written."""

    exit_code = 2


class StoreUnavailableError(StoreError):
    """A store is locked or cannot be reached: whatever is written, it fails for now."""


class DatasetError(RwmlError, ValueError):
    """A dataset folder is missing, half-written, empty, or of another shape."""

    exit_code = 2


class RecipeError(RwmlError, ValueError):
    """A recipe has unknown keys, wrong types or values that cannot be trained."""

    exit_code = 2


class ModelError(RwmlError, ValueError):
    """A model folder is missing, unsafe, or lacks what the task needs (a chat template, say)."""

    exit_code = 2


class RewardError(RwmlError, ValueError):
    """A reward function was configured or called in a way that cannot be scored."""

    exit_code = 2


class EncoderUnavailableError(RewardError):
    """The endpoint of a served encoder is busy or out of reach: for now nothing can be scored."""

    exit_code = 3


class RewardHackError(RewardError):
    """A model games its reward (copies, one text for all, lengths): the training was stopped."""

    exit_code = 1


class WorldModelError(RwmlError, ValueError):
    """A world model refuses what it is asked: a wrong key or name, or no way to ask it."""

    exit_code = 2


class WorldModelUnavailableError(WorldModelError):
    """A world model's endpoint is busy or out of reach: for now it predicts nothing."""

    exit_code = 3


class RedactionError(RwmlError, RuntimeError):
    """A record could not be redacted, so it must not be stored; the message holds nothing of it."""

    exit_code = 3


class AdapterError(RwmlError, RuntimeError):
    """An integration failed at its own boundary: a benchmark, an endpoint, a framework."""

    exit_code = 3


class ServingError(RwmlError, RuntimeError):
    """An engine or gateway did not start, died, or did not answer in time."""

    exit_code = 3


class MissingExtraError(RwmlError, ImportError):
    """An optional dependency is needed and not installed.

    Args:
        extra: name of the rwml extra that brings the dependency, such as ``langgraph``.
        module: the module whose import failed.
    """

    exit_code = 2

    def __init__(self, extra: str, module: str) -> None:
        super().__init__(f"this needs the module {module!r}: install 'rwml[{extra}]'")
        self.extra = extra
        self.module = module

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        return type(self), (self.extra, self.module)
