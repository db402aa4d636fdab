"""What the machine says: what is installed, the environment, and what waits on its disk.

What another process was told it cannot know: the environment is that of this one.
"""

from __future__ import annotations

import contextlib
import platform
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from rwml.diagnosis.findings import Finding, Status
from rwml.errors import StoreError, UsageError
from rwml.settings import from_environment
from rwml.spool import spool_folder
from rwml.store import Store
from rwml.store.erasure import other_keys
from rwml.store.urls import parse_url, shown_url

PACKAGES = ("rwml", "langgraph", "langchain-core", "langchain", "litellm")
MINIMUM = {"langgraph": (1, 0), "langchain-core": (1, 0), "litellm": (1, 80)}
"""Oldest versions that recording is made for, as the extras in pyproject.toml have them."""
COMPROMISED = {"litellm": ("1.82.7", "1.82.8")}
"""Releases that were compromised."""
SQLITE_DEFECT = ((3, 7, 0), (3, 51, 2))
"""First and last SQLite that can corrupt a file when two connections reset its log at once."""

_HAS_BATCHES = "select 1 from sqlite_master where name = 'batches'"


def find_versions() -> dict[str, str | None]:
    """Versions of what recording depends on; None for what is not installed."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return {**found, "python": platform.python_version(), "sqlite": sqlite3.sqlite_version}


def look_at_versions() -> Iterator[Finding]:
    """What is installed, and whether recording is made for it."""
    found = find_versions()
    shown = ", ".join(f"{name} {number}" for name, number in found.items() if number)
    yield Finding("versions", "ok", shown)
    if not any(found[name] for name in MINIMUM):
        yield Finding(
            "frameworks",
            "warning",
            "no agent framework is installed in this Python, so rwml.instrument() records nothing",
            "run it with the Python of the agent, or install 'rwml[langgraph]' or 'rwml[litellm]'",
        )
    for name, least in MINIMUM.items():
        number = found[name]
        if number is None:
            continue
        if number in COMPROMISED.get(name, ()):
            text = f"{name} {number} is a compromised release"
            yield Finding("frameworks", "error", text, "replace it, and every key that it has seen")
        elif _numbers(number) < least:
            wanted = ".".join(map(str, least))
            text = f"{name} {number} is older than recording is made for ({wanted})"
            yield Finding("frameworks", "warning", text, f"upgrade {name}")


def look_at_environment(
    url: str, environ: Mapping[str, str] | None = None, *, is_empty: bool
) -> Iterator[Finding]:
    """What the variables of recording say of agents that are started from here.

    Args:
        url: of the store in question.
        environ: variables to read in place of this process's own.
        is_empty: whether nothing can be learnt from the store: what may be why is an error then.
    """
    status: Status = "error" if is_empty else "warning"
    try:
        settings = from_environment(environ)
    except UsageError as error:
        yield Finding("settings", "error", str(error), "correct it: agents refuse to start with it")
        return
    if settings.disabled:
        yield Finding(
            "disabled",
            status,
            "RWML_DISABLED is set: agents started from here record nothing",
            "unset RWML_DISABLED",
        )
    if settings.store is not None and (other := _other_store(settings.store, url)) is not None:
        yield Finding(
            "other_store",
            status,
            f"RWML_STORE names another store: agents started from here record into {other}",
            "look there with 'rwml doctor', or set RWML_STORE to this store",
        )
    if settings.sample is not None and settings.sample < 1:
        none = settings.sample == 0
        text = "nothing is recorded" if none else "only that share of the trajectories is recorded"
        yield Finding(
            "sampling",
            status if none else "ok",
            f"RWML_SAMPLE={settings.sample:g}: {text}",
            "unset RWML_SAMPLE, or raise it" if none else "",
        )
    skipped = [
        *(settings.skip_tenants or ()),
        *(settings.skip_sources or ()),
        *(settings.skip_tools or ()),
    ]
    if skipped:
        text = f"left out by RWML_SKIP_TENANTS, _SOURCES or _TOOLS: {', '.join(skipped)}"
        yield Finding("opt_outs", "ok", text)


class Spooled(NamedTuple):
    """What waits in a spool folder.

    Attributes:
        records: how many, in the files that can be read.
        unreadable: files that cannot: they are damaged, or a process was killed while it wrote;
            then a recorder repairs them.
    """

    records: int
    unreadable: int


def count_spooled(folder: Path) -> Spooled:
    """Counts what waits in a spool folder; nothing is changed."""
    total = unreadable = 0
    for file in sorted(folder.glob("*.spool")):
        try:
            with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as connection:
                if connection.execute(_HAS_BATCHES).fetchone():  # else it is being made
                    query = "select coalesce(sum(records), 0) from batches"
                    total += int(connection.execute(query).fetchone()[0])
        except sqlite3.Error:
            unreadable += file.exists()  # or it was delivered meanwhile
    return Spooled(total, unreadable)


def look_at_sqlite(store: Store) -> Iterator[Finding]:
    """Whether this SQLite has the defect that rwml's lock is there for."""
    if store.parsed_url.get_backend_name() != "sqlite":
        return
    first, last = SQLITE_DEFECT
    if first <= sqlite3.sqlite_version_info <= last:
        yield Finding(
            "sqlite",
            "ok",
            f"SQLite {sqlite3.sqlite_version} can corrupt a file when two connections reset its "
            "log at once; rwml's writers take turns by a lock file, so this store is safe",
            "let no other program write to the store's file",
        )


def look_at_spool(store: Store) -> Iterator[Finding]:
    """Whether records wait on the disk for the store."""
    folder = spool_folder(store)
    waiting, unreadable = count_spooled(folder)
    if unreadable:
        yield Finding(
            "spool_files",
            "warning",
            f"{unreadable} files in {folder} cannot be read",
            "start an agent that records into this store; what it does not repair, remove",
        )
    if waiting:
        yield Finding(
            "spool",
            "warning",
            f"{waiting} records wait in {folder}: the store was away when they came",
            "start an agent that records into this store: its recorder writes them first",
        )


def look_at_keys(store: Store) -> Iterator[Finding]:
    """Whether other users or machines, with other keys, made pseudonyms in the store."""
    number = 0
    with contextlib.suppress(UsageError):  # the key in the environment: settings tell of it
        number = other_keys(store)
    if number is None:
        yield Finding(
            "keys",
            "ok",
            "some pseudonyms are from an older rwml, which did not keep whose key made them: "
            "'rwml forget' finds who is behind those only with that key",
        )
    elif number:
        yield Finding(
            "keys",
            "warning",
            f"{number} other keys made pseudonyms in this store: from here 'rwml forget' does not "
            "find who is behind those, and conversations do not go on from one key to another",
            "set the same RWML_KEY for everybody who records into this store; forget with each key",
        )


def _other_store(named: str, url: str) -> str | None:
    """What to call the store in the environment, if it is another one."""
    try:
        shown = shown_url(parse_url(named))
        return None if shown == shown_url(parse_url(url)) else shown
    except StoreError:
        return "something that is no store URL"


def _numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version."""
    parts: list[int] = []
    for part in text.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        parts.append(int(digits))
    return tuple(parts)
