"""Serves runs or model folders: merges, starts engines and gateway, and stops them in any case.

The port is taken first, before anything slow. Engines and gateway load side by side; what is
yielded has answered a completion of each model through the gateway. On SIGTERM the main thread gets
a KeyboardInterrupt, as on Ctrl+C, so that everything is stopped on the way out: the gateway first,
which lets requests in flight end.
"""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from rwml.errors import UsageError
from rwml.extras import require
from rwml.files import make_private
from rwml_trainer import runs
from rwml_trainer.serving import gateway
from rwml_trainer.serving.engine import StartEngine, start_transformers
from rwml_trainer.serving.fleet import Fleet
from rwml_trainer.serving.gateway import Gateway
from rwml_trainer.serving.keys import KeyFile
from rwml_trainer.serving.process import ServerProcess, bind
from rwml_trainer.serving.registry import Outcome, Registry, Version
from rwml_trainer.serving.trials import Ended
from rwml_trainer.serving.versions import (
    Notify,
    add_version,
    find_source,
    read_source,
    split_name,
)

LOOPBACK = {"127.0.0.1": "127.0.0.1", "localhost": "127.0.0.1", "::1": "::1"}
MODULES = (
    *("torch", "transformers", "peft", "litellm", "fastapi", "uvicorn", "httpx", "prisma"),
    *("tenacity", "jinja2"),
)
LOCK = ".lock"
LOCK_TIMEOUT_S = 1.0
"""A command that asks whether the server runs holds the lock for a moment."""
START_TIMEOUT_S = 600.0
POLL_S = 0.5


@dataclass(frozen=True)
class Served:
    """Models that are being served.

    Attributes:
        endpoint: OpenAI-compatible base URL, ending in ``/v1``.
        key: bearer key of this session; not shown when this is printed.
        key_file: file of mode 0600 that holds the key; removed at the end.
        models: names to ask for: aliases, then versions.
        engine: kind of the engine.
        fleet: the engines behind it.
        gateway: what stands in front of them.
    """

    endpoint: str
    key: str = field(repr=False)
    key_file: Path
    models: tuple[str, ...]
    engine: str
    fleet: Fleet = field(repr=False)
    gateway: Gateway = field(repr=False)

    @property
    def processes(self) -> tuple[ServerProcess, ...]:
        """The engines, then the gateway."""
        return (*self.fleet.engines, self.gateway.process)

    def attend(self) -> None:
        """One round of `wait`: crashed engines are restarted, orders are carried out.

        Raises:
            ServingError: the gateway died, or an engine does not come back.
        """
        self.fleet.attend()

    def wait(self) -> None:
        """Blocks while it is served; raises ServingError as `attend` does."""
        while True:
            self.attend()
            self.gateway.process.wait(POLL_S)


@contextmanager
def serve(
    sources: Path | Sequence[Path],
    *,
    stage: runs.Stage = "trained",
    name: str | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    expose: Sequence[str] = (),
    out: Path | None = None,
    store: str | None = None,
    start_timeout_s: float = START_TIMEOUT_S,
    start_engine: StartEngine = start_transformers,
    engine_key: str | None = None,
    notify: Callable[[str], None] = lambda text: None,
) -> Iterator[Served]:
    """Serves models for as long as the `with` block runs.

    Call it from a thread that lives as long as the block: the servers die with it.

    Args:
        sources: folders of finished runs (``RUN@STEP`` for a step of it), or model folders
            (config.json and safetensors); none to serve what the registry in `out` names.
        stage: which weights of the runs.
        name: name of the model, where there is one; the run's or the folder's by default.
        host: loopback address; another one only with `expose`.
        port: port of the gateway; 0 for a free one.
        expose: host names by which clients from elsewhere call the gateway.
        out: folder for registry, weights, keys and logs; ``serving`` in the one source by default.
        store: URL of the store that the traffic is recorded into; None for no recording.
        start_timeout_s: seconds that engines and gateway have to come up.
        start_engine: starts an engine; see `engine_choice`.
        engine_key: bearer key that the engines ask for; None where they ask for none.
        notify: called with one line before each slow part.

    Raises:
        UsageError: the port is taken, the host is not loopback, the name cannot be one.
        ModelError: a source is neither, is torn or unsafe, or has no chat template.
        ServingError: engine or gateway did not come up.
        MissingExtraError: the serve extra is not installed.
    """
    require("serve", *MODULES)
    asked = [sources] if isinstance(sources, Path) else list(sources)
    given = [find_source(each, stage) for each in asked]
    _check_names(given, name)
    work = _folder([folder for folder, _ in given], out)
    with ExitStack() as stack:
        stack.enter_context(_signals())
        bound = stack.enter_context(_bound(host, port, expose))
        stack.enter_context(_own(work))
        registry = Registry(work)
        _drop_unfinished(registry)
        versions = [
            add_version(registry, source, name=name, stage=of, notify=notify)
            for source, of in given
        ] or _current(registry)
        notify(f"starting engine and gateway (logs in {work})")
        deadline = time.monotonic() + start_timeout_s
        fleet = Fleet(
            registry, start_engine=start_engine, notify=notify, start_timeout_s=start_timeout_s
        )
        stack.callback(fleet.close)
        stack.callback(_ignore_signals)
        fleet.launch(versions)
        stack.callback((work / gateway.KEY_FILE).unlink, missing_ok=True)
        stack.callback(KeyFile(work).end_session)
        front = gateway.start(
            table=fleet.table(),
            bound=bound,
            work=work,
            names=expose,
            store=store,
            engine_key=engine_key,
        )
        stack.callback(front.stop)
        stack.callback(_ignore_signals)  # runs before anything is stopped
        fleet.connect(front, deadline)
        front.wait(fleet.table().aliases, needs=fleet.engines, deadline=deadline)
        for version in versions:
            _move(registry, version, notify)
        yield _served(fleet, front)


