"""`ScriptedChatModel`: one answer, whether it is asked at once, in pieces, or asynchronously."""

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, TypedDict

import pytest

pytest.importorskip("langchain_core")

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.tools import tool

from rwml.testing import ScriptedChatModel, tool_calls


@tool
def look(at: str) -> str:
    """Look at a thing."""
    return f"<{at}>"


ANSWERS = [
    AIMessage("Hello there, it is a long day."),
    tool_calls(("look", {"at": "the door"}), ("look", {"at": "é☃"}), text="One moment."),
    AIMessage("", additional_kwargs={"reasoning_content": "hm"}),
    AIMessage("x", usage_metadata={"input_tokens": 7, "output_tokens": 2, "total_tokens": 9}),
    AIMessage(
        [{"type": "text", "text": "parts"}, {"type": "image_url", "image_url": {"url": "u"}}]
    ),
]


def whole(model: ScriptedChatModel) -> AIMessage:
    return model.invoke("how are you")


def streamed(model: ScriptedChatModel) -> AIMessage:
    return added(list(model.stream("how are you")))


def whole_async(model: ScriptedChatModel) -> AIMessage:
    return asyncio.run(model.ainvoke("how are you"))


def streamed_async(model: ScriptedChatModel) -> AIMessage:
    async def collect() -> list[AIMessageChunk]:
        return [chunk async for chunk in model.astream("how are you")]

    return added(asyncio.run(collect()))


def added(chunks: list[Any]) -> AIMessage:
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    return total


def told(message: AIMessage) -> tuple[Any, ...]:
    used = message.usage_metadata
    calls = [(call["name"], call["args"], call["id"]) for call in message.tool_calls]
    meta, extra = message.response_metadata, message.additional_kwargs
    return message.text, calls, used, meta["model_name"], meta["finish_reason"], extra


@pytest.mark.parametrize("answer", ANSWERS, ids=["text", "calls", "empty", "usage", "parts"])
@pytest.mark.parametrize("ask", [streamed, whole_async, streamed_async])
def test_every_way_of_asking_gives_the_same(ask: Any, answer: AIMessage) -> None:
    expected = told(whole(ScriptedChatModel(script=[answer])))
    assert told(ask(ScriptedChatModel(script=[answer]))) == expected
    assert expected[0] == answer.text
    assert expected[3] == "scripted"


def test_long_answers_come_in_pieces() -> None:
    chunks = list(ScriptedChatModel(script=[ANSWERS[1]], piece_chars=4).stream("?"))
    texts = [chunk.text for chunk in chunks if chunk.text]
    assert texts == ["One ", "mome", "nt."]
    pieces = [call for chunk in chunks for call in chunk.tool_call_chunks]
    names = [call["name"] for call in pieces if call["name"]]
    assert names == ["look", "look"]
    assert max(len(call["args"] or "") for call in pieces) == 4
    assert {call["index"] for call in pieces} == {0, 1}


def test_broken_arguments_stay_broken() -> None:
    call = {
        "name": "look",
        "id": "c",
        "args": "at the door",
        "error": None,
        "type": "invalid_tool_call",
    }
    answer = AIMessage("", invalid_tool_calls=[call])  # type: ignore[list-item]  # as LangChain has it
    for ask in (whole, streamed):
        (broken,) = ask(ScriptedChatModel(script=[answer])).invalid_tool_calls
        assert (broken["name"], broken["id"], broken["args"]) == ("look", "c", "at the door")


def test_answers_in_order_then_an_error() -> None:
    model = ScriptedChatModel(script=["a", KeyError("gone"), "b"])
    assert model.invoke("1").text == "a"
    with pytest.raises(KeyError):
        model.invoke("2")
    assert model.invoke("3").text == "b"
    with pytest.raises(AssertionError, match="3 answers; this is call 4"):
        model.invoke("4")
    assert [request[-1].text for request in model.requests] == ["1", "2", "3", "4"]


def test_an_interrupt_of_the_program_passes() -> None:
    with pytest.raises(KeyboardInterrupt):
        ScriptedChatModel(script=[KeyboardInterrupt()]).invoke("?")


def test_a_function_sees_the_messages() -> None:
    def echo(messages: list[BaseMessage]) -> str:
        return f"{len(messages)} {messages[-1].text}"

    model = ScriptedChatModel(script=echo)
    assert model.invoke([HumanMessage("a"), HumanMessage("b")]).text == "2 b"


def test_threads_get_each_answer_once() -> None:
    model = ScriptedChatModel(script=[str(number) for number in range(200)])
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(lambda _: model.invoke("?").text, range(200)))
    assert sorted(map(int, said)) == list(range(200))
    assert len(model.requests) == 200


def test_tools_are_bound_in_openai_s_form() -> None:
    model = ScriptedChatModel(script=[tool_calls(("look", {"at": "cat"}))])
    bound: Any = model.bind_tools([look], tool_choice="any")
    assert bound.kwargs["tool_choice"] == "any"
    assert [each["function"]["name"] for each in bound.kwargs["tools"]] == ["look"]
    (call,) = bound.invoke("?").tool_calls
    assert (call["args"], call["id"]) == ({"at": "cat"}, "scripted-0-0")


class Verdict(TypedDict):
    """What was decided."""

    good: Annotated[bool, ..., "whether it is"]


def test_structured_output() -> None:
    model = ScriptedChatModel(script=[tool_calls(("Verdict", {"good": True}))])
    assert model.with_structured_output(Verdict).invoke("?") == {"good": True}


def test_a_missing_langchain_is_one_clear_line() -> None:
    code = (
        "import sys\n"
        "sys.modules['langchain_core'] = None\n"
        "import rwml.testing\n"
        "try:\n"
        "    rwml.testing.ScriptedChatModel\n"
        "except rwml.RwmlError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == ("this needs the module 'langchain_core': install 'rwml[langgraph]'\n")
