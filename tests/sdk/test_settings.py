"""`rwml.settings`: every variable is read, and a bad value is a clear error."""

import dataclasses
from pathlib import Path

import pytest

from rwml.capture import Capture
from rwml.errors import UsageError
from rwml.retention import Retention
from rwml.settings import Settings, from_environment, is_disabled

KEY = "0123456789abcdef0123456789abcdef"


def test_nothing_set_says_nothing() -> None:
    settings = from_environment({})
    assert settings == Settings()
    assert (settings.capture, settings.retention) == (None, None)
    assert from_environment({"RWML_TTL": "  ", "RWML_SAMPLE": ""}) == settings


def test_everything_set() -> None:
    settings = from_environment(
        {
            "RWML_DISABLED": "0",
            "RWML_STORE": "sqlite:///rwml.db",
            "RWML_SAMPLE": "0.5",
            "RWML_SKIP_TENANTS": "acme, globex,",
            "RWML_SKIP_SOURCES": "litellm",
            "RWML_SKIP_TOOLS": "get_salary",
            "RWML_TTL": "30d",
            "RWML_MAX_SIZE": "5GB",
            "RWML_REDACT": "secrets",
            "RWML_KEY": KEY,
            "RWML_SPOOL": "/var/lib/rwml",
            "RWML_METRICS": "on",
            "UNRELATED": "x",
        }
    )
    assert settings == Settings(
        store="sqlite:///rwml.db",
        sample=0.5,
        skip_tenants=("acme", "globex"),
        skip_sources=("litellm",),
        skip_tools=("get_salary",),
        ttl_s=30 * 86_400,
        max_bytes=5 * 10**9,
        redact="secrets",
        key=KEY,
        spool=Path("/var/lib/rwml"),
        metrics=True,
    )
    assert settings.capture == Capture(
        sample=0.5,
        skip_tenants=["acme", "globex"],
        skip_sources=["litellm"],
        skip_tools=["get_salary"],
    )
    assert settings.retention == Retention(ttl_s=30 * 86_400, max_bytes=5 * 10**9)
    assert KEY not in repr(settings)


def test_every_variable_is_documented() -> None:
    read: list[str] = []

    class Spy(dict[str, str]):
        def get(self, name: str, default: str = "") -> str:  # type: ignore[override]
            read.append(name)
            return default

    from_environment(Spy())
    table = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    assert len(read) == len(dataclasses.fields(Settings))
    assert [name for name in read if f"| `{name}` |" not in table] == []


def test_one_of_a_group_is_enough() -> None:
    assert from_environment({"RWML_SKIP_TOOLS": "a"}).capture == Capture(skip_tools=["a"])
    assert from_environment({"RWML_MAX_SIZE": "1kB"}).retention == Retention(max_bytes=1000)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RWML_DISABLED", "maybe"),
        ("RWML_METRICS", "2"),
        ("RWML_SAMPLE", "50%"),
        ("RWML_SAMPLE", "nan"),
        ("RWML_SAMPLE", "2"),
        ("RWML_TTL", "30"),
        ("RWML_TTL", "0d"),
        ("RWML_TTL", "a month"),
        ("RWML_MAX_SIZE", "5"),
        ("RWML_MAX_SIZE", "0GB"),
        ("RWML_REDACT", "all"),
        ("RWML_KEY", "short-key"),
    ],
)
def test_a_bad_value_names_the_variable_and_an_example(name: str, value: str) -> None:
    with pytest.raises(UsageError) as error:
        from_environment({name: value})
    text = str(error.value)
    assert text.startswith(name)
    assert f"(example: {name}=" in text
    assert "\n" not in text
    assert (value in text) == (name != "RWML_KEY")


@pytest.mark.parametrize(
    ("value", "wanted"), [("1", True), ("TRUE", True), ("yes", True), ("0", False), ("", False)]
)
def test_the_switch(value: str, wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RWML_DISABLED", value)
    monkeypatch.setenv("RWML_TTL", "nonsense")  # must not keep the switch from working
    assert is_disabled() is wanted


def test_the_switch_is_off_when_it_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RWML_DISABLED", raising=False)
    assert is_disabled() is False
