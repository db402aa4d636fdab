"""Which engine is started and how, without vLLM: a stand-in notes what it is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

pytest.importorskip("peft")
pytest.importorskip("httpx")
pytest.importorskip("litellm")
pytest.importorskip("prisma")

import httpx
from tests.trainer.served_stub import ask, text, until
from tests.trainer.test_serving_registry import version

from rwml.errors import ModelError, ServingError, UsageError
from rwml_trainer.serving import vllm_lora
from rwml_trainer.serving.engine import Engine, start_transformers
from rwml_trainer.serving.engine_choice import EngineOptions, choose_engine
from rwml_trainer.serving.external_engine import MISSED, find_external, list_models, watch
from rwml_trainer.serving.process import free_port
from rwml_trainer.serving.registry import Registry, Version
from rwml_trainer.serving.server import serve
from rwml_trainer.serving.versions import add_version
from rwml_trainer.serving.vllm_engine import MODULE, RUNTIME_LORA, SWITCHED_OFF, TOOL_PARSERS, Vllm
from rwml_trainer.serving.vllm_lora import VllmLora
from rwml_trainer.testing import make_tiny_run

STAND_IN = Path(__file__).with_name("vllm_stand_in.py")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment of its own, whose vLLM is a stand-in."""
    folder = tmp_path_factory.mktemp("vllm") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    *parents, module = MODULE.split(".")
    packages.joinpath(*parents).mkdir(parents=True)
    packages.joinpath(*parents, f"{module}.py").write_bytes(STAND_IN.read_bytes())
    return folder / "bin" / "python"


@pytest.fixture
def vllm(environment: Path) -> Vllm:
    return Vllm(python=environment, key="secret")


@pytest.fixture
def tiny(tiny_model: Path) -> Version:
    return version(3).model_copy(update={"folder": str(tiny_model)})


@contextmanager
def started(engine: Engine) -> Iterator[Engine]:
    try:
        engine.wait(time.monotonic() + 30)
        yield engine
    finally:
        engine.process.stop()


def test_vllm_is_told_what_to_serve_and_no_more_than_it_may_know(
    environment: Path, tiny: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SWITCHED_OFF:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "7")
    config, work = tmp_path / "more.yaml", tmp_path / "world@3"
    vllm = Vllm(python=environment, key="secret", dtype="float32", max_model_len=99, config=config)
    with started(vllm.start(tiny, work)) as engine:
        assert (engine.name, engine.model, engine.key) == ("vllm", "world@3", "secret")
        assert not engine.tools, "the template shows none"
    told = json.loads((work / "told.json").read_text())
    words = told["arguments"]
    assert words[:2] == ["--config", str(config)], "what comes later wins"
    assert (_after(words, "--model"), _after(words, "--served-model-name")) == (
        "engine-model",
        "world@3",
    )
    assert (work / "engine-model/config.json").is_file()
    assert (_after(words, "--host"), _after(words, "--dtype")) == ("127.0.0.1", "float32")
    assert _after(words, "--max-model-len") == "99"
    assert "--no-trust-remote-code" in words
    assert "--enable-auto-tool-choice" not in words
    assert not {str(tmp_path), "", str(work)} & set(told["path"])
    assert not any("secret" in word for word in words)
    given = told["environment"]
    assert given["VLLM_API_KEY"] == "secret"
    assert given["HF_HUB_OFFLINE"] == given["VLLM_NO_USAGE_STATS"] == "1"
    assert given["VLLM_CPU_KVCACHE_SPACE"] == "7"
    assert not (set(SWITCHED_OFF) - {"VLLM_API_KEY"}) & given.keys()


