"""tau2-bench as an environment of `rwml record tau2` and `rwml eval tau2`.

Tasks, who acts and who plays the user are decided here; an episode is run by `episodes`. Nothing
heavy is imported with this module: `rwml record tau2 --help` reads it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, cast

import typer
from pydantic import JsonValue

from rwml.cli.endpoints import DEFAULT_KEY_VARIABLE, ApiBaseOption, KeyFileOption, KeyVariableOption
from rwml.environments import Episode, Task
from rwml.errors import UsageError
from rwml.references import load_reference
from rwml.schema import Fingerprint, Trajectory
from rwml_adapters.models import (
    REQUEST_TIMEOUT_S,
    MaxTokensOption,
    ModelOption,
    TemperatureOption,
    TimeoutOption,
    ToolsAsTextFlag,
    read_model_options,
)
from rwml_adapters.tau2.figures import summarize
from rwml_adapters.tau2.package import (
    DOMAINS,
    check_domain,
    data_version,
    load_tasks,
    package_version,
    split_names,
)
from rwml_adapters.tau2.policies import Agent, graph_agent, litellm_agent, scripted_agent
from rwml_adapters.tau2.simulators import (
    SCRIPTED,
    Simulators,
    UserApiBaseOption,
    UserKeyFileOption,
    UserKeyVariableOption,
    UserModelOption,
    UserTemperatureOption,
    read_simulators,
)

if TYPE_CHECKING:
    from tau2.data_model.tasks import Task as Tau2Task

    from rwml.environments import Environment

POLICIES = ("perturbed", "oracle")
MAX_STEPS = 30
"""Steps of the agent in an episode (RWML sec. 3.1); the benchmark's own setting is 100."""


class Tau2Environment:
    """The tasks of one domain, an agent and the users it talks to.

    Args:
        domain: of tau2.
        agent: who acts.
        users: who plays the user.

    Raises:
        UsageError: no such domain, or its data are missing.
        MissingExtraError: tau2 is not installed.
    """

    default_max_steps = MAX_STEPS

    def __init__(self, *, domain: str, agent: Agent, users: Simulators) -> None:
        check_domain(domain)
        self.source = f"tau2:{domain}"
        self.splits = tuple(split_names(domain))
        self.agent = agent.name if users.name == SCRIPTED else f"{agent.name}-with-{users.name}"
        self._domain = domain
        self._agent = agent
        self._users = users
        self._lock = threading.Lock()
        self._tasks: dict[str, dict[str, Tau2Task]] = {}
        self._fingerprint = self._made_fingerprint()

    def tasks(self, split: str) -> Sequence[Task]:
        """The tasks of a split, in the benchmark's order."""
        return [Task(id=name, split=split, kind=self._domain) for name in self._loaded(split)]

    def fingerprint(self) -> Fingerprint:
        """Package, version, data, agent and users."""
        return self._fingerprint

    def play(self, episode: Episode) -> Trajectory:
        """Runs an episode in tau2's orchestrator and scores it with tau2's evaluators."""
        from rwml_adapters.tau2.domains import get_domain
        from rwml_adapters.tau2.episodes import Setting, run_episode

        split = episode.task.split or self.splits[0]
        return run_episode(
            Setting(
                id=episode.id,
                task=self._loaded(split)[episode.task.id],
                domain=get_domain(self._domain),
                split=split,
                agent=self._agent,
                users=self._users,
                fingerprint=self._fingerprint,
                trial=episode.trial,
                seed=episode.seed,
                max_steps=episode.max_steps,
            )
        )

    def summarize(self, trajectories: Sequence[Trajectory]) -> dict[str, JsonValue]:
        """See `figures.summarize`."""
        return summarize(trajectories)

    def close(self) -> None:
        """There is nothing to give back: domains stay loaded for the process."""

    def _loaded(self, split: str) -> dict[str, Tau2Task]:
        with self._lock:
            if split not in self._tasks:
                tasks = load_tasks(self._domain, split)
                self._tasks[split] = {task.id: task for task in tasks}
            return self._tasks[split]

    def _made_fingerprint(self) -> Fingerprint:
        name, version = package_version()
        return Fingerprint(
            package=name,
            version=version,
            data_version=data_version(self._domain),
            agent=self._agent.name,
            user_simulator=self._users.name,
        )


