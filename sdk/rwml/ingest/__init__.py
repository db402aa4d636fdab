"""Imports what other tools logged: OTel and OpenInference spans, Langfuse, LangSmith, OpenAI JSONL.

Readers turn records into completions and tool results; `rwml.assemble` rebuilds the trajectories;
what cannot be read is counted with its place and a reason, never with its text.
"""

from rwml.ingest.formats import LogFormat, known_formats, sniff
from rwml.ingest.importing import Summary, ingest_file
from rwml.ingest.items import FileFormat, Rejected

__all__ = [
    "FileFormat",
    "LogFormat",
    "Rejected",
    "Summary",
    "ingest_file",
    "known_formats",
    "sniff",
]
