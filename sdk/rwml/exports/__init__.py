"""Trajectories as files that other tools read, streamed in bounded memory.

Texts are written as they are stored: what redaction took out is not in an export either. Each file
has a manifest beside it that says whose rows it holds, so that `rwml forget` reaches it. The
masked, split and measured examples of a world model are made by `rwml build`.
"""

from rwml.exports.exporting import Exported, export_store
from rwml.exports.formats import FORMATS, Format, Options
from rwml.exports.ledger import ledger_path
from rwml.exports.manifest import manifest_path

__all__ = [
    "FORMATS",
    "Exported",
    "Format",
    "Options",
    "export_store",
    "ledger_path",
    "manifest_path",
]