def _after(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


@pytest.mark.parametrize(("mark", "parser"), [known for known in TOOL_PARSERS if known[1]])
def test_the_parser_of_tool_calls_is_told_by_the_template(
    vllm: Vllm, tiny: Version, tmp_path: Path, mark: str, parser: str
) -> None:
    shows = with_template(tiny, tmp_path, f"{{{{ tools }}}}{{{{ '{mark}' }}}}")
    words = vllm.command("m", port=1, parser=vllm.parser_for(shows))
    assert words[-3:] == ["--enable-auto-tool-choice", "--tool-call-parser", parser]
    hides = tiny.model_copy(update={"folder": shows.folder, "tools": False})
    assert vllm.parser_for(hides) is None


@pytest.mark.parametrize("mark", ["", "<arg_key> <tool_call>"])
def test_a_template_that_leaves_the_parser_open_needs_a_word(
    environment: Path, vllm: Vllm, tiny: Version, tmp_path: Path, mark: str
) -> None:
    shows = with_template(tiny, tmp_path, f"{{{{ tools }}}} {mark}")
    with pytest.raises(UsageError, match=r"name it by --tool-parser, or --tool-parser none"):
        vllm.start(shows, tmp_path / "work")
    for parser, tools in (("pythonic", True), ("none", False)):
        told = Vllm(python=environment, key="k", tool_parser=parser)
        with started(told.start(shows, tmp_path / parser)) as engine:
            assert engine.tools is tools
        words = json.loads((tmp_path / parser / "told.json").read_text())["arguments"]
        assert ("pythonic" in words) is tools


@pytest.fixture(scope="module")
def versions(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Version]:
    """Two runs of one base model, merged and registered."""
    folder = tmp_path_factory.mktemp("runs")
    registry = Registry(folder / "serving")
    return [
        add_version(
            registry, make_tiny_run(folder / f"run{step}", tiny_model, seed=step), name=name
        )
        for step, name in enumerate(("world@1", "world@2"))
    ]


def test_runs_of_one_base_model_share_a_vllm(
    vllm: Vllm, versions: list[Version], tiny_model: Path, tmp_path: Path
) -> None:
    shared = VllmLora(vllm)
    first, second = (shared.start(each, tmp_path / each.id) for each in versions)
    with started(first), started(second):
        assert first.url == second.url
        assert first.process.pid == second.process.pid
        assert (tmp_path / "base-1/engine-model").resolve() == tiny_model.resolve()
        for engine, known in ((first, versions[0]), (second, versions[1])):
            loaded = Path(_said(engine))
            assert loaded == tmp_path / known.id / "adapter"
            own = Path(known.source) / "lora_adapter/adapter_model.safetensors"
            assert (loaded / own.name).read_bytes() == own.read_bytes()
        first.process.stop()
        first.process.stop()
        assert not second.process.has_ended, "the other one goes on"
        assert _said(second)
        with pytest.raises(ServingError, match="answers a chat completion with 404"):
            Engine.wait(first, time.monotonic() + 5)
    assert second.process.has_ended
    told = json.loads((tmp_path / "base-1/told.json").read_text())
    assert told["environment"][RUNTIME_LORA] == "1"
    assert _after(told["arguments"], "--max-lora-rank") == "8"
    with started(shared.start(versions[0], tmp_path / "again")) as third:
        assert third.url != first.url
        assert _said(third)


def _said(engine: Engine) -> str:
    answer = httpx.post(
        f"{engine.url}/chat/completions",
        headers={"Authorization": f"Bearer {engine.key}"},
        json={"model": engine.model, "messages": []},
        trust_env=False,
    )
    return answer.json()["choices"][0]["message"]["content"]


def test_a_shared_vllm_that_died_is_started_anew(
    vllm: Vllm, versions: list[Version], tmp_path: Path
) -> None:
    shared = VllmLora(vllm)
    first, second = (shared.start(each, tmp_path / each.id) for each in versions)
    with started(first), started(second):
        os.kill(first.process.pid, signal.SIGKILL)
        first.process.wait(20)
        assert first.process.has_ended
        assert second.process.has_ended
        for dead, known in ((first, versions[0]), (second, versions[1])):
            dead.process.stop()
            with started(shared.start(known, tmp_path / known.id)) as engine:
                assert _said(engine)


def test_a_shared_vllm_comes_back_and_is_promoted_behind_the_gateway(
    vllm: Vllm, versions: list[Version], tmp_path: Path
) -> None:
    runs = [Path(each.source) for each in versions]
    start = VllmLora(vllm).start
    with serve(
        runs[0], name="world@1", out=tmp_path, start_engine=start, engine_key=vllm.key
    ) as served:
        adapters = [str(tmp_path / "engines" / each.id / "adapter") for each in versions]
        assert text(ask(served)) == adapters[0]
        assert text(ask(served, n=2)) == adapters[0], "vLLM's table counts"
        crashed = served.processes[0]
        os.kill(crashed.pid, signal.SIGKILL)
        crashed.wait(20)

        def is_back() -> bool:
            served.attend()
            return ask(served).status_code == 200

        until(is_back)
        assert text(ask(served)) == adapters[0]
        registry = Registry(tmp_path)
        add_version(registry, runs[1], name="world@2")
        registry.order("promote", "world@2")
        process = served.processes[0]
        served.attend()
        assert text(ask(served)) == adapters[1]
        until(lambda: served.attend() or len(served.fleet.engines) == 1)
        assert served.processes[0].pid == process.pid
        assert not served.processes[0].has_ended
    assert process.has_ended


def test_an_adapter_that_changed_is_not_loaded(
    vllm: Vllm, versions: list[Version], tmp_path: Path
) -> None:
    weights = Path(versions[0].source) / "lora_adapter/adapter_model.safetensors"
    kept = weights.read_bytes()
    try:
        weights.write_bytes(kept[:-1])
        with pytest.raises(ModelError, match="is not the one that world@1 was made of"):
            VllmLora(vllm).start(versions[0], tmp_path)
    finally:
        weights.write_bytes(kept)


def test_an_adapter_that_was_copied_stays_when_the_run_changes(
    vllm: Vllm, versions: list[Version], tmp_path: Path
) -> None:
    weights = Path(versions[0].source) / "lora_adapter/adapter_model.safetensors"
    copy = tmp_path / "world@1" / "adapter" / weights.name
    kept = weights.read_bytes()
    with started(VllmLora(vllm).start(versions[0], tmp_path / "world@1")):
        assert copy.read_bytes() == kept
    try:
        weights.write_bytes(kept[:-1])
        with started(VllmLora(vllm).start(versions[0], tmp_path / "world@1")) as engine:
            assert _said(engine)
        copy.write_bytes(kept[:-1])
        with pytest.raises(ModelError, match="is not the one that world@1 was made of"):
            VllmLora(vllm).start(versions[0], tmp_path / "world@1")
    finally:
        weights.write_bytes(kept)
    with started(VllmLora(vllm).start(versions[0], tmp_path / "world@1")):
        assert copy.read_bytes() == kept
    assert [path.name for path in copy.parent.parent.glob(".adapter-*")] == []


def test_a_base_model_with_another_template_is_not_served(
    vllm: Vllm, versions: list[Version], tmp_path: Path
) -> None:
    other = versions[0].model_copy(update={"template_sha256": "0" * 64})
    with pytest.raises(ModelError, match=r"chat template in .* is not that of world@1"):
        VllmLora(vllm).start(other, tmp_path / "world@1")


def test_an_adapter_that_was_not_unloaded_is_loaded_over(
    vllm: Vllm, versions: list[Version], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = VllmLora(vllm)
    first, second = (shared.start(each, tmp_path / each.id) for each in versions)
    with started(first), started(second):
        with monkeypatch.context() as patched:
            patched.setattr(vllm_lora, "tell", mock.Mock(side_effect=ServingError("busy")))
            first.process.stop()
        assert _said(first), "it is still there"
        with started(shared.start(versions[0], tmp_path / "again")) as engine:
            assert _said(engine) == str(tmp_path / "again" / "adapter")


def test_what_is_no_lora_run_gets_a_vllm_of_its_own(
    vllm: Vllm, tiny: Version, tmp_path: Path
) -> None:
    with started(VllmLora(vllm).start(tiny, tmp_path)) as engine:
        assert engine.model == "world@3"
    assert RUNTIME_LORA not in json.loads((tmp_path / "told.json").read_text())["environment"]


def with_template(of: Version, folder: Path, template: str) -> Version:
    made = folder / "model"
    made.mkdir()
    for file in Path(of.folder).iterdir():
        if file.suffix == ".json":
            (made / file.name).write_bytes(file.read_bytes())
    (made / "chat_template.jinja").write_text(template)
    return of.model_copy(update={"folder": str(made), "tools": True})


def test_auto_is_vllm_where_there_is_one(environment: Path) -> None:
    assert choose_engine(EngineOptions()).start is start_transformers
    found = choose_engine(EngineOptions(vllm_python=environment))
    assert isinstance(getattr(found.start, "__self__", None), Vllm)
    shared = choose_engine(EngineOptions(vllm_python=environment, load_lora=True))
    assert isinstance(getattr(shared.start, "__self__", None), VllmLora)
    assert found.key is not None
    assert len(found.key) > 40
    assert found.key != choose_engine(EngineOptions(vllm_python=environment)).key
    passed_over = EngineOptions(engine="transformers", vllm_python=environment)
    assert choose_engine(passed_over).start is start_transformers


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"engine": "vllm"}, "--engine vllm needs --vllm-python PATH"),
        ({"vllm_python": sys.executable}, "has no vLLM"),
        ({"vllm_python": "/nowhere/python"}, "cannot be run"),
        ({"max_model_len": 5}, "--max-model-len is for vLLM"),
        ({"load_lora": True}, "--load-lora is for vLLM"),
        ({"engine_key_env": "KEY"}, "are for --engine-url"),
        ({"engine_url": "http://127.0.0.1:1/v1", "dtype": "float32"}, "--dtype is for vLLM"),
        ({"engine_url": "127.0.0.1:1/v1"}, "is no base URL"),
        ({"engine_url": "http://10.0.0.1:1/v1"}, "neither https nor on this machine"),
        ({"engine_url": "http://user:word@localhost/v1"}, "not in its URL"),
        (
            {"engine_url": "http://localhost:1/v1", "engine_key_env": "RWML_TEST_UNSET"},
            "RWML_TEST_UNSET is not set",
        ),
    ],
)
def test_options_that_make_no_engine_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        choose_engine(EngineOptions(**options))


