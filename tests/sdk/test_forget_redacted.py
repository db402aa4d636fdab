"""Forgetting a person whose name was never stored: by the pseudonyms that stand for it."""

import pytest

from rwml import Recorder, open_store
from rwml.store import Subject


@pytest.mark.parametrize(
    "subject",
    [
        Subject(match="ann@example.com"),
        Subject(match="ANN@example.com"),
        Subject(thread="chat of ann@example.com"),
        Subject(trajectory="chat of ann@example.com: 1"),
    ],
)
def test_what_was_redacted_is_found_by_what_stands_for_it(url: str, subject: Subject) -> None:
    with Recorder(store=url) as recorder:
        for name in ("ann", "bob"):
            thread = f"chat of {name}@example.com"
            with recorder.trajectory(
                id=f"{thread}: 1", source="mine", metadata={"thread_id": thread}
            ) as t:
                t.act({"role": "assistant", "content": f"Is it {name}@example.com?"})
                t.observe({"role": "user", "content": "yes"})
        assert recorder.flush(30)
    with open_store(url) as store:
        assert "example.com" not in str(list(store.trajectories()))
        assert len(store.forget(subject).keys) == 1
        (left,) = store.trajectories()
        assert left.id.startswith("chat of <EMAIL>: 1")
        assert store.find(Subject(match="bob@example.com"))
        with store._reading() as connection:
            assert connection.exec_driver_sql("select count(*) from pseudonyms").scalar() == 1
