"""The gates of `rwml serve promote`: what a version must not be shown to do worse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwml.cli.output import say, stdout_to_stderr
from rwml.errors import UsageError

if TYPE_CHECKING:
    from rwml_trainer.recipes import Recipe
    from rwml_trainer.serving.registry import Registry, Version


@dataclass(frozen=True, kw_only=True)
class Gates:
    """Which ones were asked for, in the order of their cost.

    Attributes:
        tools: URL of a store whose tool calls are asked for again.
        next_states: dataset whose held-out rows are predicted.
        agent: words of `rwml eval`.
        rows: prompts or rows at most.
        tasks: of the environment.
        recipe: of the next states' gate.
    """

    tools: str | None
    next_states: Path | None
    agent: str | None
    rows: int | None
    tasks: int | None
    recipe: Recipe

    def passed(self, registry: Registry, wanted: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Names and figures, one gate after the other; the last one may be ``worse``.

        Raises:
            UsageError: there is no such version.
        """
        if self.tools is None and self.next_states is None and self.agent is None:
            return
        candidate, current = _versions(registry, wanted)
        if self.tools is not None:
            yield "gate_tools", self._compare_tools(self.tools, candidate, current, registry)
        if self.next_states is not None:
            yield "gate", self._compare_states(self.next_states, candidate, current)
        if self.agent is not None:
            yield "gate_agent", self._compare_agents(self.agent, candidate, current, registry)

    def _compare_tools(
        self, url: str, candidate: Version, current: Version, registry: Registry
    ) -> dict[str, Any]:
        from rwml import open_store
        from rwml_trainer.serving.tool_calls import ROWS, compare_tool_calls

        say(f"asking {current.id} and {candidate.id} for tool calls of {url}")
        with stdout_to_stderr(), open_store(url, create=False) as store:
            return compare_tool_calls(
                store,
                candidate=candidate,
                current=current,
                folder=registry.folder,
                rows=self.rows or ROWS,
            )

    def _compare_states(
        self, dataset: Path, candidate: Version, current: Version
    ) -> dict[str, Any]:
        from rwml.extras import require
        from rwml_trainer.serving.quality import compare_versions

        require("train", "torch", "transformers", "sentence_transformers", "rouge_score", "pyarrow")
        say(f"predicting held-out rows of {dataset} with {candidate.id} and {current.id}")
        with stdout_to_stderr():
            return compare_versions(
                dataset, candidate=candidate, current=current, recipe=self.recipe
            )

    def _compare_agents(
        self, environment: str, candidate: Version, current: Version, registry: Registry
    ) -> dict[str, Any]:
        from rwml_trainer.serving.agent_success import compare_agents

        say(f"playing {environment} with {current.id} and {candidate.id}")
        return compare_agents(
            environment,
            candidate=candidate,
            current=current,
            tasks=self.tasks,
            folder=registry.folder,
        )


WHAT = {"gate": "next states", "gate_tools": "tool calls", "gate_agent": "success"}
"""What each gate is about."""


def in_words(name: str, figures: Mapping[str, Any]) -> str:
    """A gate's result."""
    low, high = figures["ci95"]
    return (
        f"{WHAT[name]}: {figures['verdict']} ({figures['difference']:+.3f} [{low:.3f}, {high:.3f}])"
    )


def _versions(registry: Registry, wanted: str) -> tuple[Version, Version]:
    """The version that is to be promoted, and the current one."""
    contents = registry.read()
    alias = contents.aliases.get(wanted.partition("@")[0])
    candidate = contents.versions.get(wanted)
    if alias is None or candidate is None:
        raise UsageError(f"there is no version {wanted!r}: add it with 'rwml serve add RUN'")
    return candidate, contents.versions[alias.current]
