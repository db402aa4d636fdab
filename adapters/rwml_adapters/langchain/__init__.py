"""Records every LangGraph and LangChain run of the process, by callbacks.

`instrument` is what `rwml.instrument()` finds; `RWMLCallbackHandler` is the same recorder for one
run, given as ``config={"callbacks": [...]}``. It must never raise into the agent nor change what
the agent gets. Source: langchain-core's callback contract.
"""

from rwml.extras import require

require("langgraph", "langchain_core")

from rwml_adapters.langchain.handler import RWMLCallbackHandler, instrument  # noqa: E402

__all__ = ["RWMLCallbackHandler", "instrument"]
