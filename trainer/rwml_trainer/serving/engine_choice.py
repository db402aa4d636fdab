"""Which engine a server uses, as its options say."""

from __future__ import annotations

import secrets
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from rwml.cli.endpoints import read_api_key
from rwml.errors import UsageError
from rwml_trainer.serving.engine import StartEngine, start_transformers
from rwml_trainer.serving.external_engine import find_external
from rwml_trainer.serving.vllm_engine import Vllm
from rwml_trainer.serving.vllm_lora import VllmLora

EngineKind = Literal["auto", "vllm", "transformers"]
HAS_VLLM = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
LOOK_S = 60.0


class EngineOptions(BaseModel):
    """The options of an engine.

    Attributes:
        engine: ``auto`` is vLLM where `vllm_python` is given, else `transformers serve`; of an
            engine at `engine_url` it is the kind that counts (see `find_external`).
        vllm_python: Python of an environment that has vLLM.
        vllm_config: file of further arguments for vLLM.
        engine_url: where an engine runs already; ends in ``/v1``.
        engine_key_env: variable with the key of that one; None for no key.
        engine_key_file: file with it.
        dtype: of vLLM's weights.
        max_model_len: tokens of prompt and answer that vLLM takes.
        tool_parser: vLLM's parser of tool calls, or ``none``.
        load_lora: one vLLM for all runs of a base model, whose LoRA adapters it loads.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: EngineKind = "auto"
    vllm_python: Path | None = None
    vllm_config: Path | None = None
    engine_url: str | None = None
    engine_key_env: str | None = None
    engine_key_file: Path | None = None
    dtype: str = "auto"
    max_model_len: int | None = Field(default=None, ge=1)
    tool_parser: str | None = None
    load_lora: bool = False


@dataclass(frozen=True)
class EngineChoice:
    """An engine that can be started.

    Attributes:
        start: starts one.
        key: that every one of them asks for; None where they ask for none.
    """

    start: StartEngine
    key: str | None = None


def choose_engine(options: EngineOptions) -> EngineChoice:
    """The engine that options ask for, looked at before anything slow begins.

    Raises:
        UsageError: they contradict each other, or there is no vLLM where they say.
        ServingError: there is no engine at their URL.
    """
    if options.engine_url is not None:
        tools = options.tool_parser != "none"  # the one thing that can be said of its tools
        told = options if tools else options.model_copy(update={"tool_parser": None})
        _refuse_vllm_options(told, "an engine at --engine-url is started by somebody else")
        key = _read_key(options)
        found = find_external(options.engine_url, key=key, kind=options.engine)
        return EngineChoice(replace(found, tools=tools).start, found.key)
    if options.engine_key_env is not None or options.engine_key_file is not None:
        raise UsageError("--engine-key-env and --engine-key-file are for --engine-url")
    if options.engine == "transformers" or (
        options.engine == "auto" and options.vllm_python is None
    ):
        _refuse_vllm_options(options, "the engine is 'transformers serve' without --vllm-python")
        return EngineChoice(start_transformers)
    if options.vllm_python is None:
        raise UsageError(
            "--engine vllm needs --vllm-python PATH (or RWML_VLLM_PYTHON): the Python of an "
            "environment of its own with vLLM in it; docs/serving.md says how to make one"
        )
    _check_python(options.vllm_python)
    if options.vllm_config is not None and not options.vllm_config.is_file():
        raise UsageError(f"--vllm-config {options.vllm_config} is no file")
    vllm = Vllm(
        python=options.vllm_python,
        key=secrets.token_urlsafe(32),
        dtype=options.dtype,
        max_model_len=options.max_model_len,
        tool_parser=options.tool_parser,
        config=options.vllm_config,
    )
    return EngineChoice(VllmLora(vllm).start if options.load_lora else vllm.start, vllm.key)


def _read_key(options: EngineOptions) -> str | None:
    variable, file = options.engine_key_env, options.engine_key_file
    if variable is None and file is None:
        return None
    return read_api_key(variable=variable or "", key_file=file, api_base=options.engine_url)


def _refuse_vllm_options(options: EngineOptions, why: str) -> None:
    """Refuses what would be without effect; a Python may be named by the environment."""
    for name in ("vllm_config", "dtype", "max_model_len", "tool_parser", "load_lora"):
        if getattr(options, name) != EngineOptions.model_fields[name].default:
            raise UsageError(f"--{name.replace('_', '-')} is for vLLM that is started here: {why}")


def _check_python(path: Path) -> None:
    advice = "make one as docs/serving.md says, and name its bin/python"
    try:
        done = subprocess.run(  # noqa: S603 - the user's own interpreter, no shell
            [path.absolute(), "-I", "-c", HAS_VLLM],
            capture_output=True,
            check=False,
            timeout=LOOK_S,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"--vllm-python {path} cannot be run ({error}): {advice}") from error
    if done.returncode != 0:
        raise UsageError(f"the environment of --vllm-python {path} has no vLLM: {advice}")
