"""`rwml serve RUN`: runs behind an OpenAI-compatible endpoint, until it is told to stop."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rwml.cli.output import JsonFlag, emit, say
from rwml_trainer.commands.merge import StageOption
from rwml_trainer.commands.serve.config import ConfigOption, configured_runs
from rwml_trainer.commands.serve.options import (
    DtypeOption,
    EngineKeyFileOption,
    EngineKeyVariableOption,
    EngineOption,
    EngineUrlOption,
    LoadLoraOption,
    MaxModelLenOption,
    ToolParserOption,
    VllmConfigOption,
    VllmPythonOption,
)

DEFAULT_ENGINE_URL = "http://127.0.0.1:8001/v1"
"""Of a printed configuration: a port for the engine beside a proxy's usual 4000 or 8000 (ours)."""


def start(
    ctx: typer.Context,
    run: Annotated[
        list[Path] | None,
        typer.Argument(help="RUN, RUN@STEP or model folders; none for the registry's."),
    ] = None,
    config: ConfigOption = None,
    stage: StageOption = "trained",
    name: Annotated[
        str | None, typer.Option("--name", help="NAME or NAME@STEP; the run's by default.")
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Loopback address.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port; 0 for a free one.")
    ] = 0,
    expose: Annotated[
        list[str] | None,
        typer.Option("--expose", help="Host name by which others call it; allows other hosts."),
    ] = None,
    serving: Annotated[
        Path | None,
        typer.Option(
            "--serving",
            "--out",
            envvar="RWML_SERVING",
            help="Folder for registry, weights, keys and logs; RUN/serving by default.",
        ),
    ] = None,
    store: Annotated[
        str | None, typer.Option("--store", help="Record the traffic into this store (URL).")
    ] = None,
    print_litellm_config: Annotated[
        bool,
        typer.Option(
            "--print-litellm-config",
            help="Print a config for your own LiteLLM proxy.",
        ),
    ] = False,
    engine: EngineOption = "auto",
    vllm_python: VllmPythonOption = None,
    vllm_config: VllmConfigOption = None,
    dtype: DtypeOption = "auto",
    max_model_len: MaxModelLenOption = None,
    tool_parser: ToolParserOption = None,
    load_lora: LoadLoraOption = False,
    engine_url: EngineUrlOption = None,
    engine_key_env: EngineKeyVariableOption = None,
    engine_key_file: EngineKeyFileOption = None,
    json: JsonFlag = False,
) -> None:
    """Serve runs on loopback, behind a gateway with keys, until Ctrl+C or SIGTERM.

    Example: rwml serve runs/retail --port 8000
    """
    sources = run or configured_runs(ctx)
    if print_litellm_config:
        from rwml_trainer.serving.plain_config import plain_config

        url = engine_url or DEFAULT_ENGINE_URL
        text = plain_config(sources, name=name, stage=stage, engine_url=url, store=store)
        emit({"config": text}, as_json=json, text=text)
        return
    from rwml_trainer.serving import server
    from rwml_trainer.serving.engine_choice import EngineOptions, choose_engine

    options = EngineOptions(
        engine=engine,
        vllm_python=vllm_python,
        vllm_config=vllm_config,
        engine_url=engine_url,
        engine_key_env=engine_key_env,
        engine_key_file=engine_key_file,
        dtype=dtype,
        max_model_len=max_model_len,
        tool_parser=tool_parser,
        load_lora=load_lora,
    )
    choice = choose_engine(options)
    ready = False
    try:
        with server.serve(
            sources,
            stage=stage,
            name=name,
            host=host,
            port=port,
            expose=expose or (),
            out=serving,
            store=store,
            start_engine=choice.start,
            engine_key=choice.key,
            notify=say,
        ) as served:
            emit(
                {
                    "endpoint": served.endpoint,
                    "key_file": str(served.key_file),
                    "models": list(served.models),
                    "engine": served.engine,
                },
                as_json=json,
                text=f"{', '.join(served.models)} at {served.endpoint}, key in {served.key_file}",
            )
            sys.stdout.flush()
            ready = True
            served.wait()
    except KeyboardInterrupt:
        say("stopped")
        raise typer.Exit(0 if ready else 130) from None