def test_a_config_that_is_not_there_is_refused(environment: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no file"):
        choose_engine(EngineOptions(vllm_python=environment, vllm_config=tmp_path / "none.yaml"))


@contextmanager
def listing(status: int, body: Any) -> Iterator[str]:
    """A server that answers any GET so; its base URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("owner", "given", "kind"),
    [
        ("vllm", "auto", "vllm"),
        ("sglang", "auto", "transformers"),
        ("sglang", "vllm", "vllm"),
        ("vllm", "transformers", "transformers"),
    ],
)
def test_what_an_engine_elsewhere_is(owner: str, given: Any, kind: str) -> None:
    with listing(200, {"data": [{"id": "world@1", "owned_by": owner}]}) as url:
        found = find_external(f"{url}/", key=None, kind=given)
    assert (found.kind, found.url) == (kind, url)


@pytest.mark.parametrize(("parser", "tools"), [(None, True), ("none", False)])
def test_an_engine_elsewhere_may_read_no_tool_calls(parser: Any, tools: bool) -> None:
    with listing(200, {"data": [{"id": "world@1", "owned_by": "vllm"}]}) as url:
        choice = choose_engine(EngineOptions(engine_url=url, tool_parser=parser))
        start: Any = choice.start
        assert start.__self__.tools is tools
        with pytest.raises(UsageError, match="tool-parser is for vLLM that is started here"):
            choose_engine(EngineOptions(engine_url=url, tool_parser="hermes"))


def test_an_engine_elsewhere_that_says_no_is_told(tmp_path: Path) -> None:
    with (
        listing(401, {}) as url,
        pytest.raises(ServingError, match=r"answers 401 .*is its key right"),
    ):
        list_models(url, "k")
    with listing(200, ["x"]) as url, pytest.raises(ServingError, match="there is no engine at"):
        list_models(url, None)
    with pytest.raises(ServingError, match="start it, or correct --engine-url"):
        choose_engine(EngineOptions(engine_url=f"http://127.0.0.1:{free_port()}/v1"))


def test_the_watch_ends_when_the_engine_is_away(capfd: pytest.CaptureFixture[str]) -> None:
    asked = 0
    with listing(500, {}) as url:

        def pause(seconds: float) -> None:
            nonlocal asked
            asked += 1
            if asked == 4:
                raise KeyboardInterrupt  # it would go on: any answer will do

        with pytest.raises(KeyboardInterrupt):
            watch(url, None, pause=pause)
    assert capfd.readouterr().out == ""
    with listing(502, {}) as url:
        watch(url, None, pause=lambda seconds: None)
    assert capfd.readouterr().out.count("status 502") == MISSED
    watch(url, None, pause=lambda seconds: None)
    assert capfd.readouterr().out.count("no answer from") == MISSED