DomainOption = Annotated[str, typer.Option(help=f"One of {', '.join(DOMAINS)}.")]
PolicyOption = Annotated[str, typer.Option(help="Scripted agent: perturbed or oracle.")]
ErrorRateOption = Annotated[float, typer.Option(help="Share of actions that go wrong first.")]
AgentOption = Annotated[
    str | None, typer.Option(help="Graph factory of your own, as module:name; see docs/tau2.md.")
]
ToolNodeOption = Annotated[
    list[str] | None,
    typer.Option("--tool-node", help="Node of your graph that runs tools; default by inspection."),
]


def tau2(
    *,
    domain: DomainOption = "retail",
    policy: PolicyOption = "perturbed",
    error_rate: ErrorRateOption = 0.3,
    model: ModelOption = None,
    api_base: ApiBaseOption = None,
    api_key_env: KeyVariableOption = DEFAULT_KEY_VARIABLE,
    api_key_file: KeyFileOption = None,
    temperature: TemperatureOption = None,
    max_tokens: MaxTokensOption = None,
    tools_as_text: ToolsAsTextFlag = False,
    request_timeout: TimeoutOption = REQUEST_TIMEOUT_S,
    agent: AgentOption = None,
    tool_node: ToolNodeOption = None,
    user_model: UserModelOption = None,
    user_api_base: UserApiBaseOption = None,
    user_api_key_env: UserKeyVariableOption = None,
    user_api_key_file: UserKeyFileOption = None,
    user_temperature: UserTemperatureOption = None,
) -> Environment:
    """tau2-bench: real tools and scoring; any LiteLLM model, any LangGraph agent, or a script.

    Without --model and --agent a script replays the gold actions, with mistakes on the way; without
    --user-model the user is scripted too. The paper's setting is --max-steps 30 (the default), the
    benchmark's own 100.

    Raises:
        UsageError: options that cannot be, or that need others.
        MissingExtraError: tau2 or a client of models is not installed.
    """
    options = read_model_options(
        model,
        api_base=api_base,
        api_key_env=api_key_env,
        api_key_file=api_key_file,
        temperature=temperature,
        max_tokens=max_tokens,
        tools_as_text=tools_as_text,
        timeout_s=request_timeout,
    )
    if tool_node and not agent:
        raise UsageError("--tool-node is for a graph of your own: add --agent")
    if agent is not None:
        if tools_as_text:
            raise UsageError("--tools-as-text is for --model alone: your graph asks its model")
        acting = graph_agent(
            _factory(agent), name=agent, options=options, tool_nodes=tool_node or None
        )
    elif options is not None:
        acting = litellm_agent(options)
    else:
        if policy not in POLICIES:
            raise UsageError(f"no policy {policy!r}: use one of {', '.join(POLICIES)}")
        acting = scripted_agent(error_rate=error_rate if policy == "perturbed" else 0.0)
    users = read_simulators(
        user_model or (),
        api_bases=user_api_base or (),
        key_variables=user_api_key_env or (),
        key_files=user_api_key_file or (),
        temperature=user_temperature,
        timeout_s=request_timeout,
    )
    return Tau2Environment(domain=domain, agent=acting, users=users)


def _factory(reference: str) -> Callable[..., object]:
    found = load_reference(reference)
    if not callable(found):
        raise UsageError(
            f"{reference} is no graph factory: name a function that takes tools, policy, llm and "
            f"llm_args, and returns a compiled graph"
        )
    return cast("Callable[..., object]", found)
