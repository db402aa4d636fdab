"""A scripted user: speaks for a tau2 user scenario without an LLM.

It opens with the reason for the call, says who it is, confirms, carries out what the agent asks it
to do on its phone (telecom), and says goodbye. It answers anything and always ends: a real, bad
model may repeat itself or never finish.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

from tau2.data_model.message import (
    AssistantMessage,
    Message,
    MultiToolMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from tau2.data_model.tasks import Action, StructuredUserInstructions
from tau2.user.user_simulator import UserSimulator

from rwml_adapters.tau2.compat import STOP, TRANSFER, BaseUser, UserInput, UserState

MAX_TURNS = 15
"""User messages after which the user gives up, besides those about its own actions (ours)."""
MAX_REPEATS = 3
"""Identical agent messages after which the user gives up (ours)."""

_TRANSFERRED = re.compile(r"being transferred to a human", re.IGNORECASE)
_CONFIRM = re.compile(
    r"\byes/no\b|\bconfirm\b[^.!]*\?|\bproceed\b[^.!]*\?|\bis (that|this) (ok|okay|correct|right)",
    re.IGNORECASE,
)
_CLOSING = re.compile(
    r"anything else|have a (great|nice|good|wonderful) |glad (i|we) could help|\bgoodbye\b",
    re.IGNORECASE,
)
_IDENTITY = re.compile(
    r"e-?mail|\bzip\b|postal|verify|identi|authenticat|your (full |first |last )?name|user.?id"
    r"|who you are|phone number|date of birth",
    re.IGNORECASE,
)
_SECTION = re.compile(
    r"^\s*(?:Persona|Instructions|Domain|Reason for call|Known info|Unknown info"
    r"|Task instructions):[ \t]*",
    re.MULTILINE,
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_DIRECTION = re.compile(
    r"\bagent\b|^(make sure|mention|when asked|if asked|do not mention|don't mention)\b",
    re.IGNORECASE,
)
_PRONOUNS: tuple[tuple[str, str], ...] = (
    (r"\byou\s+are\b", "I am"),
    (r"\byou\s+name\b", "my name"),  # a slip of retail's scenarios
    (r"\byou're\b", "I'm"),
    (r"\byou\s+were\b", "I was"),
    (r"\byou('ve|'d|'ll)", r"I\1"),
    (r"\byourself\b", "myself"),
    (r"\byours\b", "mine"),
    (r"\bYour\b", "My"),
    (r"\byour\b", "my"),
    (
        r"\b(to|for|with|of|from|about|at|give|gives|tell|tells|let|help|helps|allow|allows|offer"
        r"|charge|charged|send|sent|ask|asks|told|transfer|refund|show)\s+you\b",
        r"\1 me",
    ),
    (r"\byou\b", "I"),
)

_GREETINGS = ("Hi! ", "Hello. ", "", "Hi there. ")
_CONFIRMATIONS = ("Yes.", "Yes, please go ahead.", "Yes, I confirm.", "Yes, that is right.")
_IDENTITY_LEADS = ("", "Sure. ", "Of course. ", "Sure thing. ")
_GOODBYES = ("No, that is all. Thank you!", "No, thanks for your help.", "That is all, thank you.")
_FILLERS = (
    "I have no more details than that.",
    "Please look at what you have on my account.",
    "Please do what you think is best.",
)


class ScriptedUser(BaseUser):
    """A user simulator that needs no LLM; deterministic by seed.

    Args:
        tools: ignored: the actions name the tools; here, as `llm` and `llm_args`, so that tau2's
            registry can make one.
        instructions: the scenario, structured or as text.
        actions: gold actions of the user (telecom), carried out when the agent asks for them.
        seed: decides the phrasings.
    """

    def __init__(
        self,
        tools: object = None,
        instructions: StructuredUserInstructions | str | None = None,
        llm: str | None = None,
        llm_args: dict[str, Any] | None = None,
        *,
        actions: Sequence[Action] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(instructions=str(instructions or ""))
        reason, known, unknown = _facts(instructions)
        self._reason = opening_text(reason)
        self._known, self._unknown = first_person(known), first_person(unknown)
        self._actions = [action for action in actions if action.requestor == "user"]
        self._seed = seed

    def set_seed(self, seed: int) -> None:
        """Sets the seed of the phrasings; there is no LLM to seed."""
        self._seed = seed

    def get_init_state(self, message_history: list[Message] | None = None) -> UserState:  # type: ignore[override]  # declared async upstream, called as a plain method
        """A conversation that may already have begun."""
        history = [message for message in message_history or () if _spoken(message)]
        return UserState(system_messages=[], messages=history)  # type: ignore[arg-type]

    @classmethod
    def is_stop(cls, message: UserMessage) -> bool:
        """Whether the message ends the conversation."""
        return UserSimulator.is_stop(message)

    def generate_next_message(  # type: ignore[override]  # as above
        self, message: UserInput, state: UserState
    ) -> tuple[UserMessage, UserState]:
        """Answers the agent, or reports what the phone said."""
        parts = message.tool_messages if isinstance(message, MultiToolMessage) else [message]
        state.messages.extend(parts)
        answer = self._answer(parts[-1], state)
        state.messages.append(answer)
        return answer, state

    def _answer(self, message: Message, state: UserState) -> UserMessage:
        turns = sum(isinstance(m, UserMessage) for m in state.messages)
        rng = random.Random(f"{self._seed}:{turns}:{self._reason}")  # noqa: S311 - not secret
        if isinstance(message, ToolMessage):
            return _text(f"I did that. It says: {message.content}")
        heard = (message.content or "") if isinstance(message, AssistantMessage) else ""
        if (
            turns >= MAX_TURNS + 2 * len(self._actions)
            or self._repeated(heard, state) >= MAX_REPEATS
        ):
            return _text(f"I have to go now. Goodbye. {STOP}")
        wanted = self._wanted_action(heard, state)
        if wanted is not None:
            call = ToolCall(
                id=f"user_call_{turns}",
                name=wanted.name,
                arguments=wanted.arguments,
                requestor="user",
            )
            return UserMessage(role="user", content=None, tool_calls=[call], cost=0.0)
        return _text(self._reply(heard, turns, rng))

    def _reply(self, heard: str, turns: int, rng: random.Random) -> str:
        if turns == 0:
            return f"{rng.choice(_GREETINGS)}{self._reason}"
        if _TRANSFERRED.search(heard):
            return TRANSFER
        if _CONFIRM.search(heard):
            return rng.choice(_CONFIRMATIONS)
        if _CLOSING.search(heard):
            return f"{rng.choice(_GOODBYES)} {STOP}"
        if _IDENTITY.search(heard) and self._known:
            more = f" {self._unknown}" if self._unknown and rng.random() < 0.5 else ""
            return f"{rng.choice(_IDENTITY_LEADS)}{self._known}{more}"
        return rng.choice((f"As I said: {self._reason}", *_FILLERS))

    def _wanted_action(self, heard: str, state: UserState) -> Action | None:
        """The next gold action that was not done yet, where the agent asks for it by name."""
        done = sum(isinstance(m, UserMessage) and m.is_tool_call() for m in state.messages)
        if done >= len(self._actions):
            return None
        action = self._actions[done]
        text = heard.lower()
        asked = action.name.lower() in text or action.name.replace("_", " ").lower() in text
        return action if asked else None

    @staticmethod
    def _repeated(heard: str, state: UserState) -> int:
        return sum(isinstance(m, AssistantMessage) and m.content == heard for m in state.messages)


def first_person(text: str) -> str:
    """Turns "you" into "I": ``You want your order`` -> ``I want my order``."""
    for pattern, replacement in _PRONOUNS:
        flags = re.NOFLAG if pattern == r"\bYour\b" else re.IGNORECASE
        text = re.sub(pattern, replacement, text, flags=flags)
    return " ".join(text.split())


def opening_text(reason: str) -> str:
    """The reason for the call in the first person, without directions about the agent."""
    sentences = _SENTENCE.split(reason.strip())
    spoken = [s for s in sentences if not _DIRECTION.search(s)]
    return first_person(" ".join(spoken or sentences)) or "I need some help, please."


def known_information(instructions: StructuredUserInstructions | str | None) -> str | None:
    """What the user knows about themself, as the scenario says it; None when it does not."""
    return _facts(instructions)[1] or None


def _facts(instructions: StructuredUserInstructions | str | None) -> tuple[str, str, str]:
    """Reason for the call, known and unknown information; of plain text, all is the reason."""
    if isinstance(instructions, StructuredUserInstructions):
        found = (
            instructions.reason_for_call,
            instructions.known_info,
            instructions.unknown_info,
        )
        return tuple(_said(part or "") for part in found)  # type: ignore[return-value]
    text = instructions or ""
    sections = {
        heading.group().strip(): _said(body)
        for heading, body in zip(_SECTION.finditer(text), _SECTION.split(text)[1:], strict=False)
    }
    reason = sections.get("Reason for call:") or sections.get("Instructions:") or text.strip()
    return reason, sections.get("Known info:", ""), sections.get("Unknown info:", "")


def _said(text: str) -> str:
    """The text, or nothing where a scenario holds only a full stop."""
    return text.strip() if text.strip(" .\n\t") else ""


def _spoken(message: Message) -> bool:
    return isinstance(message, UserMessage | AssistantMessage | ToolMessage)


def _text(content: str) -> UserMessage:
    return UserMessage(role="user", content=content, cost=0.0)
