"""Options of every command that asks a model behind an endpoint: where it is, and whose key."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from rwml.errors import UsageError

DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"
NO_KEY = "no-key"
"""Sent to an endpoint of one's own when there is no key: clients refuse to send none."""

ApiBaseOption = Annotated[str | None, typer.Option("--api-base", help="Endpoint of the model.")]
KeyVariableOption = Annotated[str, typer.Option("--api-key-env", help="Variable with the key.")]
KeyFileOption = Annotated[Path | None, typer.Option("--api-key-file", help="File with the key.")]


def read_api_key(
    *, variable: str, key_file: Path | None, api_base: str | None = None
) -> str | None:
    """The API key from a file, else from an environment variable.

    The default variable is read only for an endpoint of one's own (`api_base`): without one,
    LiteLLM picks the provider's own variable, and no key goes to another provider.

    Raises:
        UsageError: the file cannot be read or is empty, or a variable asked for is not set.
    """
    if key_file is not None:
        try:
            key = key_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read the key file {key_file}: {error}") from error
        if not key:
            raise UsageError(f"the key file {key_file} is empty")
        return key
    if variable == DEFAULT_KEY_VARIABLE:
        return (os.environ.get(variable) or NO_KEY) if api_base else None
    key = os.environ.get(variable)
    if not key:
        raise UsageError(f"the environment variable {variable} is not set")
    return key
