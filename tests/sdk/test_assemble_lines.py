"""`rwml.assemble.LineReader`: what comes out is what parsing each line as a whole would give."""

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwml.assemble import Completion, Hasher, LineReader
from rwml.errors import SchemaError
from rwml.schema import Message

KEY = b"a test's key"
TEXTS = st.text(max_size=12) | st.sampled_from(["]", '"}', "[{", "\\", "é\u2028", "x" * 300])
CALLS = st.builds(
    lambda name, text: {
        "id": name,
        "type": "function",
        "function": {"name": "look", "arguments": json.dumps({"at": text})},
    },
    TEXTS,
    TEXTS,
)
MESSAGES = st.one_of(
    st.builds(lambda text: {"role": "user", "content": text}, TEXTS),
    st.builds(lambda text: {"content": text, "role": "system"}, TEXTS),
    st.builds(lambda call: {"role": "assistant", "content": None, "tool_calls": [call]}, CALLS),
    st.builds(lambda text: {"role": "tool", "tool_call_id": text, "content": text}, TEXTS),
)


def write(messages: list[Any], layout: int, **more: Any) -> str:
    """A line, in one of the ways in which programs write JSON."""
    before = {"id": len(messages)} if layout % 2 else {}
    fields = {**before, "messages": messages, **more}
    if layout >= 4:
        fields = {"kind": "log", "request": fields}
    indent = 1 if layout in (2, 3) else None
    separators = (",", ":") if layout in (0, 1) else None
    return json.dumps(fields, ensure_ascii=layout != 1, indent=indent, separators=separators)


