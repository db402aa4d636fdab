"""Hostile model folders are refused before anything in them is loaded."""

from __future__ import annotations

import json
import pickle
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("jinja2")

from rwml.errors import ModelError
from rwml_trainer.serving.folders import check_model_folder
from rwml_trainer.serving.registry import Registry, check_unchanged
from rwml_trainer.serving.versions import add_version
from rwml_trainer.testing import make_tiny_model, make_tiny_run


class Payload:
    """Makes the canary when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.touch, (self.canary,)


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def change_json(path: Path, **fields: Any) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **fields}))


def pickled(folder: Path, canary: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(canary)))


def pickled_deeper(folder: Path, canary: Path) -> None:
    (folder / "more").mkdir()
    (folder / "more" / "weights.pt").write_bytes(pickle.dumps(Payload(canary)))


def python_file(folder: Path, canary: Path) -> None:
    (folder / "modeling.py").write_text(f"open({str(canary)!r}, 'w')")


def auto_map(folder: Path, canary: Path) -> None:
    change_json(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling.Model"})


def auto_map_of_the_tokenizer(folder: Path, canary: Path) -> None:
    change_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["x.T", None]})


def auto_map_deeper(folder: Path, canary: Path) -> None:
    change_json(folder / "config.json", text_config={"auto_map": {"AutoConfig": "x.C"}})


def link_out(folder: Path, canary: Path) -> None:
    (folder / "vocab.txt").symlink_to("/etc/passwd")


def link_to_a_folder_outside(folder: Path, canary: Path) -> None:
    (folder / "more").symlink_to(canary.parent, target_is_directory=True)


def link_up(folder: Path, canary: Path) -> None:
    (folder / "config2.json").symlink_to("../../config.json")


def index_of_weights_elsewhere(folder: Path, canary: Path) -> None:
    change_json(folder / "model.safetensors.index.json", weight_map={"a": "../other.safetensors"})


def adapter_of_another_model(folder: Path, canary: Path) -> None:
    change_json(folder / "adapter_config.json", base_model_name_or_path="/tmp/other")


def broken_json(folder: Path, canary: Path) -> None:
    (folder / "extra.json").write_text("[" * 100_000)


def a_socket(folder: Path, canary: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(folder / "s"))


def template(text: str) -> Callable[[Path, Path], None]:
    def write(folder: Path, canary: Path) -> None:
        (folder / "chat_template.jinja").write_text(text.replace("CANARY", str(canary)))

    return write


def template_in_config(folder: Path, canary: Path) -> None:
    named = [{"name": "default", "template": "{{ ''.__class__ }}"}]
    change_json(folder / "tokenizer_config.json", chat_template=named)


HOSTILE = {
    made.__name__: made
    for made in (
        *(pickled, pickled_deeper, python_file, auto_map, auto_map_of_the_tokenizer),
        *(auto_map_deeper, link_out, link_to_a_folder_outside, link_up, broken_json, a_socket),
        *(index_of_weights_elsewhere, adapter_of_another_model, template_in_config),
    )
} | {
    "template: class": template("{{ messages.__class__.__mro__ }}"),
    "template: item": template("{{ messages['__class__'] }}"),
    "template: globals": template(
        "{{ cycler.__init__.__globals__.os.popen('touch CANARY').read() }}"
    ),
    "template: attr": template("{{ messages|attr('__class__') }}"),
    "template: include": template("{% include 'CANARY' %}"),
    "template: import": template("{% import 'x' as y %}"),
    "template: broken": template("{% for %}"),
}


@pytest.mark.parametrize("spoil", HOSTILE.values(), ids=HOSTILE)
def test_hostile_folders_are_refused_before_load(
    spoil: Callable[[Path, Path], None],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    canary = outside / "canary"
    monkeypatch.chdir(tmp_path)
    if spoil is a_socket:
        monkeypatch.chdir(model)  # a socket's path is short
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("s")
    else:
        spoil(model, canary)
    registry = Registry(tmp_path / "serving")
    with pytest.raises(ModelError):
        add_version(registry, model)
    assert not canary.exists()
    assert not registry.path.exists()


def test_a_plain_folder_passes(model: Path) -> None:
    (model / "README.md").write_text("notes")
    (model / "link.json").symlink_to("config.json")
    (model / "serving").mkdir()
    (model / "serving" / "gateway.log").touch()
    check_model_folder(model)


@pytest.mark.parametrize(
    "text",
    [
        "{% generation %}{{ messages[-1]['content'] }}{% endgeneration %}",
        "{%- for m in messages %}{% if m.role == 'user' %}{{ m.content | trim }}{% break %}"
        "{% endif %}{% endfor %}{{ raise_exception('no') if not messages }}",
        "{% set ns = namespace(found=false) %}{{ tools | tojson(indent=4) }}",
    ],
)
def test_templates_as_models_have_them_pass(text: str, model: Path) -> None:
    (model / "chat_template.jinja").write_text(text)
    check_model_folder(model)


def test_an_unsafe_base_of_a_run_is_not_merged(model: Path, tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path / "run", model)
    python_file(model, tmp_path / "canary")
    with pytest.raises(ModelError, match=r"modeling\.py"):
        add_version(Registry(tmp_path / "serving"), run)
    assert not (tmp_path / "serving" / "versions").exists()


def test_versions_never_change(model: Path, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "serving")
    first = add_version(registry, model, name="world@1")
    assert add_version(registry, model, name="world@1") == first
    check_unchanged(first)
    other = make_tiny_model(tmp_path / "other", seed=5)
    with pytest.raises(ModelError, match="another model already"):
        add_version(registry, other, name="world@1")
    shutil.copy(other / "model.safetensors", model)
    with pytest.raises(ModelError, match="not those that were added"):
        check_unchanged(first)


def test_a_run_is_called_by_its_steps(model: Path, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "serving")
    run = make_tiny_run(tmp_path / "run", model, name="world")
    added = add_version(registry, run)
    assert (added.id, added.stage, added.tools) == ("world@3", "trained", False)
    assert Path(added.folder).parent == registry.folder / "versions"
    assert add_version(registry, run, stage="warm_start").id == "world@0"
    assert registry.read().versions.keys() == {"world@3", "world@0"}
