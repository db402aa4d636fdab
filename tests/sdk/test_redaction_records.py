"""Redaction of records: nothing leaks, structure stays, and quick and slow ways agree."""

import json
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, JsonValue

from rwml import Message, Step, Tool, ToolCall, Trajectory
from rwml.errors import RedactionError, UsageError
from rwml.redaction import Redaction, RedactionSession, redact_id, redact_model
from rwml.redaction.personal import luhn
from rwml.schema import Fingerprint, Outcome, Provenance, Usage

KEY = b"k" * 32
ROUNDS = 5_000 if os.environ.get("RWML_SOAK") == "1" else 300
fuzzed = settings(max_examples=ROUNDS, deadline=None)


def session(**policy: Any) -> RedactionSession:
    return Redaction(**policy).session(key=KEY)


# Canaries: values of each kind that occur nowhere else.

LOWER, UPPER, DIGITS = "abcdefghjkmnpqrstuvwxyz", "ABCDEFGHJKLMNPQRSTUVWXYZ", "23456789"
WORD = LOWER + UPPER + DIGITS


def of(alphabet: str, size: int, most: int | None = None) -> st.SearchStrategy[str]:
    return st.text(alphabet, min_size=size, max_size=most or size)


def with_check_digit(body: str) -> str:
    return next(f"{body}{check}" for check in range(10) if luhn(f"{body}{check}"))


def grouped(text: str, sign: str) -> str:
    return sign.join(text[i : i + 4] for i in range(0, len(text), 4))


def iban(digits: str) -> str:
    number = int("".join(str(int(c, 36)) for c in f"{digits}DE00"))
    return f"DE{98 - number % 97:02}{digits}"


Canary = tuple[str, str]
"""A text, and the part of it that must be gone."""

CANARIES: dict[str, st.SearchStrategy[Canary]] = {
    "key": of(WORD, 24).map(lambda s: (f"sk-proj-{s}", s)),
    "anthropic": of(WORD, 40).map(lambda s: (f"sk-ant-api03-{s}", s)),
    "github": of(WORD, 36).map(lambda s: (f"ghp_{s}", s)),
    "npm": of(WORD, 36).map(lambda s: (f"npm_{s}", s)),
    "pypi": of(WORD, 60).map(lambda s: (f"pypi-AgEIcHlwaS5vcmc{s}", s)),
    "aws": of(UPPER + DIGITS, 16).map(lambda s: (f"AKIA{s}", s)),
    "google": of(WORD, 35).map(lambda s: (f"AIza{s}", s)),
    "jwt": of(WORD, 20).map(lambda s: (f"eyJhbGciOiJI.eyJzdWIiOiIx{s}.{s}", s)),
    "private key": of(WORD, 64).map(
        lambda s: (f"-----BEGIN PRIVATE KEY-----\n{s}\n-----END PRIVATE KEY-----", s)
    ),
    "login": of(WORD, 12).map(lambda s: (f"postgresql://bob:{s}@db.internal/app", s)),
    "azure": of(WORD, 40).map(
        lambda s: (f"DefaultEndpointsProtocol=https;AccountName=x;AccountKey={s}==", s)
    ),
    "sas": of(WORD, 43).map(lambda s: (f"https://x.blob.core.windows.net/c?sv=1&sig={s}%3D", s)),
    "slack": of(WORD, 24).map(lambda s: (f"https://hooks.slack.com/services/T00/B00/{s}", s)),
    "bearer": of(WORD, 30).map(lambda s: (f"Authorization: Bearer {s}", s)),
    "password": of(WORD, 12).map(lambda s: (f"password={s}", s)),
    "e-mail": of(LOWER, 10).map("zq{}".format).map(lambda s: (f"{s}@example.com", s)),
    "phone": of(DIGITS, 7).map(lambda s: (f"+1 415 {s[:3]} {s[3:]}", f"{s[:3]} {s[3:]}")),
    "national phone": of(DIGITS, 7).map(lambda s: (f"415-{s[:3]}-{s[3:]}", f"415-{s[:3]}-{s[3:]}")),
    "card": of(DIGITS, 12).map(lambda s: with_check_digit(f"411{s}")).map(lambda s: (s, s)),
    "grouped card": of(DIGITS, 14)
    .map(lambda s: grouped(with_check_digit(f"4{s}"), " "))
    .map(lambda s: (s, s)),
    "iban": of(DIGITS, 18).map(iban).map(lambda s: (s, s)),
    "grouped iban": of(DIGITS, 18).map(iban).map(lambda s: (grouped(s, " "), grouped(s, " "))),
}
canaries = st.sampled_from(sorted(CANARIES)).flatmap(CANARIES.__getitem__)

