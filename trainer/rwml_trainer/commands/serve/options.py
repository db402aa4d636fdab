"""What the commands of a serving folder share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

ServingOption = Annotated[
    Path,
    typer.Option(
        "--serving", "--out", envvar="RWML_SERVING", help="Folder of the server; RUN/serving."
    ),
]
EngineOption = Annotated[
    Literal["auto", "vllm", "transformers"],
    typer.Option("--engine", help="auto: vLLM where --vllm-python is given, else transformers."),
]
VllmPythonOption = Annotated[
    Path | None,
    typer.Option(
        "--vllm-python", envvar="RWML_VLLM_PYTHON", help="Python of an environment that has vLLM."
    ),
]
VllmConfigOption = Annotated[
    Path | None, typer.Option("--vllm-config", help="Further arguments for vLLM (its --config).")
]
DtypeOption = Annotated[str, typer.Option("--dtype", help="Of vLLM's weights.")]
MaxModelLenOption = Annotated[
    int | None, typer.Option("--max-model-len", min=1, help="Tokens that vLLM takes and gives.")
]
ToolParserOption = Annotated[
    str | None,
    typer.Option("--tool-parser", help="vLLM's parser of tool calls, or none; by the template."),
]
LoadLoraOption = Annotated[
    bool,
    typer.Option("--load-lora", help="One vLLM for all runs of a base model: it loads adapters."),
]
EngineUrlOption = Annotated[
    str | None, typer.Option("--engine-url", help="Where an engine runs already, with /v1.")
]
EngineKeyVariableOption = Annotated[
    str | None, typer.Option("--engine-key-env", help="Variable with that engine's key.")
]
EngineKeyFileOption = Annotated[
    Path | None, typer.Option("--engine-key-file", help="File with that engine's key.")
]
