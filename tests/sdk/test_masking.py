"""Masking: schemas of tool results, and the properties that training relies on."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwml.masking import mask, mask_to_schema

STRING = {"type": "string"}
CASES = [
    (
        '{"customer_id": "c1", "total": 51.08, "items": 3, "paid": true, "note": null}',
        {
            "type": "object",
            "properties": {
                "customer_id": {"type": "string"},
                "total": {"type": "number"},
                "items": {"type": "integer"},
                "paid": {"type": "boolean"},
                "note": {"type": "null"},
            },
        },
    ),
    (
        '[{"a": 1}, {"a": "x", "b": 2}]',
        {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "a": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
                    "b": {"type": "integer"},
                },
            },
        },
    ),
    (
        '{"8591113813": {"price": 1}, "6342039236": {"price": 2.5}}',
        {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "properties": {"price": {"type": "number"}},
            },
        },
    ),
    (
        '{"address1": "763 Broadway", "address2": ""}',
        {
            "type": "object",
            "properties": {"address1": {"type": "string"}, "address2": {"type": "string"}},
        },
    ),
    (
        '{"a": {"b": {"c": [{"d": null}, {"d": "x"}, {}]}}}',
        {
            "type": "object",
            "properties": {
                "a": {
                    "type": "object",
                    "properties": {
                        "b": {
                            "type": "object",
                            "properties": {
                                "c": {
                                    "type": "array",
                                    "items": {
                                        "type": "object",
                                        "properties": {
                                            "d": {"anyOf": [{"type": "null"}, {"type": "string"}]}
                                        },
                                    },
                                }
                            },
                        }
                    },
                }
            },
        },
    ),
    (
        '{"HAT001": {"seats": 1}, "HAT002": {"seats": 2}, "HAT003": {"gate": "b"}}',
        {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "properties": {"seats": {"type": "integer"}, "gate": {"type": "string"}},
            },
        },
    ),
    (
        '{"found": 1, "0a1b2c3d4e": {"x": 1}}',
        {
            "type": "object",
            "properties": {"found": {"type": "integer"}},
            "additionalProperties": {"type": "object", "properties": {"x": {"type": "integer"}}},
        },
    ),
    (
        '{"line1": "a", "line2": "b", "line3": "c"}',
        {"type": "object", "properties": {f"line{n}": {"type": "string"} for n in (1, 2, 3)}},
    ),
    ('["1", 2, 2.5]', {"type": "array", "items": {"anyOf": [{"type": "number"}, STRING]}}),
    ('{"zip": "19122"}', {"type": "object", "properties": {"zip": {"type": "string"}}}),
    ("[[1], []]", {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}}),
    ("null", {"type": "null"}),
    ('"51.08"', {"type": "string"}),
    ("-3", {"type": "integer"}),
    (" 1e3 ", {"type": "number"}),
    ("{}", {"type": "object", "properties": {}}),
    ("[]", {"type": "array", "items": {}}),
    ("51.08", {"type": "number"}),
    ("true", {"type": "boolean"}),
    ('"abc"', {"type": "string"}),
]


@pytest.mark.parametrize(("text", "schema"), CASES)
def test_schema_of_json(text: str, schema: dict[str, Any]) -> None:
    assert json.loads(mask_to_schema(text)) == schema


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Error: User not found",
        "yusuf_rossi_9620",
        '{"cut": "off',
        "NaN",
        '{"a": Infinity}',
        "9" * 5000,
        '{"\\ud83d": 1}',
        "[" * 100_000,
    ],
)
def test_what_is_no_json_stays(text: str) -> None:
    assert mask_to_schema(text) == text


keys = st.text(max_size=8)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=20,
)


def other_leaves(value: Any) -> Any:
    """The same shape with other values of the same types."""
    if isinstance(value, dict):
        return {key: other_leaves(item) for key, item in value.items()}
    if isinstance(value, list):
        return [other_leaves(item) for item in value]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return 0.25 if value != 0.25 else 0.5
    return None if value is None else value + "x"


@given(values)
def test_output_is_json_and_deterministic(value: Any) -> None:
    text = json.dumps(value)
    masked = mask_to_schema(text)
    json.loads(masked)
    assert masked == mask_to_schema(text)


@given(values)
def test_output_does_not_depend_on_leaf_values(value: Any) -> None:
    assert mask_to_schema(json.dumps(value)) == mask_to_schema(json.dumps(other_leaves(value)))


@given(st.lists(values, min_size=1, max_size=4))
def test_array_schema_does_not_depend_on_repetition(items: list[Any]) -> None:
    assert mask_to_schema(json.dumps(items)) == mask_to_schema(json.dumps(items + items))


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ('{"a": 1}', "schema"),
        ("12", "schema"),
        ('{"cut": "off', "truncated"),
        ('{"a": [1, 2', "truncated"),
        ('[{"a": 1}, {"b": "}]', "truncated"),
        ('{"a": {"b": 1}, ... [truncated]', "truncated"),
        ("[Error] no such order", "text"),
        ("{not json}", "text"),
        ('{"a": NaN}', "text"),
        ("yes, {", "text"),
        ("", "text"),
    ],
)
def test_what_is_cut_is_told_from_text(text: str, outcome: str) -> None:
    masked = mask(text)
    assert masked.outcome == outcome
    assert outcome == "schema" or masked.text == text


objects = st.dictionaries(keys, values, min_size=1, max_size=4) | st.lists(
    st.dictionaries(keys, values, min_size=1, max_size=2), min_size=1, max_size=4
)


@given(objects, st.floats(0, 1, exclude_max=True))
def test_cut_json_stays_as_it_is(value: Any, place: float) -> None:
    whole = json.dumps(value)
    text = whole[: max(2, int(place * len(whole)))]
    masked = mask(text)
    assert masked.text == text
    assert masked.outcome == "truncated"


@given(st.text())
def test_only_json_is_changed(text: str) -> None:
    masked = mask(text)
    assert json.loads(masked.text) if masked.outcome == "schema" else masked.text == text


@given(st.dictionaries(st.text("0123456789", min_size=1, max_size=12), values, min_size=1))
def test_ids_as_keys_never_show(value: Any) -> None:
    schema = json.loads(mask_to_schema(json.dumps(value)))
    assert set(schema) == {"type", "additionalProperties"}
