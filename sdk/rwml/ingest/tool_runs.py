"""What a tool returned, in the forms in which tracers write it."""

from __future__ import annotations

import json
from collections.abc import Mapping

from rwml.errors import SchemaError
from rwml.ingest.chat import json_or_none, to_openai
from rwml.schema import Message


def read_tool_message(said: object, *, call_id: object) -> tuple[Message | None, bool]:
    """A tool's output as the message that the agent gets, and whether that says it is an error.

    Args:
        said: a serialised ``ToolMessage``, JSON text of one, an object around one under
            ``output``, or whatever the tool returned.
        call_id: of the call, where it is known otherwise.
    """
    wire = json_or_none(said) if isinstance(said, str) else said
    if isinstance(wire, Mapping) and set(wire) == {"output"}:
        said = wire = wire["output"]
        wire = json_or_none(wire) if isinstance(wire, str) else wire
    if isinstance(wire, Mapping):
        try:
            plain = next(iter(to_openai(wire)), {})
            if plain.get("role") == "tool" and plain.get("tool_call_id"):
                return Message.from_openai(plain), bool(plain.get("failed"))
        except SchemaError:
            pass
    if said is None or said == {} or not isinstance(call_id, str) or not call_id:
        return None, False
    text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
    return Message(role="tool", content=text, tool_call_id=call_id), False
