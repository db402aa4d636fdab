"""The OpenAI-compatible endpoint of a world model: the OpenAI client, and our errors.

Requests, their repetition and the proxies of the environment are the client's own. Questions go
past LangChain and LiteLLM, so that none is recorded as if an agent had asked it.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rwml.errors import UsageError, WorldModelError, WorldModelUnavailableError
from rwml.extras import require
from rwml.openai_client import BUSY, connect, first_line, key_headers
from rwml.prompts.profiles import Prompt
from rwml.world_model.predictions import Prediction, read_answer

if TYPE_CHECKING:
    from openai import OpenAI

TIMEOUT_S = 120.0
"""How long one request may take; a small model on a CPU is slow (ours)."""
ATTEMPTS = 4
"""How often a request is sent while the endpoint is busy or out of reach (ours)."""
_OF_THE_PROMPT = (400, 413, 422)
"""Statuses that may be about this prompt alone, such as one that is too long for the model."""


_NO_SUCH_MODEL = re.compile(r"""(\{['"]error['"]: ['"])?[\w/]*:? ?Invalid model name passed in""")
_USER = re.compile(r"(?<=//)[^/]*@|^[^/]*@")
_ADDRESS = re.compile(r"://|:\d+/|/v\d+/?$|^localhost\b", re.IGNORECASE)
"""What no name of a model has, but an address that lacks its ``http://`` (ours)."""


def is_url(text: str) -> bool:
    """Whether a text is the base URL of an API, and not the name of a model."""
    return urlsplit(text).scheme in ("http", "https")


def check_url(text: str) -> str:
    """The base URL of an API, as it is given.

    Raises:
        UsageError: it is none.
    """
    if not (is_url(text) and urlsplit(text).hostname):
        raise UsageError(f"an endpoint looks like http://127.0.0.1:4000/v1, not {_shown(text)!r}")
    return text


def read_target(endpoint_or_model: str, model: str | None) -> tuple[str | None, str | None]:
    """The URL, None for OpenAI's own; and the name of the model, None where none is said.

    An address without its ``http://`` must not pass for a name: what is asked, and the key, would
    go to OpenAI.

    Raises:
        UsageError: the first is neither an URL nor the name of the model.
    """
    if is_url(endpoint_or_model):
        return check_url(endpoint_or_model), model or None
    is_other = bool(model) and model != endpoint_or_model
    if is_other or _ADDRESS.search(endpoint_or_model):
        check_url(endpoint_or_model)
    return None, endpoint_or_model or None


class Endpoint:
    """A model behind an OpenAI-compatible endpoint; safe to use from several threads.

    Args:
        url: base of the API, such as ``http://127.0.0.1:4000/v1``; None for OpenAI's own, or what
            ``OPENAI_BASE_URL`` says.
        model: name of the model there.
        api_key: None sends none to an URL, and leaves it to the client where there is no URL.
        timeout_s: of one request.
        attempts: of each request.

    Raises:
        UsageError: the URL is none.
    """

    def __init__(
        self, url: str | None, *, model: str, api_key: str | None, timeout_s: float, attempts: int
    ) -> None:
        self.model = model
        self._url = None if url is None else check_url(url)
        self._key = api_key
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._lock = threading.Lock()
        self._client: Any = None

    @property
    def name(self) -> str:
        """The model and where it is, for people."""
        return f"{self.model} at {_shown(self._url)}" if self._url else self.model

    def ask(self, prompt: Prompt, *, max_tokens: int, timeout_s: float | None = None) -> Prediction:
        """The most likely prediction (temperature 0).

        Args:
            prompt: its messages.
            max_tokens: longest answer.
            timeout_s: of a single request; None for the endpoint's own limits.

        Raises:
            MissingExtraError: the OpenAI client is not installed.
            WorldModelUnavailableError: the endpoint is busy or out of reach, again and again.
            WorldModelError: it refused the key or the model, or answers no chat completions.
        """
        client, attempts = self._connected(), self._attempts
        if timeout_s is not None:
            client, attempts = client.with_options(timeout=timeout_s, max_retries=0), 1
        import openai

        try:
            answer = client.chat.completions.create(
                model=self.model,
                messages=prompt,
                temperature=0.0,
                max_tokens=max_tokens,
                extra_headers=key_headers(self._key) if self._url else None,
            )
        except openai.APIStatusError as error:
            return self._refused(error, attempts)
        except openai.APIConnectionError as error:
            reason = f"{type(error).__name__}: {error.__cause__ or error}"
            raise self._away(reason, attempts) from error
        except (ValueError, openai.OpenAIError) as error:
            raise self._nonsense() from error
        return self._read(answer)

    def close(self) -> None:
        """Closes its connections."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def in_child(self) -> None:
        """After a fork: the connections are the parent's."""
        self._lock = threading.Lock()
        self._client = None

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def _connect(self) -> OpenAI:
        if self._url:
            return connect(
                self._url,
                api_key=self._key,
                timeout_s=self._timeout_s,
                attempts=self._attempts,
                extra="world",
            )
        require("world", "openai")
        from openai import OpenAI, OpenAIError

        try:
            return OpenAI(
                api_key=self._key, timeout=self._timeout_s, max_retries=self._attempts - 1
            )
        except OpenAIError as error:  # no key in the environment either
            raise WorldModelError(f"{self.name} wants a key: pass api_key") from error

    def _read(self, answer: Any) -> Prediction:
        try:
            choice = answer.choices[0]
            text = choice.message.content or ""
        except (AttributeError, IndexError, TypeError) as error:
            raise self._nonsense() from error
        thought = getattr(choice.message, "reasoning_content", None)
        return read_answer(
            str(text),
            reasoning=thought if isinstance(thought, str) else "",
            is_cut=choice.finish_reason == "length",
        )

    def _refused(self, error: Any, attempts: int) -> Prediction:
        """A prompt that was refused for itself; anything else is raised."""
        status = error.status_code
        reason = f"status {status}: {first_line(error.response.text)}"
        if status >= 500 or status in BUSY:
            raise self._away(reason, attempts) from error
        is_of_model = _is_about_the_model(error.body)
        if status in _OF_THE_PROMPT and not is_of_model:
            return Prediction(None, problem="refused", detail=reason, status=status)
        what = "the model" if is_of_model else "the request"
        what = "the key" if status in (401, 403) else what
        raise WorldModelError(f"{self.name} refused {what}: {reason}") from error

    def _away(self, reason: str, attempts: int) -> WorldModelUnavailableError:
        tried = f"{attempts} attempts" if attempts > 1 else "1 attempt"
        return WorldModelUnavailableError(f"{self.name} did not answer {tried}: {reason}")

    def _nonsense(self) -> WorldModelError:
        return WorldModelError(f"{self.name} answers no chat completions: check the URL")


def _is_about_the_model(body: object) -> bool:
    """Whether an endpoint refused the name of the model, so that it will refuse every prompt.

    OpenAI's form of an error names the parameter or a code; LiteLLM's proxy (its
    ``ProxyModelNotFoundError``, status 400) says so in the message alone.
    """
    if not isinstance(body, dict):
        return False
    if body.get("param") == "model" or body.get("code") == "model_not_found":
        return True
    return _NO_SUCH_MODEL.match(str(body.get("message"))) is not None


def _shown(url: str) -> str:
    """An URL without the name and password in it."""
    return _USER.sub("", url)
