"""Runs every gate in full, prints what they measured, and writes ``build/gates.json``.

`python -m tests.gates [pytest arguments]`; ``RWML_SOAK_SECONDS`` shortens the hour of gate 8.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.gates.common import FIGURES, ROOT

from rwml.cli.output import say
from rwml.files import write_json


def main() -> int:
    """Returns pytest's exit code: 0 where every gate holds."""
    folder = FIGURES / "full"
    shutil.rmtree(folder, ignore_errors=True)
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", str(Path(__file__).parent), "-n", "0"),
            *("-o", "timeout=7200", *sys.argv[1:]),
        ],
        cwd=ROOT,
        env=os.environ | {"RWML_SOAK": "1"},
        check=False,
    )
    gates = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    for gate in gates:
        told = (f"{name}={value}" for name, value in gate.items() if name not in ("gate", "full"))
        say(f"{gate['gate']:32} {', '.join(told)}")
    write_json(ROOT / "build" / "gates.json", {"passed": ended.returncode == 0, "gates": gates})
    return ended.returncode


if __name__ == "__main__":
    sys.exit(main())
