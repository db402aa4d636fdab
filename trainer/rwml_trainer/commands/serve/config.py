"""`rwml serve --config FILE`: the options of a server in a TOML file.

The file says what is not said on the command line or by the environment: it becomes click's own
default map, so that there is one place where options are converted and checked.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rwml.errors import UsageError
from rwml_trainer.runs import Stage
from rwml_trainer.serving.engine_choice import EngineKind


class ServeConfig(BaseModel):
    """What the file may say: each field is the option of that name, in underscores.

    Attributes:
        runs: ``RUN``, ``RUN@STEP`` or model folders, relative to the file.
        serving: folder of the server, relative to the file, as are `vllm_python`, `vllm_config` and
            `engine_key_file`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    runs: tuple[str, ...] = Field(default=(), strict=False)
    stage: Stage | None = None
    name: str | None = None
    host: str | None = None
    port: int | None = Field(default=None, ge=0, le=65535)
    expose: tuple[str, ...] = Field(default=(), strict=False)
    serving: str | None = None
    store: str | None = None
    engine: EngineKind | None = None
    vllm_python: str | None = None
    vllm_config: str | None = None
    dtype: str | None = None
    max_model_len: int | None = Field(default=None, ge=1)
    tool_parser: str | None = None
    load_lora: bool | None = None
    engine_url: str | None = None
    engine_key_env: str | None = None
    engine_key_file: str | None = None


_PATHS = ("serving", "vllm_python", "vllm_config", "engine_key_file")


def read_config(path: Path) -> ServeConfig:
    """Reads a configuration; paths in it are absolute afterwards.

    Raises:
        UsageError: it cannot be read, is not TOML, or says what there is not.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        config = ServeConfig.model_validate(values)
    except ValidationError as error:
        found = error.errors()[0]
        place = ".".join(str(part) for part in found["loc"])
        known = ", ".join(ServeConfig.model_fields)
        raise UsageError(f"{path}: {place}: {found['msg']} (there are {known})") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is no TOML file: {error}") from error
    folder = path.resolve().parent
    paths = {name: getattr(config, name) for name in _PATHS}
    return config.model_copy(
        update={
            "runs": tuple(str(folder / run) for run in config.runs),
            **{name: str(folder / path) for name, path in paths.items() if path is not None},
        }
    )


def configured_runs(context: typer.Context) -> list[Path]:
    """The runs of the configuration: an argument that may be repeated has no default map."""
    return [Path(run) for run in (context.default_map or {}).get("runs", ())]


def _apply(context: typer.Context, path: Path | None) -> Path | None:
    if path is not None:
        told = read_config(path).model_dump(exclude_defaults=True)
        context.default_map = {**(context.default_map or {}), **told}
    return path


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", callback=_apply, is_eager=True, help="TOML file with options; these win."
    ),
]
