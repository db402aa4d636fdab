"""Writes `store_vN.db` and `store_vN.json`: a store as this version of rwml makes it.

Run it once per store version, before the version is released, and never change what it wrote:
the tests hold that every later version still opens these files.

    python -m tests.sdk.golden.make_golden
"""

import json
from datetime import UTC, datetime
from pathlib import Path

from rwml import Message, Outcome, Step, ToolCall, Trajectory, open_store
from rwml.content import Part
from rwml.schema import Fingerprint, Provenance, Usage
from rwml.store.batches import Batch
from rwml.store.tables import STORE_VERSION
from rwml.testing import make_trajectory

FOLDER = Path(__file__).parent
TIME = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def samples() -> list[Trajectory]:
    """Trajectories that between them use every field of the schema."""
    raw = ToolCall(id="c2", name="pay", raw_arguments="{broken")
    action = Message(
        role="assistant",
        content="☃ é \x00 \U0001f600",
        reasoning="because",
        tool_calls=(ToolCall(id="c1", name="look", arguments={"a": [1, None, 2.5]}), raw),
    )
    seen = tuple(
        Message(role="tool", content=name, tool_call_id=name, name="look") for name in ("c2", "c1")
    )
    full = Step(
        index=0,
        attempt=1,
        action=action,
        observation=seen,
        kind="tool",
        status="error",
        started_at=TIME,
        latency_s=0.25,
        model="m",
        usage=Usage(prompt_tokens=3, completion_tokens=4),
        provenance=Provenance(run_id="r", parent_run_id="p", node="n", thread_id="7"),
        token_ids=(1, 2),
        logprobs=(-0.5, -1.0),
        metadata={"k": {"deep": True}},
    )
    picture = Part(type="image_url", media_type="image/png", sha256="0" * 64, size=12)
    hello = Message(role="user", content="hello[image_url]", parts=(picture,))
    pending = Step(index=1, action=Message(role="assistant", content="And now?"))
    everything = Trajectory(
        id="everything",
        source="golden",
        task_id="t/1",
        split="test",
        initial=(Message(role="system", content="rules"), hello),
        tools=make_trajectory(1).tools,
        steps=(full, pending),
        outcome=Outcome(status="truncated", success=False, reward=0.5, breakdown={"db": 1}),
        fingerprint=Fingerprint(package="rwml", version="0.1.0", seed=3),
        started_at=TIME,
        metadata={"thread_id": "7"},
    )
    return [everything, make_trajectory(1), Trajectory(id="empty", source="golden")]


def main() -> None:
    """Writes both files of today's version; refuses to change what is there."""
    path = FOLDER / f"store_v{STORE_VERSION}.db"
    if path.exists():
        raise SystemExit(f"{path} is there: a golden store is never changed")
    with open_store(f"sqlite:///{path}") as store:
        for trajectory in samples():
            store.add(trajectory)
        store.write_batch(Batch(names=[("everything", b"d" * 16, "<EMAIL_1>", b"c" * 8)]))
    path.with_name(f"{path.name}.lock").unlink()
    texts = [json.loads(t.model_dump_json()) for t in sorted(samples(), key=lambda t: t.id)]
    path.with_suffix(".json").write_text(json.dumps(texts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
