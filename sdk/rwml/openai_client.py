"""The OpenAI client, told of an endpoint and of nothing else that the environment says.

Requests, their repetition and the environment's proxies are the client's own business.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from rwml.extras import require

if TYPE_CHECKING:
    from openai import OpenAI

BUSY = (408, 409, 429)
"""Statuses below 500 that the client asks again after."""
_UNSAID = ("OpenAI-Organization", "OpenAI-Project")
_ERROR_CHARS = 200


def connect(
    url: str, *, api_key: str | None, timeout_s: float, attempts: int, extra: str
) -> OpenAI:
    """A client of an OpenAI-compatible endpoint; nothing is sent yet.

    Args:
        url: base of the API.
        api_key: None for an endpoint without one; see `key_headers`.
        timeout_s: of one request, in seconds.
        attempts: of each request, while the endpoint is busy or out of reach.
        extra: the extra of rwml that brings the client.

    Raises:
        MissingExtraError: the client is not installed.
    """
    require(extra, "openai")
    from openai import Omit, OpenAI

    headers: dict[str, Any] = {name: Omit() for name in (*_UNSAID, *_of_the_environment())}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"  # also where the environment has another
    return OpenAI(
        base_url=url,
        api_key=api_key or "none",
        timeout=timeout_s,
        max_retries=attempts - 1,
        default_headers=headers,
    )


def _of_the_environment() -> list[str]:
    """Names of the headers that the environment has the client send, to whatever endpoint."""
    lines = os.environ.get("OPENAI_CUSTOM_HEADERS", "").split("\n")
    return [line.partition(":")[0].strip() for line in lines if ":" in line]


def key_headers(api_key: str | None) -> dict[str, Any]:
    """Headers of each request: without a key, none is sent, which the client wants to be told."""
    from openai import Omit

    return {} if api_key else {"Authorization": Omit()}


def first_line(answer: str) -> str:
    """What an endpoint said, short enough for an error."""
    return " ".join(answer.split())[:_ERROR_CHARS]
