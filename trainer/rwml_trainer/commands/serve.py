"""`rwml serve`: a trained run behind an OpenAI-compatible endpoint, until it is told to stop."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rwml.cli.output import JsonFlag, emit, say
from rwml_trainer.commands.merge import StageOption


def serve(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run, or a model folder.")],
    stage: StageOption = "trained",
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the model; the run's by default.")
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Loopback address.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port; 0 for a free one.")
    ] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for weights, key and logs; RUN/serving by default."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Serve a run on loopback, behind a gateway with a key, until Ctrl+C or SIGTERM.

    Example: rwml serve runs/retail --port 8000
    """
    from rwml_trainer.serving import server

    ready = False
    try:
        with server.serve(
            run, stage=stage, name=name, host=host, port=port, out=out, notify=say
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
