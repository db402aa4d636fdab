"""Rebuilds trajectories from a plain stream of chat completions (design: Recording, way b).

The next request's new messages are the observation of the last response. Requests are linked to
responses by keyed hashes of message prefixes, so no ids of a framework are needed and what is kept
leaks no text. Pure: nothing here reads, writes, or looks at a clock.
"""

from rwml.assemble.assembler import Assembler
from rwml.assemble.completion import Caller, Completion, ToolResult
from rwml.assemble.digests import Digests, Hasher
from rwml.assemble.history import History
from rwml.assemble.lines import LineReader
from rwml.assemble.ordering import assemble
from rwml.assemble.state import AssemblyStats

__all__ = [
    "Assembler",
    "AssemblyStats",
    "Caller",
    "Completion",
    "Digests",
    "Hasher",
    "History",
    "LineReader",
    "ToolResult",
    "assemble",
]
