"""Imports what other tools logged: OTel and OpenInference spans, Langfuse, LangSmith, OpenAI JSONL.

Readers turn records into completions and tool results; `rwml.assemble` rebuilds the trajectories;
what cannot be read is counted with its place and a reason, never with its text.
"""

from rwml.ingest.formats import LogFormat, sniff
from rwml.ingest.importing import Summary, ingest_file
from rwml.ingest.items import Rejected

__all__ = ["LogFormat", "Rejected", "Summary", "ingest_file", "sniff"]
