"""Redaction: no planted secret reaches the bytes on disk, and it fails closed."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwml import Message, Recorder, Step, Tool, ToolCall, Trajectory, open_store
from rwml.redaction import redact_model, redact_secrets
from rwml.schema import Fingerprint, Outcome, Provenance

SECRETS = {
    "sk-proj-Zq8vR2xLw9TnB4mKd7Yc": "<API_KEY>",
    "ghp_Zq8vR2xLw9TnB4mKd7YcZq8v": "<API_KEY>",
    "hf_Zq8vR2xLw9TnB4mKd7YcZq8v": "<API_KEY>",
    "AKIAZQ8VR2XLW9TNB4MK": "<AWS_KEY>",
    "eyJhbGciOiJI.eyJzdWIiOiIx.Zq8vR2xLw9": "<JWT>",
    "-----BEGIN RSA PRIVATE KEY-----\nZq8vR2xLw9TnB4mKd7Yc\n-----END RSA PRIVATE KEY-----": (
        "<PRIVATE_KEY>"
    ),
}

secrets = st.sampled_from(sorted(SECRETS))
around = st.text(st.characters(codec="utf-8", categories=["Zs", "Po", "Lo"]), max_size=6)
PLACES = [
    "id", "source", "task_id", "split", "initial", "tool", "schema", "schema key", "metadata",
    "metadata key", "fingerprint", "breakdown", "content", "reasoning", "name", "arguments",
    "argument key", "raw arguments", "call id", "result", "result id", "model", "provenance",
    "step metadata",
]  # fmt: skip


def planted(place: str, text: str) -> Trajectory:
    """A trajectory with `text` in one place of it."""

    def at(where: str, otherwise: str = "x") -> str:
        return text if where == place else otherwise

    raw = text if place == "raw arguments" else None
    action = Message(
        role="assistant",
        content=at("content"),
        reasoning=at("reasoning"),
        name=at("name"),
        tool_calls=(
            ToolCall(
                id=at("call id"),
                name="f",
                arguments={} if raw else {at("argument key"): [{"deep": at("arguments")}]},
                raw_arguments=raw,
            ),
        ),
    )
    step = Step(
        index=0,
        action=action,
        observation=(Message(role="tool", content=at("result"), tool_call_id=at("result id")),),
        kind="tool",
        status="ok",
        model=at("model"),
        provenance=Provenance(thread_id=at("provenance")),
        metadata={"x": at("step metadata")},
    )
    return Trajectory(
        id=at("id"),
        source=at("source"),
        task_id=at("task_id"),
        split=at("split"),
        initial=(Message(role="system", content=at("initial")),),
        tools=(
            Tool(
                name="f",
                description=at("tool"),
                parameters={at("schema key"): {"default": at("schema")}},
            ),
        ),
        steps=(step,),
        outcome=Outcome(breakdown={"x": at("breakdown")}),
        fingerprint=Fingerprint(agent=at("fingerprint")),
        metadata={at("metadata key"): at("metadata")},
    )


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(PLACES), secrets, around, around)
def test_no_planted_secret_reaches_the_disk(
    place: str, secret: str, before: str, after: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with (
            open_store(f"sqlite:///{folder}/rwml.db") as store,
            Recorder(store=store) as recorder,
        ):
            recorder.record(planted(place, f"{before} {secret} {after}"))
            assert recorder.flush(30)
            files = {file.name: file.read_bytes() for file in Path(folder).iterdir()}
            (found,) = store.trajectories()
            counts = store.counts()
        assert set(files) >= {"rwml.db", "rwml.db-wal"}
        for name, raw in files.items():
            for part in (secret, secret.splitlines()[-2 if "\n" in secret else 0]):
                assert part.encode() not in raw, f"{part} is in {name}"
        assert SECRETS[secret] in found.model_dump_json()
        assert len(found.steps) == counts.transitions == 1


@pytest.mark.parametrize("secret", sorted(SECRETS))
def test_each_kind_is_named(secret: str) -> None:
    assert redact_secrets(f"a {secret} b") == f"a {SECRETS[secret]} b"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Bearer Zq8vR2xLw9TnB4mK", "Bearer <BEARER>"),
        ("postgresql://bob:hunter2@db/x", "postgresql://<CREDENTIALS>@db/x"),
        ("-----BEGIN PRIVATE KEY-----\ncut off", "<PRIVATE_KEY>"),
    ],
)
def test_secrets_in_context(text: str, clean: str) -> None:
    assert redact_secrets(text) == clean


@pytest.mark.parametrize(
    "text", ["order #W123", "https://example.org/a:b", "task-sk-1", "a user: bob@example.org"]
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact_secrets(text) == text


@given(st.text())
def test_redaction_is_idempotent(text: str) -> None:
    assert redact_secrets(redact_secrets(text)) == redact_secrets(text)


def test_keys_that_look_alike_afterwards_keep_both_values() -> None:
    call = ToolCall(id="1", name="f", arguments={"sk-" + "a" * 20: 1, "sk-" + "b" * 20: 2})
    assert sorted(redact_model(call, redact_secrets).arguments.values(), key=str) == [1, 2]


def test_two_ids_with_secrets_stay_two_trajectories(tmp_path: Path) -> None:
    with (
        open_store(f"sqlite:///{tmp_path}/rwml.db") as store,
        Recorder(store=store) as recorder,
    ):
        for letter in "ab":
            recorder.record(planted("id", "sk-" + letter * 20))
        assert recorder.flush(30)
        assert [len(t.steps) for t in store.trajectories()] == [1, 1]
        assert store.counts().orphans == 0


def test_what_cannot_be_redacted_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def redact(text: str) -> str:
        if "poison" in text:
            raise RuntimeError(text)
        return text

    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    with (
        open_store(f"sqlite:///{tmp_path}/rwml.db") as store,
        Recorder(store=store, redact=redact) as recorder,
    ):
        recorder.record(planted("result", "poison"))
        recorder.record(planted("id", "harmless"))
        assert not recorder.flush(30)
        assert (recorder.stats.failed, recorder.stats.written) == (1, 3)
        assert b"poison" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())


def test_redactor_of_ones_own_and_none(tmp_path: Path) -> None:
    secret = "sk-" + "a" * 20
    for redact, expected in ((lambda text: text.replace("Ann", "<NAME>"), "<NAME>"), (None, "Ann")):
        with (
            open_store(f"sqlite:///{tmp_path}/{expected}.db") as store,
            Recorder(store=store, redact=redact) as recorder,
        ):
            recorder.record(planted("content", f"Ann {secret}"))
            assert recorder.flush(30)
            found = next(store.trajectories()).steps[0].action.content
        assert found == f"{expected} {secret}"
