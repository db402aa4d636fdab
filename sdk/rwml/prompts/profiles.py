"""Prompt profiles: how a transition becomes the question that a world model answers.

``paper`` follows RWML tables A4-A7 in our own words: the agent's whole instruction, tools, user
information and history. ``compact`` is ours: the schema of the called tool and the last turns,
shortened until a small model can take it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Literal

from rwml.masking import mask_to_schema
from rwml.schema import Message, Tool, Transition

Profile = Literal["compact", "paper"]
PROFILES: tuple[Profile, ...] = ("compact", "paper")

Prompt = list[dict[str, str]]
"""Chat messages of a prompt: dicts with ``role`` and ``content``."""

PARALLEL_SEPARATOR = "\n---\n"
"""Between the results of parallel tool calls, in the order of ``tool_calls`` (ours)."""

COMPACT_SYSTEM = (
    "You predict what an agent's action leads to. A tool answers with an error, a short status, "
    "or the JSON schema of its result; a user answers in plain text. "
    "Reply with <next_state>...</next_state>."
)
COMPACT_LINE_CHARS = (240, 120, 60)
"""Longest line of the compact history, tried in this order until the prompt fits (ours)."""

AGENT_TASK = (
    "Predict the next message that the agent will receive after the potential assistant response "
    "above: from the user, or from a tool. First think about it briefly inside <think> and "
    "</think>. Then write the message itself inside <next_state> and </next_state>: plain text "
    "for a user; for a tool a short status or error message, or the JSON schema of its result in "
    "OpenAPI form."
)
ENVIRONMENT_TASK = (
    "Predict what the environment will answer to the potential action above. First reflect step "
    "by step, briefly, on what the history taught you about this environment, inside <think> and "
    "</think>. Then write the immediate next observation inside <next_state> and </next_state>, "
    "in the style of the observations so far."
)


def render_prompt(
    transition: Transition,
    *,
    profile: Profile = "paper",
    fits: Callable[[Prompt], bool] | None = None,
) -> Prompt | None:
    """Renders the prompt of a transition.

    Args:
        transition: its context must not be longer than the wanted history.
        profile: see the module's description.
        fits: says whether a prompt is short enough; None when every length will do. The compact
            profile drops old turns, then shortens lines, until it fits; the paper's does not
            shorten.

    Returns:
        Chat messages, or None where no allowed form fits.
    """
    if profile == "paper":
        prompt = _paper(transition)
        return prompt if fits is None or fits(prompt) else None
    dialogue = [message for message in transition.context if message.role != "system"]
    if fits is None:
        return _compact(transition, dialogue, COMPACT_LINE_CHARS[0])
    for line_chars in COMPACT_LINE_CHARS:
        for first in range(len(dialogue) + 1):
            prompt = _compact(transition, dialogue[first:], line_chars)
            if fits(prompt):
                return prompt
    return None


def render_next_state(transition: Transition, *, mask: bool) -> str:
    """The text that a prediction is compared with.

    Args:
        mask: True to replace the JSON results of tools by their schema (RWML app. C.1).
    """
    texts = []
    for message in transition.next_state:
        text = (message.content or "").strip()
        texts.append(mask_to_schema(text) if mask and message.role == "tool" else text)
    return PARALLEL_SEPARATOR.join(texts)


def _paper(transition: Transition) -> Prompt:
    system = "\n\n".join(m.content or "" for m in transition.context if m.role == "system")
    if transition.tools:
        schemas = [json.dumps(tool.to_openai(), ensure_ascii=False) for tool in transition.tools]
        system += "\n\n# Tools\n" + "\n".join(schemas)
    environment = transition.kind == "environment"
    sections = []
    facts = transition.metadata.get("user_information")
    if isinstance(facts, str) and facts:
        sections.append(f"# User Information\n{facts}")
    history = [_line(m, None) for m in transition.context if m.role != "system"]
    sections.append("# History\n" + "\n".join(history))
    title = "Potential action" if environment else "Potential assistant response"
    sections.append(f"# {title}\n{_action(transition.action, None)}")
    sections.append(ENVIRONMENT_TASK if environment else AGENT_TASK)
    prompt = [{"role": "user", "content": "\n\n".join(sections)}]
    return [{"role": "system", "content": system.strip()}, *prompt] if system.strip() else prompt


def _compact(transition: Transition, dialogue: Sequence[Message], line_chars: int) -> Prompt:
    known = {tool.name: tool for tool in transition.tools}
    called = dict.fromkeys(call.name for call in transition.action.tool_calls)
    lines = [
        f"Tool {_signature(known[name])}" if name in known else f"Tool {name}: does not exist"
        for name in called
        if known  # without a recorded tool list nobody knows what exists
    ]
    lines += [_line(message, line_chars) for message in dialogue]
    lines.append(f"Action: {_action(transition.action, 2 * line_chars)}")
    lines.append("What comes back?")
    return [
        {"role": "system", "content": COMPACT_SYSTEM},
        {"role": "user", "content": "\n".join(lines)},
    ]


def _signature(tool: Tool) -> str:
    """``name(a: string, b?: integer): first sentence of the description``."""
    properties = tool.parameters.get("properties")
    required = tool.parameters.get("required")
    parameters = []
    for name, schema in (properties if isinstance(properties, dict) else {}).items():
        kind = schema.get("type", "any") if isinstance(schema, dict) else "any"
        mark = "" if isinstance(required, list) and name in required else "?"
        parameters.append(f"{name}{mark}: {kind}")
    about = tool.description.strip().split("\n")[0].split(". ")[0]
    return f"{tool.name}({', '.join(parameters)}): {about}"


def _line(message: Message, limit: int | None) -> str:
    if message.role == "assistant":
        return f"agent: {_action(message, limit)}"
    return f"{message.role}: {_shorten(message.content or '', limit)}"


def _action(action: Message, limit: int | None) -> str:
    parts = [_shorten(action.content, limit)] if action.content else []
    parts += [f"{c.name}({_shorten(c.arguments_text, limit)})" for c in action.tool_calls]
    return " ".join(parts)


def _shorten(text: str, limit: int | None) -> str:
    flat = " ".join(text.split()) if limit is not None else text
    if limit is None or len(flat) <= limit:
        return flat
    head = limit * 2 // 3
    return f"{flat[:head]} ... {flat[len(flat) - (limit - head) :]}"
