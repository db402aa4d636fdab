"""The command line: `rwml`. Commands come from the entry-point group ``rwml.commands``."""

from rwml.cli.app import main

__all__ = ["main"]
