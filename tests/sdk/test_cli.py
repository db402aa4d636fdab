"""The program: commands come from entry points, errors are one line and an exit code."""

import os
import subprocess
import sys
from importlib.metadata import EntryPoint, entry_points, version

import pytest
import typer
from typer.testing import CliRunner

from rwml.cli import app
from rwml.errors import AdapterError, MissingExtraError, RwmlError, UsageError


def works(name: str = "you") -> None:
    """Say hello."""
    typer.echo(f"hello {name}")


def needs_extra() -> None:
    """Need what is not installed."""
    raise MissingExtraError("train", "torch")


def infrastructure() -> None:
    """Fail at a boundary."""
    raise AdapterError("the engine\n is down")


def wrong() -> None:
    """Be called wrongly."""
    raise UsageError("no")


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plugged", sys.modules[__name__])
    targets = {
        "works": "plugged:works",
        "group.inner": "plugged:works",
        "extra": "plugged:needs_extra",
        "infrastructure": "plugged:infrastructure",
        "wrong": "plugged:wrong",
        "absent": "no_such_package.module:f",
        "unloadable": "missing_extra:f",
    }
    found = [EntryPoint(name, value, app.ENTRY_POINT_GROUP) for name, value in targets.items()]
    monkeypatch.setattr(app, "entry_points", lambda group: found)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["rwml", *arguments])
    with pytest.raises(SystemExit) as ended:
        app.main()
    return int(ended.value.code or 0)


def test_commands_and_groups(commands: None) -> None:
    runner = CliRunner()
    assert runner.invoke(app.build_app(), ["works", "--name", "Ann"]).output == "hello Ann\n"
    assert runner.invoke(app.build_app(), ["group", "inner"]).output == "hello you\n"


@pytest.mark.parametrize(
    ("name", "code", "line"),
    [
        ("extra", 2, "rwml: this needs the module 'torch': install 'rwml[train]'"),
        ("infrastructure", 3, "rwml: the engine is down"),
        ("wrong", 2, "rwml: no"),
    ],
)
def test_errors_are_one_line(
    commands: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    code: int,
    line: str,
) -> None:
    assert run(monkeypatch, name) == code
    assert capsys.readouterr() == ("", line + "\n")


def test_a_broken_entry_takes_no_other_with_it(
    commands: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "absent", "--flag", "value", "more") == 3
    out, line = capsys.readouterr()
    assert out == ""
    assert "'absent' (no_such_package.module:f) cannot be loaded" in line
    assert line.count("\n") == 1
    assert CliRunner().invoke(app.build_app(), ["works"]).exit_code == 0


def test_an_entry_whose_import_needs_an_extra_says_so(
    commands: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Refusing:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "missing_extra":
                raise MissingExtraError("serve", "litellm")

    monkeypatch.setattr(sys, "meta_path", [Refusing(), *sys.meta_path])
    assert run(monkeypatch, "unloadable", "--json") == 2
    assert capsys.readouterr().err == (
        "rwml: this needs the module 'litellm': install 'rwml[serve]'\n"
    )


def test_exit_codes_of_the_error_map() -> None:
    assert (RwmlError.exit_code, UsageError.exit_code, AdapterError.exit_code) == (3, 2, 3)


def test_every_installed_command_has_help_with_an_example() -> None:
    runner = CliRunner()
    for entry in entry_points(group=app.ENTRY_POINT_GROUP):
        shown = runner.invoke(app.build_app(), [*entry.name.split("."), "--help"])
        assert shown.exit_code == 0, entry.name
        assert f"rwml {entry.name.replace('.', ' ')}" in shown.output, entry.name
        assert "Example" in shown.output, entry.name


def test_bare_program_shows_help() -> None:
    command = [sys.executable, "-m", "rwml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert "doctor" in done.stdout + done.stderr
    assert done.returncode in (0, 2)


def test_version(
    commands: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr() == (f"rwml {version('rwml')}\n", "")


@pytest.mark.parametrize(("given", "used"), [(None, "True"), ("False", "False")])
def test_no_command_asks_for_a_list_of_prices(
    commands: None, monkeypatch: pytest.MonkeyPatch, given: str | None, used: str
) -> None:
    name, _ = app.LOCAL_PRICES
    monkeypatch.setenv(name, given or "")
    if given is None:
        monkeypatch.delenv(name)
    assert run(monkeypatch, "--version") == 0
    assert os.environ[name] == used
