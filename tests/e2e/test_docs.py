"""The commands of the pages in docs/ run as they stand, one page after the other in a folder.

So do those of ```bash blocks. Those of ```console blocks need what a test does not have, or take
long and run elsewhere: that their options exist is all that is looked at.
"""

import gzip
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.adapters.alfworld_games import require_games
from typer.testing import CliRunner

from rwml import open_store
from rwml.cli.app import build_app
from rwml.prompts import format_label
from rwml.testing import OpenAIServer, make_trajectory

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
NEED_GAMES = ("alfworld",)
ENDPOINT = re.compile(r"http://127\.0\.0\.1:\d+/v1")
"""Where the pages have models and encoders; a scripted server stands in for them."""
NEED_RUNS = ("serving",)
STARTS_SERVER = re.compile(r"rwml serve runs/(?!.*--print-litellm-config)")
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


def commands(page: Path, kind: str = "bash") -> list[str]:
    blocks = re.findall(rf"```{kind}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("rwml ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
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
    if page.stem in NEED_RUNS:
        make_runs(tmp_path, request.getfixturevalue("tiny_model"))
    with ExitStack() as stack:
        asked = stack.enter_context(
            OpenAIServer(answer=lambda body: format_label("Error: not found"))
        )
        for command in commands(page):
            words = shlex.split(ENDPOINT.sub(asked.url, command))
            words = [sys.executable, "-m", "rwml", *words[1:]]
            if STARTS_SERVER.match(command):
                stack.enter_context(running_server(words))
                continue
            done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


CONSOLE = [
    command for page in [ROOT / "README.md", *PAGES] for command in commands(page, "console")
]


@pytest.mark.parametrize("command", CONSOLE)
def test_options_of_a_command_that_is_not_run_exist(command: str) -> None:
    words = shlex.split(command)[1:]
    # The parser refuses an option that it does not know before it gets to the help.
    result = CliRunner().invoke(build_app(), [*words, "--help"])
    assert result.exit_code == 0, result.output
    assert "Example: rwml" in result.stdout


def make_runs(folder: Path, base: Path) -> None:
    from rwml_trainer.testing import make_tiny_run

    for seed, name in enumerate(("first", "second")):
        make_tiny_run(folder / "runs" / name, base, name=name, seed=seed)


@contextmanager
def running_server(words: list[str]) -> Iterator[None]:
    """A server on a free port, until the page ends; it must end well."""
    if "--port" in words:
        words[words.index("--port") + 1] = "0"
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert " at http://127.0.0.1:" in process.stdout.readline()
            yield
        finally:
            process.terminate()
            _, told = process.communicate(timeout=60)
    assert process.returncode == 0, told


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
