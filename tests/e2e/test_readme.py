"""The README's commands and snippet run as they stand, with the tiny model's recipe."""

import json
import re
import runpy
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line for language, block in BLOCKS if language == "bash" for line in block.splitlines() if line
]
SNIPPETS = [block for language, block in BLOCKS if language == "python"]


def arguments(command: str, recipe: Path) -> list[str]:
    words = shlex.split(command.replace("--recipe demo", f"--recipe {recipe}"))
    assert words[0] == "rwml"
    return [sys.executable, "-m", "rwml", *words[1:]]


def test_there_are_two_set_up_commands() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [command.split()[1] for command in COMMANDS if command.startswith("make")]
    assert targets == ["demo", "test"]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_loop_command_by_command(
    tmp_path: Path, tiny_recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = [command for command in COMMANDS if command.startswith("rwml")]
    ran = []
    for command in commands:
        words = arguments(command, tiny_recipe_file)
        ran.append(words[3])
        if words[3] == "serve":
            serve_and_ask(words)
            continue
        done = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"
    looked = ["doctor", "stats", "show", "show", "export", "forget"]
    assert ran == ["record", *looked, "build", "train", "eval", "merge", "serve"]
    assert (tmp_path / "traffic.jsonl").stat().st_size > 1000
    assert (tmp_path / "runs/first/run.json").is_file()
    assert (tmp_path / "merged/model.safetensors").is_file()
    assert "verdict" in json.loads((tmp_path / "eval/report.json").read_text())
    assert "Worst of trained" in (tmp_path / "eval/predictions.html").read_text()
    assert "trained minus warm" in (tmp_path / "merged/README.md").read_text()


def serve_and_ask(words: list[str]) -> None:
    """Runs `rwml serve` as the README has it, on a free port, and asks it through LiteLLM."""
    import litellm

    port = words.index("--port")
    free = [*words[:port], "--port", "0", *words[port + 2 :], "--json"]
    with subprocess.Popen(free, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, "rwml serve ended before it was ready"
            ready = json.loads(line)
            answer = litellm.completion(
                model=f"openai/{ready['models'][0]}",
                api_base=ready["endpoint"],
                api_key=Path(ready["key_file"]).read_text().strip(),
                messages=[{"role": "user", "content": "hello"}],
                max_tokens=4,
            )
            assert answer.choices[0].message.content is not None  # type: ignore[union-attr]
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(60)
    assert code == 0


def test_the_snippet_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    example = runpy.run_path(str(ROOT / "examples/instrument_langgraph/run.py"))
    (snippet,) = SNIPPETS
    script = tmp_path / "snippet.py"
    script.write_text(snippet)
    runpy.run_path(str(script), init_globals={"build_my_graph": example["make_agent"]})
    from rwml import open_store

    with open_store("sqlite:///rwml.db", create=False) as store:
        assert store.counts().transitions >= 1
