"""One trajectory being recorded by hand: act, observe, finish.

Callers may give anything anywhere. Each value is taken as it is at that moment (`rwml.snapshot`);
what still cannot be a message, a tool or a count is left out alone, and counted in
`RecorderStats.errors`. Nothing is raised, but for tests (see `Recorder.guard`).
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import BaseModel, JsonValue, ValidationError

from rwml.content import well_formed
from rwml.errors import SchemaError
from rwml.schema import (
    Fingerprint,
    Kind,
    Message,
    Outcome,
    Provenance,
    Step,
    StepStatus,
    Tool,
    ToolCall,
    Trajectory,
    Usage,
)
from rwml.serialisation import LARGE_CHARS
from rwml.snapshot import as_content, as_text, to_json

if TYPE_CHECKING:
    from rwml.recorder import Recorder

MessageLike = Message | Mapping[str, Any]

_Model = TypeVar("_Model", bound=BaseModel)
_Word = TypeVar("_Word", bound=str)
_NAMING_TYPES = ("UUID", "Decimal", "datetime", "date", "PosixPath", "WindowsPath")
"""Types whose values, as a text, name one thing; of most others only the type is known."""


class TrajectoryRecorder:
    """One trajectory being recorded. Made by `Recorder.trajectory`; not for several threads."""

    def __init__(
        self,
        *,
        recorder: Recorder,
        id: str | None,
        source: str,
        task_id: str | None,
        split: str | None,
        fingerprint: Fingerprint | None,
        metadata: Mapping[str, JsonValue] | None,
        messages: Iterable[MessageLike],
        tools: Iterable[Tool | Mapping[str, Any]],
    ) -> None:
        self._recorder = recorder
        self._step: Step | None = None
        self._outcome = Outcome()
        self._header = Trajectory(source="unknown")
        with recorder.guard():
            self._header = Trajectory(
                id=read_id(id) or uuid.uuid4().hex,
                source=well_formed(_text(source) or "") or "unknown",
                task_id=_text(task_id),
                split=_text(split),
                metadata=self._metadata(metadata),
                fingerprint=self._checked(Fingerprint, fingerprint) or Fingerprint(),
                started_at=datetime.now(UTC),
            )
        with recorder.guard():
            self._add_initial(self._messages(messages))
        with recorder.guard():
            read: list[Tool] = []
            for tool in tools:
                with recorder.guard():
                    read.append(_tool(tool))
            self._header = self._header.model_copy(update={"tools": tuple(read)})

    @property
    def id(self) -> str:
        """The trajectory's id."""
        return self._header.id

    def act(
        self,
        message: MessageLike,
        *,
        model: str | None = None,
        usage: Usage | None = None,
        latency_s: float | None = None,
        provenance: Provenance | None = None,
        metadata: Mapping[str, JsonValue] | None = None,
    ) -> None:
        """Records an action; it is pending until `observe` says what came back.

        Args:
            message: the assistant message, as an OpenAI-style dict or a `Message`.
        """
        with self._recorder.guard():
            seconds = self._seconds(latency_s)
            step = Step(
                index=0 if self._step is None else self._step.index + 1,
                action=read_message(message),
                started_at=datetime.now(UTC) - timedelta(seconds=seconds or 0),
                model=_text(model),
                usage=self._checked(Usage, usage),
                latency_s=seconds,
                provenance=self._checked(Provenance, provenance),
                metadata=self._metadata(metadata),
            )
            self._step = step
            self._recorder.record_step(self.id, step)

    def observe(
        self, *messages: MessageLike, status: StepStatus = "ok", kind: Kind | None = None
    ) -> None:
        """Records what came back of the last action; called again, it adds to it.

        Before the first action, the messages become the trajectory's initial ones.

        Args:
            messages: tool results, a user's reply, or an environment's text.
            status: ``error`` where the answer is an error.
            kind: who answered; by default read off the roles (tool messages: ``tool``).
        """
        with self._recorder.guard():
            read = self._messages(messages)
            if self._step is None:
                self._add_initial(read)
                self._recorder.record_header(self._header)
                return
            if not read:
                return
            self._step = complete_step(
                self._step,
                read,
                status=self._word(status, get_args(StepStatus)) or "ok",
                kind=None if kind is None else self._word(kind, get_args(Kind)),
            )
            self._recorder.record_step(self.id, self._step)

    def finish(self, outcome: Outcome) -> None:
        """Says how the trajectory ended; written when the context manager closes."""
        with self._recorder.guard():
            read = self._checked(Outcome, outcome) or Outcome()
            self._outcome = read.model_copy(update={"breakdown": _object(read.breakdown)})

    def __enter__(self) -> TrajectoryRecorder:
        with self._recorder.guard():
            # at once, so that a killed process leaves no steps without a trajectory
            self._recorder.record_header(self._header)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._recorder.guard():
            finished = self._header.model_copy(update={"outcome": self._outcome})
            length = 0 if self._step is None else self._step.index + 1
            self._recorder.record_header(finished, length=length)

    def _add_initial(self, messages: tuple[Message, ...]) -> None:
        initial = self._header.initial + messages
        self._header = self._header.model_copy(update={"initial": initial})

    def _messages(self, given: Iterable[MessageLike]) -> tuple[Message, ...]:
        read: list[Message] = []
        with self._recorder.guard():
            for message in given:
                with self._recorder.guard():
                    read.append(read_message(message))
        return tuple(read)

    def _metadata(self, given: object) -> dict[str, JsonValue]:
        with self._recorder.guard():
            return {} if given is None else _object(given)
        return {}

    def _checked(self, model: type[_Model], given: object) -> _Model | None:
        """An instance of a model, or what can be read as one; None for anything else."""
        if given is None or type(given) is model:
            return given  # type: ignore[return-value]
        with self._recorder.guard():
            try:
                return model.model_validate(to_json(given))
            except ValidationError:  # which names what was given
                raise SchemaError(f"what was given cannot be read as {model.__name__}") from None
        return None

    def _word(self, given: object, known: tuple[_Word, ...]) -> _Word | None:
        """One of the words that the schema knows; None for anything else."""
        with self._recorder.guard():
            text = to_json(given)
            for word in known:
                if word == text:
                    return word
            raise SchemaError(f"it must be one of {', '.join(known)}")
        return None

    def _seconds(self, given: object) -> float | None:
        if given is None:
            return None
        with self._recorder.guard():
            number = to_json(given)
            if isinstance(number, int | float) and math.isfinite(number) and abs(number) < 1e9:
                return float(number)
            raise SchemaError("latency_s must be a number of seconds")
        return None