around = st.text(st.characters(codec="utf-8", categories=["Zs", "Po", "Lo", "Cc"]), max_size=6)
WRAPPERS: list[Callable[[str], str]] = [
    lambda text: text,
    lambda text: json.dumps({"log": f"first line\n{text}\nlast"}),
    lambda text: json.dumps({"body": json.dumps({"text": text})}),
    lambda text: repr({"value": text}),
    lambda text: f"<td>{text}</td>",
    lambda text: f"({text})",
]
PLACES = [
    "id", "source", "task_id", "split", "initial", "tool", "tool name", "schema", "schema key",
    "metadata", "metadata key", "deep key", "fingerprint", "breakdown", "breakdown key", "content",
    "reasoning", "name", "arguments", "argument key", "raw arguments", "call id", "call name",
    "result", "result id", "result name", "model", "provenance", "thread id", "run id",
    "step metadata", "step metadata key", "part",
]  # fmt: skip


def planted(place: str, text: str) -> Trajectory:
    """A trajectory with `text` in one place of it."""

    def at(where: str, otherwise: str = "x") -> str:
        return text if where == place else otherwise

    raw = text if place == "raw arguments" else None
    call = ToolCall(
        id=at("call id"),
        name=at("call name"),
        arguments={} if raw else {at("argument key"): [{"deep": at("arguments")}]},
        raw_arguments=raw,
    )
    result = Message.from_openai(
        {
            "role": "tool",
            "content": [{"type": "text", "text": at("result")}, {"type": at("part", "image_url")}],
            "tool_call_id": at("result id"),
            "name": at("result name"),
        }
    )
    step = Step(
        index=0,
        action=Message(
            role="assistant",
            content=at("content"),
            reasoning=at("reasoning"),
            name=at("name"),
            tool_calls=(call,),
        ),
        observation=(result,),
        kind="tool",
        status="ok",
        model=at("model"),
        provenance=Provenance(
            agent_name=at("provenance"), thread_id=at("thread id"), run_id=at("run id")
        ),
        metadata={at("step metadata key"): at("step metadata")},
    )
    return Trajectory(
        id=at("id"),
        source=at("source"),
        task_id=at("task_id"),
        split=at("split"),
        initial=(Message(role="system", content=at("initial")),),
        tools=(
            Tool(
                name=at("tool name"),
                description=at("tool"),
                parameters={at("schema key"): {"default": at("schema")}},
            ),
        ),
        steps=(step,),
        outcome=Outcome(breakdown={at("breakdown key"): [at("breakdown")]}),
        fingerprint=Fingerprint(agent=at("fingerprint")),
        metadata={at("metadata key"): {at("deep key"): at("metadata")}},
    )


def bodies(trajectory: Trajectory) -> list[str]:
    header = trajectory.model_dump_json(exclude={"steps"}, exclude_defaults=True)
    return [header, *(step.model_dump_json(exclude_defaults=True) for step in trajectory.steps)]


@fuzzed
@given(st.sampled_from(PLACES), canaries, around, around, st.sampled_from(WRAPPERS))
def test_no_canary_survives_in_any_field(
    place: str, canary: Canary, before: str, after: str, wrap: Callable[[str], str]
) -> None:
    text, core = canary
    trajectory = planted(place, f"{before} {wrap(text)} {after}")
    one = session()
    for body, model in zip(bodies(trajectory), (Trajectory, Step), strict=True):
        clean = one.json(body)
        assert core not in clean
        assert core not in json.dumps(json.loads(clean), ensure_ascii=False)
        model.model_validate_json(clean)
    assert core not in str(redact_model(trajectory, session()))


@fuzzed
@given(st.sampled_from(["password", "api_key", "accessToken", "X-Api-Key"]), of(WORD, 10))
def test_what_a_name_calls_a_secret_is_hidden_in_any_depth(name: str, secret: str) -> None:
    metadata: dict[str, JsonValue] = {"a": [{name: secret}, {name: [secret, 7, None]}]}
    step = Step(index=0, action=Message(role="user"), metadata=metadata)
    clean = redact_model(step, session()).metadata
    assert clean == {"a": [{name: "<SECRET>"}, {name: ["<SECRET>", 7, None]}]}


# Any record: what may change and what may not.

