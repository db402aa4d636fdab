"""Reads tau2's own results files, for `rwml ingest --format tau2`.

A file holds tasks and simulations, and the policy, but not the tools. These are taken from the
installed package, where its policy and task are those of the file; a simulation of another version
is rejected with that reason, as its tools may be others. Importing this loads no tau2.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue, ValidationError

from rwml.errors import RwmlError, UsageError
from rwml.extras import require
from rwml.ingest import FileFormat, Rejected
from rwml.schema import Fingerprint, Outcome, Trajectory
from rwml_adapters.tau2.package import (
    check_domain,
    data_version,
    load_tasks,
    package_version,
    split_names,
)

if TYPE_CHECKING:
    from tau2.data_model.simulation import SimulationRun
    from tau2.data_model.tasks import Task

    from rwml_adapters.tau2.domains import Domain

WHOLE_BYTES = 64 * 2**20
"""A file that is longer is read simulation by simulation (ours)."""
_GZIP = b"\x1f\x8b"
_PARTS = ("info", "tasks", "simulations")
_FAULTS = {"infrastructure_error", "unexpected_error"}

Moved = Callable[[int], object]


def read_results(path: Path, moved: Moved) -> Iterator[Trajectory | Rejected]:
    """Trajectories of a results file, and why a simulation makes none.

    Raises:
        UsageError: it is no results file of tau2.
        MissingExtraError: tau2 is not installed, or the file is large and ``rwml[ingest]`` is not.
    """
    if not path.is_file():
        raise UsageError(f"cannot read {path}: it is no file")
    with ExitStack() as stack:
        try:
            head, simulations = stack.enter_context(_opened(path, moved))
            results = _Results(head)
        except RwmlError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
            kind = type(error).__name__
            raise UsageError(f"{path} is no results file of tau2 ({kind})") from error
        for place, simulation in enumerate(simulations, 1):
            yield results.read(simulation, place)


def recognises(value: Mapping[str, JsonValue]) -> bool:
    """Whether a document is a results file."""
    return set(_PARTS) <= value.keys() and isinstance(value["simulations"], list)


FORMAT = FileFormat(read=read_results, recognises=recognises)


class _Results:
    """What the simulations of a file share."""

    def __init__(self, head: Mapping[str, Any]) -> None:
        info = head["info"]
        environment = info["environment_info"]
        self._name: str = environment["domain_name"]
        self._policy: str = environment["policy"]
        self._agent = _who(info["agent_info"])
        self._user = _who(info["user_info"])
        self._git_commit = info.get("git_commit")
        self._is_solo = "solo" in str(info["agent_info"].get("implementation"))
        self._tasks = {str(task["id"]): task for task in head["tasks"]}
        check_domain(self._name)
        from rwml_adapters.tau2.domains import get_domain

        self._domain: Domain = get_domain(self._name)
        self._splits = _splits(self._name)
        self._installed = {
            task.id: task
            for split in set(self._splits.values())
            for task in load_tasks(self._name, split)
        }

    def read(self, value: Any, place: int) -> Trajectory | Rejected:
        """The trajectory of one simulation, or why there is none."""
        from tau2.data_model.simulation import SimulationRun
        from tau2.data_model.tasks import Task

        try:
            simulation = SimulationRun.model_validate(value)
            task = Task.model_validate(self._tasks[simulation.task_id])
        except (ValidationError, KeyError, TypeError) as error:
            reason = f"no simulation as the installed tau2 writes it ({type(error).__name__})"
            return Rejected(reason=reason, element=place)
        reason = self._unreadable(simulation, task)
        if reason is not None:
            return Rejected(reason=reason, element=place)
        return self._trajectory(simulation, task)

    def _unreadable(self, simulation: SimulationRun, task: Task) -> str | None:
        installed = " ".join(filter(None, package_version()))
        if self._policy != self._domain.policy:
            return f"the policy of {self._name} is not the one of the installed {installed}"
        if self._installed.get(task.id) != task:
            return f"the task is not the one of the installed {installed}"
        if self._is_solo:
            return "of a solo agent, which talks to no user"
        if not simulation.messages:
            return "no messages: tau2 skipped it after an error"
        return None

    def _trajectory(self, simulation: SimulationRun, task: Task) -> Trajectory:
        from tau2.agent.llm_agent import LLMAgent

        from rwml_adapters.tau2.extraction import trajectory_from_simulation

        metadata: dict[str, JsonValue] = {"trial": simulation.trial, "git_commit": self._git_commit}
        return trajectory_from_simulation(
            simulation.messages,
            id=f"tau2-results-{simulation.id}",
            task=task,
            domain=self._name,
            split=self._splits.get(task.id),
            system_prompt=LLMAgent([], self._policy, llm="").system_prompt,
            tools=self._domain.recorded_tools,
            outcome=_outcome(simulation),
            # which package wrote the file it does not say: only that the data are the same
            fingerprint=Fingerprint(
                data_version=data_version(self._name),
                seed=simulation.seed,
                agent=self._agent,
                user_simulator=self._user,
            ),
            metadata={name: value for name, value in metadata.items() if value is not None},
        )


def _outcome(simulation: SimulationRun) -> Outcome:
    from rwml_adapters.tau2.episodes import outcome_of

    reason = str(getattr(simulation.termination_reason, "value", simulation.termination_reason))
    if reason in _FAULTS or getattr(simulation, "skipped", False):
        return Outcome(status="infrastructure_error", breakdown={"termination_reason": reason})
    return outcome_of(reason, simulation.reward_info)


def _splits(domain: str) -> dict[str, str]:
    """The split of each task: the smallest that it is in."""
    by_split = {split: load_tasks(domain, split) for split in split_names(domain)}
    found: dict[str, str] = {}
    for split in sorted(by_split, key=lambda split: -len(by_split[split])):
        found |= {task.id: split for task in by_split[split]}
    return found


def _who(info: Mapping[str, Any]) -> str:
    """Agent or user, as a fingerprint names it: its model, or what it is where it has none."""
    return str(info.get("llm") or info["implementation"])


@contextmanager
def _opened(path: Path, moved: Moved) -> Iterator[tuple[Mapping[str, Any], Iterator[Any]]]:
    """What stands before the simulations, and these: one by one where the file is large."""
    with path.open("rb") as file:
        is_packed = file.read(len(_GZIP)) == _GZIP
        file.seek(0)
        stream: Any = gzip.GzipFile(fileobj=file) if is_packed else file
        if path.stat().st_size <= WHOLE_BYTES:
            value = json.load(stream)
            yield value, iter(value["simulations"])
            moved(file.tell())
            return
        require("ingest", "ijson")
        import ijson

        head: dict[str, Any] = {}
        for part in _PARTS[:-1]:
            stream.seek(0)
            head[part] = next(ijson.items(stream, part, use_float=True), None)
        stream.seek(0)
        found = ijson.items(stream, f"{_PARTS[-1]}.item", use_float=True)
        yield head, _telling(found, lambda: moved(file.tell()))


def _telling(values: Iterable[Any], tell: Callable[[], object]) -> Iterator[Any]:
    for value in values:
        yield value
        tell()
