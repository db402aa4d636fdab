"""Serves a run or a model folder: merges, starts engine and gateway, and stops both in any case.

The port is taken first, before anything slow. Engine and gateway load side by side; what is
yielded has answered one completion through the gateway. On SIGTERM the main thread gets a
KeyboardInterrupt, as on Ctrl+C, so that everything is stopped on the way out.
"""

from __future__ import annotations

import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from rwml.errors import ModelError, UsageError
from rwml.extras import require
from rwml_trainer import runs
from rwml_trainer.merging import merge
from rwml_trainer.models import load_tokenizer
from rwml_trainer.serving import gateway
from rwml_trainer.serving.engine import Engine, start_transformers
from rwml_trainer.serving.process import ServerProcess, bind

LOOPBACK = {"127.0.0.1": "127.0.0.1", "localhost": "127.0.0.1", "::1": "::1"}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:-]*")
MODULES = ("torch", "transformers", "peft", "litellm", "fastapi", "uvicorn", "httpx", "prisma")
START_TIMEOUT_S = 600.0
POLL_S = 0.5


@dataclass(frozen=True)
class Served:
    """A model that is being served.

    Attributes:
        endpoint: OpenAI-compatible base URL, ending in ``/v1``.
        key: bearer key; not shown when this is printed.
        key_file: file of mode 0600 that holds the key; removed at the end.
        models: names to ask for.
        engine: kind of the engine.
        processes: the servers behind it.
    """

    endpoint: str
    key: str = field(repr=False)
    key_file: Path
    models: tuple[str, ...]
    engine: str
    processes: tuple[ServerProcess, ...] = field(repr=False)

    def wait(self) -> None:
        """Blocks while it is served; raises ServingError when engine or gateway dies."""
        while True:
            for process in self.processes:
                process.check()
                process.wait(POLL_S)


@contextmanager
def serve(
    run: Path,
    *,
    stage: runs.Stage = "trained",
    name: str | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    out: Path | None = None,
    start_timeout_s: float = START_TIMEOUT_S,
    notify: Callable[[str], None] = lambda text: None,
) -> Iterator[Served]:
    """Serves a model on loopback for as long as the `with` block runs.

    Call it from a thread that lives as long as the block: the servers die with it.

    Args:
        run: folder of a finished run, or a model folder (config.json and safetensors).
        stage: which LoRA adapter of the run.
        name: name of the model; the run's or the folder's by default.
        host: loopback address.
        port: port of the gateway; 0 for a free one.
        out: folder for merged weights, key, configuration and logs; ``RUN/serving`` by default.
        start_timeout_s: seconds that engine and gateway have to come up.
        notify: called with one line before each slow part.

    Raises:
        UsageError: the port is taken, the host is not loopback, the name cannot be one.
        ModelError: `run` is neither, is torn, or has no chat template.
        ServingError: engine or gateway did not come up.
        MissingExtraError: the serve extra is not installed.
    """
    require("serve", *MODULES)
    name = _name(run, name, is_run=_is_run(run))
    work = (out or run / "serving").resolve()
    with ExitStack() as stack:
        stack.enter_context(_signals())
        bound = stack.enter_context(_bound(host, port))
        stack.enter_context(_own(work))
        model = _model_folder(run, stage, work, notify)
        notify(f"starting engine and gateway (logs in {work})")
        deadline = time.monotonic() + start_timeout_s
        engine = start_transformers(model, work)
        _stop_at_the_end(stack, engine.process)
        stack.callback((work / gateway.KEY_FILE).unlink, missing_ok=True)
        front = gateway.start(models={name: engine}, bound=bound, work=work)
        _stop_at_the_end(stack, front.process)
        engine.wait(deadline)
        front.wait(engine, deadline)
        yield _served(engine, front)


def _served(engine: Engine, front: gateway.Gateway) -> Served:
    return Served(
        endpoint=front.url,
        key=front.key_file.read_text(encoding="utf-8"),
        key_file=front.key_file.resolve(),
        models=front.models,
        engine=engine.name,
        processes=(engine.process, front.process),
    )


def _is_run(folder: Path) -> bool:
    """Whether it is a run rather than a model folder; raises ModelError where it is neither."""
    if (folder / runs.MANIFEST).is_file():
        return True
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder} is neither a finished run ({runs.MANIFEST}) nor a model folder "
            f"(config.json and safetensors)"
        )
    return False


def _name(run: Path, name: str | None, *, is_run: bool) -> str:
    if name is None:
        name = runs.read_run(run).name if is_run else run.resolve().name
    if not NAME.fullmatch(name):
        raise UsageError(
            f"a model cannot be served as {name!r}: choose a --name of letters, digits and ._@:-"
        )
    return name


def _model_folder(run: Path, stage: runs.Stage, work: Path, notify: Callable[[str], None]) -> Path:
    """The folder that the engine loads: a run's merged weights, or the model folder as it is."""
    if _is_run(run):
        notify(f"merging {run} ({stage})")
        return merge(run, work / f"merged-{stage}", stage=stage, replace=True)
    if stage != "trained":
        raise UsageError(f"{run} is a model folder: it has no stage {stage!r}")
    load_tokenizer(str(run))  # says so if there is no chat template
    return run


@contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    address = LOOPBACK.get(host)
    if address is None:
        raise UsageError(
            f"the host {host!r} is not loopback: serve on 127.0.0.1, and put a TLS proxy before it "
            f"to let others in"
        )
    try:
        bound = bind(address, port)
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
        work.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = FileLock(work / ".lock", timeout=0, mode=0o600)
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


def _stop_at_the_end(stack: ExitStack, process: ServerProcess) -> None:
    stack.enter_context(process)
    stack.callback(_ignore_signals)  # runs before the process is stopped


def _ignore_signals() -> None:
    """While the servers are being stopped a second Ctrl+C must not leave one behind."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
