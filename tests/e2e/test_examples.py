"""Every example runs as it stands, and says something."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted(Path(__file__).resolve().parents[2].glob("examples/*/run.py"))


def test_there_are_examples() -> None:
    found = {path.parent.name for path in EXAMPLES}
    assert found == {
        "custom_environment",
        "flywheel",
        "instrument_langgraph",
        "record_with_litellm_proxy",
    }


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.parent.name)
def test_example_runs(script: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    environment.pop("PYTEST_CURRENT_TEST", None)
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert (script.parent / "README.md").exists()
