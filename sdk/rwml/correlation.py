"""The header that links a client's call with the same call seen by a gateway.

A client that records its calls sends a random id and a mark of the store that they go to; a
gateway that writes to the same store leaves such a call to the client, and with another store notes
the id. The header goes only where its sender was told to send it, and says nothing about the store
but whether it is the same one. Whoever holds a key of the gateway can send it, and so keep a call
out of the gateway's recording: it is no means of audit. Source: ours.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import secrets
import socket
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from rwml.recorder import Recorder
from rwml.store import Store

HEADER = "x-rwml-call"
GATEWAY_VARIABLE = "RWML_GATEWAY"
"""Environment variable with the base URLs, by commas, that the header is sent to."""
_ID_BYTES = 16
_MARK_BYTES = 8
_VALUE = re.compile(rf"([\w.:-]{{1,64}});store=([0-9a-f]{{{2 * _MARK_BYTES}}})", re.ASCII)
_HERE = ("", "localhost", "127.0.0.1", "::1")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class ClientCall:
    """What the header says.

    Attributes:
        id: of the call, as its client made it up.
        store: mark of the store that the client records into, see `store_mark`.
    """

    id: str
    store: str


def correlation_headers(recorder: Recorder, *, call_id: str | None = None) -> dict[str, str]:
    """Headers for one request to a gateway, of a call that this process records.

    Args:
        recorder: what records the call here.
        call_id: 1 to 64 letters, digits and ``_.:-``; None for a random one.

    Returns:
        None of them where the recorder is closed or switched off: then the gateway has to record.
    """
    if recorder.takes_nothing:
        return {}
    mark = store_mark(recorder.store)
    return {HEADER: f"{call_id or secrets.token_hex(_ID_BYTES)};store={mark}"}


def read_headers(headers: Mapping[str, object]) -> ClientCall | None:
    """What a request's headers say; None without the header, or where it is none of ours."""
    value = next((v for k, v in headers.items() if str(k).lower() == HEADER), None)
    fits = _VALUE.fullmatch(value) if isinstance(value, str) else None
    return None if fits is None else ClientCall(id=fits[1], store=fits[2])


def store_mark(store: Store) -> str:
    """A keyed hash by which two processes can tell that they write to the same store.

    Stores that differ never share a mark: then a call would be recorded by nobody. The same store
    has another mark where it is reached by another path, or from another machine without a common
    ``RWML_KEY``; then a call is recorded on both sides.

    Returns:
        16 hexadecimal digits.
    """
    marks = _marks()
    mark = marks.get(store)
    if mark is None:
        mark = marks[store] = _make_mark(store)
    return mark


def _make_mark(store: Store) -> str:
    url = store.parsed_url
    is_here = url.get_backend_name() == "sqlite" or (url.host or "") in _HERE
    place = [socket.gethostname() if is_here else url.host, url.port, url.database]
    text = "\0".join(str(part or "") for part in place)
    return hashlib.blake2b(
        text.encode(), key=store.key, digest_size=_MARK_BYTES, person=b"rwml-call"
    ).hexdigest()


@functools.cache
def _marks() -> weakref.WeakKeyDictionary[Store, str]:
    return weakref.WeakKeyDictionary()


def marked_gateways() -> tuple[str, ...]:
    """The base URLs that the environment names as gateways of one's own."""
    listed = os.environ.get(GATEWAY_VARIABLE, "").split(",")
    return tuple(url.strip() for url in listed if url.strip())


def is_gateway(url: object, gateways: tuple[str, ...]) -> bool:
    """Whether a request to this URL goes to one of these base URLs.

    Scheme, host and port must be the same, and the path the same or below it: a name that only
    begins like the gateway's is somebody else's.
    """
    wanted = _place(url)
    if wanted is None:
        return False
    for place in map(_place, gateways):
        if place is None or place[:3] != wanted[:3]:
            continue
        if f"{wanted[3]}/".startswith(f"{place[3]}/"):
            return True
    return False


def _place(url: object) -> tuple[str, str, int | None, str] | None:
    try:
        parts = urlsplit(str(url))
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not parts.hostname:
        return None
    return parts.scheme, parts.hostname, port, parts.path.rstrip("/")
