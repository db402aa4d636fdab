"""`rwml serve --config FILE` and ``RUN@STEP``: what is served, said in other ways."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from rwml.cli.app import build_app
from rwml.errors import ModelError, UsageError
from rwml_trainer.commands.serve.config import ServeConfig
from rwml_trainer.commands.serve.start import start
from rwml_trainer.runs import Run, write_run
from rwml_trainer.serving.versions import find_source


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(build_app(), ["serve", *map(str, arguments)])


def refused(*arguments: str | Path) -> str:
    result = run(*arguments)
    assert isinstance(result.exception, UsageError)
    return str(result.exception)


@pytest.fixture
def config(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Serves the tiny model from a folder beside the file."""
    monkeypatch.delenv("RWML_SERVING", raising=False)
    (tmp_path / "model").symlink_to(tiny_model)
    path = tmp_path / "serve.toml"
    path.write_text(
        'runs = ["model"]\nname = "world@7"\nserving = "here"\nport = 4000\n'
        'store = "sqlite:///x.db"\nengine_url = "http://127.0.0.1:9/v1"\n'
    )
    return path


def printed(*arguments: str | Path) -> Any:
    result = run(*arguments, "--print-litellm-config")
    assert result.exit_code == 0, result.output
    (model,) = yaml.safe_load(result.stdout)["model_list"]
    return model


def test_the_file_says_what_is_not_said(config: Path) -> None:
    model = printed("--config", config)
    assert model["model_info"] == {"rwml_version": "world@7"}
    assert model["litellm_params"]["api_base"] == "http://127.0.0.1:9/v1"
    assert "RWML_STORE=sqlite:///x.db" in run("--config", config, "--print-litellm-config").stdout


def test_the_command_line_wins(config: Path, tiny_model: Path) -> None:
    said = ("--name", "other@1", "--engine-url", "http://127.0.0.1:8/v1")
    model = printed("start", tiny_model, *said, "--config", config)
    assert model["model_info"] == {"rwml_version": "other@1"}
    assert model["litellm_params"]["api_base"] == "http://127.0.0.1:8/v1"


def test_paths_are_the_file_s_and_the_environment_wins(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text('serving = "here"\n')
    assert f"{tmp_path / 'here'} serves nothing yet" in refused("--config", config)
    monkeypatch.setenv("RWML_SERVING", str(tmp_path / "there"))
    assert f"{tmp_path / 'there'} serves nothing yet" in refused("--config", config)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("prot = 1", r"prot: Extra inputs are not permitted \(there are runs, stage"),
        ("port = 70000", "port: Input should be less than or equal to 65535"),
        ('port = "80"', "port: Input should be a valid integer"),
        ('stage = "old"', "stage: Input should be"),
        ("runs = [", "is no TOML file"),
        ('host = "10.0.0.1"\nruns = ["model"]', "the host '10.0.0.1' is not loopback"),
    ],
)
def test_what_a_file_cannot_say(config: Path, text: str, reason: str) -> None:
    pytest.importorskip("litellm")
    config.write_text(text)
    result = run("--config", config)
    assert isinstance(result.exception, UsageError)
    with pytest.raises(UsageError, match=reason):
        raise result.exception


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "none.toml is no TOML file" in refused("--config", tmp_path / "none.toml")


def test_every_option_can_be_in_the_file() -> None:
    options = set(inspect.signature(start).parameters)
    apart = {"ctx", "run", "config", "print_litellm_config", "json"}
    assert set(ServeConfig.model_fields) == options - apart | {"runs"}


def made_run(folder: Path, *, warm_start: bool) -> Path:
    folder.mkdir()
    made = Run(
        name="first",
        base_model="m",
        steps=8,
        rewards=(),
        warm_start=warm_start,
        template_sha256="t",
        dataset="d",
        validation_share=0.2,
        seconds=1,
    )
    write_run(folder, made)
    return folder


def test_a_step_names_the_weights_of_a_run(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "first", warm_start=True)
    assert find_source(folder, "trained") == (folder, "trained")
    assert find_source(tmp_path / "first@8", "trained") == (folder, "trained")
    assert find_source(tmp_path / "first@0", "trained") == (folder, "warm_start")
    with pytest.raises(UsageError, match=r"step 5: there is .*@0 \(warm_start\) and .*@8"):
        find_source(tmp_path / "first@5", "trained")
    with pytest.raises(UsageError, match=r"step 8 of .* is not its warm_start"):
        find_source(tmp_path / "first@8", "warm_start")
    assert "keeps no weights of step 5" in refused(tmp_path / "first@5")


def test_only_what_is_there_has_steps(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "cold", warm_start=False)
    with pytest.raises(UsageError, match=r"step 0: there is \S+@8 \(trained\)$"):
        find_source(tmp_path / "cold@0", "trained")
    (folder / "run.json").unlink()
    with pytest.raises(ModelError, match="no finished run"):
        find_source(tmp_path / "cold@8", "trained")
    odd = made_run(tmp_path / "odd@3", warm_start=False)
    assert find_source(odd, "trained") == (odd, "trained")
    assert find_source(tmp_path / "none@3", "trained") == (tmp_path / "none@3", "trained")
