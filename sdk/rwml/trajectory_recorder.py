"""One trajectory being recorded by hand: act, observe, finish."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from rwml.schema import (
    Kind,
    Message,
    Outcome,
    Provenance,
    Step,
    StepStatus,
    Tool,
    Trajectory,
    Usage,
)

if TYPE_CHECKING:
    from rwml.recorder import Recorder

MessageLike = Message | Mapping[str, Any]


class TrajectoryRecorder:
    """One trajectory being recorded. Made by `Recorder.trajectory`; not for several threads."""

    def __init__(
        self,
        *,
        recorder: Recorder,
        fields: dict[str, Any],
        messages: Iterable[MessageLike],
        tools: Iterable[Tool | Mapping[str, Any]],
    ) -> None:
        self._recorder = recorder
        self._step: Step | None = None
        self._outcome = Outcome()
        self._header = Trajectory(source="unknown")
        with recorder.guard():
            self._header = Trajectory(
                **fields,
                initial=tuple(Message.from_openai(m) for m in messages),
                tools=tuple(t if isinstance(t, Tool) else Tool.from_openai(t) for t in tools),
                started_at=datetime.now(UTC),
            )

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
            self._step = Step(
                index=0 if self._step is None else self._step.index + 1,
                action=Message.from_openai(message),
                started_at=datetime.now(UTC) - timedelta(seconds=latency_s or 0),
                model=model,
                usage=usage,
                latency_s=latency_s,
                provenance=provenance,
                metadata=dict(metadata or {}),
            )
            self._recorder.record_step(self.id, self._step)

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
            read = tuple(Message.from_openai(message) for message in messages)
            if self._step is None:
                initial = self._header.initial + read
                self._header = self._header.model_copy(update={"initial": initial})
                self._recorder.record_header(self._header)
                return
            if not read:
                return
            self._step = complete_step(self._step, read, status=status, kind=kind)
            self._recorder.record_step(self.id, self._step)

    def finish(self, outcome: Outcome) -> None:
        """Says how the trajectory ended; written when the context manager closes."""
        self._outcome = outcome

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
