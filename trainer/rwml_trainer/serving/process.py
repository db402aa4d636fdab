"""A server as a subprocess: own process group, output to a log file, always stopped.

Three things stop it: leaving the `with` block (terminate, then kill, the whole group), the kernel
when our process dies in any way (Linux, see `rwml.launcher`), and the server's own end. Its own
session keeps a Ctrl+C in the terminal from reaching it before we are done with it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from rwml.errors import ServingError

LOG_LINES = 5
POLL_S = 0.25
STOP_GRACE_S = 10.0


class ServerProcess:
    """A running server.

    Args:
        name: what messages call it.
        command: program and arguments.
        env: its whole environment.
        folder: its working directory.
        log: file that receives its output, made anew, readable by us only.
        pass_fds: open file descriptors that it inherits.

    Attributes:
        is_stopped: whether it was ended from here, with all that it started.
    """

    def __init__(
        self,
        *,
        name: str,
        command: Iterable[str],
        env: Mapping[str, str],
        folder: Path,
        log: Path,
        pass_fds: tuple[int, ...] = (),
    ) -> None:
        self.name = name
        self.log = log
        self.is_stopped = False
        launcher = (*python("rwml.launcher"), str(os.getpid()))
        log.unlink(missing_ok=True)
        with os.fdopen(os.open(log, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as output:
            self._popen = subprocess.Popen(  # noqa: S603  # our own command, no shell
                [*launcher, *command],
                env=dict(env),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=pass_fds,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its process group."""
        return self._popen.pid

    @property
    def has_ended(self) -> bool:
        """Whether it is not running any more."""
        return self._popen.poll() is not None

    @property
    def how_it_ended(self) -> str:
        """Its exit code, or the signal that ended it."""
        code = self._popen.poll()
        if code is None:
            return "it is running"
        return f"exit code {code}" if code >= 0 else f"signal {-code}"

    def check(self) -> None:
        """Raises ServingError with the last lines of the log when the server has ended."""
        if self.has_ended:
            raise ServingError(
                f"the {self.name} died ({self.how_it_ended}): {self.last_lines()} "
                f"(all of it in {self.log})"
            )

    def last_lines(self, count: int = LOG_LINES) -> str:
        """The last lines of the log that say anything, joined."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return " | ".join([line.strip() for line in lines if line.strip()][-count:])

    def wait(self, timeout_s: float) -> None:
        """Waits until the server ends, at most `timeout_s` seconds."""
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout_s)

    def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """Ends the server and whatever it started: asks, waits, then kills the group."""
        stop_all([self], grace_s)

    def ask_to_end(self) -> None:
        """Sends SIGTERM to the server and whatever it started, where it runs."""
        if self._popen.poll() is None:
            self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the server and whatever it started, at once."""
        if not self.is_stopped:  # else the number of its group may be another's by now
            self._signal(signal.SIGKILL)
            self._popen.wait()
            self.is_stopped = True

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):  # the group is gone
            os.killpg(self.pid, number)


def stop_all(servers: Iterable[ServerProcess], grace_s: float = STOP_GRACE_S) -> None:
    """Ends servers side by side, as `ServerProcess.stop` ends one.

    Args:
        servers: all are asked before any is waited for.
        grace_s: seconds that they have together before they are killed.
    """
    servers = tuple(servers)
    for server in servers:
        server.ask_to_end()
    deadline = time.monotonic() + grace_s
    for server in servers:
        server.wait(max(0.0, deadline - time.monotonic()))
    for server in servers:
        server.kill()


def python(module: str) -> tuple[str, ...]:
    """Command that runs a module here, without the working directory on its import path."""
    return sys.executable, "-P", "-m", module


def wait_for_completion(
    *,
    url: str,
    model: str,
    key: str | None,
    needs: Iterable[ServerProcess],
    deadline: float,
) -> None:
    """Returns once a real chat completion is answered.

    Both servers listen only when they are ready, so the first answer is final.

    Args:
        url: base URL, ending in ``/v1``.
        model: name to ask for.
        key: bearer key, or None.
        needs: servers whose death ends the wait.
        deadline: value of `time.monotonic` at which to give up.

    Raises:
        ServingError: a server died, the answer is no completion, or time is up.
    """
    import httpx

    needs = tuple(needs)
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(trust_env=False, headers=headers) as client:  # no HTTP proxy on loopback
        while (left := deadline - time.monotonic()) > 0:
            for server in needs:
                server.check()
            try:
                answer = client.post(f"{url}/chat/completions", json=body, timeout=left)
            except httpx.ConnectError:
                needs[-1].wait(POLL_S)
            except httpx.TimeoutException:
                break
            except httpx.TransportError as error:
                needs[-1].wait(POLL_S)  # a dying server closes connections before it is gone
                for server in needs:
                    server.check()
                raise ServingError(f"the {needs[-1].name} broke off its answer: {error}") from error
            else:
                return _check_completion(answer.status_code, answer.text, needs[-1])
    raise ServingError(
        f"the {needs[-1].name} was not ready in time: {needs[-1].last_lines()} "
        f"(all of it in {needs[-1].log})"
    )


def _check_completion(status: int, text: str, server: ServerProcess) -> None:
    if status != 200 or '"choices"' not in text:
        raise ServingError(
            f"the {server.name} answers a chat completion with {status}: {text[:300]} "
            f"(its log is {server.log})"
        )


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet: the port is ours, and nobody is kept waiting.

    Raises:
        OSError: the port is taken or not allowed.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        if port:  # a port that was just served on is free again at once
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


def free_port() -> int:
    """A loopback port that was free a moment ago, for a server that cannot inherit a socket."""
    with bind("127.0.0.1", 0) as bound:
        return bound.getsockname()[1]
