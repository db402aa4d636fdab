"""docs/testing.md runs as it stands, and names what the package has."""

import re
from pathlib import Path

import pytest

import rwml.testing

PAGE = Path(__file__).parents[3] / "docs" / "testing.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_block_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "langgraph" in block:
        pytest.importorskip("langgraph")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, str(PAGE), "exec"), {"__name__": "page"})
    assert list(tmp_path.iterdir()) == []


def test_every_name_is_explained() -> None:
    text = PAGE.read_text(encoding="utf-8")
    unsaid = [name for name in rwml.testing.__all__ if not re.search(rf"\b{name}\b", text)]
    assert unsaid == ["MemoryStore"]  # the type of what memory_store() returns
