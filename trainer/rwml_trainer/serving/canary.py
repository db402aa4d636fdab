"""The canary check of an engine that has just started, before any client reaches it.

Every engine must answer a chat completion. What a model can do beyond (a prediction in its tags, a
tool call) is found out and compared: a version that is promoted must do what the one before it
does. So a small or untrained model can be served, and a broken one cannot take over.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from rwml.errors import ServingError
from rwml.prompts import Profile, parse_prediction, render_prompt
from rwml.schema import Message, Tool, ToolCall, Transition
from rwml_trainer.serving.engine import Engine
from rwml_trainer.serving.registry import Version

TIMEOUT_S = 120.0
MAX_TOKENS = 64
"""Of each answer (ours): the canary waits for it, at each start and promotion."""
_TOOL = Tool(
    name="get_order",
    description="Looks up an order.",
    parameters={
        "type": "object",
        "properties": {"order_id": {"type": "string"}},
        "required": ["order_id"],
    },
)
_SYSTEM = Message(role="system", content="You help customers of a shop.")
_USER = Message(role="user", content="Where is order W1? Look it up.")


class CanaryError(ServingError):
    """A version that was checked and found wanting."""

    exit_code = 1


@dataclass(frozen=True)
class Findings:
    """What a model did.

    Attributes:
        predicts: it gave a next state in its tags.
        calls_tools: it called a tool with arguments in JSON; None where its template has none.
    """

    predicts: bool
    calls_tools: bool | None

    def __str__(self) -> str:
        told = [f"{'a' if self.predicts else 'no'} next state in its tags"]
        if self.calls_tools is not None:
            told.append(f"{'a' if self.calls_tools else 'no'} tool call")
        return ", ".join(told)


def check(engine: Engine, version: Version) -> Findings:
    """Asks an engine that is up.

    Raises:
        CanaryError: it does not answer a request as it should.
    """
    profile: Profile = version.profile or "compact"
    prompt = render_prompt(_transition(), profile=profile)
    predicted = _ask(engine, version, {"messages": prompt})
    predicts = parse_prediction(predicted.get("content") or "").next_state is not None
    if not (version.tools and engine.tools):
        return Findings(predicts, None)
    messages = [_SYSTEM.to_openai(), _USER.to_openai()]
    called = _ask(engine, version, {"messages": messages, "tools": [_TOOL.to_openai()]})
    return Findings(predicts, _has_valid_call(called))


def check_against(findings: Findings, *, version: str, current: Findings, of: str) -> None:
    """Refuses a version that does not do what the current one does.

    Raises:
        CanaryError: it lacks something.
    """
    if current.predicts and not findings.predicts:
        raise CanaryError(f"{version} predicts no next state in its tags, and {of} does")
    if current.calls_tools and findings.calls_tools is not True:
        raise CanaryError(f"{version} calls no tool, and {of} does")


def _ask(engine: Engine, version: Version, request: dict[str, Any]) -> dict[str, Any]:
    import httpx

    body: dict[str, JsonValue] = {"model": engine.model, "max_tokens": MAX_TOKENS, "temperature": 0}
    try:
        answer = httpx.post(
            f"{engine.url}/chat/completions",
            json={**body, **request},
            headers={"Authorization": f"Bearer {engine.key}"} if engine.key else {},
            timeout=TIMEOUT_S,
            trust_env=False,
        )
        answer.raise_for_status()
        message = answer.json()["choices"][0]["message"]
    except httpx.HTTPStatusError as error:
        raise CanaryError(
            f"{version.id} fails its canary check: its engine answers "
            f"{error.response.status_code}: {' '.join(error.response.text.split())[:300]} "
            f"(log: {engine.process.log})"
        ) from error
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        raise CanaryError(
            f"{version.id} fails its canary check: {error} (log: {engine.process.log})"
        ) from error
    if not isinstance(message, dict):
        raise CanaryError(f"{version.id} fails its canary check: it answers no message")
    return message


def _has_valid_call(message: dict[str, Any]) -> bool:
    calls = message.get("tool_calls") or []
    try:
        return bool(calls) and all(
            isinstance(json.loads(call["function"]["arguments"]), dict) for call in calls
        )
    except (ValueError, LookupError, TypeError):
        return False


def _transition() -> Transition:
    """A tool call whose result is to be predicted."""
    call = ToolCall(id="call_1", name=_TOOL.name, arguments={"order_id": "W1"})
    return Transition(
        id="canary/0/0",
        trajectory_id="canary",
        index=0,
        source="canary",
        task_id=None,
        split=None,
        context=(_SYSTEM, _USER),
        action=Message(role="assistant", tool_calls=(call,)),
        next_state=(),
        kind="tool",
        status="ok",
        tools=(_TOOL,),
    )
