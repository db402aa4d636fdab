"""The LiteLLM callback: every finished model call goes to the assembler, in any thread.

LiteLLM calls it in a worker thread or task after the caller has its answer. A call that another
recorder of this process sees further out (ChatLiteLLM inside LangChain) is left to that one, which
is told what it may lack; one that an rwml client records into the same store is left to the client.
Source: LiteLLM's `CustomLogger`.
"""

from __future__ import annotations

import atexit
import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime
from importlib.metadata import version
from typing import Any

import litellm
from litellm.integrations.custom_logger import CustomLogger

import rwml
from rwml import forking
from rwml.assemble import Assembler, AssemblyStats, Completion
from rwml.correlation import correlation_headers, is_gateway, marked_gateways, read_headers
from rwml.outer_calls import Enrichment
from rwml.records import HeaderRecord, StepRecord
from rwml.schema import Fingerprint
from rwml_adapters.litellm.draining import drain_litellm
from rwml_adapters.litellm.reading import (
    ANTHROPIC,
    CHAT,
    RESPONSES,
    Call,
    Skipped,
    Tokens,
    read_call,
)
from rwml_adapters.litellm.responses_api import Histories

logger = logging.getLogger("rwml")

SOURCE = "litellm"
KEPT_BYTES = 32 << 20
"""Memory that open trajectories take, roughly (ours)."""
KEPT_IDS = 10_000
"""Ids of responses that wait for LiteLLM to tell of their call (ours)."""
WRITE_THROUGH_S = 3.0
"""How long the end of a process waits for the store, for each call (ours)."""
_CALL_ID = "litellm_call_id"
_CALLBACK_LISTS = (
    "callbacks",
    "input_callback",
    "success_callback",
    "failure_callback",
    "_async_input_callback",
    "_async_success_callback",
    "_async_failure_callback",
)
"""Where LiteLLM keeps a custom logger, once a call was made."""


def switch_on(recorder: rwml.Recorder) -> Callable[[], None]:
    """Adds a logger to LiteLLM's callbacks; returns a function that takes it out again."""
    added = RWMLLogger(recorder)
    litellm.callbacks.append(added)

    def undo() -> None:
        drain_litellm()
        added.stop()
        for name in _CALLBACK_LISTS:
            callbacks = getattr(litellm, name, None)
            if isinstance(callbacks, list):
                callbacks[:] = [callback for callback in callbacks if callback is not added]

    return undo