def complete_step(
    step: Step,
    observation: tuple[Message, ...],
    *,
    status: StepStatus = "ok",
    kind: Kind | None = None,
) -> Step:
    """The step with `observation` added to what came back; an error stays an error."""
    merged = step.observation + observation
    roles = {message.role for message in merged}
    return step.model_copy(
        update={
            "observation": merged,
            "kind": kind or step.kind or ("tool" if "tool" in roles else "user"),
            "status": "error" if "error" in (status, step.status) else status,
        }
    )


def read_message(given: MessageLike) -> Message:
    """A message as it is now: whatever is in its fields has become text or JSON.

    Raises:
        SchemaError: it is no mapping, or its role is unknown.
    """
    if type(given) is Message:
        if not given.tool_calls:
            return given
        calls = (c.model_copy(update={"arguments": _object(c.arguments)}) for c in given.tool_calls)
        return given.model_copy(update={"tool_calls": tuple(calls)})
    wire = _items(given)
    if wire is None:
        raise SchemaError("a message must be a dict with 'role' and 'content' or an rwml.Message")
    content = wire.get("content")
    content = content if type(content) is str else as_content(content)
    is_large = isinstance(content, str) and len(content) > LARGE_CHARS
    message = Message.from_openai(
        {
            "role": _text(wire.get("role")),
            "content": None if is_large else content,
            "tool_calls": [_call(call) for call in _each(wire.get("tool_calls"))],
            "tool_call_id": _text(wire.get("tool_call_id")),
            "name": _text(wire.get("name")),
            "reasoning": _text(wire.get("reasoning")) or _text(wire.get("reasoning_content")),
        }
    )
    # Validating a text makes its UTF-8 in one call: 30 ms of 10 MB, and nobody else may run.
    return message.model_copy(update={"content": content}) if is_large else message


def read_id(given: object) -> str | None:
    """An id as a text; None where none is given, or what is given names nothing."""
    plain = to_json(given)
    if isinstance(plain, dict) and plain.get("$type") in _NAMING_TYPES:
        plain = plain["value"]
    if plain is None or isinstance(plain, dict | list):
        return None
    return well_formed(as_text(plain)) or None


def _call(given: object) -> dict[str, Any]:
    """A tool call in OpenAI's form; what is none is kept as the text of its arguments."""
    wire = _items(given)
    function = None if wire is None else _items(wire.get("function"))
    if wire is None or function is None:
        if type(given) is ToolCall:
            return given.to_openai()
        return {"function": {"arguments": as_text(given)}}
    arguments = function.get("arguments")
    if arguments is not None and type(arguments) is not str:
        plain = to_json(arguments)
        arguments = plain if isinstance(plain, dict | str) else as_text(plain)
    return {
        "id": _text(wire.get("id")),
        "function": {"name": _text(function.get("name")), "arguments": arguments},
    }


def _tool(given: object) -> Tool:
    if type(given) is Tool:
        return given.model_copy(update={"parameters": _object(given.parameters)})
    wire = _items(given)
    inner = None if wire is None else _items(wire.get("function", wire))
    if inner is None or "name" not in inner:
        raise SchemaError("a tool must be an OpenAI function schema with a name")
    parameters = inner.get("parameters")
    return Tool(
        name=as_text(inner["name"]),
        description=_text(inner.get("description")) or "",
        parameters={} if parameters is None else _object(parameters),
    )


def _object(given: object) -> dict[str, JsonValue]:
    """A mapping as JSON; anything else under ``value``."""
    items = _items(given)
    plain = to_json(given if items is None or dict in type(given).__mro__ else items)
    return plain if isinstance(plain, dict) else {"value": plain}


def _items(given: object) -> dict[str, Any] | None:
    """What a mapping has under texts; None where it is no mapping."""
    if dict in type(given).__mro__:
        items = dict(list(dict.items(given)))  # type: ignore[arg-type]  # whatever it says itself
    elif issubclass(type(given), Mapping):  # not isinstance, which asks the value
        items = dict(given)  # type: ignore[call-overload]
    else:
        return None
    return {key: value for key, value in items.items() if type(key) is str}


def _each(given: object) -> list[Any]:
    if given is None:
        return []
    if type(given) is list or type(given) is tuple:
        return list(given)
    plain = to_json(given)
    return plain if isinstance(plain, list) else [plain]


def _text(given: object) -> str | None:
    if given is None or type(given) is str:
        return given
    return as_text(given)
