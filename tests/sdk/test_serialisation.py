"""JSON that is read in pieces says what `json` says; the writing side is in tests/gates."""

from __future__ import annotations

import json
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwml import serialisation
from rwml.serialisation import read_lists

TEXTS = st.text() | st.text(alphabet='"\\[]{},:u\x00\n\ud83d\ude00é😀 ')
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=12,
)


@given(
    VALUES,
    st.sampled_from([None, (",", ":"), (" , ", ": ")]),
    st.booleans(),
    st.sampled_from([12, 13, 20, 1000]),
)
def test_what_is_read_in_pieces_is_what_is_read_at_once(
    value: Any, separators: Any, escaped: bool, piece: int
) -> None:
    encoded = json.dumps(value, separators=separators, ensure_ascii=escaped)
    with mock.patch.object(serialisation, "PIECE_CHARS", piece):
        assert read_lists(encoded) == (json.loads(encoded), len(encoded))


@given(st.lists(TEXTS, min_size=1, max_size=3), st.data())
def test_what_is_cut_off_is_an_error(texts: list[str], data: st.DataObject) -> None:
    encoded = json.dumps([texts])
    end = data.draw(st.integers(0, len(encoded) - 1))
    with mock.patch.object(serialisation, "PIECE_CHARS", 12), pytest.raises(json.JSONDecodeError):
        read_lists(encoded[:end])
