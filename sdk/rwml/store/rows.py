"""Keys and bodies of rows: escaped, read back, streamed.

Bodies are JSON text, in which every character can be stored. Keys are plain text columns, so they
are escaped here: PostgreSQL refuses NUL, and cannot index a text of several kilobytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy.engine import Connection

from rwml.errors import StoreError
from rwml.redaction import describe
from rwml.schema import Step, Trajectory

PAGE = 64
"""Rows of one read: bounds memory, whatever the size of the store (ours)."""
KEY_CHARS = 200
"""Characters of a key that are stored as they are: two of them fit an index row (ours)."""

Stored = TypeVar("Stored", Trajectory, Step)
Reading = Callable[[], AbstractContextManager[Connection]]


def as_key(text: str) -> str:
    r"""The text as a key column holds it: different texts stay different, in the same order.

    NUL becomes ``\x01\x01`` and ``\x01`` becomes ``\x01\x02``. Of a text that is longer than
    `KEY_CHARS` the rest is replaced by its SHA-256.
    """
    escaped = text.replace("\x01", "\x01\x02").replace("\x00", "\x01\x01")
    if len(escaped) <= KEY_CHARS:
        return escaped
    return f"{escaped[:KEY_CHARS]}~{hashlib.sha256(text.encode()).hexdigest()}"


def from_key(key: str) -> str:
    """The text behind a key; one that was cut stays as it is."""
    return key.replace("\x01\x01", "\x00").replace("\x01\x02", "\x01")


def load(model: type[Stored], body: str, owner: str) -> Stored:
    """Reads a body.

    Raises:
        StoreError: it does not fit the schema.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:  # which quotes what was recorded, so it is not kept
        reason = describe(error)
    raise StoreError(f"trajectory {owner} does not fit the schema: {reason}")


def read_pages(
    reading: Reading, table: sa.Table, *where: sa.ColumnElement[bool]
) -> Iterator[sa.Row[Any]]:
    """Streams keys and body of the matching rows in order of the primary key.

    Each page is a read of its own, so that a slow consumer holds no transaction open.
    """
    keys = list(table.primary_key)
    last: tuple[Any, ...] | None = None
    while True:
        query = sa.select(*keys, table.c.body).where(*where).order_by(*keys).limit(PAGE)
        if last is not None:
            place = (sa.literal(v, key.type) for v, key in zip(last, keys, strict=True))
            query = query.where(sa.tuple_(*keys) > sa.tuple_(*place))
        with reading() as connection:
            rows = connection.execute(query).all()
        yield from rows
        if len(rows) < PAGE:
            return
        last = tuple(rows[-1])[: len(keys)]
