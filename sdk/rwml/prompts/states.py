"""Reads the current state back out of a prompt: what was observed last before the action.

The inverse of `rwml.prompts.profiles`, for predictors that copy what they were shown. Only what the
prompt shows is read: a shortened line stays shortened, and a template that shows no history has no
state.
"""

from __future__ import annotations

import re
from itertools import takewhile

from rwml.masking import mask
from rwml.prompts.profiles import PARALLEL_SEPARATOR, Prompt
from rwml.prompts.templates import Templates

_SPEAKER = re.compile(r"^(agent|user|tool): ", re.MULTILINE)
_AFTER_HISTORY = 2
"""Lines of a compact prompt after its history: the action and the question."""

_Said = tuple[str, str]


def last_state(
    prompt: Prompt, *, kind: str, templates: Templates | None, masked: bool
) -> str | None:
    """What stands in a prompt as the current state; None where there is nothing.

    Args:
        prompt: made by `render_prompt`.
        kind: of its next state.
        templates: that it was made with; None for the compact profile.
        masked: True to replace JSON results of tools by their schema, as in next states.

    Returns:
        The text of the messages since the agent's last action; several are joined as the results
        of parallel calls are.
    """
    if templates is None:
        lines = prompt[-1]["content"].split("\n")
        return _join(_split("\n".join(lines[:-_AFTER_HISTORY])), masked=masked)
    template = templates.of(kind)
    system = prompt[0]["content"] if len(prompt) > 1 else ""
    texts = {"system": system, "user": prompt[-1]["content"]}
    shown = template.read("observation", **texts)
    if shown is not None:
        return _join([("tool" if kind == "tool" else "user", shown)], masked=masked)
    history = template.read("history", **texts)
    return None if history is None else _join(_split(history), masked=masked)


def _split(history: str) -> list[_Said]:
    """Who said what, line by line of a rendered history."""
    found = list(_SPEAKER.finditer(history))
    ends = [*(match.start() for match in found[1:]), len(history)]
    return [(m[1], history[m.end() : end].strip()) for m, end in zip(found, ends, strict=False)]


def _join(messages: list[_Said], *, masked: bool) -> str | None:
    seen = list(takewhile(lambda said: said[0] != "agent", reversed(messages)))
    texts = [mask(text).text if masked and who == "tool" else text for who, text in seen[::-1]]
    return PARALLEL_SEPARATOR.join(texts) or None
