"""Records every LangGraph and LangChain run of the process, by callbacks or as a middleware.

`instrument` is what `rwml.instrument()` finds; `RWMLCallbackHandler` is the same recorder for one
run, given as ``config={"callbacks": [...]}``; `RWMLMiddleware` is for one agent of LangChain's
`create_agent`. None of them ever raises into the agent or changes what the agent gets. Source:
langchain-core's callback contract.
"""

from typing import TYPE_CHECKING, Any

from rwml.extras import require

require("langgraph", "langchain_core")

from rwml_adapters.langchain.handler import RWMLCallbackHandler, instrument  # noqa: E402

if TYPE_CHECKING:
    from rwml_adapters.langchain.middleware import RWMLMiddleware

__all__ = ["RWMLCallbackHandler", "RWMLMiddleware", "instrument"]


def __getattr__(name: str) -> Any:
    if name != "RWMLMiddleware":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require("langgraph", "langchain")  # its agents, which graphs do without
    from rwml_adapters.langchain.middleware import RWMLMiddleware

    return RWMLMiddleware
