"""What the guard counts of the answers that pass it."""

import asyncio
from datetime import UTC, datetime

import httpx
import pytest
from tests.trainer.test_serving_guard import BEARER, CHAT, ENGINE, HOST, Inner, OneKey, make_guard

from rwml_trainer.serving import traffic
from rwml_trainer.serving.routing import Switchboard, Table
from rwml_trainer.serving.traffic import LATENCIES, Seen, Traffic
from rwml_trainer.serving.trials import Candidate

TRIED = Candidate(version="world@4", share=0.999, trial="t", since=datetime.now(UTC))


def board(**changes):
    """``world`` is world@3, and nearly all conversations are drawn for world@4."""
    versions = {"world@3": ENGINE, "world@4": ENGINE.model_copy(update=changes)}
    return Switchboard(
        Table(versions=versions, aliases={"world": "world@3"}, candidates={"world": TRIED})
    )


def ask(inner, **request):
    """The status of the answer to one request."""
    return answer_to(inner, **request).status_code


def answer_to(inner, *, switchboard, key=None, session="s", **fields):
    """The answer to one request."""
    guard = make_guard(inner, keys=key or OneKey(), board=switchboard)

    async def run():
        transport = httpx.ASGITransport(app=guard, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport) as client:
            return await client.post(
                f"http://{HOST}/v1/chat/completions",
                headers={**BEARER, "x-litellm-session-id": session},
                json={**CHAT, **fields},
            )

    return asyncio.run(run())


def counted(switchboard):
    """Requests and errors by version, and how many conversations failed on each side."""
    report = switchboard.report()
    trial = report.trials["world"]
    versions = {name: (each.requests, each.errors) for name, each in report.versions.items()}
    return versions, (trial.current.failed, trial.candidate.failed)


class Broken(Inner):
    """An application that fails instead of answering, or after it has begun to."""

    async def __call__(self, scope, receive, send):
        if self.status == 200:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("inner", "versions", "failed"),
    [
        (Inner(), {"world@4": (1, 0)}, 0),
        (Inner(500), {"world@4": (1, 1)}, 1),
        (Inner(400), {"world@4": (1, 1)}, 1),
        (Inner(429), {}, 0),
        (Inner(403), {}, 0),
        (Inner(499), {}, 0),
        (Inner(200, [b'data: {"id": 1}\n\n', b'data: {"error": {}}\n\n']), {"world@4": (1, 1)}, 1),
        (Broken(500), {"world@4": (1, 1)}, 1),
        (Broken(200), {"world@4": (1, 1)}, 1),
    ],
)
def test_what_is_an_error_of_the_version(inner, versions, failed):
    switchboard = board()
    ask(inner, switchboard=switchboard)
    assert counted(switchboard) == (versions, (0, failed))


@pytest.mark.parametrize(
    ("changes", "fields", "status"),
    [({"state": "down"}, {}, 503), ({"tools": False}, {"tools": [{"type": "function"}]}, 400)],
)
def test_what_a_version_cannot_take_is_an_error_of_it(changes, fields, status):
    switchboard = board(**changes)
    assert ask(Inner(), switchboard=switchboard, **fields) == status
    assert counted(switchboard) == ({"world@4": (1, 1)}, (0, 1))


def test_what_no_version_of_the_name_takes_tells_them_not_apart():
    switchboard = board()
    without = ENGINE.model_copy(update={"tools": False})
    versions = dict.fromkeys(switchboard.table.versions, without)
    switchboard.table = switchboard.table.model_copy(update={"versions": versions})
    for model in ("world", "world@4"):
        asked = {"model": model, "tools": [{"type": "function"}]}
        assert ask(Inner(), switchboard=switchboard, **asked) == 400
    assert counted(switchboard) == ({}, (0, 0))


