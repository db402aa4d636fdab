"""What runs in a worker process of `AlfworldPool`: its share of the environments.

It answers one message at a time and ends when its pool does, however that one ends. Nothing here
may decide anything that depends on the number of workers.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
from typing import Any

from rwml.errors import AdapterError, RwmlError
from rwml_adapters.alfworld.channel import Channel, ChannelClosedError

READY = "ready"
PARENT_POLL_S = 1.0
"""How often a worker looks whether its pool's process is still its parent (ours)."""


class Worker:
    """The environments of one worker.

    Args:
        options: keyword arguments of `AlfworldEnv` besides the game.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._environments: dict[int, tuple[str, Any]] = {}

    def answer(self, operation: str, payloads: dict[int, Any]) -> dict[int, Any]:
        """Carries out one operation for several places; an error is the answer of its place."""
        carry_out = self._reset if operation == "reset" else self._step
        answers: dict[int, Any] = {}
        for place, payload in payloads.items():
            try:
                answers[place] = carry_out(place, payload)
            except RwmlError as error:
                answers[place] = error
            except Exception as error:  # noqa: BLE001 - raised in the pool, for its caller
                answers[place] = AdapterError(f"{type(error).__name__}: {error}")
        return answers

    def _reset(self, place: int, payload: tuple[str, int]) -> tuple[str, dict[str, Any]]:
        from rwml_adapters.alfworld.env import AlfworldEnv

        game, seed = payload
        current, environment = self._environments.pop(place, (None, None))
        if environment is not None and current != game:
            environment.close()
            environment = None
        if environment is None:
            environment = AlfworldEnv(game, **self._options)
        answer = environment.reset(seed=seed)
        self._environments[place] = (game, environment)
        return answer

    def _step(self, place: int, command: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return self._environments[place][1].step(command)


def main(descriptor: int, parent: int) -> None:
    """Serves a pool until it is gone.

    Args:
        descriptor: this worker's end of the socket pair; stdin is a pipe that the pool keeps open.
        parent: process id of the pool.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the pool to decide about
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    channel = Channel(socket.socket(fileno=descriptor))
    try:
        worker = Worker(channel.receive())
        from rwml_adapters.alfworld import env  # noqa: F401 - what takes time, before "ready"

        channel.send(READY)
        while True:
            channel.send(worker.answer(*channel.receive()))
    except ChannelClosedError:
        os._exit(0)  # at once: nothing here has anything to put in order


def _end_with(parent: int) -> None:
    """Ends this process with its pool, also in the middle of a step.

    The pipe closes when the pool's process ends; a process forked from it may hold the other end,
    so who the parent is counts too.
    """
    while os.getppid() == parent:
        if select.select([sys.stdin], [], [], PARENT_POLL_S)[0]:
            break
    os._exit(1)
