"""`rwml lookahead`: the report of look-aheads that are kept in a store."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from rwml import ToolCall, open_store
from rwml.cli.lookahead import lookahead
from rwml.errors import UsageError
from rwml.statistics import wilson
from rwml.testing import make_trajectory
from rwml.world_model.lookahead import Lookahead, Verdict, summarise

RIGHT = Verdict(
    mode="shadow", gone=None, warned=True, ran=True, bad=True, predicted_s=0.5, added_s=0.1
)
FALSE_ALARM = replace(RIGHT, bad=False, added_s=0.2)
MISSED = replace(RIGHT, warned=False, added_s=0.3)
LATE = replace(RIGHT, warned=None, gone="late", predicted_s=None, added_s=2.0)
HELD = replace(RIGHT, mode="advise", ran=False, bad=None)
VERDICTS = {"refund": [RIGHT, RIGHT, FALSE_ALARM, LATE], "cancel": [MISSED, HELD]}


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A store with look-aheads, and traffic that is none."""
    made = f"sqlite:///{tmp_path / 'rwml.db'}"
    with open_store(made) as store:
        store.add(make_trajectory(1))
        for name, verdicts in VERDICTS.items():
            for number, verdict in enumerate(verdicts):
                call = ToolCall(id=f"{name}{number}", name=name, arguments={})
                foreseen = None if verdict.gone else "Error: no"
                seen = Lookahead(call, foreseen, "ok" if verdict.ran else None, verdict)
                store.add(seen.as_trajectory(call.id))
    return made


def run(url: str, *options: str) -> Result:
    app = typer.Typer()
    app.command()(lookahead)
    return CliRunner().invoke(app, ["--store", url, *options], catch_exceptions=False)


def told(url: str, *options: str) -> Any:
    result = run(url, *options, "--json")
    assert result.exit_code == 0
    return json.loads(result.stdout)


def test_the_report_is_of_each_tool_and_of_all(url: str) -> None:
    found = told(url)
    assert list(found["tools"]) == ["cancel", "refund"]
    for name, verdicts in VERDICTS.items():
        assert found["tools"][name] == json.loads(json.dumps(asdict(summarise(verdicts))))
    whole = found["all"]
    assert (whole["calls"], whole["foreseen"], whole["judged"], whole["bad"]) == (6, 5, 4, 3)
    assert (whole["warned"], whole["held"], whole["gone"]) == (4, 1, {"late": 1})
    assert whole["precision"] == asdict(wilson(2, 3))
    assert whole["recall"] == asdict(wilson(2, 3))
    assert whole["added_s"]["max"] == 2.0


def test_what_is_looked_at_can_be_chosen(url: str) -> None:
    assert list(told(url, "--tool", "refund")["tools"]) == ["refund"]
    assert told(url, "--mode", "advise")["all"]["calls"] == 1
    assert told(url, "--since", "2026-01-01")["all"]["calls"] == 6
    assert told(url, "--since", "2999-01-01")["all"]["calls"] == 0
    assert told(url, "--until", "2026-01-01")["all"]["calls"] == 0
    with pytest.raises(UsageError, match="swap --since and --until"):
        run(url, "--since", "2026-02-01", "--until", "2026-01-01")
    with pytest.raises(UsageError, match="a time looks like"):
        run(url, "--since", "yesterday")


def test_the_table_is_for_people(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    lines = run(url).stdout.splitlines()
    cells = {line.split()[0]: line.split() for line in lines if line.strip()}
    assert cells["refund"][1:7] == ["4", "3", "3", "0", "3", "2"]
    assert cells["refund"][7] == "0.67"
    assert cells["refund"][-3:] == ["0.150", "1.460", "2.000"]
    assert cells["cancel"][7] == "-", "no warning was judged"
    assert lines[-1].startswith("nothing foreseen: 1 late;")


def test_nothing_kept_is_told(url: str) -> None:
    assert "pass recorder= to LookaheadMiddleware" in run(url, "--tool", "look").stdout
