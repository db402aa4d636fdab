"""Record an agent in an environment of one's own, evaluate two agents in it, and compare them.

A script stands where an LLM would be, so this runs in seconds and needs no key; the database, the
tools, the store and the commands are real.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def rwml(*arguments: str) -> None:
    """Runs a command as a person would, in the folder of the environment."""
    print("$ rwml", *arguments, flush=True)
    command = [sys.executable, "-m", "rwml", *arguments]
    subprocess.run(command, check=True, cwd=HERE)  # noqa: S603 - our own arguments


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        store, base, trained = f"sqlite:///{folder}/rwml.db", f"{folder}/base", f"{folder}/trained"
        rwml("record", "shop:shop", "--store", store)
        rwml("stats", "--store", store)
        test = ("eval", "shop:shop", "--split", "test", "--trials", "4")
        rwml(*test, "--error-rate", "0.8", "--out", base)
        rwml(*test, "--error-rate", "0", "--out", trained)
        rwml("compare", base, trained)


if __name__ == "__main__":
    main()