def _move(registry: Registry, version: Version, notify: Notify) -> None:
    before = registry.read().aliases.get(version.name)
    if before is not None and before.current != version.id:
        notify(
            f"{version.name} was {before.current}, and is {version.id} again, which was asked for; "
            f"without a run 'rwml serve --serving {registry.folder}' serves what was promoted"
        )
    registry.move(version)


def is_running(folder: Path) -> bool:
    """Whether a server holds the folder."""
    if not (folder / LOCK).is_file():
        return False
    try:
        with FileLock(folder / LOCK, timeout=0, mode=0o600):
            return False
    except Timeout:
        return True


def _served(fleet: Fleet, front: Gateway) -> Served:
    table = fleet.table()
    kinds = {target.engine for target in table.versions.values()}
    return Served(
        endpoint=front.url,
        key=front.key_file.read_text(encoding="utf-8"),
        key_file=front.key_file.resolve(),
        models=(*table.aliases, *table.versions),
        engine=", ".join(sorted(kinds)),
        fleet=fleet,
        gateway=front,
    )


def _check_names(sources: Sequence[tuple[Path, runs.Stage]], name: str | None) -> None:
    """Refuses sources and names that cannot be served, before anything is made."""
    if name is not None and len(sources) != 1:
        raise UsageError("--name is for one run: several are called by their own names")
    found = [split_name(source, name, read_source(source), of)[0] for source, of in sources]
    twice = next((each for each in found if found.count(each) > 1), None)
    if twice is not None:
        raise UsageError(f"two are called {twice}: serve one, then add and promote the other")


def _folder(sources: Sequence[Path], out: Path | None) -> Path:
    if out is not None:
        return out.resolve()
    if len(sources) != 1:
        raise UsageError("name the serving folder: --serving FOLDER")
    return (sources[0] / "serving").resolve()


def _current(registry: Registry) -> list[Version]:
    contents = registry.read()
    if not contents.aliases:
        raise UsageError(f"{registry.folder} serves nothing yet: name a run")
    return [contents.versions[alias.current] for alias in contents.aliases.values()]


def _drop_unfinished(registry: Registry) -> None:
    """Settles what a server that is gone did not get to."""
    for name, alias in registry.read().aliases.items():
        if alias.candidate is not None:
            why, now = "the server ended", datetime.now(UTC)
            ended = Ended(candidate=alias.candidate, how="ended", why=why, trial=None, at=now)
            registry.end_trial(name, ended)
        if alias.order is not None:
            message = "the server ended before it was done: ask again"
            registry.settle(
                name,
                Outcome(
                    ticket=alias.order.ticket,
                    version=alias.order.version,
                    ok=False,
                    message=message,
                    at=datetime.now(UTC),
                ),
            )


@contextmanager
def _bound(host: str, port: int, expose: Sequence[str]) -> Iterator[socket.socket]:
    address = LOOPBACK.get(host)
    if address is None and not expose:
        raise UsageError(
            f"the host {host!r} is not loopback: serve on 127.0.0.1, and put a TLS proxy before it "
            f"to let others in; or name the host by which they call it: --expose NAME"
        )
    try:
        bound = bind(address or host, port)
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"port {port} on {host} cannot be used ({error}): choose another --port, or 0 for a "
            f"free one"
        ) from error
    with bound:
        yield bound


@contextmanager
def _own(work: Path) -> Iterator[None]:
    """Makes the folder, closed to others, and holds it: two servers would mix their files."""
    try:
        make_private(work)
        lock = FileLock(work / LOCK, timeout=LOCK_TIMEOUT_S, mode=0o600)
        lock.acquire()
    except Timeout as error:
        raise UsageError(
            f"{work} is in use by another 'rwml serve': choose another --out"
        ) from error
    except OSError as error:
        raise UsageError(f"cannot write to {work} ({error}): choose another --out") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _signals() -> Iterator[None]:
    """Lets SIGTERM end the block like Ctrl+C, unless the caller handles it; restores both after."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    if former[signal.SIGTERM] == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _ignore_signals() -> None:
    """While the servers are being stopped a second Ctrl+C must not leave one behind."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
