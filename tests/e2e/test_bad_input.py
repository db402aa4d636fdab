"""Bad input is one line that says what to do, with the right exit code, from the real program."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rwml import open_store
from rwml.testing import make_trajectory
from rwml_trainer.testing import make_tiny_model


def rwml(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NO_COLOR": "1"}
    environment.pop("RWML_STORE", None)
    return subprocess.run(
        [sys.executable, "-m", "rwml", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=cwd,
        env=environment,
    )


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"sqlite:///{tmp_path_factory.mktemp('shop') / 'rwml.db'}"
    with open_store(url) as store:
        for task in range(4):
            store.add(make_trajectory(task))
    return url


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("doctor --store sqlite:///no.db", "no store at no.db: record something first"),
        ("build --store sqlite:///no.db --out data", "no store at no.db: record something first"),
        ("build --store nonsense --out data", "is no store URL"),
        ("build --store sqlite:///no.db --out data --recipe none", "no recipe 'none'"),
        ("train data --out run", "data is no whole dataset (it has no manifest.json)"),
        ("train data --out run --recipe broken.toml", "did you mean 'steps'"),
        ("eval world data", "data is no whole dataset"),
        ("eval world data --predictors trained", "warm_start and trained need --run"),
        ("eval world data --predictors best", "unknown predictor 'best'"),
        ("merge run --out merged", "run is no finished run"),
        ("serve run", "run is neither"),
        ("eval nowhere:environment", "no module 'nowhere'"),
        ("compare base trained", "no report at base"),
        ("record tau2 --store sqlite:///no.db --domain hotel", "hotel"),
    ],
)
def test_one_line_and_exit_code_2(tmp_path: Path, arguments: str, words: str) -> None:
    (tmp_path / "broken.toml").write_text("model = 'm'\n[grpo]\nstep = 3\n")
    (tmp_path / "run").mkdir()
    done = rwml(*arguments.split(), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert words in lines[0].replace(f"{tmp_path}/", "")


def test_an_empty_store_is_found_wanting(tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path / 'empty.db'}"):
        pass
    done = rwml("doctor", "--store", "sqlite:///empty.db", "--json", cwd=tmp_path)
    assert done.returncode == 1
    assert '"ok": false' in done.stdout
    built = rwml("build", "--store", "sqlite:///empty.db", "--out", "data", cwd=tmp_path)
    assert built.returncode == 2
    assert "holds no transition" in built.stderr
    assert not (tmp_path / "data" / "manifest.json").exists()


def test_a_model_without_chat_template(tmp_path: Path, shop: str) -> None:
    model = make_tiny_model(tmp_path / "mute", chat_template=False)
    done = rwml("build", "--store", shop, "--out", "data", "--model", model, cwd=tmp_path)
    assert done.returncode == 2
    assert "has no chat template" in done.stderr
    assert not (tmp_path / "data").exists()
