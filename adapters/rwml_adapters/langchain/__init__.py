"""Records every LangGraph and LangChain run of the process, by callbacks or as a middleware.

`instrument` is what `rwml.instrument()` finds; `RWMLCallbackHandler` is the same recorder for one
run, given as ``config={"callbacks": [...]}``; `RWMLMiddleware` is for one agent of LangChain's
`create_agent`. None of these ever raises into the agent or changes what the agent gets.
`LookaheadMiddleware` asks a world model before a risky tool runs, and may hold it back if it is
told to. Source: langchain-core's callback contract.
"""

from typing import TYPE_CHECKING, Any

from rwml.extras import require

require("langgraph", "langchain_core")

from rwml_adapters.langchain.handler import RWMLCallbackHandler, instrument  # noqa: E402

if TYPE_CHECKING:
    from rwml_adapters.langchain.lookahead import LookaheadMiddleware
    from rwml_adapters.langchain.middleware import RWMLMiddleware

__all__ = ["LookaheadMiddleware", "RWMLCallbackHandler", "RWMLMiddleware", "instrument"]


def __getattr__(name: str) -> Any:
    if name not in ("LookaheadMiddleware", "RWMLMiddleware"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require("langgraph", "langchain")  # its agents, which graphs do without
    from rwml_adapters.langchain import lookahead, middleware

    return getattr(lookahead if name == "LookaheadMiddleware" else middleware, name)