@given(
    st.lists(
        st.builds(
            lambda long, talk: ([{"role": "system", "content": "x" * 300}] if long else []) + talk,
            st.booleans(),
            st.lists(MESSAGES, min_size=1, max_size=8),
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 5),
    st.integers(1, 4),
    st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=200)
def test_reading_on_is_reading_anew(
    conversations: list[list[Any]], layout: int, kept: int, seed: int
) -> None:
    requests = [talk[:end] for talk in conversations for end in range(1, len(talk) + 1)]
    requests += requests[::3]
    if seed % 2:
        random.Random(seed).shuffle(requests)
    reader, plain = LineReader(Hasher(KEY), kept=kept), Hasher(KEY)
    for number, request in enumerate(requests):
        line = write(request, layout, model="m")
        fields, history = reader.read(line)
        whole = json.loads(line)
        inner = whole["request"] if layout >= 4 else whole
        wire = inner.pop("messages")
        assert fields == whole
        assert history.messages == tuple(map(Message.from_openai, wire))
        thread_id = "t" if number % 3 == 0 else None
        completion = Completion(
            messages=history.messages,
            response=Message(role="assistant", content="done"),
            thread_id=thread_id,
        )
        assert history.digests_of(completion) == plain.completion(completion)


@given(st.data(), st.integers(0, 5), st.integers(1, 4))
@settings(deadline=None, max_examples=100)
def test_answers_and_branches_are_read_as_anew(data: st.DataObject, layout: int, kept: int) -> None:
    reader, plain = LineReader(Hasher(KEY), response="response", kept=kept), Hasher(KEY)
    requests: list[list[Any]] = [[{"role": "system", "content": "x" * 300}]]
    for _ in range(data.draw(st.integers(1, 12))):
        request = data.draw(st.sampled_from(requests[-3:] + requests[:1]))
        answer = data.draw(st.none() | MESSAGES)
        line = write(request, layout, response=answer)
        fields, history = reader.read(line)
        whole = json.loads(line)
        inner = whole["request"] if layout >= 4 else whole
        del inner["messages"]
        assert fields == whole
        assert history.messages == tuple(map(Message.from_openai, request))
        response = None if answer is None else Message.from_openai(answer)
        assert history.response == response
        completion = Completion(messages=history.messages, response=history.response)
        assert history.digests_of(completion) == plain.completion(completion)
        other = data.draw(MESSAGES)
        repeated = answer if answer and data.draw(st.booleans()) else other
        cut = data.draw(st.integers(1, len(request)))
        requests += [[*request, repeated, *data.draw(st.lists(MESSAGES, max_size=2))]]
        requests += [[*request[:cut], other]]


def test_an_answer_that_comes_back_is_neither_made_nor_hashed_again() -> None:
    hasher = Hasher(KEY)
    made: list[object] = []

    def read(wire: Any) -> Message:
        made.append(wire)
        return Message.from_openai(wire)

    reader = LineReader(hasher, response="response", read_message=read)
    talk: list[Any] = [{"role": "user", "content": "long " * 100}]
    for number in range(10):
        answer = {"role": "assistant", "content": f"answer {number}"}
        _, history = reader.read(write(talk, 0, response=answer))
        history.digests_of(Completion(messages=history.messages, response=history.response))
        talk += [answer, {"role": "user", "content": f"question {number}"}]
    assert len(made) == hasher.hashed == 20


def test_only_what_is_new_is_hashed() -> None:
    hasher = Hasher(KEY)
    reader = LineReader(hasher)
    talk = [{"role": "user", "content": f"{number} " + "long " * 100} for number in range(50)]
    for end in range(1, 51):
        reader.read(write(talk[:end], 0))
    assert hasher.hashed == 50


def test_a_branch_goes_on_where_it_forks() -> None:
    hasher = Hasher(KEY)
    reader = LineReader(hasher)
    talk = [{"role": "user", "content": f"{number} " + "long " * 100} for number in range(20)]
    for end in range(1, 21):
        reader.read(write(talk[:end], 0))
    branch = [*talk[:10], {"role": "user", "content": "another"}]
    _, history = reader.read(write(branch, 0))
    assert [message.content for message in history.messages] == [m["content"] for m in branch]
    assert hasher.hashed == 21


def test_memory_is_bounded() -> None:
    reader = LineReader(Hasher(KEY), kept=3)
    for number in range(10):
        reader.read(write([{"role": "user", "content": f"{number} " + "long " * 100}], 0))
    assert len(reader._known) == len(reader._by_start) == 3


@pytest.mark.parametrize(
    "line",
    [
        "", "[]", "{", '{"messages"', '{"messages":', '{"messages":[',
        '{"messages":[{"role":"user"}',
        '{"messages":[]', '{"messages":[]}x', '{"messages":[{"role":"user"}{"role":"user"}]}',
        '{"messages":[{"role":"user"},]}', '{1:2}', '{"messages":[]"a":1}',
        '{"messages":[], "x": ' + "[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_json_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"expected|nested|Expecting|Unterminated|more text"):
        LineReader(Hasher(KEY)).read(line)


@pytest.mark.parametrize(
    "line",
    [
        "{}", '{"messages": null}', '{"messages": [1]}', '{"messages": [{"role": "king"}]}',
        '{"messages": [], "request": {"messages": []}}',
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(line: str) -> None:
    with pytest.raises(SchemaError):
        LineReader(Hasher(KEY)).read(line)


def test_an_answer_that_is_no_message_is_refused() -> None:
    reader = LineReader(Hasher(KEY), response="response")
    for answer in ("1", '{"role": "king"}'):
        with pytest.raises(SchemaError):
            reader.read(f'{{"messages": [], "response": {answer}}}')
    assert reader.read('{"messages": [], "response": null}')[1].response is None


def test_a_refused_line_harms_no_other() -> None:
    reader = LineReader(Hasher(KEY))
    talk = [{"role": "user", "content": "long " * 100}, {"role": "user", "content": "more"}]
    reader.read(write(talk[:1], 0))
    with pytest.raises(SchemaError):
        reader.read(write([*talk, {"role": "king"}], 0))
    _, history = reader.read(write(talk, 0))
    assert [message.content for message in history.messages] == ["long " * 100, "more"]
