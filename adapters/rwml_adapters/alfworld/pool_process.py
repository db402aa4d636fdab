"""A worker process as its pool sees it: started, asked, replaced.

A process of its own interpreter rather than a fork or `multiprocessing`: it is safe beside threads,
and a program that uses a pool needs no ``if __name__ == "__main__"``.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import Any

from rwml.errors import AdapterError
from rwml_adapters.alfworld.channel import Channel, ChannelClosedError
from rwml_adapters.alfworld.pool_worker import READY

START_TIMEOUT_S = 120.0
"""How long a worker may take to import what it needs (ours)."""
END_TIMEOUT_S = 2.0
"""How long it may take to end by itself (ours)."""
STDERR = 2

_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from rwml_adapters.alfworld.pool_worker import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)


class WorkerDiedError(Exception):
    """A worker ended, or did not answer in time and was ended."""


class WorkerProcess:
    """One worker process; it starts at once, and is waited for when it is first asked.

    Args:
        options: keyword arguments of its environments.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self._is_ready = False
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [
                    sys.executable,
                    "-c",
                    _BOOT,
                    json.dumps([str(folder) for folder in sys.path]),
                    str(theirs.fileno()),
                    str(os.getpid()),
                ],
                stdin=subprocess.PIPE,
                stdout=STDERR,  # what libraries print is not the program's result
                pass_fds=(theirs.fileno(),),
            )
        self._channel = Channel(ours)
        self._channel.send(options, timeout_s=START_TIMEOUT_S)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def ask(self, operation: str, payloads: dict[int, Any], *, timeout_s: float) -> None:
        """Sends an operation; `answer` gets what comes back, in the same order.

        Raises:
            WorkerDiedError: it is gone, or takes nothing in.
        """
        self._wait_ready()
        try:
            self._channel.send((operation, payloads), timeout_s=timeout_s)
        except ChannelClosedError as error:
            raise self._died(error) from error

    def answer(self, *, timeout_s: float) -> dict[int, Any]:
        """The next answer.

        Raises:
            WorkerDiedError: it is gone, or took too long; then it is killed.
        """
        try:
            return self._channel.receive(timeout_s=timeout_s)
        except ChannelClosedError as error:
            raise self._died(error) from error

    def close(self) -> None:
        """Ends the process and waits for it."""
        self._channel.close()
        assert self._process.stdin is not None  # noqa: S101 - it was asked for
        self._process.stdin.close()
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Ends the process at once and waits for it."""
        self._process.kill()
        self._process.wait()
        self._channel.close()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _wait_ready(self) -> None:
        if self._is_ready:
            return
        try:
            said = self._channel.receive(timeout_s=START_TIMEOUT_S)
        except ChannelClosedError as error:
            self.kill()
            raise AdapterError(
                f"a worker of the ALFWorld pool did not start (exit code "
                f"{self._process.returncode}): see what it wrote above"
            ) from error
        self._is_ready = said == READY

    def _died(self, error: Exception) -> WorkerDiedError:
        self.kill()
        return WorkerDiedError(f"exit code {self._process.returncode}: {error}")
