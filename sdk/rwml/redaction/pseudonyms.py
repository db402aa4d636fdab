"""Which pseudonym stands for which value of a trajectory. Source: ours.

What is kept of a value is a keyed digest, never the value. It knows nothing of who uses it, so that
a session that is done with goes at once, and does not wait for Python's collector of cycles.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping

from rwml.redaction.texts import PIECE_CHARS

DIGEST_BYTES = 16

_NUMBERED = re.compile(r"<([A-Z][A-Z0-9_]{0,60}?)_([0-9]{1,6})>")


class Pseudonyms:
    """The pseudonyms of one trajectory; not thread-safe.

    Args:
        key: of the digests.
        known: digests and pseudonyms of before, or what brings them when the first is needed.
    """

    __slots__ = ("_key", "_known", "_last", "_names", "_used")

    def __init__(
        self, key: bytes, known: Mapping[bytes, str] | Callable[[], Mapping[bytes, str]]
    ) -> None:
        self._key = key
        self._known: Mapping[bytes, str] | Callable[[], Mapping[bytes, str]] | None = known
        self._names: dict[bytes, str] = {}
        self._used: dict[bytes, str] = {}
        self._last: dict[str, int] = {}  # how far each kind is numbered

    def name(self, kind: str, value: str) -> str:
        """The pseudonym of a value; a new one where it has none."""
        if self._known is not None:
            known = self._known() if callable(self._known) else self._known
            self._known = None
            self._names = dict(known)
            self.reserve(" ".join(self._names.values()))
        digest = self.digest(kind, value)
        name = self._names.get(digest)
        if name is None:
            number = self._last.get(kind, 0) + 1
            self._last[kind] = number
            name = self._names[digest] = f"<{kind}_{number}>"
        self._used[digest] = name
        return name

    def digest(self, kind: str, value: str) -> bytes:
        """BLAKE2b of 16 bytes, with the key, of a kind and a value."""
        text = f"{kind}\0{value}".encode("utf-8", "surrogatepass")
        return hashlib.blake2b(text, digest_size=DIGEST_BYTES, key=self._key).digest()

    def reserve(self, text: str) -> None:
        """Leaves out the numbers that placeholders in a text have already."""
        for start in range(0, len(text), PIECE_CHARS):
            for match in _NUMBERED.finditer(text, start, start + PIECE_CHARS + 80):
                self._last[match[1]] = max(self._last.get(match[1], 0), int(match[2]))

    def take_used(self) -> dict[bytes, str]:
        """Digests and pseudonyms that were used since this was called last."""
        used, self._used = self._used, {}
        return used
