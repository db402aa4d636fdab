"""`rwml serve` as a group: what is left out, what needs no server, what is refused without one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from rwml.cli.app import build_app
from rwml_trainer.serving.keys import KeyFile, KeyRing


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(build_app(), ["serve", *map(str, arguments)])


def told(*arguments: str | Path) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(*arguments: str | Path) -> str:
    result = run(*arguments)
    assert result.exception is not None
    return str(result.exception)


def test_a_run_needs_no_command_before_it(tmp_path: Path) -> None:
    for words in (["missing"], ["start", "missing"], ["--port", "0", "missing"]):
        assert "missing is neither a finished run" in refused(*words)
    (tmp_path / "promote").mkdir()
    assert "promote is neither a finished run" in refused(tmp_path / "promote")


def test_the_help_names_run_and_commands() -> None:
    text = run("--help").stdout
    assert "Example: rwml serve runs/" in text
    for command in ("start", "add", "promote", "rollback", "list", "keys"):
        assert f"\n  {command} " in text
    for words in (["start"], ["add"], ["promote"], ["rollback"], ["list"], ["keys", "add"]):
        assert "Example: rwml serve" in run(*words, "--help").stdout


def test_keys_are_made_listed_and_revoked(tmp_path: Path) -> None:
    where = ("--serving", tmp_path / "serving")
    made = told("keys", "add", "ci", "--model", "world", "--days", "2", "--rpm", "9", *where)
    ring = KeyRing(KeyFile(tmp_path / "serving").path)
    assert ring.find(made["key"].encode()) is not None
    listed = run("keys", "list", "--json", *where)
    (key,) = json.loads(listed.stdout)["keys"]
    assert (key["name"], key["models"], key["rpm_limit"]) == ("ci", ["world"], 9)
    assert key["expires_at"] > key["created_at"]
    assert made["key"] not in listed.stdout
    assert "sha256" not in listed.stdout
    assert told("keys", "revoke", "ci", *where) == {"revoked": "ci"}
    assert ring.find(made["key"].encode()) is None
    assert "no key is named 'ci'" in refused("keys", "revoke", "ci", *where)


@pytest.mark.parametrize("days", ["0", "-1", "nan", "inf", "-inf", "1e300", "40000"])
def test_days_that_no_key_can_have_are_refused(tmp_path: Path, days: str) -> None:
    where = ("--serving", tmp_path / "serving")
    assert "more than 0 and at most" in refused("keys", "add", "x", "--days", days, *where)
    assert told("keys", "list", *where) == {"keys": []}


def test_the_name_of_the_servers_own_key_is_refused(tmp_path: Path) -> None:
    where = ("--serving", tmp_path / "serving")
    assert "choose another name" in refused("keys", "add", "session", *where)
    assert told("keys", "list", *where) == {"keys": []}


@pytest.mark.parametrize("words", [("promote", "world@1"), ("rollback", "world")])
def test_orders_need_a_server(tmp_path: Path, words: tuple[str, str]) -> None:
    assert "no server runs on" in refused(*words, "--serving", tmp_path)


def test_the_folder_must_be_named_where_it_is_not_plain(tmp_path: Path) -> None:
    assert "name the serving folder" in refused("--port", "0")
    assert "serves nothing yet" in refused("--serving", tmp_path)
    assert told("list", "--serving", tmp_path)["versions"] == []


def test_a_plain_config_is_one_that_litellm_reads(tiny_model: Path, tmp_path: Path) -> None:
    arguments = (tiny_model, "--name", "world@7", "--print-litellm-config")
    plain = run(*arguments, "--engine-url", "http://127.0.0.1:9/v1", "--store", "sqlite:///x.db")
    config = yaml.safe_load(plain.stdout)
    (model,) = config["model_list"]
    assert model["model_name"] == "world"
    assert model["litellm_params"]["api_base"] == "http://127.0.0.1:9/v1"
    assert model["model_info"] == {"rwml_version": "world@7"}
    assert config["litellm_settings"]["callbacks"] == "rwml_adapters.litellm.proxy_logger"
    assert config["general_settings"]["master_key"].startswith("os.environ/")
    assert "RWML_STORE=sqlite:///x.db" in plain.stdout
    assert "litellm_settings" not in run(*arguments).stdout
    assert not (tiny_model / "serving").exists()
    assert "name it" in refused("--print-litellm-config")
