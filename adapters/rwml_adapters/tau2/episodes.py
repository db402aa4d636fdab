"""Runs one tau2 episode: real environment, real tools, real evaluation, no LLM judge.

Whatever goes wrong around the agent (endpoint, simulator, evaluator) ends that episode as an
infrastructure error with its reason and the steps so far; it is never reward 0. What the agent
does wrong is its failure.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import JsonValue
from tau2.data_model.message import AssistantMessage
from tau2.data_model.simulation import RewardInfo, SimulationRun, TerminationReason
from tau2.data_model.tasks import RewardType, Task
from tau2.evaluator.evaluator import EvaluationType
from tau2.orchestrator.orchestrator import Orchestrator, Role

from rwml.environments import infrastructure_error
from rwml.schema import Fingerprint, Outcome, Trajectory
from rwml_adapters.agent_faults import agent_fault
from rwml_adapters.tau2.agent import GraphAgent
from rwml_adapters.tau2.containment import contained, uncollected
from rwml_adapters.tau2.domains import Domain, evaluate
from rwml_adapters.tau2.extraction import trajectory_from_simulation
from rwml_adapters.tau2.policies import Agent
from rwml_adapters.tau2.simulators import Simulators

_SUCCESS = 1 - 1e-6
"""Reward from which tau2's own metrics count a success."""
_CUT_OFF = {"max_steps", "too_many_errors", "timeout"}
_STOPS = {"user_stop", "agent_stop"}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One episode to run.

    Attributes:
        id: of the trajectory.
        task: of tau2.
        domain: of the task.
        split: the task's split.
        agent: who acts.
        users: who plays the user.
        fingerprint: of the run; seed and user are the episode's.
        trial: number of the attempt at the task.
        seed: of the agent and the user.
        max_steps: of the agent; an episode that reaches it ends truncated.
    """

    id: str
    task: Task
    domain: Domain
    split: str | None
    agent: Agent
    users: Simulators
    fingerprint: Fingerprint
    trial: int
    seed: int
    max_steps: int


class StepLimit(Orchestrator):
    """tau2's orchestrator with a limit on the agent's own steps, not on everybody's.

    Attributes:
        agent_limit: steps of the agent; 0 for no limit.
        agent_steps: steps it has taken.
    """

    agent_limit = 0
    agent_steps = 0

    def step(self) -> None:
        """One message; the episode ends when the agent would have to act once too often."""
        before = len(self.trajectory)
        with uncollected() if self.to_role == Role.ENV else nullcontext():
            super().step()
        new = self.trajectory[before:]
        self.agent_steps += sum(isinstance(message, AssistantMessage) for message in new)
        spent = 0 < self.agent_limit <= self.agent_steps
        if spent and not self.done and self.to_role == Role.AGENT:
            self.done = True
            self.termination_reason = TerminationReason.MAX_STEPS


def run_episode(setting: Setting) -> Trajectory:
    """Runs a task and returns the trajectory, whatever happened."""
    started_at = datetime.now(UTC)
    run = _Run(setting)
    with contained():
        try:
            outcome = run.play()
        except Exception as error:  # noqa: BLE001 - any failure around the agent is one outcome
            fault = agent_fault(error) if run.is_agents_turn else None
            outcome = fault or infrastructure_error(error)
        finally:
            run.close()
    return trajectory_from_simulation(
        run.messages(),
        id=setting.id,
        task=setting.task,
        domain=setting.domain.name,
        split=setting.split,
        system_prompt=run.agent.system_prompt if run.agent else "",
        tools=setting.domain.recorded_tools,
        outcome=outcome,
        fingerprint=setting.fingerprint.model_copy(
            update={"seed": setting.seed, "user_simulator": setting.users.name_in(setting.trial)}
        ),
        started_at=started_at,
        recorded=run.agent.steps if run.agent else (),
        metadata={"own_prompt": True} if run.agent and run.agent.own_prompt else {},
    )


class _Run:
    """One episode's objects, reachable also when it fails half way."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self.agent: GraphAgent | None = None
        self._orchestrator: StepLimit | None = None
        self._simulation: SimulationRun | None = None

    def play(self) -> Outcome:
        setting = self._setting
        environment = setting.domain.environment()
        self.agent = GraphAgent(
            tools=[],  # their schemas are in the graph, and tau2 runs them
            domain_policy=setting.domain.policy,
            graph=setting.agent.graph(setting.task, setting.domain, setting.seed),
            tool_nodes=setting.agent.tool_nodes,
        )
        self._orchestrator = StepLimit(
            domain=setting.domain.name,
            agent=self.agent,
            user=setting.users.make(
                setting.task, environment, trial=setting.trial, seed=setting.seed
            ),
            environment=environment,
            task=setting.task,
            # a backstop only: users of telecom also take steps, with their own tools
            max_steps=setting.max_steps * 10 + 100,
            seed=setting.seed,
        )
        self._orchestrator.agent_limit = setting.max_steps
        self._simulation = self._orchestrator.run()
        return judge(self._simulation, setting.task, domain=setting.domain.name)

    def messages(self) -> Sequence[Any]:
        if self._simulation is not None:
            return self._simulation.messages
        return self._orchestrator.get_trajectory() if self._orchestrator else []

    @property
    def is_agents_turn(self) -> bool:
        """Whether the agent was asked last, and not the user or a tool."""
        return self._orchestrator is not None and self._orchestrator.to_role == Role.AGENT

    def close(self) -> None:
        if self.agent is not None:
            self.agent.stop()


def judge(simulation: SimulationRun, task: Task, *, domain: str) -> Outcome:
    """Scores a finished simulation with tau2's evaluators, where they need no LLM."""
    reason = TerminationReason(simulation.termination_reason).value
    criteria = task.evaluation_criteria
    with_assertions = criteria is not None and RewardType.NL_ASSERTION in criteria.reward_basis
    is_whole = reason in _STOPS  # else the reward is 0, whatever was said
    if with_assertions and is_whole and criteria is not None and criteria.nl_assertions:
        return outcome_of(reason, None, note="the reward needs an LLM judge")
    kind = EvaluationType.ALL_WITH_NL_ASSERTIONS if with_assertions else EvaluationType.ALL
    with uncollected():
        info = evaluate(
            simulation=simulation, task=task, evaluation_type=kind, solo_mode=False, domain=domain
        )
    return outcome_of(reason, info)


def outcome_of(reason: str, info: RewardInfo | None, *, note: str = "no reward") -> Outcome:
    """How a simulation ended.

    Args:
        reason: why, as tau2 says it.
        info: its score; None where there is none.
        note: why there is none.
    """
    status = "truncated" if reason in _CUT_OFF else "completed"
    breakdown: dict[str, JsonValue] = {"termination_reason": reason}
    if info is None:
        return Outcome(status=status, breakdown={**breakdown, "not_judged": note})
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
        "nl_assertions": [check.met for check in info.nl_assertions or ()],
    }
    for name, met in checks.items():
        if met:
            detail[name] = f"{sum(met)}/{len(met)}"
    return detail
