"""The clients that people use, each asking a gateway for a whole answer and for a stream.

One table for every engine: the gateway's tests run it on a stub and on `transformers serve`,
``make test-vllm`` on vLLM.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import httpx
import pytest

TIMEOUT_S = 300.0
Messages = list[dict[str, Any]]


class Endpoint(Protocol):
    """Where a gateway is, and a key for it."""

    @property
    def endpoint(self) -> str: ...

    @property
    def key(self) -> str: ...


Ask = Callable[[Endpoint, str, Messages, bool, dict[str, Any]], str]
"""Of an endpoint, a model, messages, whether to stream, and fields of OpenAI's: the text."""


def _litellm(provider: str) -> Ask:
    def ask(
        served: Endpoint, model: str, messages: Messages, stream: bool, fields: dict[str, Any]
    ) -> str:
        import litellm

        answer: Any = litellm.completion(
            model=f"{provider}/{model}",
            api_base=served.endpoint,
            api_key=served.key,
            messages=messages,
            stream=stream,
            timeout=TIMEOUT_S,
            **fields,
        )
        return _text(answer, stream)

    return ask


def _openai(
    served: Endpoint, model: str, messages: Messages, stream: bool, fields: dict[str, Any]
) -> str:
    from openai import OpenAI

    client = OpenAI(base_url=served.endpoint, api_key=served.key, timeout=TIMEOUT_S)
    asked: Any = messages
    answer = client.chat.completions.create(model=model, messages=asked, stream=stream, **fields)
    return _text(answer, stream)


def _chat_litellm(
    served: Endpoint, model: str, messages: Messages, stream: bool, fields: dict[str, Any]
) -> str:
    from langchain_litellm import ChatLiteLLM

    chat = ChatLiteLLM(model=f"openai/{model}", api_base=served.endpoint, api_key=served.key)
    return _of_langchain(chat.bind(**fields), messages, stream)


def _chat_openai(
    served: Endpoint, model: str, messages: Messages, stream: bool, fields: dict[str, Any]
) -> str:
    reason = "langchain-openai is not installed: 'pip install langchain-openai' for this client"
    module = pytest.importorskip("langchain_openai", reason=reason)
    chat = module.ChatOpenAI(model=model, base_url=served.endpoint, api_key=served.key)
    return _of_langchain(chat.bind(**fields), messages, stream)


def _raw(
    served: Endpoint, model: str, messages: Messages, stream: bool, fields: dict[str, Any]
) -> str:
    body = {"model": model, "messages": messages, "stream": stream, **fields}
    url = f"{served.endpoint}/chat/completions"
    headers = {"Authorization": f"Bearer {served.key}"}
    if not stream:
        answer = httpx.post(url, headers=headers, json=body, trust_env=False, timeout=TIMEOUT_S)
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]["message"]["content"]
    with httpx.stream(
        "POST", url, headers=headers, json=body, trust_env=False, timeout=TIMEOUT_S
    ) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    choices = [choice for line in lines[:-1] for choice in json.loads(line)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def _text(answer: Any, stream: bool) -> str:
    if not stream:
        return answer.choices[0].message.content
    return "".join(piece.choices[0].delta.content or "" for piece in answer if piece.choices)


def _of_langchain(chat: Any, messages: Messages, stream: bool) -> str:
    if not stream:
        return str(chat.invoke(messages).content)
    return "".join(str(piece.content) for piece in chat.stream(messages))


CLIENTS: Mapping[str, Ask] = {
    "litellm openai/": _litellm("openai"),
    "litellm hosted_vllm/": _litellm("hosted_vllm"),
    "OpenAI SDK": _openai,
    "ChatLiteLLM": _chat_litellm,
    "ChatOpenAI": _chat_openai,
    "HTTP": _raw,
}


def ask_by(client: str, served: Endpoint, messages: Messages, **fields: Any) -> tuple[str, str]:
    """The whole answer and the joined pieces of the stream, by a client's name."""
    fields = dict(fields)
    model = fields.pop("model", "world")
    ask = CLIENTS[client]
    return ask(served, model, messages, False, fields), ask(served, model, messages, True, fields)
