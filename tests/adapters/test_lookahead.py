"""`LookaheadMiddleware` in real agents: what it changes, what it keeps, what it must not break."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import threading
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import pytest

pytest.importorskip("langchain")
pytest.importorskip("openai")

from langchain.agents import create_agent
from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.prebuilt.tool_node import ToolCallRequest
from langgraph.types import Command, interrupt

import rwml
from rwml.capture import Capture
from rwml.content import NOT_RUN_MARK
from rwml.errors import UsageError, WorldModelError
from rwml.prompts import format_label, render_prompt
from rwml.schema import Trajectory
from rwml.testing import OpenAIServer, ScriptedChatModel, memory_store, recorded, tool_calls
from rwml.world_model.lookahead import Lookahead, looks_bad, read_lookaheads, summarise
from rwml_adapters.langchain import LookaheadMiddleware

REFUSED = "Error: no such order"
WAYS = ("sync", "async")


class Shop:
    """A shop with one risky tool; order 2 is not there."""

    def __init__(self) -> None:
        self.ran: list[str] = []

        @tool
        def refund(order: str) -> str:
            """Refund an order."""
            self.ran.append(order)
            return REFUSED if order == "2" else "refunded"

        @tool
        def look(order: str) -> str:
            """Look an order up."""
            self.ran.append(f"look {order}")
            return "open"

        self.tools = [refund, look]

    def agent(self, *middleware: Any, script: Any, **more: Any) -> Any:
        model = ScriptedChatModel(script=script)
        return create_agent(
            model, self.tools, system_prompt="You refund.", middleware=list(middleware), **more
        )


@pytest.fixture
def shop() -> Shop:
    return Shop()


def foresee(body: Mapping[str, Any]) -> str:
    """A model that knows which order is not there."""
    action = str(body["messages"][-1]["content"]).split("# Potential assistant response")[1]
    return format_label(REFUSED if '"order": "2"' in action else "refunded")


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer(answer=foresee) as running:
        yield running


@pytest.fixture
def world(server: OpenAIServer) -> Iterator[rwml.WorldModel]:
    with rwml.WorldModel(server.url, model="w", attempts=1) as made:
        yield made


def run(way: str, graph: Any, text: str = "Refund.", config: Any = None) -> list[BaseMessage]:
    said = {"messages": [("user", text)]}
    if way == "async":
        return asyncio.run(graph.ainvoke(said, config))["messages"]
    return graph.invoke(said, config)["messages"]


def results(messages: list[BaseMessage]) -> list[str]:
    return [message.text for message in messages if isinstance(message, ToolMessage)]


TWO = (("refund", {"order": "1"}), ("refund", {"order": "2"}))


@pytest.mark.parametrize("way", WAYS)
def test_shadow_changes_nothing_and_knows_what_happened(
    way: str, shop: Shop, world: rwml.WorldModel
) -> None:
    script = [tool_calls(*TWO, ("look", {"order": "2"})), "done"]
    plain = results(run(way, shop.agent(script=script)))
    ahead = LookaheadMiddleware(world, tools=["refund"], budget_s=60)
    assert results(run(way, shop.agent(ahead, script=script))) == plain
    assert ahead.flush(30)
    found = {each.call.arguments["order"]: each for each in ahead.lookaheads}
    assert len(ahead.lookaheads) == 2
    assert (found["1"].prediction, found["1"].result) == ("refunded", "refunded")
    assert (found["2"].prediction, found["2"].result) == (REFUSED, REFUSED)
    report = ahead.report()
    assert (report.calls, report.foreseen, report.judged, report.held) == (2, 2, 2, 0)
    assert (report.warned, report.bad, report.gone) == (1, 1, {})
    assert report.precision is not None
    assert report.recall is not None
    assert (report.precision.mean, report.recall.mean) == (1.0, 1.0)
    assert report.precision.low < 0.5, "one warning proves little"


@pytest.mark.parametrize("way", WAYS)
def test_shadow_does_not_wait(way: str, shop: Shop) -> None:
    ended = threading.Event()

    def late(body: Mapping[str, Any]) -> str:
        assert ended.wait(60)  # the run has to end first
        return foresee(body)

    with OpenAIServer(answer=late) as server, rwml.WorldModel(server.url, model="w") as world:
        ahead = LookaheadMiddleware(world, tools=["refund"], budget_s=1e-9)
        script = [tool_calls(TWO[1]), "done"]
        assert results(run(way, shop.agent(ahead, script=script))) == [REFUSED]
        assert ahead.lookaheads == []
        ended.set()
        assert ahead.flush(60)
    (found,) = ahead.lookaheads
    assert (found.verdict.gone, found.prediction, found.result) == ("late", None, REFUSED)
    assert ahead.report().precision is None


@pytest.mark.parametrize("way", WAYS)
def test_advice_is_given_once_and_the_same_call_again_runs(
    way: str, shop: Shop, world: rwml.WorldModel
) -> None:
    ahead = LookaheadMiddleware(world, tools=["refund"], mode="advise", budget_s=60)
    script = [tool_calls(*TWO), tool_calls(TWO[1]), "done", tool_calls(TWO[1]), "done"]
    graph = shop.agent(ahead, script=script, checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "7"}}
    first, held, again = results(run(way, graph, config=thread))
    assert (first, again) == ("refunded", REFUSED)
    assert held.startswith(NOT_RUN_MARK)
    assert REFUSED in held
    assert shop.ran == ["1", "2"]
    assert results(run(way, graph, "Once more.", thread))[-1].startswith(NOT_RUN_MARK)
    assert shop.ran == ["1", "2"], "the user spoke: the advice is given anew"
    report = ahead.report()
    assert (report.calls, report.held, report.judged, report.bad) == (4, 2, 2, 1)
    assert {each.thread_id for each in ahead.lookaheads} == {"7"}


@pytest.mark.parametrize("way", WAYS)
def test_block_asks_a_callback(way: str, shop: Shop, world: rwml.WorldModel) -> None:
    asked: list[Lookahead] = []

    def decide(ahead: Lookahead) -> bool:
        asked.append(ahead)
        return ahead.call.arguments["order"] == "2"

    ahead = LookaheadMiddleware(world, tools=["refund"], mode="block", decide=decide, budget_s=60)
    script = [tool_calls(*TWO), "done"]
    held, ran = results(run(way, shop.agent(ahead, script=script)))
    assert held.startswith(NOT_RUN_MARK)
    assert ran == REFUSED
    assert shop.ran == ["2"]
    warned = {each.call.arguments["order"]: each.verdict.warned for each in asked}
    assert warned == {"1": False, "2": True}
    without = LookaheadMiddleware(world, tools=["refund"], mode="block", budget_s=60)
    _, held = results(run(way, shop.agent(without, script=script)))
    assert held.startswith(NOT_RUN_MARK)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", ["shadow", "advise", "block"])
def test_a_fault_of_the_world_model_never_stops_the_agent(way: str, mode: Any, shop: Shop) -> None:
    script = [tool_calls(TWO[1]), "done"]
    with OpenAIServer(failures=[500, 401]) as failing:
        for _ in range(2):
            with rwml.WorldModel(failing.url, model="w", attempts=1) as other:
                ahead = LookaheadMiddleware(other, tools=["refund"], mode=mode, budget_s=60)
                assert results(run(way, shop.agent(ahead, script=script))) == [REFUSED]
                assert ahead.flush(30)
                assert ahead.report().gone == {"fault": 1}
    with rwml.WorldModel(failing.url, model="w", attempts=1) as away:
        ahead = LookaheadMiddleware(away, tools=["refund"], mode=mode, budget_s=60)
        assert results(run(way, shop.agent(ahead, script=script))) == [REFUSED]
        assert ahead.flush(30)
        assert ahead.report().gone == {"fault": 1}
    closed = LookaheadMiddleware(away, tools=["refund"], mode=mode)
    assert results(run(way, shop.agent(closed, script=script))) == [REFUSED]
    assert closed.flush(0)
    assert closed.report().gone == {"fault": 1}
    with (
        OpenAIServer(answer=lambda body: "It fails.") as mute,
        rwml.WorldModel(mute.url, model="w") as other,
    ):
        ahead = LookaheadMiddleware(other, tools=["refund"], mode=mode, budget_s=60)
        assert results(run(way, shop.agent(ahead, script=script))) == [REFUSED]
        assert ahead.flush(30)
        assert ahead.report().gone == {"unformed": 1}


def broken(*_: Any) -> bool:
    raise RuntimeError("a bug of the user's")


@pytest.mark.parametrize("way", WAYS)
def test_a_fault_of_the_callbacks_never_stops_the_agent(
    way: str, shop: Shop, world: rwml.WorldModel
) -> None:
    script = [tool_calls(TWO[1]), "done"]
    for ahead in (
        LookaheadMiddleware(world, tools=["refund"], mode="block", decide=broken, budget_s=60),
        LookaheadMiddleware(world, tools=["refund"], mode="advise", judge=broken, budget_s=60),
        LookaheadMiddleware(world, tools=["refund"], judge=broken, budget_s=60),
    ):
        assert results(run(way, shop.agent(ahead, script=script))) == [REFUSED]
        assert ahead.flush(30), "nothing is left under way"


@pytest.mark.parametrize("way", WAYS)
def test_a_call_that_waited_long_enough_runs(way: str, shop: Shop) -> None:
    ended = threading.Event()

    def never(body: Mapping[str, Any]) -> str:
        assert ended.wait(60)
        return foresee(body)

    with OpenAIServer(answer=never) as server, rwml.WorldModel(server.url, model="w") as world:
        ahead = LookaheadMiddleware(world, tools=["refund"], mode="advise", budget_s=0.05)
        script = [tool_calls(TWO[1]), "done"]
        try:
            assert results(run(way, shop.agent(ahead, script=script))) == [REFUSED]
            assert ahead.report().gone == {"late": 1}
            assert ahead.report().added_s is not None
        finally:
            ended.set()
    assert ahead.flush(30)


def test_a_run_that_is_cancelled_while_it_waits_leaves_nothing_behind(shop: Shop) -> None:
    asked, ended = threading.Event(), threading.Event()

    def never(body: Mapping[str, Any]) -> str:
        asked.set()
        assert ended.wait(60)
        return foresee(body)

    async def cancel(graph: Any) -> None:
        run = asyncio.create_task(graph.ainvoke({"messages": [("user", "Refund.")]}))
        assert await asyncio.to_thread(asked.wait, 60)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    with OpenAIServer(answer=never) as server, rwml.WorldModel(server.url, model="w") as world:
        ahead = LookaheadMiddleware(world, tools=["refund"], mode="advise", budget_s=60)
        try:
            asyncio.run(cancel(shop.agent(ahead, script=[tool_calls(TWO[1]), "done"])))
        finally:
            ended.set()
        assert ahead.flush(60)
    assert (ahead.lookaheads, shop.ran) == ([], [])


def test_too_many_at_once_pass_unasked(
    shop: Shop, world: rwml.WorldModel, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rwml_adapters.langchain.lookahead.MAX_UNDER_WAY", 0)
    ahead = LookaheadMiddleware(world, tools=["refund"], mode="advise", budget_s=60)
    assert results(run("sync", shop.agent(ahead, script=[tool_calls(TWO[1]), "done"]))) == [REFUSED]
    assert ahead.report().gone == {"busy": 1}
    assert ahead.flush(0)
    assert server.requests == []


@pytest.mark.parametrize("way", WAYS)
def test_a_tool_that_raises_raises_as_before(way: str, world: rwml.WorldModel) -> None:
    @tool
    def refund(order: str) -> str:
        """Refund an order."""
        raise ValueError("it is dark")

    ahead = LookaheadMiddleware(world, tools=["refund"], budget_s=60)
    model = ScriptedChatModel(script=[tool_calls(TWO[0]), "done"])
    with pytest.raises(ValueError, match="it is dark"):
        run(way, create_agent(model, [refund], middleware=[ahead]))
    assert ahead.flush(30)
    (found,) = ahead.lookaheads
    assert (found.result, found.verdict.bad, found.verdict.warned) == ("it is dark", True, False)


def test_a_person_may_be_asked(shop: Shop, world: rwml.WorldModel) -> None:
    def ask(ahead: Lookahead) -> bool:
        return interrupt({"expected": ahead.prediction}) == "go"

    ahead = LookaheadMiddleware(world, tools=["refund"], mode="block", decide=ask, budget_s=60)
    script = [tool_calls(TWO[1]), "done"]
    graph = shop.agent(ahead, script=script, checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "1"}}
    (asked,) = graph.invoke({"messages": [("user", "Refund.")]}, thread)["__interrupt__"]
    assert asked.value == {"expected": REFUSED}
    assert (shop.ran, ahead.lookaheads) == ([], [])
    assert results(graph.invoke(Command(resume="go"), thread)["messages"]) == [REFUSED]
    assert ahead.flush(0)
    assert ahead.report().calls == 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("gone", ["fault", "late", "unformed", "busy"])
def test_a_person_s_no_counts_where_nothing_is_foreseen_any_more(
    gone: str, way: str, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    resumed, ended = threading.Event(), threading.Event()

    class Worse(OpenAIServer):
        def reply(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> Any:
            if resumed.is_set() and gone == "fault":
                return 500, b"{}"
            if resumed.is_set() and gone == "late":
                assert ended.wait(60)
            return super().reply(path, body, headers)

    def answer(body: Mapping[str, Any]) -> str:
        return "hm" if resumed.is_set() and gone == "unformed" else foresee(body)

    seen: list[Lookahead] = []

    def ask(ahead: Lookahead) -> bool:
        seen.append(ahead)
        return interrupt({"expected": ahead.prediction}) == "go"

    def middleware(budget_s: float) -> LookaheadMiddleware:
        return LookaheadMiddleware(
            world, tools=["refund"], mode="block", decide=ask, budget_s=budget_s
        )

    async def resume(graph: Any) -> Any:
        return await graph.ainvoke(Command(resume="no"), thread)

    saver, thread = InMemorySaver(), {"configurable": {"thread_id": "1"}}
    with (
        Worse(answer=answer) as server,
        rwml.WorldModel(server.url, model="w", attempts=1, cached=0) as world,
    ):
        graph = shop.agent(middleware(60), script=[tool_calls(TWO[1])], checkpointer=saver)
        graph.invoke({"messages": [("user", "Refund.")]}, thread)
        resumed.set()
        if gone == "busy":
            monkeypatch.setattr("rwml_adapters.langchain.lookahead.MAX_UNDER_WAY", 0)
        ahead = middleware(0.05 if gone == "late" else 60)
        graph = shop.agent(ahead, script=["done"], checkpointer=saver)
        try:
            end = (
                asyncio.run(resume(graph))
                if way == "async"
                else graph.invoke(Command(resume="no"), thread)
            )
        finally:
            ended.set()
        assert ahead.flush(60)
    assert shop.ran == []
    (said,) = results(end["messages"])
    assert said.startswith(f"{NOT_RUN_MARK}refund was held back.")
    assert "None" not in said
    told = [(each.prediction, each.verdict.gone) for each in seen]
    assert told == [(REFUSED, None), (None, gone)]
    assert (ahead.report().held, ahead.report().gone) == (1, {gone: 1})


def test_the_question_is_the_one_of_training(
    shop: Shop, world: rwml.WorldModel, server: OpenAIServer
) -> None:
    script = [tool_calls(("look", {"order": "1"})), tool_calls(TWO[0]), tool_calls(TWO[1]), "done"]
    ahead = LookaheadMiddleware(world, tools=["refund", "look"], budget_s=60)
    with memory_store() as store, rwml.instrument(store=store) as recording:
        run("sync", shop.agent(ahead, script=script, name="refunder"))
        assert ahead.flush(30)
        (trajectory,) = recorded(recording)
    assert [step.kind for step in trajectory.steps] == ["tool", "tool", "tool", None]
    asked = [request["messages"] for request in server.requests]
    assert len(asked) == 3
    assert "You refund." in asked[0][0]["content"]
    for transition in trajectory.transitions(history=world.history):
        assert render_prompt(transition) in asked
    unlike = trajectory.model_copy(update={"tools": ()})
    assert render_prompt(next(unlike.transitions())) not in asked, "tools are part of the prompt"


def test_look_aheads_are_kept_redacted_and_are_no_training_examples(
    shop: Shop, world: rwml.WorldModel
) -> None:
    @tool
    def mail(to: str) -> str:
        """Write to somebody."""
        return f"Error: {to} is unknown"

    with memory_store() as store, rwml.Recorder(store=store) as recorder:
        ahead = LookaheadMiddleware(
            world, tools=["mail", "refund"], mode="advise", budget_s=60, recorder=recorder
        )
        calls = [tool_calls(("mail", {"to": "jane@example.org"})), tool_calls(TWO[1])]
        model = ScriptedChatModel(script=[*calls, "done"])
        graph = create_agent(model, [mail, *shop.tools], middleware=[ahead])
        run("sync", graph)
        assert len(recorded(recorder)) == 2
        kept = sorted(read_lookaheads(store), key=lambda each: each.call.name)
        assert [each.call.name for each in kept] == ["mail", "refund"]
        assert "jane" not in str(kept)
        assert "<EMAIL" in str(kept[0].result)
        assert (kept[0].prediction, kept[0].verdict.bad) == ("refunded", True)
        assert (kept[1].prediction, kept[1].result) == (REFUSED, None)
        assert summarise(each.verdict for each in kept) == ahead.report()
        assert list(store.transitions()) == []
        assert store.counts().transitions == 0


@pytest.mark.parametrize(
    ("capture", "kept"),
    [
        (Capture(), 1),
        (Capture(skip_tenants=["acme"]), 0),
        (Capture(skip_tenants=["globex"]), 1),
        (Capture(skip_sources=["langgraph"]), 0),
        (Capture(skip_sources=["lookahead"]), 0),
        (Capture(sample=0), 0),
    ],
)
def test_what_was_opted_out_of_has_no_look_aheads_either(
    capture: Capture, kept: int, shop: Shop, world: rwml.WorldModel
) -> None:
    with memory_store() as store, rwml.Recorder(store=store, capture=capture) as recorder:
        ahead = LookaheadMiddleware(world, tools=["refund"], budget_s=60, recorder=recorder)
        config = {"metadata": {"tenant": "acme"}, "configurable": {"thread_id": "7"}}
        run("sync", shop.agent(ahead, script=[tool_calls(TWO[0]), "done"]), config=config)
        assert ahead.flush(30)
        assert len(recorded(recorder)) == kept
        found = [(each.tenant, each.thread_id) for each in read_lookaheads(store)]
        assert found == [("acme", "7")] * kept
        assert len(ahead.lookaheads) == 1


def test_a_look_ahead_asks_once_and_not_for_long(shop: Shop) -> None:
    with (
        OpenAIServer(answer=foresee, failures=[500]) as server,
        rwml.WorldModel(server.url, model="w") as world,
    ):
        ahead = LookaheadMiddleware(world, tools=["refund"], mode="advise", budget_s=40)
        assert results(run("sync", shop.agent(ahead, script=[tool_calls(TWO[1]), "done"])))
        assert len(server.requests) == 1
        assert float(server.headers[0]["x-stainless-read-timeout"]) == 80
        assert ahead.report().gone == {"fault": 1}
        assert ahead.report().predicted_s is None, "no prediction came"


SECRET = "the prompt once more"


@pytest.mark.parametrize(("status", "gone"), [(400, "refused"), (401, "fault"), (500, "fault")])
def test_what_an_endpoint_said_is_not_logged(
    status: int, gone: str, shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    class Quoting(OpenAIServer):
        def reply(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> Any:
            super().reply(path, body, headers)
            return status, json.dumps({"error": {"message": SECRET}}).encode()

    caplog.set_level("WARNING", logger="rwml")
    with Quoting() as server:
        url = server.url.replace("//", "//jane:hunter2@")
        with rwml.WorldModel(url, model="w", attempts=1) as world:
            ahead = LookaheadMiddleware(world, tools=["refund"], mode="advise", budget_s=60)
            for _ in range(2):
                assert results(run("sync", shop.agent(ahead, script=[tool_calls(TWO[1]), "done"])))
            assert len(server.requests) == 2, "a refusal is not kept"
            with pytest.raises(WorldModelError) if status != 400 else nullcontext() as caught:
                world.predict(Trajectory(source="a"), {"role": "assistant", "content": "?"})
            assert "hunter2" not in str(caught and caught.value)
    assert ahead.report().gone == {gone: 2}
    assert caplog.text.count(f"status {status}") == 2
    assert SECRET not in caplog.text
    assert "hunter2" not in caplog.text


def test_a_call_whose_history_cannot_be_read_is_decided_on_all_the_same(
    shop: Shop, world: rwml.WorldModel
) -> None:
    asked: list[Lookahead] = []

    def decide(ahead: Lookahead) -> bool:
        asked.append(ahead)
        return False

    ahead = LookaheadMiddleware(world, tools=["refund"], mode="block", decide=decide)
    call: Any = {"name": "refund", "args": {"order": "2"}, "id": "c", "type": "tool_call"}
    request = ToolCallRequest(tool_call=call, tool=None, state={}, runtime=None)  # type: ignore[arg-type]
    held = ahead.wrap_tool_call(request, lambda _: pytest.fail("it ran"))
    assert held.text.startswith(NOT_RUN_MARK)
    assert (held.tool_call_id, asked[0].call.arguments) == ("c", {"order": "2"})
    assert ahead.report().gone == {"fault": 1}


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_a_child_does_not_wait_for_what_its_parent_asked(shop: Shop) -> None:
    ended = threading.Event()

    def never(body: Mapping[str, Any]) -> str:
        assert ended.wait(60)
        return foresee(body)

    receiver, sender = multiprocessing.Pipe()
    with OpenAIServer(answer=never) as server, rwml.WorldModel(server.url, model="w") as world:
        ahead = LookaheadMiddleware(world, tools=["refund"], budget_s=60)
        try:
            assert results(run("sync", shop.agent(ahead, script=[tool_calls(TWO[1]), "done"])))
            assert not ahead.flush(0)
            child = multiprocessing.get_context("fork").Process(
                target=lambda: sender.send((ahead.flush(0), ahead.lookaheads))
            )
            child.start()
            assert receiver.poll(60)
            assert receiver.recv() == (True, [])
            child.join(60)
        finally:
            ended.set()
        assert ahead.flush(60)
        assert len(ahead.lookaheads) == 1


def test_wrong_arguments_are_told(world: rwml.WorldModel) -> None:
    for wrong, said in (
        ({"mode": "hope", "tools": ["a"]}, "one of shadow, advise, block"),
        ({"tools": []}, "name the risky tools"),
        ({"tools": "refund"}, "name the risky tools"),
        ({"tools": ["a"], "budget_s": 0}, "more than 0 s"),
        ({"tools": ["a"], "decide": bool}, "asked in the mode 'block'"),
    ):
        with pytest.raises(UsageError, match=said):
            LookaheadMiddleware(world, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("Error: no such order", True),
        ('{"error": "no"}', True),
        ("ValueError('x')", True),
        ("Traceback (most recent call last)", True),
        ("  denied.", True),
        ("refunded", False),
        ("errorless", False),
        ('{"items": ["error"]}', False),
        ("No error was found", False),
        ("", False),
    ],
)
def test_what_looks_bad(text: str, bad: bool) -> None:
    assert looks_bad(text) is bad
