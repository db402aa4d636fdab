"""What a game runs on: its problem, and the logic (PDDL domain and text grammar) around it.

Games carry the logic of their release; the installed alfworld has its own, newer one. A game is
upgraded in memory, keeping its problem and its task: game files are never changed, and alfworld
is not imported for it. Grammars are checked before any engine sees them, because textworld
evaluates their expressions as Python.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from rwml.errors import MissingExtraError, UsageError

LogicName = Literal["installed", "own"]
"""`installed`: of the alfworld package, as alfworld plays a game today; `own`: the game file's."""

_TASK_RULE = re.compile(r'("task"\s*:\s*\[\s*\{\s*"rhs"\s*:\s*")((?:[^"\\]|\\.)*)(")')
_GOAL_PREFIX = "Your task is to: "


@dataclass(frozen=True, kw_only=True)
class GameText:
    """A game as text, ready for an engine.

    Attributes:
        domain: PDDL domain.
        grammar: actions and text rules (twl2), with the game's task in it.
        problem: PDDL problem.
        goal: the task in words, such as ``put a mug in desk.``
        logic: version of domain and grammar, whatever the task: ``alfworld-0.4.2:1f0c...`` or
            ``own:9e21...``.
        game_logic: version of the logic that the game file carries.
    """

    domain: str
    grammar: str
    problem: str
    goal: str
    logic: str
    game_logic: str


def load_game(file: Path, *, logic: LogicName = "installed") -> GameText:
    """Reads a game file, by default upgraded to the installed logic.

    Raises:
        UsageError: no such logic, or the file is missing or is no ALFWorld game.
        MissingExtraError: alfworld is not installed.
    """
    if logic not in get_args(LogicName):
        raise UsageError(f"no logic {logic!r}: use one of {', '.join(get_args(LogicName))}")
    try:
        data = json.loads(file.read_bytes())
        own_domain, own_grammar = str(data["pddl_domain"]), str(data["grammar"])
        problem = str(data["pddl_problem"])
    except OSError as error:
        raise UsageError(f"no game file {file}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file} is no ALFWorld game (game.tw-pddl)") from error
    found = _TASK_RULE.search(own_grammar)
    if found is None:
        raise UsageError(f"{file} has no task in its grammar")
    own_version = f"own:{_version_of(own_domain, own_grammar)}"
    domain, grammar, name = own_domain, own_grammar, own_version
    if logic == "installed":
        domain, template, name = installed_logic()
        grammar = _TASK_RULE.sub(lambda rule: rule[1] + found[2] + rule[3], template, count=1)
    goal = str(json.loads(f'"{found[2]}"', strict=False)).removeprefix(_GOAL_PREFIX)
    return GameText(
        domain=domain,
        grammar=grammar,
        problem=problem,
        goal=goal,
        logic=name,
        game_logic=own_version,
    )


@lru_cache(maxsize=1)  # read once per process: an upgrade of the package needs a new one anyway
def installed_logic() -> tuple[str, str, str]:
    """Domain, grammar (with an unknown task) and version of the installed alfworld's logic.

    Raises:
        MissingExtraError: alfworld is not installed.
    """
    spec = find_spec("alfworld")  # alfworld itself stays unimported: it makes folders
    if spec is None or not spec.origin:
        raise MissingExtraError("alfworld", "alfworld")
    folder = Path(spec.origin).parent / "data"
    domain = (folder / "alfred.pddl").read_text(encoding="utf-8")
    grammar = (folder / "alfred.twl2").read_text(encoding="utf-8")
    return domain, grammar, f"alfworld-{version('alfworld')}:{_version_of(domain, grammar)}"


def _version_of(domain: str, grammar: str) -> str:
    neutral = _TASK_RULE.sub(r"\1\3", grammar, count=1)
    return hashlib.sha256(f"{domain}\0{neutral}".encode()).hexdigest()[:12]
