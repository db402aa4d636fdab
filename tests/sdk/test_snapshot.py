"""Snapshots: the documented forms, bounds, and that nothing of a value is run."""

import dataclasses
import datetime
import json
from collections import namedtuple
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from rwml.snapshot import MAX_DEPTH, MAX_ITEMS, as_content, as_text, to_json

names = st.text().filter(lambda name: name != "$type")
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda below: st.lists(below) | st.dictionaries(names, below),
)  # fmt: skip


@dataclasses.dataclass
class Order:
    number: int
    token: str = dataclasses.field(default="hush", repr=False)


class Account(BaseModel):
    name: str
    password: SecretStr


Point = namedtuple("Point", "x y")


@given(plain)
def test_json_stays_as_it_is_and_is_shared_with_nobody(value: Any) -> None:
    taken = to_json(value)
    assert taken == value
    assert json.dumps(taken) == json.dumps(value)
    if isinstance(value, dict | list):
        assert taken is not value


@given(st.dictionaries(st.integers() | st.text() | st.booleans() | st.none(), st.text()))
def test_any_keys_are_kept_with_their_types(value: dict[Any, str]) -> None:
    taken = to_json(value)
    assert isinstance(taken, dict)
    pairs: Any = taken["items"] if taken.get("$type") == "dict" else list(taken.items())
    assert [(type(k), k, v) for k, v in pairs] == [(type(k), k, v) for k, v in value.items()]


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (float("nan"), {"$type": "float", "value": "NaN"}),
        (10**2000, {"$type": "int", "hex": hex(10**2000)}),
        ({1: 2}, {"$type": "dict", "items": [[1, 2]]}),
        ({"$type": 1}, {"$type": "dict", "items": [["$type", 1]]}),
        ({3, 1}, {"$type": "set", "items": [1, 3]}),
        (datetime.date(2026, 1, 2), {"$type": "date", "value": "2026-01-02"}),
        (Decimal("1.10"), {"$type": "Decimal", "value": "1.10"}),
        (ValueError("bad", 1), {"$type": "ValueError", "args": ["bad", 1]}),
        (Order(7), {"$type": f"{__name__}.Order", "fields": {"number": 7}}),
        (Point(1, 2), {"$type": f"{__name__}.Point", "fields": {"x": 1, "y": 2}}),
        (
            Account(name="a", password=SecretStr("hush")),
            {
                "$type": f"{__name__}.Account",
                "fields": {"name": "a", "password": {"$type": "pydantic.types.SecretStr"}},
            },
        ),
        (object(), {"$type": "object"}),
    ],
)
def test_forms(value: object, form: object) -> None:
    assert to_json(value) == form


def test_a_generator_is_not_used_up() -> None:
    numbers = (n for n in range(3))
    assert to_json({"n": numbers}) == {"n": {"$type": "generator"}}
    assert as_content(numbers) == '{"$type": "generator"}'
    assert list(numbers) == [0, 1, 2]


def test_bounds() -> None:
    deep: Any = "end"
    for _ in range(MAX_DEPTH + 5):
        deep = [deep]
    text = json.dumps(to_json(deep))
    assert text.count("[") == MAX_DEPTH
    assert '{"$type": "list", "omitted": 1}' in text
    taken = to_json(list(range(MAX_ITEMS + 7)))
    assert isinstance(taken, list)
    assert taken[-1] == {"$type": "list", "omitted": 7}
    assert taken[:-1] == list(range(MAX_ITEMS))
    names = to_json({str(n): n for n in range(MAX_ITEMS + 1)})
    assert isinstance(names, dict)
    assert (names["0"], names["omitted"]) == (0, 1)


def test_a_container_in_itself() -> None:
    value: dict[str, Any] = {"list": []}
    value["list"].append(value)
    assert to_json(value) == {"list": [{"$type": "cycle", "up": 2}]}
    twice = [1]
    assert to_json([twice, twice]) == [[1], [1]]


def test_content() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image", "data": bytearray(b"123")}]
    assert as_content(parts) == [parts[0], {"type": "image", "data": b"123"}]
    assert as_content("text") == "text"
    assert as_content(None) is None
    assert as_content({"temperature": 3}) == '{"temperature": 3}'
    assert as_content([1, "a"]) == '[1, "a"]'
    assert as_text(b"abc").startswith('{"$type": "bytes", "size": 3, "sha256"')
