"""Runs one tau2 episode: real environment, real tools, real evaluation, no LLM judge.

Whatever goes wrong around the agent (endpoint, simulator, evaluator) ends that episode as an
infrastructure error with its reason; it is never a crash of the recording, and never reward 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import JsonValue
from tau2.data_model.message import AssistantMessage
from tau2.data_model.simulation import RewardInfo, SimulationRun, TerminationReason
from tau2.data_model.tasks import RewardType, Task
from tau2.environment.environment import Environment
from tau2.evaluator.evaluator import EvaluationType, evaluate_simulation
from tau2.orchestrator.orchestrator import Orchestrator, Role
from tau2.registry import registry

from rwml.errors import UsageError
from rwml.redaction import redact_secrets
from rwml.schema import Fingerprint, Outcome, Trajectory
from rwml_adapters.tau2.agent import GraphAgent, agent_class, policy_graph, tool_schemas
from rwml_adapters.tau2.extraction import trajectory_from_simulation
from rwml_adapters.tau2.models import Agent
from rwml_adapters.tau2.package import contained, data_version, package_version
from rwml_adapters.tau2.user import ScriptedUser

USER_SIMULATOR = "rwml-scripted"
MAX_STEPS = 30
"""Steps of the agent in an episode, as in the paper."""
REASON_CHARS = 500
"""Length of an infrastructure error's text in the outcome (ours)."""
_SUCCESS = 1 - 1e-6
"""Reward from which tau2's own metrics count a success."""
_CUT_OFF = {TerminationReason.MAX_STEPS, TerminationReason.TOO_MANY_ERRORS}


@dataclass(frozen=True)
class Setting:
    """What all episodes of a recording share.

    Attributes:
        domain: of tau2.
        split: the tasks' split.
        agent: who acts.
        seed: of the agent and the user.
        max_steps: of the agent; an episode that reaches it ends truncated.
        trial: number of the attempt, part of the trajectory's id.
    """

    domain: str
    split: str | None
    agent: Agent
    seed: int = 0
    max_steps: int = MAX_STEPS
    trial: int = 0

    def __post_init__(self) -> None:
        if self.max_steps < 1:
            raise UsageError(f"--max-steps must be 1 or more, not {self.max_steps}")


class StepLimit(Orchestrator):
    """tau2's orchestrator with a limit on the agent's own steps, not on everybody's."""

    agent_steps = 0
    agent_limit = MAX_STEPS

    def step(self) -> None:
        """One message; the episode ends when the agent would have to act once too often."""
        before = len(self.trajectory)
        super().step()
        new = self.trajectory[before:]
        self.agent_steps += sum(isinstance(message, AssistantMessage) for message in new)
        spent = self.agent_steps >= self.agent_limit
        if spent and not self.done and self.to_role == Role.AGENT:
            self.done = True
            self.termination_reason = TerminationReason.MAX_STEPS


def run_episode(task: Task, setting: Setting) -> Trajectory:
    """Runs a task and returns the trajectory, whatever happened."""
    started_at = datetime.now(UTC)
    run = _Run(task=task, setting=setting)
    with contained():
        try:
            outcome = run.play()
        except Exception as error:  # noqa: BLE001 - any failure around the agent is one outcome
            outcome = _infrastructure_error(error)
        messages = run.orchestrator.get_trajectory() if run.orchestrator else []
    return trajectory_from_simulation(
        messages,
        id=trajectory_id(task, setting),
        task=task,
        domain=setting.domain,
        split=setting.split,
        system_prompt=run.agent.system_prompt if run.agent else "",
        tools=tool_schemas(run.agent.tools) if run.agent else (),
        outcome=outcome,
        fingerprint=_fingerprint(setting),
        started_at=started_at,
    )


def trajectory_id(task: Task, setting: Setting) -> str:
    """The id by which recording an episode again updates it."""
    name = setting.agent.name
    return f"tau2-{setting.domain}-{task.id}-{name}-{setting.seed}-{setting.trial}"


class _Run:
    """One episode's objects, reachable also when it fails half way."""

    def __init__(self, *, task: Task, setting: Setting) -> None:
        self._task = task
        self._setting = setting
        self.agent: GraphAgent | None = None
        self.orchestrator: StepLimit | None = None

    def play(self) -> Outcome:
        environment = registry.get_env_constructor(self._setting.domain)()
        self.agent = self._make_agent(environment)
        self.orchestrator = StepLimit(
            domain=self._setting.domain,
            agent=self.agent,
            user=self._make_user(),
            environment=environment,
            task=self._task,
            # a backstop only: users of telecom also take steps, with their own tools
            max_steps=self._setting.max_steps * 10 + 100,
            seed=self._setting.seed,
        )
        self.orchestrator.agent_limit = self._setting.max_steps
        return judge(self.orchestrator.run(), self._task, domain=self._setting.domain)

    def _make_agent(self, environment: Environment) -> GraphAgent:
        policy = self._setting.agent.policy(self._task, environment)

        def graph(*_: Any) -> Any:
            return policy_graph(policy)

        made = agent_class(graph, name="recorded")
        return made(tools=environment.get_tools(), domain_policy=environment.get_policy())

    def _make_user(self) -> ScriptedUser:
        criteria = self._task.evaluation_criteria
        return ScriptedUser(
            instructions=self._task.user_scenario.instructions,
            actions=(criteria.actions or ()) if criteria else (),
            seed=self._setting.seed,
        )


def judge(simulation: SimulationRun, task: Task, *, domain: str) -> Outcome:
    """Scores a finished simulation with tau2's evaluators, where they need no LLM."""
    reason = TerminationReason(simulation.termination_reason)
    breakdown: dict[str, JsonValue] = {"termination_reason": reason.value}
    status = "truncated" if reason in _CUT_OFF else "completed"
    criteria = task.evaluation_criteria
    if criteria is not None and RewardType.NL_ASSERTION in criteria.reward_basis:
        note = "the reward needs an LLM judge"
        return Outcome(status=status, breakdown={**breakdown, "not_judged": note})
    info = evaluate_simulation(
        simulation=simulation,
        task=task,
        evaluation_type=EvaluationType.ALL,
        solo_mode=False,
        domain=domain,
    )
    return Outcome(
        status=status,
        success=info.reward >= _SUCCESS,
        reward=info.reward,
        breakdown={**breakdown, **_breakdown(info)},
    )


def _breakdown(info: RewardInfo) -> dict[str, JsonValue]:
    """The evaluator's detail, without the gold actions."""
    detail: dict[str, JsonValue] = {
        "reward": {kind.value: value for kind, value in (info.reward_breakdown or {}).items()}
    }
    if info.db_check is not None:
        detail["db_match"] = info.db_check.db_match
    checks: dict[str, Sequence[bool]] = {
        "actions": [check.action_match for check in info.action_checks or ()],
        "communicated": [check.met for check in info.communicate_checks or ()],
        "env_assertions": [check.met for check in info.env_assertions or ()],
    }
    for name, met in checks.items():
        if met:
            detail[name] = f"{sum(met)}/{len(met)}"
    return detail


def _infrastructure_error(error: Exception) -> Outcome:
    text = redact_secrets(" ".join(str(error).split()))[:REASON_CHARS]
    return Outcome(
        status="infrastructure_error",
        breakdown={"error_type": type(error).__name__, "reason": text},
    )


def _fingerprint(setting: Setting) -> Fingerprint:
    name, version = package_version()
    return Fingerprint(
        package=name,
        version=version,
        data_version=data_version(setting.domain),
        seed=setting.seed,
        agent=setting.agent.name,
        user_simulator=USER_SIMULATOR,
    )
