"""A LangChain chat model that says what a script tells it, where an LLM would be.

It streams like a real one: text and tool calls in pieces, usage at the end. It needs
`langchain-core`, which is imported here only. It never reaches a network. Source: LangChain's
`BaseChatModel` contract.
"""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ToolCall,
    ToolCallChunk,
    UsageMetadata,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict, PrivateAttr

Answer = str | AIMessage | BaseException
"""What the model says; an exception is raised, as a provider's error would be."""
Script = Sequence[Answer] | Callable[[list[BaseMessage]], Answer]


class ScriptedChatModel(BaseChatModel):
    """Answers in the order of its script, or what a function makes of the messages.

    >>> model = ScriptedChatModel(script=["Hello.", "Goodbye."])
    >>> [model.invoke("?").text, model.invoke("?").text]
    ['Hello.', 'Goodbye.']

    Answers are handed out under a lock, each once, whatever the thread. For a graph whose calls
    come in no fixed order, give a function. Calls of tools without an id get ``NAME-N-PLACE``: the
    model's name, the number of the answer, the place in it, both from 0. So two models of one
    conversation need two names.

    Attributes:
        script: answers, or a function from messages to an answer.
        model_name: what the answers say that they come from.
        piece_chars: characters of a streamed piece.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    script: Any
    model_name: str = "scripted"
    piece_chars: int = 8
    _requests: list[list[BaseMessage]] = PrivateAttr(default_factory=list)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    @property
    def requests(self) -> list[list[BaseMessage]]:
        """The messages of every call so far, in the order in which they came."""
        with self._lock:
            return list(self._requests)

    @property
    def _llm_type(self) -> str:
        return "rwml-scripted"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        return {"model_name": self.model_name}

    def bind_tools(
        self, tools: Sequence[Any], *, tool_choice: str | None = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """The model with tools bound in OpenAI's form, as recorders see them; the script decides.

        `with_structured_output` works through it: script a call of the schema's name.
        """
        if tool_choice is not None:
            kwargs["tool_choice"] = tool_choice
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._answer(messages))])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return self._generate(messages)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in self._pieces(self._answer(messages)):
            yield ChatGenerationChunk(message=chunk)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._pieces(self._answer(messages)):
            yield ChatGenerationChunk(message=chunk)

    def _answer(self, messages: list[BaseMessage]) -> AIMessage:
        with self._lock:
            number = len(self._requests)
            self._requests.append(list(messages))
        answer = self._next(messages, number)
        if isinstance(answer, BaseException):
            raise answer
        message = AIMessage(answer) if isinstance(answer, str) else answer
        calls = [
            ToolCall({**call, "id": call["id"] or f"{self.model_name}-{number}-{place}"})
            for place, call in enumerate(message.tool_calls)
        ]
        return message.model_copy(
            update={
                "tool_calls": calls,
                "usage_metadata": message.usage_metadata or _count(messages, message),
                "response_metadata": {
                    "model_name": self.model_name,
                    "finish_reason": "tool_calls" if calls else "stop",
                    **message.response_metadata,
                },
            }
        )

    def _next(self, messages: list[BaseMessage], number: int) -> Answer:
        script: Script = self.script
        if callable(script):
            return script(messages)
        if number >= len(script):
            raise AssertionError(f"the script has {len(script)} answers; this is call {number + 1}")
        return script[number]

    def _pieces(self, message: AIMessage) -> Iterator[AIMessageChunk]:
        """The answer as a provider streams it: text, then each call, then usage."""
        if isinstance(message.content, str):
            for text in self._cut(message.content):
                yield AIMessageChunk(content=text)
        else:
            for place, part in enumerate(message.content):
                piece = part if isinstance(part, str) else {**part, "index": place}
                yield AIMessageChunk(content=[piece])
        calls = [
            (call["name"], call["id"], json.dumps(call["args"])) for call in message.tool_calls
        ]
        broken = [(each["name"], each["id"], each["args"]) for each in message.invalid_tool_calls]
        for index, (name, call_id, text) in enumerate([*calls, *broken]):
            first = ToolCallChunk(name=name, args="", id=call_id, index=index)
            rest = [
                ToolCallChunk(name=None, args=piece, id=None, index=index)
                for piece in self._cut(text or "")
            ]
            for chunk in (first, *rest):
                yield AIMessageChunk(content="", tool_call_chunks=[chunk])
        yield AIMessageChunk(
            content="",
            additional_kwargs=message.additional_kwargs,
            response_metadata=message.response_metadata,
            usage_metadata=message.usage_metadata,
            chunk_position="last",
        )

    def _cut(self, text: str) -> list[str]:
        return [text[at : at + self.piece_chars] for at in range(0, len(text), self.piece_chars)]


def tool_calls(*calls: tuple[str, Mapping[str, Any]], text: str = "") -> AIMessage:
    """An answer that calls tools, several at once where several are given.

    Args:
        *calls: name and arguments of each; the model gives them their ids.
        text: what it says besides.
    """
    made = [{"name": name, "args": dict(arguments), "id": None} for name, arguments in calls]
    return AIMessage(text, tool_calls=made)


def _count(messages: list[BaseMessage], answer: AIMessage) -> UsageMetadata:
    """Words instead of tokens: the same on every machine, and without a tokenizer."""
    read = sum(len(message.text.split()) for message in messages)
    said = len(answer.text.split()) + len(answer.tool_calls)
    return UsageMetadata(input_tokens=read, output_tokens=said, total_tokens=read + said)
