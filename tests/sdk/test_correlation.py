"""`rwml.correlation`: the header between a client that records and a gateway that does too."""

from pathlib import Path

import pytest

import rwml
from rwml.correlation import (
    HEADER,
    correlation_headers,
    is_gateway,
    marked_gateways,
    read_headers,
    store_mark,
)


def test_only_the_same_store_has_the_same_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    urls = ["sqlite:///a.db", f"sqlite:///{tmp_path}/a.db", "sqlite:///b.db"]
    stores = [rwml.open_store(url) for url in urls]
    one, again, other = map(store_mark, stores)
    assert one == again != other
    monkeypatch.setenv("RWML_KEY", "the same key for all of them")
    apart = [rwml.open_store(url) for url in urls]
    assert store_mark(apart[0]) == store_mark(apart[1]) != store_mark(apart[2])
    for store in stores + apart:
        store.close()


def test_a_header_says_which_call_and_which_store(tmp_path: Path) -> None:
    with rwml.open_store(f"sqlite:///{tmp_path / 'a.db'}") as store:
        recorder = rwml.Recorder(store=store)
        first, second = correlation_headers(recorder), correlation_headers(recorder)
        assert first != second
        read = read_headers({HEADER.upper(): first[HEADER], "other": 1})
        assert read is not None
        assert read.store == store_mark(store)
        named = read_headers(correlation_headers(recorder, call_id="run-1"))
        assert named is not None
        assert named.id == "run-1"
        recorder.close()
        assert correlation_headers(recorder) == {}  # nobody records it there


@pytest.mark.parametrize(
    "value", [None, 1, "", "a", "a;store=xyz", "a b;store=0123456789abcdef", "x" * 100]
)
def test_other_headers_say_nothing(value: object) -> None:
    assert read_headers({HEADER: value}) is None


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:4000", True),
        ("http://127.0.0.1:4000/v1", True),
        ("https://gate.example/team", True),
        ("https://gate.example:443/team/v1", True),
        ("https://gate.example/teams", False),
        ("https://gate.example", False),
        ("http://127.0.0.1:40000/v1", False),
        ("http://127.0.0.1:4000.evil.example/v1", False),
        ("http://127.0.0.1:4000@evil.example/v1", False),
        ("https://127.0.0.1:4000/v1", False),
        ("nonsense", False),
        (None, False),
    ],
)
def test_the_header_goes_to_named_gateways_only(
    url: object, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RWML_GATEWAY", "http://127.0.0.1:4000/, https://gate.example/team,")
    assert is_gateway(url, marked_gateways()) is expected
    monkeypatch.delenv("RWML_GATEWAY")
    assert not is_gateway(url, marked_gateways())
