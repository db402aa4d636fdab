"""What is known of where a record comes from: counts, ids of a run, what produced it.

Parts of `rwml.schema`, which gives them their public address.
"""

from __future__ import annotations

from rwml.content import Frozen


class Usage(Frozen):
    """Token counts of one model call, as the provider reported them; None when it did not."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Provenance(Frozen):
    """Where a step comes from. Every field is optional: None means that nobody said."""

    run_id: str | None = None
    parent_run_id: str | None = None
    node: str | None = None
    checkpoint_ns: str | None = None
    thread_id: str | None = None
    agent_name: str | None = None
    trace_id: str | None = None
    span_id: str | None = None


class Fingerprint(Frozen):
    """What produced a trajectory: enough to tell two numbers apart that look the same."""

    package: str | None = None
    version: str | None = None
    data_version: str | None = None
    seed: int | None = None
    agent: str | None = None
    user_simulator: str | None = None
