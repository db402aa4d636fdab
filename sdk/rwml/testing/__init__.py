"""Fakes and builders for tests of rwml, and of code that uses it.

Stores and encoders are real where they can be: a `memory_store` is SQLite in a temporary folder.
The scripted chat model needs `langchain-core` and is loaded when it is first asked for.
"""

from typing import TYPE_CHECKING, Any

from rwml.extras import require
from rwml.testing.encoders import BagOfWordsEncoder
from rwml.testing.recording import recorded
from rwml.testing.server import OpenAIServer
from rwml.testing.stores import FaultyStore, MemoryStore, fail_on, memory_store
from rwml.testing.trajectories import TrajectoryBuilder, make_trajectory

if TYPE_CHECKING:
    from rwml.testing.chat_model import ScriptedChatModel, tool_calls

__all__ = [
    "BagOfWordsEncoder",
    "FaultyStore",
    "MemoryStore",
    "OpenAIServer",
    "ScriptedChatModel",
    "TrajectoryBuilder",
    "fail_on",
    "make_trajectory",
    "memory_store",
    "recorded",
    "tool_calls",
]


def __getattr__(name: str) -> Any:
    if name not in ("ScriptedChatModel", "tool_calls"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require("langgraph", "langchain_core")
    from rwml.testing import chat_model

    return getattr(chat_model, name)
