"""`rwml serve RUN`: runs behind an OpenAI-compatible endpoint, until it is told to stop."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rwml.cli.output import JsonFlag, emit, say
from rwml_trainer.commands.merge import StageOption
from rwml_trainer.commands.serve.config import ConfigOption, configured_runs


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
    engine_url: Annotated[
        str, typer.Option("--engine-url", help="Where that proxy finds the engine.")
    ] = "http://127.0.0.1:8001/v1",
    json: JsonFlag = False,
) -> None:
    """Serve runs on loopback, behind a gateway with keys, until Ctrl+C or SIGTERM.

    Example: rwml serve runs/retail --port 8000
    """
    sources = run or configured_runs(ctx)
    if print_litellm_config:
        from rwml_trainer.serving.plain_config import plain_config

        text = plain_config(sources, name=name, stage=stage, engine_url=engine_url, store=store)
        emit({"config": text}, as_json=json, text=text)
        return
    from rwml_trainer.serving import server

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
