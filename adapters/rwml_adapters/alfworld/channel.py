"""Messages between a pool and its workers: length, then pickle, over a socket pair.

Every send and receive has a deadline, also in the middle of a message, so that a process that was
stopped cannot stop the other one. Only for the two ends of one pool, which trust each other.
"""

from __future__ import annotations

import pickle
import socket
import struct
import time
from typing import Any

_LENGTH = struct.Struct("!Q")


class ChannelClosedError(ConnectionError):
    """The other end is gone, or did not answer in time."""


class Channel:
    """One end of a connection.

    Args:
        connection: a connected stream socket, which the channel owns.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def send(self, value: Any, *, timeout_s: float | None = None) -> None:
        """Sends a value.

        Raises:
            ChannelClosedError: the other end is gone or takes nothing in.
        """
        body = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
        try:
            self._socket.settimeout(timeout_s)
            self._socket.sendall(_LENGTH.pack(len(body)) + body)
        except OSError as error:
            raise ChannelClosedError(str(error)) from error

    def receive(self, *, timeout_s: float | None = None) -> Any:
        """The next value.

        Args:
            timeout_s: seconds until all of it must be here; None waits for ever.

        Raises:
            ChannelClosedError: the other end is gone, or time is up.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size, deadline))
        return pickle.loads(self._read(length, deadline))  # noqa: S301 - written by our own process

    def close(self) -> None:
        """Closes this end; the other one sees that it is gone."""
        self._socket.close()

    def _read(self, size: int, deadline: float | None) -> bytearray:
        buffer = bytearray(size)
        view = memoryview(buffer)
        while view:
            try:
                if deadline is not None:
                    self._socket.settimeout(max(deadline - time.monotonic(), 1e-3))
                else:
                    self._socket.settimeout(None)
                taken = self._socket.recv_into(view)
            except OSError as error:
                raise ChannelClosedError(str(error)) from error
            if not taken:
                raise ChannelClosedError("the other end is closed")
            view = view[taken:]
        return buffer
