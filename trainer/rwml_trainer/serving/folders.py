"""Model folders of unknown origin: what could run code or reach outside is refused before a load.

transformers is told not to trust remote code and to read safetensors only; this looks first, so
that nothing depends on every library between here and the weights being told. It opens JSON and
template files only, and no file that lies elsewhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from rwml.errors import ModelError

SUFFIXES = frozenset({".safetensors", ".json", ".jinja", ".txt", ".model", ".md", ".toml"})
"""Of files that a model folder needs, none of which can hold code: weights, configuration,
vocabularies, templates, notes."""
PLAIN_NAMES = frozenset({"LICENSE", "NOTICE", "README", ".gitattributes", ".gitignore"})
OWN_FOLDERS = frozenset({"serving", ".cache"})
"""Of `rwml serve` and the hub's downloads: no engine reads them."""
CODE_FIELDS = frozenset({"auto_map", "custom_pipelines", "trust_remote_code", "custom_generate"})
"""Configuration that names Python files to be loaded."""
ADAPTER_CONFIG = "adapter_config.json"
TEMPLATE_FIELD = "chat_template"
GENERATION = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")
JSON_LIMIT = 64 * 2**20
"""Of a JSON file (ours): the largest tokenizers have 35 MB."""


def check_model_folder(folder: Path) -> None:
    """Refuses a model folder that is more than weights, configuration and a tokenizer.

    Raises:
        ModelError: it holds code, pickled weights, a link that leads out, configuration that names
            code, an index of files elsewhere, or a chat template that reaches into Python.
    """
    root = folder.resolve()
    for path in _files(root, root):
        place = path.relative_to(root).as_posix()
        if path.suffix not in SUFFIXES and path.name not in PLAIN_NAMES:
            raise ModelError(
                f"{folder} holds {place!r}: only safetensors, JSON, templates and vocabularies are "
                f"loaded; copy the model without it"
            )
        if path.suffix == ".json":
            _check_json(folder, place, path)
        elif path.suffix == ".jinja":
            _check_template(folder, place, path.read_text(encoding="utf-8", errors="replace"))
    if (root / ADAPTER_CONFIG).exists() and (root / "config.json").exists():
        raise ModelError(
            f"{folder} is a model and a LoRA adapter at once: the adapter would choose another "
            f"model; remove {ADAPTER_CONFIG}, or merge it"
        )


def _files(folder: Path, root: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            raise ModelError(
                f"{path} is a link that leads out of the model's folder: copy the file itself"
            )
        if path.is_dir():
            if not (folder == root and path.name in OWN_FOLDERS):
                yield from _files(path, root)
        elif path.is_file():
            yield path
        else:
            raise ModelError(f"{path} is neither a file nor a folder: copy the model without it")


def _check_json(folder: Path, place: str, path: Path) -> None:
    if path.stat().st_size > JSON_LIMIT:
        raise ModelError(f"{folder}: {place!r} is larger than {JSON_LIMIT} bytes")
    try:
        content: JsonValue = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{folder}: {place!r} is not valid JSON") from error
    for name, value in _fields(content):
        if name in CODE_FIELDS and value:
            raise ModelError(f"{folder}: {place!r} names code to load ({name!r}): it is not served")
        if name == TEMPLATE_FIELD:
            for text in _texts(value):
                _check_template(folder, place, text)
        if name == "weight_map" and isinstance(value, dict):
            for file in value.values():
                if not isinstance(file, str) or Path(file).name != file:
                    raise ModelError(f"{folder}: {place!r} names weights elsewhere ({file!r})")


def _fields(content: JsonValue) -> Iterator[tuple[str, JsonValue]]:
    """Every field at every depth, without recursion."""
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value.items()
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _texts(value: JsonValue) -> Iterator[str]:
    """A template, or all of a list of named ones."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for _, inner in _fields(value):
            if isinstance(inner, str):
                yield inner


def _check_template(folder: Path, place: str, text: str) -> None:
    """Refuses what a chat template does not need: attributes that lead into Python, other files.

    transformers renders in Jinja's sandbox, which stops the same at run time.
    """
    from jinja2 import Environment, TemplateError, nodes

    environment = Environment(  # noqa: S701 - it is parsed here, and never rendered
        extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do"]
    )
    try:
        tree = environment.parse(_without_generation_blocks(text))
    except (TemplateError, RecursionError) as error:
        raise ModelError(f"{folder}: the chat template in {place!r} is broken: {error}") from error
    for node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
        raise ModelError(
            f"{folder}: the chat template in {place!r} loads another file (line {node.lineno})"
        )
    for node in tree.find_all((nodes.Getattr, nodes.Getitem, nodes.Filter)):
        name = _accessed(node)
        if isinstance(name, str) and (name.startswith("_") or name == "attr"):
            raise ModelError(
                f"{folder}: the chat template in {place!r} reaches into Python ({name!r}, line "
                f"{node.lineno}): it is not served"
            )


def _accessed(node: Any) -> object:
    """The name of an attribute, a constant key or a filter."""
    from jinja2 import nodes

    if isinstance(node, nodes.Getattr):
        return node.attr
    if isinstance(node, nodes.Filter):
        return node.name
    return node.arg.value if isinstance(node.arg, nodes.Const) else None


def _without_generation_blocks(text: str) -> str:
    """The template without a tag of transformers, which says where the assistant speaks."""
    return GENERATION.sub("", text)