class RWMLLogger(CustomLogger):
    """Records LiteLLM's model calls: ``litellm.callbacks = [RWMLLogger(recorder)]``.

    Chat completions, the Responses API and Anthropic's messages; synchronous, asynchronous and
    streamed; of a failed call only what its request says came back. Retries are one step. A
    conversation is told by its history; ``litellm_session_id`` (or
    ``metadata={"session_id": ...}``), tenant and user keep conversations apart that begin alike.

    Args:
        recorder: where the trajectories go.
        key: secret of 1 to 64 bytes, from which the ids of the trajectories are made; None for the
            store's, so that conversations go on in other processes.

    Raises:
        UsageError: the key has another length.
    """

    def __init__(self, recorder: rwml.Recorder, *, key: bytes | None = None) -> None:
        super().__init__()
        self._recorder = recorder
        self._key = recorder.hasher if key is None else key
        self._stopped = False
        self._writes_through = False
        self._gateways = marked_gateways()
        self._start()
        forking.register(self, child=RWMLLogger._start)
        atexit.register(drain_litellm)  # after the recorder's own, so it runs before that

    def _start(self) -> None:
        """Also in a fork's child: the parent's trajectories are its own."""
        self._lock = threading.Lock()
        self._assembler = Assembler(
            key=self._key,
            source=SOURCE,
            fingerprint=Fingerprint(package="litellm", version=version("litellm")),
            kept_bytes=KEPT_BYTES,
        )
        self._skipped: Counter[str] = Counter()
        self._histories = Histories()
        self._response_ids: OrderedDict[str, str] = OrderedDict()

    @property
    def stats(self) -> AssemblyStats:
        """What became of the completions so far."""
        return self._assembler.stats

    @property
    def skipped(self) -> dict[str, int]:
        """Calls that were not recorded, by LiteLLM's call type or by the reason."""
        with self._lock:
            return dict(self._skipped)

    @property
    def recorder(self) -> rwml.Recorder:
        """Where the trajectories go."""
        return self._recorder

    def stop(self) -> None:
        """Records nothing from now on, calls in flight neither."""
        self._stopped = True

    def write_through(self) -> None:
        """Waits until what was recorded is in the store, and from now on after each call.

        For a process that is about to end: each time for at most `WRITE_THROUGH_S`.
        """
        self._writes_through = True
        self._recorder.flush(WRITE_THROUGH_S)

    def log_success_event(
        self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """A synchronous call ended; a streamed one with its whole response."""
        self._take(kwargs, response_obj, start_time, end_time)

    async def async_log_success_event(
        self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """An asynchronous call ended; a streamed one with its whole response."""
        self._take(kwargs, response_obj, start_time, end_time)

    def log_failure_event(
        self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """A synchronous call failed."""
        self._take(kwargs, None, start_time, end_time)

    async def async_log_failure_event(
        self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """An asynchronous call failed."""
        self._take(kwargs, None, start_time, end_time)

    async def async_pre_call_deployment_hook(
        self, kwargs: dict[str, Any], call_type: Any
    ) -> dict[str, Any] | None:
        """An asynchronous call goes out: to a gateway of one's own it says who records it."""
        with self._recorder.guard():
            kind = str(getattr(call_type, "value", call_type))
            target = kwargs.get("api_base") or kwargs.get("base_url")
            if self._stopped or kind not in CHAT + RESPONSES + ANTHROPIC:
                return None
            given = kwargs.get("extra_headers") or {}
            if is_gateway(target, self._gateways) and read_headers(given) is None:
                headers = {**correlation_headers(self._recorder), **given}
                return {**kwargs, "extra_headers": headers}
        return None

    async def async_post_call_success_deployment_hook(
        self, request_data: dict[str, Any], response: Any, call_type: Any
    ) -> None:
        """A response came: notes its id, which the proxy encrypts before it tells of the call."""
        with self._recorder.guard():
            kind, call_id = getattr(call_type, "value", call_type), request_data.get(_CALL_ID)
            made = getattr(response, "id", None)
            if kind in RESPONSES and call_id and made and not self._stopped:
                with self._lock:
                    self._response_ids[str(call_id)] = str(made)
                    while len(self._response_ids) > KEPT_IDS:
                        self._response_ids.popitem(last=False)

    def _take(
        self, kwargs: Mapping[str, Any], response: Any, start_time: datetime, end_time: datetime
    ) -> None:
        with self._recorder.guard():
            if self._stopped or self._recorder.takes_nothing:
                return
            with self._lock:
                response_id = self._response_ids.pop(str(kwargs.get(_CALL_ID)), None)
            call = read_call(
                kwargs,
                response,
                start_time,
                end_time,
                histories=self._histories,
                response_id=response_id,
            )
            if isinstance(call, Skipped):
                self._skip(call.reason)
            elif self._is_left_to_the_client(call):
                self._skip("recorded by the client")
            else:  # hashing a long history must not hold up LiteLLM's event loop
                self._recorder.defer(self._record, call, size=call.size)
            if self._writes_through:
                self._recorder.flush(WRITE_THROUGH_S)

    def _record(self, call: Call) -> None:
        if not self._is_left_to_an_outer_call(call):
            for completion, tokens in zip(call.completions, call.tokens, strict=True):
                self._write(completion, tokens)

    def _is_left_to_the_client(self, call: Call) -> bool:
        client = call.caller.client_call
        if client is None:
            return False
        own = read_headers(correlation_headers(self._recorder))
        return own is not None and own.store == client.store

    def _is_left_to_an_outer_call(self, call: Call) -> bool:
        """Whether another recorder sees the call further out; it is told what it may lack."""
        first, calls = call.completions[0], self._recorder.outer_calls
        if first.started_at is None:
            return False
        outer = calls.covers(first.messages, started=first.started_at.timestamp())
        if outer is not None and first.response is not None:
            calls.enrich(
                outer,
                model=first.model,
                usage=first.usage,
                latency_s=first.latency_s,
                token_ids=call.tokens[0].ids,
                logprobs=call.tokens[0].logprobs,
            )
        return outer is not None

    def _skip(self, reason: str) -> None:
        with self._lock:
            self._skipped[reason] += 1
            is_first = self._skipped[reason] == 1
        if is_first:
            logger.info("rwml: LiteLLM calls are not recorded: %s (counted from now on)", reason)

    def _write(self, completion: Completion, tokens: Tokens) -> None:
        known = Enrichment(token_ids=tokens.ids, logprobs=tokens.logprobs)
        # Only in the writer's thread, which may wait for the store: no lock that a caller takes.
        for record in self._assembler.add(completion):
            if isinstance(record, StepRecord):
                if tokens != Tokens() and record.step.action is completion.response:
                    self._assembler.improve(record.trajectory_id, known.fill)
                    record = record._replace(step=known.fill(record.step))
                self._recorder.put_deferred(record)
            else:
                self._recorder.put_deferred(_clean(record))


def _clean(header: HeaderRecord) -> HeaderRecord:
    """The header without a thread where the caller named none: the assembler's is our scope."""
    trajectory = header.trajectory
    known = {key: value for key, value in trajectory.metadata.items() if value is not None}
    return header._replace(trajectory=trajectory.model_copy(update={"metadata": known}))