PIECES = [
    "ann@example.com", "+14155552671", "4111111111111111", "DE89370400440532013000",
    "sk-proj-Zq8vR2xLw9TnB4mKd7Yc", "password", "token", "api_key", "phone", "=", ":", '"', "'",
    "\\", " ", "\n", "\t", "@", "/", "Bearer ", "Zq8vR2xLw9TnB4mK", "<EMAIL_1>", "<", ">", "{",
    "1", "415", "-", ".", "+", "é", "日本", "\u200b", "\uff14", "\x00", "\x1b", "\ud800", "\\n",
]  # fmt: skip
hostile = st.lists(st.sampled_from(PIECES), max_size=8).map("".join) | st.text(max_size=8)
names = hostile.map(lambda text: f"x{text}".replace("\ud800", "?"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, width=32) | hostile,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(hostile, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(hostile | st.sampled_from(["role", "password"]), json_values, max_size=3)
calls = st.builds(ToolCall, id=hostile, name=hostile, arguments=objects)
messages = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=st.none() | hostile,
    tool_calls=st.lists(calls, max_size=2).map(tuple),
    tool_call_id=st.none() | hostile,
    name=st.none() | hostile,
    reasoning=st.none() | hostile,
)
steps = st.builds(
    Step,
    index=st.integers(0, 10**6),
    attempt=st.integers(0, 3),
    action=messages,
    observation=st.lists(messages, max_size=2).map(tuple),
    kind=st.sampled_from([None, "tool", "user"]),
    status=st.sampled_from(["ok", "error", "pending"]),
    started_at=st.none() | st.datetimes(),
    latency_s=st.none() | st.floats(0, 1e6),
    model=st.none() | hostile,
    usage=st.none() | st.builds(Usage, prompt_tokens=st.integers(0, 10**18)),
    token_ids=st.none() | st.lists(st.integers(0, 10**5), max_size=4).map(tuple),
    metadata=objects,
)
trajectories = st.builds(
    Trajectory,
    id=names,
    source=names,
    initial=st.lists(messages, max_size=2).map(tuple),
    tools=st.lists(st.builds(Tool, name=hostile, parameters=objects), max_size=2).map(tuple),
    steps=st.lists(steps, max_size=2).map(tuple),
    metadata=objects,
)
records: st.SearchStrategy[Step | Trajectory] = steps | trajectories
policies = st.sampled_from(
    [
        Redaction(),
        Redaction(personal_data=False),
        Redaction(custom={"ANY": r".+", "WORD": r"\w+"}),
        Redaction(custom={"NUMBER": r"\d"}, allow=["metadata.**"]),
        Redaction(deny=["**"]),
        Redaction(deny=["metadata", "action", "steps.*.observation", "tools.*.parameters"]),
        Redaction(secrets=False, deny=["metadata.*", "**.id", "**.content", "initial.0"]),
    ]
)


def dumped(record: BaseModel) -> str:
    try:
        return record.model_dump_json(exclude_defaults=True)
    except ValueError:  # a lone surrogate
        return json.dumps(record.model_dump(mode="json", exclude_defaults=True))


def structure(record: Step | Trajectory) -> list[object]:
    """What no redaction may change."""
    if isinstance(record, Trajectory):
        inner = [structure(step) for step in record.steps]
        outcome = record.outcome.model_copy(update={"breakdown": {}})
        return [record.started_at, outcome, [m.role for m in record.initial], inner]
    said = (record.action, *record.observation)
    return [
        *(record.index, record.attempt, record.kind, record.status, record.started_at),
        *(record.latency_s, record.usage, record.token_ids),
        [(m.role, m.content is None, len(m.tool_calls), m.tool_call_id is None) for m in said],
    ]


@fuzzed
@given(records, policies)
def test_any_redaction_of_a_record_is_a_record(
    record: Step | Trajectory, policy: Redaction
) -> None:
    clean = redact_model(record, policy.session(key=KEY))
    assert type(clean) is type(record)
    assert structure(clean) == structure(record)


@fuzzed
@given(records, policies)
def test_redacting_again_changes_nothing(record: Step | Trajectory, policy: Redaction) -> None:
    once = policy.session(key=KEY).json(dumped(record))
    again = policy.session(key=KEY)
    assert again.json(once) == once
    assert again.used_names() == {}


@fuzzed
@given(records, policies)
def test_what_the_quick_look_lets_pass_is_clean(
    record: Step | Trajectory, policy: Redaction
) -> None:
    for body in (dumped(record), json.dumps(record.model_dump(mode="json"))):
        quick = policy.session(key=KEY).json(body)
        with patch("rwml.redaction.policy.Rules.may_change", return_value=True):
            thorough = policy.session(key=KEY).json(body)
        assert quick == thorough
        assert (quick is body) == (thorough is body)


@fuzzed
@given(records, policies)
def test_large_json_is_redacted_like_small(record: Step | Trajectory, policy: Redaction) -> None:
    body = dumped(record)
    whole = policy.session(key=KEY).json(body)
    with patch("rwml.redaction.session.LARGE_CHARS", 0):
        in_pieces = policy.session(key=KEY).json(body)
    assert json.loads(in_pieces) == json.loads(whole)
    assert (in_pieces is body) == (whole is body)


@contextmanager
def small_pieces() -> Iterator[None]:
    with (
        patch("rwml.redaction.texts.PIECE_CHARS", 2048),
        patch("rwml.redaction.texts.OVERLAP_CHARS", 512),
        patch("rwml.redaction.literals.PIECE_CHARS", 37),
        patch("rwml.redaction.session.LARGE_CHARS", 0),
    ):
        yield


@fuzzed
@given(
    st.lists(canaries.map(lambda canary: canary[0]) | hostile, max_size=6),
    st.lists(st.integers(0, 2500), min_size=7, max_size=7),
    st.sampled_from(["the quick brown fox; ", "日本語の文章。", 'a "quoted" \\ text\n']),
)
def test_texts_in_pieces_are_cleaned_like_whole(
    texts: list[str], gaps: list[int], filler: str
) -> None:
    text = "".join(
        (filler * (gap // len(filler)))[:gap] + f" {part} "
        for gap, part in zip(gaps, [*texts, ""], strict=False)
    )
    body = json.dumps({"index": 0, "action": {"role": "user", "content": text}})
    whole = session().json(body)
    with small_pieces():
        in_pieces = session().json(body)
    assert json.loads(in_pieces) == json.loads(whole)


# Long and hostile texts.


@pytest.mark.parametrize(
    ("secret", "expected"),
    [
        ("-----BEGIN PRIVATE KEY-----\n" + "Zq8v\n" * 40_000, "<PRIVATE_KEY>"),
        (
            "-----BEGIN PRIVATE KEY-----\n" + "Zq8v\n" * 40_000 + "-----END PRIVATE KEY----- ok",
            "<PRIVATE_KEY> ok",
        ),
        ('password="' + "Zq8v " * 40_000 + '" ok', 'password="<SECRET>" ok'),
        (r"{\"password\": \"" + "Zq8v " * 40_000 + r"\"} ok", r"{\"password\": \"<SECRET>\"} ok"),
        ("password=" + "Zq8v" * 40_000 + " ok", "password=<SECRET> ok"),
        ("sk-proj-" + "Zq8v" * 40_000 + " ok", "<API_KEY> ok"),
        ("Bearer " + "Zq8v" * 40_000 + " ok", "Bearer <BEARER> ok"),
    ],
)
@pytest.mark.parametrize("before", [0, 20_000, 24_560, 24_570, 32_700, 32_760])
def test_a_secret_longer_than_a_piece_is_hidden_whole(
    secret: str, expected: str, before: int
) -> None:
    text = "." * before + " " + secret
    assert session().text(text) == "." * before + " " + expected


def test_a_value_across_any_border_is_found() -> None:
    text = "x " * 40_000
    for place in range(24_540, 24_600):
        planted_text = (
            f"{text[: place - place % 2]}{'y ' if place % 2 else ''}ann@example.com {text}"
        )
        assert "ann@" not in session().text(planted_text)


@pytest.mark.parametrize(
    "piece",
    [
        *("a", "1", "@", "a@", "a@b.", "+1", "4111 ", "4111-", "DE89 ", "0 ", "030 ", '"', "\\"),
        *('password="', "password=", "token:x://", "://a:", "-----BEGIN ", "phone: ", "<EMAIL_1>"),
        *("eyJ", "sk-", "cookie: a=", "basic ", "%40", "\u200b", "\uff14", "é@é.", "\\u0040", "A1"),
    ],
)
def test_any_text_takes_time_in_proportion_to_its_length(piece: str) -> None:
    text = piece * (300_000 // len(piece))
    one = session()
    clean = one.text(text)
    assert one.json(json.dumps({"index": 0, "action": {"role": "user", "content": text}}))
    assert len(clean) <= 20 * len(text), "in squares, this would end in a timeout"


def test_other_threads_run_while_a_large_record_is_redacted() -> None:
    content = "Write to ann@example.com about order 9523456873.\n" * 40_000
    body = json.dumps({"index": 0, "action": {"role": "user", "content": content}})
    done, turns = threading.Event(), 0
    clean: list[str] = []

    def work() -> None:
        clean.append(session().json(body))
        done.set()

    worker = threading.Thread(target=work)
    worker.start()
    while not done.wait(0.001):
        turns += 1
    worker.join()
    assert turns > 3
    assert "ann@" not in clean[0]
    assert clean[0].count("<EMAIL_1>") == 40_000


# Ids, paths, errors.


def test_ids_stay_apart_and_still_pair() -> None:
    ids = ["sk-" + letter * 20 for letter in "ab"]
    step = Step(
        index=0,
        action=Message(
            role="assistant", tool_calls=tuple(ToolCall(id=call, name="f") for call in ids)
        ),
        observation=tuple(
            Message(role="tool", tool_call_id=call, content="") for call in ids[::-1]
        ),
    )
    clean = redact_model(step, session())
    assert clean.orphans() == 0
    assert len({call.id for call in clean.action.tool_calls}) == 2
    assert all(call.id.startswith("<API_KEY>-") for call in clean.action.tool_calls)


def test_an_id_is_alike_in_every_trajectory_of_a_store() -> None:
    other = session()
    other.text("bob@example.com")
    ids = {redact_id("thread of ann@example.com", one) for one in (session(), other)}
    assert len(ids) == 1
    (found,) = ids
    assert found.startswith("thread of <EMAIL>-")
    assert redact_id(found, session()) == found
    assert redact_id("call_1", session()) == "call_1"
    assert redact_id("thread of ann@example.com", Redaction().session(key=b"o")) != found


def example(**arguments: JsonValue) -> Step:
    return Step(
        index=3,
        action=Message(
            role="assistant",
            content="mail ann@example.com",
            tool_calls=(ToolCall(id="c", name="f", arguments=arguments),),
        ),
        observation=(Message(role="tool", content="bob@example.com ghp_" + "a" * 30),),
        metadata={"user": {"name": "Ann", "age": 7}, "a.b": "secret stuff"},
    )


@pytest.mark.parametrize(
    "path",
    [
        *("steps.**.arguments.ssn", "action.tool_calls.*.arguments.ssn", "**.ssn"),
        *("steps.*.action.tool_calls.0.arguments.ssn", "steps.3.action.**.ssn"),
    ],
)
@pytest.mark.parametrize("ssn", ["078-05-1120", 78051120, ["078"], {"a": 1}])
def test_denied_paths(path: str, ssn: JsonValue) -> None:
    policy = Redaction(deny=[path])
    clean = redact_model(example(ssn=ssn, other="x"), policy.session(key=KEY))
    assert clean.action.tool_calls[0].arguments == {"ssn": "<DENIED>", "other": "x"}
    whole = Trajectory(id="t", source="x", steps=(example(ssn=ssn),))
    found = redact_model(whole, policy.session(key=KEY))
    if path != "steps.3.action.**.ssn":  # there it is the first of the list
        assert found.steps[0].action.tool_calls[0].arguments == {"ssn": "<DENIED>"}


def test_denied_parts_of_the_model_stay_what_they_are() -> None:
    policy = Redaction(deny=["metadata", "observation.*", r"action.tool_calls.*.id"])
    clean = redact_model(example(), policy.session(key=KEY))
    assert clean.metadata == {"denied": "<DENIED>"}
    assert clean.observation == (Message(role="tool", content="<DENIED>"),)
    assert clean.action.tool_calls[0].id.startswith("<DENIED>-")
    dotted = Redaction(deny=[r"metadata.a\.b", "metadata.user.*"]).session(key=KEY)
    assert redact_model(example(), dotted).metadata == {
        "user": {"name": "<DENIED>", "age": "<DENIED>"},
        "a.b": "<DENIED>",
    }


def test_allowed_paths_lose_their_secrets_only() -> None:
    clean = redact_model(example(), session(allow=["observation.*.content"]))
    assert clean.observation[0].content == "bob@example.com <API_KEY>"
    assert clean.action.content == "mail <EMAIL_1>"
    kept = redact_model(example(), session(allow=["**"], secrets=False))
    assert kept == example()
    both = redact_model(example(), session(allow=["**"], deny=["action.content"]))
    assert both.action.content == "<DENIED>"


@pytest.mark.parametrize(
    ("policy", "named"),
    [
        ({"deny": [""]}, "''"),
        ({"deny": ["metadata..x"]}, "'metadata..x'"),
        ({"allow": ["metadata.x*"]}, "'metadata.x*'"),
        ({"allow": ["observation[0].content"]}, "'observation[0].content'"),
        ({"deny": ["observations.*.content"]}, "'observations.*.content'"),
        ({"deny": ["action.tool_call.*.arguments"]}, "'action.tool_call.*.arguments'"),
        ({"deny": "metadata"}, "'metadata'"),
        ({"custom": {"ORDER": "("}}, "ORDER"),
        ({"custom": {"ORDER": b"x"}}, "ORDER"),
        ({"custom": {"order no": "x"}}, "'order no'"),
        ({"engine": "spacy"}, "'spacy'"),
    ],
)
def test_what_cannot_be_read_is_named(policy: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError) as caught:
        Redaction(**policy)
    assert named in str(caught.value)


@pytest.mark.parametrize("key", [b"", b"x" * 65, "text"])
def test_keys_that_cannot_be_used(key: bytes) -> None:
    with pytest.raises(UsageError, match="1 to 64 bytes"):
        Redaction().session(key=key)


def test_a_failure_is_told_without_the_record() -> None:
    def fail(text: str) -> list[tuple[int, int, str]]:
        raise ValueError(f"cannot read {text}")

    one = Redaction(detectors=[fail]).session(key=KEY)
    for work in (one.text, one.id, lambda text: one.json(json.dumps({"index": 0, "x": text}))):
        with pytest.raises(RedactionError, match="could not be redacted: ValueError") as caught:
            work("my canary")
        assert "canary" not in f"{caught.value}{caught.value.__context__}{caught.value.__cause__}"
    for body in (
        '{"index": 0, "x": "ann@example.com"',
        "ann@example.com",
        '{"index": 0} ann@example.com',
        '{"x": ann@example.com}',
    ):
        with pytest.raises(RedactionError) as caught:
            session().json(body)
        assert "ann" not in str(caught.value)
        with small_pieces(), pytest.raises(RedactionError):
            session().json(body)


def test_a_policy_can_be_pickled_and_is_frozen() -> None:
    policy = Redaction(custom={"ORDER": r"\bORD-\d{6}\b"}, deny=["metadata.x"])
    expected = policy.session(key=KEY).text("ORD-123456")  # what it makes on the way stays here
    again = pickle.loads(pickle.dumps(policy))
    assert again == policy
    assert again.session(key=KEY).text("ORD-123456") == expected == "<ORDER_1>"
    with pytest.raises(AttributeError):
        policy.secrets = False  # type: ignore[misc]


def test_a_clean_record_is_the_same_object() -> None:
    body = Step(
        index=0, action=Message(role="user", content="hello"), usage=Usage()
    ).model_dump_json()
    assert session().json(body) is body
    assert session().json(body + " " * 300_000).startswith(body)


@pytest.mark.parametrize("large", [0, 10**9])
def test_findings_tell_where_and_what_without_the_value(large: int) -> None:
    found: list[Any] = []
    one = Redaction(deny=["metadata.x"]).session(key=KEY, report=found.append)
    step = Step(
        index=0,
        action=Message(role="user", content="write to ann@example.com or bob@example.com"),
        metadata={"password": "hunter2", "x": 1, "carl@example.com": {"phone": "5551234567"}},
    )
    with patch("rwml.redaction.session.LARGE_CHARS", large):
        one.json(step.model_dump_json())
    told = [(f.path, f.kind, f.pseudonym, f.masked) for f in found]
    assert told == [
        ("action.content", "EMAIL", "<EMAIL_1>", "a... (15 characters)"),
        ("action.content", "EMAIL", "<EMAIL_2>", "b... (15 characters)"),
        ("metadata.password", "SECRET", "<SECRET>", "h... (7 characters)"),
        ("metadata.x", "DENIED", "<DENIED>", ""),
        ("metadata", "EMAIL", "<EMAIL_3>", "c... (16 characters)"),
        ("metadata.<EMAIL_3>.phone", "PHONE", "<PHONE_1>", "5... (10 characters)"),
    ]
    assert (found[0].before, found[0].after) == ("write to ", " or <EMAIL_2>")
