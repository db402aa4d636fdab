"""Prompt profiles: how a transition becomes the question that a world model answers.

``paper`` follows RWML tables A4-A7 in our own words: the agent's whole instruction, tools, user
information and history, by templates that can be replaced. ``compact`` is ours: the schema of the
called tool and the last turns, shortened until a small model can take it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Literal

from rwml.masking import Masked, mask
from rwml.prompts.templates import Task, Templates, load_templates
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


def render_prompt(
    transition: Transition,
    *,
    profile: Profile = "paper",
    fits: Callable[[Prompt], bool] | None = None,
    templates: Templates | None = None,
    task: Task = "rwml",
) -> Prompt | None:
    """Renders the prompt of a transition.

    Args:
        transition: its context must not be longer than the wanted history.
        profile: see the module's description.
        fits: says whether a prompt is short enough; None when every length will do. The compact
            profile drops old turns, then shortens lines, until it fits; the paper's does not
            shorten.
        templates: of the paper profile; by default those that come with rwml.
        task: of the paper profile: ``sft`` for one that asks for no reasoning (WM SFT).

    Returns:
        Chat messages, or None where no allowed form fits.
    """
    if profile == "paper":
        prompt = _paper(transition, templates or load_templates(), task)
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
    return join_results(next_state_parts(transition, mask=mask))


def next_state_parts(transition: Transition, *, mask: bool) -> list[Masked]:
    """The texts of a next state, in the order of the action's calls, and how each was masked."""
    return [result_text(message, masked=mask) for message in transition.next_state]


def result_text(message: Message, *, masked: bool) -> Masked:
    """The text of a message, as its schema where it is a tool's JSON and `masked`."""
    text = (message.content or "").strip()
    return mask(text) if masked and message.role == "tool" else Masked(text, "text")


def join_results(parts: Sequence[Masked]) -> str:
    """One text of the results of parallel calls."""
    return PARALLEL_SEPARATOR.join(part.text for part in parts)


def as_sft(prompt: Prompt, *, kind: str, templates: Templates | None) -> Prompt:
    """The same prompt, asking for no reasoning (WM SFT).

    Args:
        prompt: made by `render_prompt` for GRPO.
        kind: of its next state.
        templates: that it was made with; None for the compact profile, which never asks for any.
    """
    if templates is None:
        return prompt
    template = templates.of(kind)
    before, found, after = prompt[-1]["content"].rpartition(template.rwml)
    if not found:
        return prompt
    return [*prompt[:-1], {**prompt[-1], "content": f"{before}{template.sft}{after}"}]


def _paper(transition: Transition, templates: Templates, task: Task) -> Prompt:
    dialogue = [message for message in transition.context if message.role != "system"]
    lines = [_line(message, None) for message in dialogue]
    facts = transition.metadata.get("user_information")
    values = {
        "instruction": "\n\n".join(
            m.content or "" for m in transition.context if m.role == "system"
        ),
        "tools": tool_lines(transition.tools),
        "user_information": facts if isinstance(facts, str) else "",
        "history": "\n".join(lines),
        "past": "\n".join(lines[:-1]),
        "observation": (dialogue[-1].content or "") if dialogue else "",
        "action": _action(transition.action, None),
    }
    system, user = templates.of(transition.kind).fill(values, task=task)
    prompt = [{"role": "user", "content": user}]
    return [{"role": "system", "content": system}, *prompt] if system else prompt


def tool_lines(tools: Sequence[Tool]) -> str:
    """The schemas of tools, one a line."""
    return "\n".join(json.dumps(tool.to_openai(), ensure_ascii=False) for tool in tools)


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
