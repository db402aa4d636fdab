"""Who plays the user: the scripted one, or tau2's own simulator over LiteLLM models.

Several models take turns over the trials of a task, as the paper mixes two (RWML app. B.1: three
rollouts with each). Importing this loads neither tau2 nor litellm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rwml.cli.endpoints import DEFAULT_KEY_VARIABLE, read_api_key
from rwml.errors import UsageError
from rwml_adapters.models import ATTEMPTS, ModelOptions, request_arguments

if TYPE_CHECKING:
    from tau2.data_model.tasks import Task
    from tau2.environment.environment import Environment

    from rwml_adapters.tau2.compat import BaseUser

SCRIPTED = "rwml-scripted"
"""Name of the scripted user in fingerprints."""

UserModelOption = Annotated[
    list[str] | None,
    typer.Option("--user-model", help="LiteLLM model that plays the user; several take turns."),
]
UserApiBaseOption = Annotated[
    list[str] | None,
    typer.Option("--user-api-base", help="Endpoint of the user's model: one, or one for each."),
]
UserKeyVariableOption = Annotated[
    list[str] | None,
    typer.Option("--user-api-key-env", help="Variable with its key: one, or one for each."),
]
UserKeyFileOption = Annotated[
    list[Path] | None,
    typer.Option("--user-api-key-file", help="File with its key: one, or one for each."),
]
UserTemperatureOption = Annotated[
    float | None, typer.Option("--user-temperature", help="Of the user's model.")
]


@dataclass(frozen=True)
class Simulators:
    """The users of a run.

    Attributes:
        models: each plays every so many trials; none for the scripted user.
    """

    models: tuple[ModelOptions, ...] = ()

    @property
    def name(self) -> str:
        """For the fingerprint of the run: all of them."""
        return "+".join(model.model for model in self.models) or SCRIPTED

    def name_in(self, trial: int) -> str:
        """For the fingerprint of an episode: the one that plays it."""
        model = self._model(trial)
        return model.model if model else SCRIPTED

    def make(self, task: Task, environment: Environment, *, trial: int, seed: int) -> BaseUser:
        """The user of one episode."""
        model = self._model(trial)
        if model is None:
            return _scripted(task, seed)
        return _simulated(model, task, environment, seed)

    def _model(self, trial: int) -> ModelOptions | None:
        return self.models[trial % len(self.models)] if self.models else None


def read_simulators(
    models: Sequence[str],
    *,
    api_bases: Sequence[str] = (),
    key_variables: Sequence[str] = (),
    key_files: Sequence[Path] = (),
    temperature: float | None = None,
    timeout_s: float,
) -> Simulators:
    """What a command line says about the users, with the keys read.

    Raises:
        UsageError: an option is for a model and there is none, there are neither one nor as many
            as models, or a key cannot be read.
    """
    given = {
        "--user-api-base": api_bases,
        "--user-api-key-env": key_variables,
        "--user-api-key-file": key_files,
    }
    if not models and (temperature is not None or any(given.values())):
        names = [option for option, values in given.items() if values]
        names += ["--user-temperature"] if temperature is not None else []
        raise UsageError(f"{' and '.join(names)} need a user model: add --user-model")
    for option, values in given.items():
        if len(values) not in (0, 1, len(models)):
            raise UsageError(
                f"{option} is given {len(values)} times for {len(models)} user models: "
                f"give it once, or once for each"
            )
    found = []
    for place, model in enumerate(models):
        api_base = _nth(api_bases, place)
        key = read_api_key(
            variable=_nth(key_variables, place) or DEFAULT_KEY_VARIABLE,
            key_file=_nth(key_files, place),
            api_base=api_base,
        )
        options = ModelOptions(model, api_base, key, temperature, timeout_s=timeout_s)
        found.append(options)
    return Simulators(models=tuple(found))


def _nth(values: Sequence[Any], place: int) -> Any:
    return values[place if len(values) > 1 else 0] if values else None


def _scripted(task: Task, seed: int) -> BaseUser:
    from rwml_adapters.tau2.user import ScriptedUser

    criteria = task.evaluation_criteria
    return ScriptedUser(
        instructions=task.user_scenario.instructions,
        actions=(criteria.actions or ()) if criteria else (),
        seed=seed,
    )


def _simulated(model: ModelOptions, task: Task, environment: Environment, seed: int) -> BaseUser:
    from tau2.user.user_simulator import UserSimulator

    from rwml_adapters.tau2.compat import user_tools

    arguments = {
        **request_arguments(model.model, seed=seed),
        "api_base": model.api_base,
        "api_key": model.api_key,
        "temperature": model.temperature,
        "timeout": model.timeout_s,
        "num_retries": ATTEMPTS - 1,
        # tau2 sends a seed whether the provider takes one or not, and sets this for the process
        "drop_params": True,
    }
    return UserSimulator(
        tools=user_tools(environment, task),
        instructions=str(task.user_scenario),
        llm=model.model,
        llm_args={name: value for name, value in arguments.items() if value is not None},
    )
