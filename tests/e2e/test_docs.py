"""The commands of the pages in docs/ run as they stand, one page after the other in a folder."""

import gzip
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.adapters.alfworld_games import require_games

from rwml import open_store
from rwml.prompts import format_label
from rwml.testing import OpenAIServer, make_trajectory

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
NEED_GAMES = ("alfworld",)
ENDPOINT = re.compile(r"http://127\.0\.0\.1:\d+/v1")
"""Where the pages have models and encoders; a scripted server stands in for them."""
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("rwml ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("RWML_"):
            monkeypatch.delenv(name)
    with open_store("sqlite:///rwml.db") as store:
        for task in range(12):
            store.add(make_trajectory(task))
    if page.stem in NEED_GAMES:
        monkeypatch.setenv("ALFWORLD_DATA", str(require_games("valid_train")[0].file.parents[3]))
    for module in (ROOT / "examples/custom_environment").glob("shop*.py"):
        (tmp_path / module.name).write_bytes(module.read_bytes())
    log = ROOT / "tests/data/ingest/openinference.jsonl.gz"
    (tmp_path / "traces.jsonl").write_bytes(gzip.decompress(log.read_bytes()))
    with OpenAIServer(answer=lambda body: format_label("Error: not found")) as server:
        for command in commands(page):
            words = shlex.split(ENDPOINT.sub(server.url, command))
            done = subprocess.run(
                [sys.executable, "-m", "rwml", *words[1:]],
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
