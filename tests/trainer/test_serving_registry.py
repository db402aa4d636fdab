"""The registry: what names mean, what is asked of the server, and the keys' file."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rwml.errors import ModelError, UsageError
from rwml_trainer.serving import keys
from rwml_trainer.serving.keys import SESSION, KeyFile, KeyRing
from rwml_trainer.serving.registry import Outcome, Registry, Version

NOW = datetime(2026, 11, 27, tzinfo=UTC)


def version(step: int, name: str = "world") -> Version:
    return Version(
        name=name,
        step=step,
        folder="/models/x",
        source="/runs/x",
        stage=None,
        profile=None,
        weights={"model.safetensors": str(step)},
        template_sha256="t",
        tools=False,
        added_at=NOW,
    )


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    made = Registry(tmp_path / "serving")
    for step in (1, 2, 3):
        made.add(version(step))
    made.move(version(1))
    return made


def settle(registry: Registry, ticket: str, *, ok: bool = True) -> None:
    outcome = Outcome(ticket=ticket, version="world@2", ok=ok, message="", at=NOW)
    registry.settle("world", outcome)


def test_a_name_moves_and_goes_back(registry: Registry) -> None:
    registry.move(version(2))
    registry.move(version(3))
    alias = registry.read().aliases["world"]
    assert (alias.current, alias.former) == ("world@3", ("world@1", "world@2"))
    assert registry.order("rollback", "world").version == "world@2"
    registry.move(version(2), "rollback")
    alias = registry.read().aliases["world"]
    assert (alias.current, alias.former) == ("world@2", ("world@1",))


def test_the_file_is_for_its_owner_and_outlives_the_process(registry: Registry) -> None:
    assert registry.path.stat().st_mode & 0o777 == 0o600
    assert registry.folder.stat().st_mode & 0o777 == 0o700
    assert Registry(registry.folder).read() == registry.read()


def test_one_order_at_a_time(registry: Registry) -> None:
    order = registry.order("promote", "world@2")
    with pytest.raises(UsageError, match=r"promote of world@2 is under way"):
        registry.order("promote", "world@3")
    settle(registry, order.ticket)
    alias = registry.read().aliases["world"]
    assert alias.order is None
    assert alias.outcome is not None
    assert alias.outcome.ticket == order.ticket
    registry.order("promote", "world@3")


@pytest.mark.parametrize(
    ("kind", "wanted", "reason"),
    [
        ("promote", "world@7", r"no version 'world@7' \(world@1, world@2, world@3\)"),
        ("promote", "world", "no version 'world'"),
        ("promote", "other@1", "no model named 'other' is served here: world"),
        ("promote", "world@1", "world is world@1 already"),
        ("rollback", "world", "nothing to go back to"),
        ("rollback", "other", "no model named 'other'"),
    ],
)
def test_impossible_orders_are_refused(
    registry: Registry, kind: str, wanted: str, reason: str
) -> None:
    before = registry.path.read_text()
    with pytest.raises(UsageError, match=reason):
        registry.order("promote" if kind == "promote" else "rollback", wanted)
    assert registry.path.read_text() == before


def test_what_gates_found_counts_for_the_version_they_compared_with(registry: Registry) -> None:
    registry.move(version(3))  # while the gates ran
    with pytest.raises(UsageError, match=r"world is world@3 by now, and world@2 was compared with"):
        registry.order("promote", "world@2", compared_with="world@1")
    order = registry.order("promote", "world@2", asked_at=NOW, compared_with="world@3")
    assert order.asked_at == NOW, "what was withdrawn since then stays withdrawn"


def test_a_file_of_somebody_else_is_left_alone(registry: Registry) -> None:
    registry.path.write_text("{}x")
    with pytest.raises(ModelError, match="no registry"):
        registry.add(version(4))
    assert registry.path.read_text() == "{}x"


def test_a_key_is_found_until_it_ends(tmp_path: Path) -> None:
    file = KeyFile(tmp_path)
    now = [NOW]
    ring = KeyRing(file.path, clock=lambda: now[0])
    assert not ring
    assert ring.find(b"") is None
    secret = file.add("ci", expires_at=NOW + timedelta(hours=1), models=("world",), rpm_limit=3)
    found = ring.find(secret.encode())
    assert found is not None
    assert (found.name, found.models, found.rpm_limit) == ("ci", ("world",), 3)
    for other in (secret[:-1], secret + "x", found.sha256, "ci", ""):
        assert ring.find(other.encode()) is None
    now[0] += timedelta(hours=1)
    assert ring.find(secret.encode()) is None
    lasting = file.add("lasting")
    assert ring.find(lasting.encode()) is not None
    file.revoke("lasting")
    assert ring.find(lasting.encode()) is None


def test_keys_that_could_not_be_read_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = KeyFile(tmp_path)
    secret = file.add("ci")
    ring = KeyRing(file.path)

    def fails(path: Path) -> tuple[()]:
        raise UsageError("too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(keys, "_read", fails)
        assert ring.find(secret.encode()) is None
    assert ring.find(secret.encode()) is not None


def test_a_folder_is_closed_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "serving"
    folder.mkdir(mode=0o775)
    folder.chmod(0o775)
    KeyFile(folder).add("ci")
    assert folder.stat().st_mode & 0o777 == 0o700


def test_keys_have_names_of_their_own(tmp_path: Path) -> None:
    file = KeyFile(tmp_path)
    first = file.add("ci")
    with pytest.raises(UsageError, match="'ci' already"):
        file.add("ci")
    with pytest.raises(UsageError, match="no key is named 'cd': ci"):
        file.revoke("cd")
    assert first not in file.path.read_text()
    assert file.path.stat().st_mode & 0o777 == 0o600


def test_the_key_of_a_killed_session_ends_with_the_next(tmp_path: Path) -> None:
    file = KeyFile(tmp_path)
    kept, first = file.add("ci"), file.renew_session()
    second = file.renew_session()
    ring = KeyRing(file.path)
    assert ring.find(first.encode()) is None
    found = ring.find(second.encode())
    assert found is not None
    assert found.name == SESSION
    file.end_session()
    assert ring.find(second.encode()) is None
    assert ring.find(kept.encode()) is not None


def test_a_broken_file_opens_nothing(tmp_path: Path) -> None:
    file = KeyFile(tmp_path)
    secret = file.add("ci").encode()
    ring = KeyRing(file.path)
    assert ring.find(secret) is not None
    file.path.write_text("{")
    assert ring.find(secret) is None
    with pytest.raises(UsageError, match="no file of keys"):
        file.add("other")
    file.path.unlink()
    assert ring.find(secret) is None


@pytest.mark.parametrize(
    ("models", "may", "may_not"),
    [
        ((), ["world", "world@1", "other"], []),
        (("world",), ["world", "world@1", "world@2"], ["other", "world2", "worl"]),
        (("world@1",), ["world@1"], ["world", "world@2", "world@11"]),
    ],
)
def test_models_of_a_key(
    tmp_path: Path, models: tuple[str, ...], may: list[str], may_not: list[str]
) -> None:
    file = KeyFile(tmp_path)
    key = KeyRing(file.path).find(file.add("ci", models=models).encode())
    assert key is not None
    assert [name for name in [*may, *may_not] if key.may_ask(name)] == may
