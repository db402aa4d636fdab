"""What the commands of a serving folder share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ServingOption = Annotated[
    Path,
    typer.Option(
        "--serving", "--out", envvar="RWML_SERVING", help="Folder of the server; RUN/serving."
    ),
]
