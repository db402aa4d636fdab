"""A scripted agent: a task's gold actions as a natural conversation, with a share of mistakes.

It stands in for an LLM where there is none, so that real environments, tools and users produce real
transitions. `ScriptedPolicy` is a LangChain chat model like any other; its plan is fixed up front
by seed and task, so the same seed gives the same episode.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import JsonValue
from tau2.data_model.tasks import Action, Task

from rwml_adapters.tau2.domains import Domain
from rwml_adapters.tau2.mistakes import Call, make_mistake

PLAN_ID = "scripted-"
"""How the ids of the policy's own messages start."""
MAX_MISTAKES = 6
"""Mistakes per episode: tau2 ends an episode at 10 errors, and gold actions bring some (ours)."""
TRANSFER_TOOL = "transfer_to_human_agents"
TRANSFER_TEXT = "YOU ARE BEING TRANSFERRED TO A HUMAN AGENT. PLEASE HOLD ON."
"""What the policies of retail, airline and telecom want said after a transfer."""

IDENTITY_QUESTIONS = {
    "retail": "I can help with that. To verify your identity, could you please give me your first "
    "and last name with your zip code, or your email address?",
    "airline": "I can help with that. Could you please give me your user id?",
    "telecom": "I can help with that. Could you please give me your name and your phone number?",
    "mock": "I can help with that. Could you please tell me who you are, with your user id?",
}


class ScriptedPolicy(BaseChatModel):
    """Replays a plan: answers with the message after those of its own that it sees.

    Attributes:
        plan: the messages, in order; after the last one it repeats that.
    """

    plan: list[AIMessage]

    @property
    def _llm_type(self) -> str:
        return "rwml-scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> ScriptedPolicy:  # type: ignore[override]  # a plan needs no tools
        """The policy itself: its plan already names the tools."""
        return self

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        said = sum(isinstance(m, AIMessage) and (m.id or "").startswith(PLAN_ID) for m in messages)
        planned = self.plan[min(said, len(self.plan) - 1)]
        message = planned.model_copy(update={"id": f"{PLAN_ID}{said}"})
        return ChatResult(generations=[ChatGeneration(message=message)])


def scripted_policy(task: Task, domain: Domain, *, error_rate: float, seed: int) -> ScriptedPolicy:
    """The policy for one task.

    Args:
        task: its gold actions of the assistant are replayed.
        domain: gives the tools, and which of them write.
        error_rate: share of gold actions before which a mistake is made; 0 is the oracle.
        seed: decides which and what.
    """
    tools = {schema["function"]["name"]: schema["function"] for schema in domain.tools}
    rng = random.Random(f"{seed}:{task.id}")  # noqa: S311 - reproducible, not secret
    planner = _Planner(task, domain.name, tools, domain.writing_tools, error_rate, rng)
    return ScriptedPolicy(plan=planner.plan())


class _Planner:
    """Lays out one conversation: identify, look up, confirm, write, sum up."""

    def __init__(
        self,
        task: Task,
        domain: str,
        tools: Mapping[str, Mapping[str, Any]],
        writes: frozenset[str],
        error_rate: float,
        rng: random.Random,
    ) -> None:
        criteria = task.evaluation_criteria
        self._gold = list(criteria.actions or []) if criteria else []
        self._to_say = list(criteria.communicate_info or []) if criteria else []
        self._domain, self._tools, self._writes = domain, tools, writes
        self._error_rate, self._rng = error_rate, rng
        self._mistakes = 0
        self._messages: list[AIMessage] = []

    def plan(self) -> list[AIMessage]:
        self._say(IDENTITY_QUESTIONS.get(self._domain, IDENTITY_QUESTIONS["mock"]))
        confirmed = False
        for action in self._with_lookups():
            if action.requestor == "user":
                self._say(_request(action))
                continue
            if action.name in self._writes and not confirmed:
                self._say(self._confirmation())
                confirmed = True
            self._act(action)
        self._say(self._closing())
        return self._messages

    def _with_lookups(self) -> list[Action]:
        """Gold actions, with what a write changes looked up first where gold does not do it."""
        actions: list[Action] = []
        looked_up: set[tuple[str, str]] = set()
        for action in self._gold:
            for key, value in action.arguments.items():
                tool = f"get_{key.removesuffix('_id')}_details"
                if not key.endswith("_id") or tool not in self._tools:
                    continue
                needed = action.name in self._writes and action.requestor == "assistant"
                if needed and (tool, str(value)) not in looked_up:
                    actions.append(Action(action_id=tool, name=tool, arguments={key: value}))
                if needed or action.name == tool:
                    looked_up.add((tool, str(value)))
            actions.append(action)
        return actions

    def _act(self, action: Action) -> None:
        if self._mistakes < MAX_MISTAKES and self._rng.random() < self._error_rate:
            wrong = make_mistake(self._call(action), tools=frozenset(self._tools), rng=self._rng)
            if wrong is not None:
                self._mistakes += 1
                self._do(*wrong)
        self._do(action.name, dict(action.arguments))

    def _call(self, action: Action) -> Call:
        schema = self._tools.get(action.name, {}).get("parameters", {})
        return Call(
            name=action.name,
            arguments=dict(action.arguments),
            required=frozenset(schema.get("required", ())),
            known=frozenset(schema.get("properties", {})),
            writes=action.name in self._writes,
        )

    def _confirmation(self) -> str:
        planned = [a for a in self._gold if a.name in self._writes and a.requestor == "assistant"]
        lines = [f"- {_describe(action)}" for action in planned]
        return "\n".join(["This is what I am going to do:", *lines, "Do you confirm (yes/no)?"])

    def _closing(self) -> str:
        parts = []
        done = [a.name for a in self._gold if a.requestor == "assistant" and a.name in self._writes]
        if done:
            parts.append(f"All done: {', '.join(dict.fromkeys(map(_words, done)))}.")
        if self._to_say:
            parts.append(f"Here is the information you asked for: {'; '.join(self._to_say)}.")
        if any(a.name == TRANSFER_TOOL and a.requestor == "assistant" for a in self._gold):
            return " ".join([*parts, TRANSFER_TEXT])
        if not parts:
            parts.append("I am afraid that this is all I can do for you under our policy.")
        return " ".join([*parts, "Is there anything else I can help you with?"])

    def _say(self, text: str) -> None:
        self._messages.append(_message(len(self._messages), content=text))

    def _do(self, name: str, arguments: dict[str, JsonValue]) -> None:
        place = len(self._messages)
        call = {"name": name, "args": arguments, "id": f"call_{place}", "type": "tool_call"}
        self._messages.append(_message(place, content="", tool_calls=[call]))


def _message(place: int, **fields: Any) -> AIMessage:
    return AIMessage(id=f"{PLAN_ID}{place}", response_metadata={"model_name": "scripted"}, **fields)


def _request(action: Action) -> str:
    details = f" with {_arguments(action)}" if action.arguments else ""
    return f"Please run `{action.name}` on your phone{details}, and tell me what you see."


def _describe(action: Action) -> str:
    return f"{_words(action.name)}: {_arguments(action)}"


def _arguments(action: Action) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {_plain(v)}" for key, v in action.arguments.items())


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _words(name: str) -> str:
    return name.replace("_", " ")