@pytest.mark.parametrize(
    ("status", "code", "shown"),
    [
        (401, "engine_error", 502),
        (403, "engine_error", 502),
        (429, "engine_busy", 503),
        (499, "engine_error", 502),
    ],
)
def test_a_refusal_of_the_engine_is_not_the_clients(status, code, shown):
    switchboard = board()
    said = b'{"error": {"message": "litellm.Error: OpenAIException - key sk-engine is wrong"}}'
    answer = answer_to(Inner(status, [said[:30], said[30:]]), switchboard=switchboard)
    assert answer.status_code == shown
    assert answer.json()["error"]["code"] == code
    assert "sk-engine" not in answer.text
    assert counted(switchboard) == ({"world@4": (1, 1)}, (0, 1))


def test_a_refusal_of_the_key_is_passed_on_whole():
    switchboard = board()
    said = [b'{"error": {"message": "Rate limit ', b'exceeded"}}']
    answer = answer_to(Inner(429, said), switchboard=switchboard)
    assert (answer.status_code, answer.content) == (429, b"".join(said))
    assert counted(switchboard)[0] == {}


class Slow(Inner):
    """An application that is waited for."""

    async def __call__(self, scope, receive, send):
        await asyncio.sleep(0.2)
        await super().__call__(scope, receive, send)


@pytest.mark.parametrize("status", [200, 400])
def test_an_answer_that_does_not_begin_is_an_error_once(status, monkeypatch):
    monkeypatch.setattr(traffic, "HANGS_S", 0.05)
    switchboard = board()
    ask(Slow(status), switchboard=switchboard)
    assert counted(switchboard) == ({"world@4": (1, 1)}, (0, 1))


class SlowlyTold(Inner):
    """An application whose answer begins at once."""

    async def __call__(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(0.2)
        await send({"type": "http.response.body", "body": b"done"})


def test_an_answer_that_has_begun_may_take_its_time(monkeypatch):
    monkeypatch.setattr(traffic, "HANGS_S", 0.05)
    switchboard = board()
    ask(SlowlyTold(), switchboard=switchboard)
    assert counted(switchboard) == ({"world@4": (1, 0)}, (0, 0))


@pytest.mark.parametrize(("patience_s", "failed"), [(0.05, 1), (30.0, 0)])
def test_a_client_that_leaves_after_a_long_wait_is_the_versions_failure(
    patience_s, failed, monkeypatch
):
    monkeypatch.setattr(traffic, "LEFT_AFTER_S", patience_s)
    switchboard = board()
    ask(Slow(499), switchboard=switchboard)
    assert counted(switchboard)[1] == (0, failed)


def test_requests_for_a_version_are_no_part_of_a_trial():
    switchboard = board()
    ask(Inner(500), switchboard=switchboard, model="world@4")
    assert counted(switchboard) == ({"world@4": (1, 1)}, (0, 0))


def test_a_key_that_may_not_ask_for_the_candidate_gets_none():
    switchboard = board()
    key = OneKey(models=("world@3",))
    for session in "abc":
        ask(Inner(), switchboard=switchboard, key=key, session=session)
    assert counted(switchboard)[0] == {"world@3": (3, 0)}
    assert switchboard.report().trials["world"].current.conversations == 0


def test_a_client_that_takes_no_answer_is_no_error():
    async def gone(message):
        raise TimeoutError

    seen, counts = Seen(gone), Traffic()
    place = board().place("world", b"c", OneKey().key)

    async def run():
        with counts.watched(place, seen):
            await seen({"type": "http.response.start", "status": 200, "headers": []})

    with pytest.raises(TimeoutError):
        asyncio.run(run())
    assert counts.shown()["world@4"].errors == 0


def test_latencies_are_of_the_last_answers():
    counts, place = Traffic(), board().place("world", b"c", OneKey().key)
    assert place is not None
    for _ in range(LATENCIES):
        counts.count(place, seconds=9.0)
    for number in range(LATENCIES):
        counts.count(place, seconds=number / 1000)
    shown = counts.shown()["world@4"]
    assert shown.requests == 2 * LATENCIES
    assert (shown.p50_s, shown.p99_s) == (pytest.approx(0.4995), pytest.approx(0.98901))
