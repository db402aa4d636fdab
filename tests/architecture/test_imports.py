"""The shape of the code: imports point inward, importing is light, modules stay small."""

import ast
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import rwml

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    file for folder in ("sdk", "adapters", "trainer") for file in (ROOT / folder).rglob("*.py")
)
BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
BLOCKED = set(sys.argv[1].split(","))
sys.meta_path.insert(0, Blocked())
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, cwd=ROOT
    )


def test_imports_point_inward() -> None:
    lint = Path(sys.executable).parent / "lint-imports"
    command = [str(lint), "--config", "pyproject.toml", "--no-cache"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_import_rwml_needs_no_framework() -> None:
    blocked = "torch,langgraph,langchain_core,litellm,trl,transformers,langchain,tau2,datasets"
    done = python(BLOCK + "import rwml, rwml.cli; print(len(rwml.__all__))", blocked)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(rwml.__all__)


def test_the_block_works() -> None:
    done = python(BLOCK + "import langchain_core", "langchain_core")
    assert "No module named 'langchain_core'" in done.stderr


def test_commands_load_without_their_frameworks() -> None:
    targets = [
        e.value for e in entry_points(group="rwml.commands") if e.dist and e.dist.name == "rwml"
    ]
    code = (
        "import importlib, sys\n"
        "for target in sys.argv[1:]:\n"
        "    module, _, name = target.partition(':')\n"
        "    before = set(sys.modules)\n"
        "    try:\n"
        "        getattr(importlib.import_module(module), name)\n"
        "    except Exception as error:\n"
        "        print(target, 'does not load:', error)\n"
        "    new = {m.partition('.')[0] for m in set(sys.modules) - before}\n"
        "    heavy = new & {'torch', 'litellm', 'langgraph', 'tau2', 'trl', 'transformers'}\n"
        "    if heavy:\n"
        "        print(target, 'imports', *sorted(heavy))\n"
    )
    assert targets
    done = python(code, *targets)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_public_names_are_sorted_and_there() -> None:
    assert list(rwml.__all__) == sorted(rwml.__all__)
    for name in rwml.__all__:
        assert getattr(rwml, name) is not None


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_modules_are_small_and_say_what_they_are_for(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 400
    assert ast.get_docstring(ast.parse(text)), "no module docstring"


def test_packages_are_typed() -> None:
    for package in ("sdk/rwml", "adapters/rwml_adapters", "trainer/rwml_trainer"):
        assert (ROOT / package / "py.typed").exists(), package
