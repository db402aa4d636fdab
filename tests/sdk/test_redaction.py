"""Redaction: no planted secret reaches the bytes on disk, and it fails closed."""

import json
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwml import Message, Recorder, Step, Tool, ToolCall, Trajectory, open_store
from rwml.redaction import is_secret_name, redact_model, redact_secrets
from rwml.schema import Fingerprint, Outcome, Provenance

SECRETS = {
    "sk-proj-Zq8vR2xLw9TnB4mKd7Yc": "<API_KEY>",
    "ghp_Zq8vR2xLw9TnB4mKd7YcZq8v": "<API_KEY>",
    "hf_Zq8vR2xLw9TnB4mKd7YcZq8v": "<API_KEY>",
    "github_pat_11ABCDEFG0Zq8vR2xLw9_TnB4mKd7YcZq8v": "<API_KEY>",
    "glpat-Zq8vR2xLw9TnB4mKd7Yc": "<API_KEY>",
    "sk_live_Zq8vR2xLw9TnB4mKd7Yc": "<API_KEY>",
    "sk_test_Zq8vR2xLw9TnB4mKd7Yc": "<API_KEY>",
    "sk-ant-api03-Zq8vR2xLw9TnB4mKd7Yc-Zq8v_AA": "<API_KEY>",
    "npm_Zq8vR2xLw9TnB4mKd7YcZq8vR2xLw9TnB4mK": "<API_KEY>",
    "pypi-AgEIcHlwaS5vcmcCJDU3Zq8vR2xLw9TnB4mK": "<API_KEY>",
    "xoxb-1234567890-Zq8vR2xLw9": "<API_KEY>",
    "AIzaZq8vR2xLw9TnB4mKd7YcZq8vR2xLw9TnB4m": "<API_KEY>",
    "ya29.Zq8vR2xLw9TnB4mKd7YcZq8v": "<API_KEY>",
    "gsk_Zq8vR2xLw9TnB4mKd7YcZq8v": "<API_KEY>",
    "dckr_pat_Zq8vR2xLw9TnB4mKd7Yc": "<API_KEY>",
    "SG.Zq8vR2xLw9TnB4mKd7.Zq8vR2xLw9TnB4mKd7": "<API_KEY>",
    "lsv2_pt_Zq8vR2xLw9TnB4mKd7Yc_0a1b2c": "<API_KEY>",
    "123456789:AAZq8vR2xLw9TnB4mKd7YcZq8vR2xLw9TnB": "<API_KEY>",
    "Zq88Q~Zq8vR2xLw9TnB4mKd7YcZq8vR2xLw9Tn": "<API_KEY>",
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
        ("postgresql://u:p@ss@host/x y@z", "postgresql://<CREDENTIALS>@host/x y@z"),
        ("redis://:pw@host", "redis://<CREDENTIALS>@host"),
        ("https://ghp_Zq8vR2xLw9TnB4mKd7YcZq8v:pw@host", "https://<CREDENTIALS>@host"),
        ("BEARER Zq8vR2xLw9TnB4mK", "BEARER <BEARER>"),
        ("authorization: bearer abc123", "authorization: bearer <BEARER>"),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic <BASIC>"),
        ('{"Authorization": "Basic not:base64"}', '{"Authorization": "Basic <BASIC>"}'),
        ("curl -H 'basic dXNlcjpwYXNz'", "curl -H 'basic <BASIC>'"),
        ("basic sk-proj-Zq8vR2xLw9TnB4mKd7Yc", "basic <API_KEY>"),
        ("aws_secret_access_key = wJalrXU/K7MD+bPx", "aws_secret_access_key = <SECRET>"),
        ("password=hunter2, user=bob", "password=<SECRET>, user=bob"),
        ("https://h/x?access_token=abcd&y=2", "https://h/x?access_token=<SECRET>&y=2"),
        ("login(user='bob', passwd='it is')", "login(user='bob', passwd='<SECRET>')"),
        ("PGPASSWORD=abcd psql", "PGPASSWORD=<SECRET> psql"),
        ("my password: hunter2.", "my password: <SECRET>."),
        ("X-Api-Key: zq8vr2xlw9", "X-Api-Key: <SECRET>"),
        ('os.environ["API_KEY"] = "abc"', 'os.environ["API_KEY"] = "<SECRET>"'),
        ("apikey=abc1\\nuser=bob", "apikey=<SECRET>\\nuser=bob"),
        ('{"apiKey": "a\\"b", "n": 1}', '{"apiKey": "<SECRET>", "n": 1}'),
        ("{'client_secret': 'abc', 'n': 1}", "{'client_secret': '<SECRET>', 'n': 1}"),
        (r"{\"token\": \"a\\\"b\", \"n\": 1}", r"{\"token\": \"<SECRET>\", \"n\": 1}"),
        ('next_token="token=hunter2"', 'next_token="token=<SECRET>"'),
        ("api_key=sk-proj-Zq8vR2xLw9TnB4mKd7Yc", "api_key=<API_KEY>"),
        ("-----BEGIN PRIVATE KEY-----\ncut off", "<PRIVATE_KEY>"),
        (
            '{"private_key_id": "0a1b", "private_key": '
            '"-----BEGIN PRIVATE KEY-----\\nZq8v\\n-----END PRIVATE KEY-----\\n"}',
            '{"private_key_id": "<SECRET>", "private_key": "<SECRET>"}',
        ),
        ("AccountName=x;AccountKey=Zq8vR2xL==;E=1", "AccountName=x;AccountKey=<SECRET>;E=1"),
        ("Endpoint=sb://x/;SharedAccessKey=Zq8v=", "Endpoint=sb://x/;SharedAccessKey=<SECRET>"),
        ("Server=db;UID=sa;PWD=hunter2;", "Server=db;UID=sa;PWD=<SECRET>;"),
        ("?sv=1&sig=Zq8vR2xLw9TnB4mKd7Yc%3D&se=2", "?sv=1&sig=<SIGNATURE>&se=2"),
        (
            "X-Amz-Date=1&X-Amz-Signature=0a1b2c3d4e5f60718293",
            "X-Amz-Date=1&X-Amz-Signature=<SIGNATURE>",
        ),
        ("hooks.slack.com/services/T0/B0/Zq8vR2xLw9TnB4", "hooks.slack.com/services/<WEBHOOK>"),
        ("bob:hunter2@tcp(db:3306)/app", "<CREDENTIALS>@tcp(db:3306)/app"),
        ("Set-Cookie: session=Zq8vR2xLw9; Path=/", "Set-Cookie: <COOKIE>"),
        (r'"log\nsk-proj-Zq8vR2xLw9TnB4mKd7Yc"', r'"log\n<API_KEY>"'),
        (r'"log\nAuthorization: Bearer abc123"', r'"log\nAuthorization: Bearer <BEARER>"'),
        ("?to=x%3Dsk-proj-Zq8vR2xLw9TnB4mKd7Yc", "?to=x%3D<API_KEY>"),
        ('password="' + "a b" * 5000 + '"', 'password="<SECRET>"'),
    ],
)
def test_secrets_in_context(text: str, clean: str) -> None:
    assert redact_secrets(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "order #W123",
        "https://example.org/a:b",
        "https://example.org:80/@bob",
        "task-sk-1",
        "a user: bob@example.org",
        "Order #W2378156, item 9523456873, product 1656367028, gift_card_5634230",
        '{"order_id": "#W2378156", "payment_method_id": "credit_card_4421486"}',
        "total_tokens: 123, max_tokens=1024, token: 123",
        '{"token": 123, "password": null, "tokens": ["a"]}',
        '{"properties": {"password": {"type": "string"}}, "required": ["password", "token"]}',
        "tokenizer=llama3-8b secretary: Ann12345",
        'next_page_token="abc123", eos_token="</s>", nextToken: abc12345',
        "password = getpass('Password: ')",
        "login(password=password, token=self.token, secret=os.environ['X'])",
        "api_key=$API_KEY password=${PW} token={token}",
        "if token == expected:",
        "The secret: always be kind. Password: required. Token: string",
        "Get an API key: https://example.org/keys/2024",
        "a basic understanding of Bearer authentication is needed",
        'password: "<your_password>" secret="****"',
        "PWD=/home/ann OLDPWD=~/x, storageKey: theme",
        "a cookie: chocolate, a basic economy ticket, Basic Economy",
        "disk-usage-of-the-whole-cluster, risk-assessment-2024-results",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact_secrets(text) == text


@pytest.mark.parametrize(
    ("name", "is_secret"),
    [
        *((name, True) for name in ("password", "X-Api-Key", "accessToken", "DB_PASSWORD")),
        *((name, True) for name in ("aws_secret_access_key", "clientSecret", "Authorization")),
        *((name, False) for name in ("tokenizer", "total_tokens", "next_page_token", "NextToken")),
        *((name, False) for name in ("secret_santa", "key", "order_id", "pad_token", "")),
    ],
)
def test_names_of_secrets(name: str, is_secret: bool) -> None:
    assert is_secret_name(name) is is_secret


pieces = st.sampled_from(
    [
        *("password", "token", "api_key", "=", ":", '"', "'", "\\", " ", "\n", "@", "/", "://"),
        *("Basic ", "Bearer ", "Authorization", "dXNlcjpwYXNz", "a1b2c3", "x", "(", "{", ","),
        *(secret for secret in sorted(SECRETS) if "\n" not in secret),
    ]
)


@settings(max_examples=500, deadline=None)
@given(st.text() | st.lists(pieces, max_size=14).map("".join))
def test_redaction_is_idempotent(text: str) -> None:
    assert redact_secrets(redact_secrets(text)) == redact_secrets(text)


@given(
    st.sampled_from(["password", "api_key", "apiKey", "accessToken"]),
    st.text(min_size=1, max_size=20),
)
def test_json_stays_json_without_the_secret(name: str, secret: str) -> None:
    body = {name: f"zq8v{secret}zq8v", "after": [1, {"order": "W1"}]}
    for layers in range(3):
        text = json.dumps(body)
        for _ in range(layers):
            text = json.dumps(text)
        clean = redact_secrets(text)
        assert "zq8v" not in clean
        for _ in range(layers + 1):
            clean = json.loads(clean)
        assert clean == {**body, name: "<SECRET>"}


def test_values_behind_secret_names_are_hidden_and_schemas_stay() -> None:
    arguments = {
        "password": "hunter2",
        "api_key": ["abc", 7],
        "nested": {"Authorization": "Digest abc", "n": 1},
        "token": 123,
        "next_page_token": "abc",
        "note": "password",
    }
    call = ToolCall(id="1", name="login", arguments=arguments)
    assert redact_model(call, redact_secrets).arguments == {
        **arguments,
        "password": "<SECRET>",
        "api_key": ["<SECRET>", 7],
        "nested": {"Authorization": "<SECRET>", "n": 1},
    }
    assert redact_model(call, None) == call
    schema = {
        "type": "object",
        "properties": {
            name: {"type": "string", "description": f"The {name}."}
            for name in ("password", "token")
        },
        "required": ["password", "token"],
    }
    tool = Tool(name="login", parameters=schema)  # type: ignore[arg-type]
    assert redact_model(tool, redact_secrets) == tool


@pytest.mark.parametrize(
    "piece", ["password=", 'password="', "password=a(", "next_token=", "://a:", "://a:b@", "basic "]
)
def test_any_text_takes_time_in_proportion_to_its_length(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    assert redact_secrets(text), "in squares, this would end in a timeout"


def test_texts_of_a_benchmark_stay_as_they_are() -> None:
    tau2 = find_spec("tau2")
    if tau2 is None or not tau2.submodule_search_locations:
        pytest.skip("tau2 is not installed")
    domains = Path(tau2.submodule_search_locations[0]) / "data" / "tau2" / "domains" / "retail"
    files = [file for file in domains.rglob("*") if file.suffix in (".json", ".md")]
    assert files
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert redact_secrets(text) == text, file.name


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
