"""A domain of the benchmark, loaded once per process: environments, tools, tasks and scores.

tau2 parses a domain's whole database for every environment, three times per scored episode. Here it
is parsed once; each environment gets a copy (see `databases`) and is tau2's own in every other
way. tau2's registry, classes and functions stay as they are.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable
from functools import lru_cache, partial
from types import FunctionType
from typing import Any

from tau2.data_model.tasks import EnvAssertion
from tau2.environment.environment import Environment
from tau2.environment.toolkit import ToolKitBase, ToolType
from tau2.evaluator import evaluator
from tau2.registry import registry

from rwml.schema import Tool
from rwml_adapters.tau2.containment import contained, uncollected
from rwml_adapters.tau2.databases import Original, copy_value

logger = logging.getLogger("rwml")


class Domain:
    """What all episodes in a domain share.

    Args:
        name: of the domain, as tau2's registry has it.

    Attributes:
        name: as above.
        tools: OpenAI schemas of the agent's tools.
        recorded_tools: the same as rwml's schema has them.
        writing_tools: names of those that change the database.
        policy: of the agent.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._original = registry.get_env_constructor(name)()
        self._class = _forgiving(type(self._original))
        self._databases = {
            kit: Original(toolkit.db)
            for kit in ("tools", "user_tools")
            if (toolkit := getattr(self._original, kit)) is not None and toolkit.db is not None
        }
        self.tools: list[dict[str, Any]] = [
            tool.openai_schema for tool in self._original.get_tools()
        ]
        self.recorded_tools = tuple(Tool.from_openai(tool) for tool in self.tools)
        self.writing_tools = _writing_tools(self._original.tools)
        self.policy: str = self._original.get_policy()

    def environment(self, solo_mode: bool = False, **more: Any) -> Environment:
        """A fresh environment, as tau2's own constructor makes one.

        Its parameters are those of tau2's constructors: the evaluator calls it in their place.
        """
        if solo_mode or more:
            stock: Callable[..., Environment] = registry.get_env_constructor(self.name)
            return stock(solo_mode=solo_mode, **more)
        made = copy.copy(self._original)
        made.__class__ = self._class
        for kit, method in (("tools", "get_db_hash"), ("user_tools", "get_user_db_hash")):
            toolkit = getattr(self._original, kit)
            if toolkit is None:
                continue
            original = self._databases.get(kit)
            ours = _copy_toolkit(toolkit, original)
            setattr(made, kit, ours)
            if original is not None:
                setattr(made, method, partial(_hash, ours, original))
        return made


@lru_cache(maxsize=16)
def _make_domain(name: str) -> Domain:
    return Domain(name)


_making = threading.Lock()


def get_domain(name: str) -> Domain:
    """The domain, made at the first call of the process.

    Raises:
        KeyError: tau2 has no such domain.
    """
    with _making, contained(), uncollected():
        return _make_domain(name)


def evaluate(**arguments: Any) -> Any:
    """tau2's `evaluate_simulation`, which gets its environments from here.

    The function is tau2's own code with another registry in its globals; the original's stay.
    """
    return _evaluator()(**arguments)


@lru_cache(maxsize=1)
def _evaluator() -> Callable[..., Any]:
    stock = evaluator.evaluate_simulation
    made = FunctionType(
        stock.__code__,
        {**vars(evaluator), "registry": _Domains()},
        stock.__name__,
        stock.__defaults__,
        stock.__closure__,
    )
    made.__kwdefaults__ = stock.__kwdefaults__
    return made


class _Domains:
    """What the evaluator asks of a registry."""

    def get_env_constructor(self, name: str) -> Callable[..., Environment]:
        return get_domain(name).environment


def _forgiving(kind: type[Environment]) -> type[Environment]:
    """The environment's class, in which an assertion that cannot even be checked is not met.

    tau2's evaluator falls over one about a record that the agent never made. Such an episode would
    be left out of the score, although the agent has failed.
    """

    class Forgiving(kind):
        def run_env_assertion(
            self, assertion: EnvAssertion, raise_assertion_error: bool = True
        ) -> bool:
            try:
                return super().run_env_assertion(assertion, raise_assertion_error)
            except Exception as error:
                if raise_assertion_error:
                    raise
                logger.info(
                    "tau2: an assertion that cannot be checked counts as not met: %s: %s: %s",
                    assertion.func_name,
                    type(error).__name__,
                    error,
                )
                return False

    return Forgiving


def _writing_tools(toolkit: ToolKitBase | None) -> frozenset[str]:
    if toolkit is None:
        return frozenset()
    names = toolkit.tools
    return frozenset(name for name in names if toolkit.tool_type(name) == ToolType.WRITE)


def _copy_toolkit(toolkit: ToolKitBase, original: Original | None) -> ToolKitBase:
    made = copy.copy(toolkit)
    for name, value in vars(toolkit).items():
        ours = original.copy() if original is not None and name == "db" else copy_value(value)
        setattr(made, name, ours)
    return made


def _hash(toolkit: ToolKitBase, original: Original) -> str:
    known = original.hash(toolkit.db) if toolkit.db is not None else None
    return toolkit.get_db_hash() if known is None else known
