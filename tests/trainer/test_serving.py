"""Serving for real: the tiny model in `transformers serve`, behind LiteLLM, behind the guard."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("peft")
pytest.importorskip("litellm")
pytest.importorskip("fastapi")
pytest.importorskip("prisma")

import httpx
from tests.trainer.client_matrix import CLIENTS, ask_by

from rwml.errors import ModelError, ServingError, UsageError
from rwml_trainer import merging
from rwml_trainer.models import load_model, load_tokenizer
from rwml_trainer.serving.server import Served, serve
from rwml_trainer.testing import make_tiny_model, make_tiny_run

NAME = "world@3"
MESSAGES = [{"role": "user", "content": "the quick brown fox"}]


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a random LoRA adapter."""
    return make_tiny_run(tmp_path_factory.mktemp("serving") / "run", tiny_model, name=NAME, seed=9)


@pytest.fixture(scope="module")
def served(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One engine, one gateway, for all tests that only ask."""
    handler = signal.getsignal(signal.SIGTERM)
    with serve(run, out=tmp_path_factory.mktemp("se@rving")) as served:
        yield served
        processes = served.processes
    for process in processes:
        assert not Path(f"/proc/{process.pid}").exists()
    assert not served.key_file.exists()
    assert signal.getsignal(signal.SIGTERM) == handler


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=_root(served), trust_env=False, timeout=60) as client:
        yield client


def _root(served: Served) -> str:
    return served.endpoint.removesuffix("/v1")


def _bearer(served: Served) -> dict[str, str]:
    return {"Authorization": f"Bearer {served.key}"}


def _chat(**extra: object) -> dict[str, object]:
    return {"model": NAME, "messages": MESSAGES, "max_tokens": 4, **extra}


def _ask(served: Served, **extra: object) -> Any:
    import litellm

    return litellm.completion(
        model=f"openai/{NAME}",
        api_base=served.endpoint,
        api_key=served.key,
        messages=MESSAGES,
        max_tokens=8,
        temperature=0,
        **extra,
    )


def test_completion_is_that_of_the_merged_model(served, run, tmp_path):
    import torch

    answer = _ask(served)
    assert answer.usage.completion_tokens <= 8
    folder = merging.merge(run, tmp_path / "model")
    tokenizer = load_tokenizer(str(folder))
    ids: Any = tokenizer.apply_chat_template(
        MESSAGES, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.inference_mode():
        expected = load_model(str(folder)).generate(**ids, max_new_tokens=8, do_sample=False)
    text = tokenizer.decode(expected[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer.choices[0].message.content == text


def test_stream_has_the_same_text_in_pieces(served):
    whole = _ask(served).choices[0].message.content
    pieces = [chunk.choices[0].delta.content for chunk in _ask(served, stream=True)]
    texts = [piece for piece in pieces if piece]
    assert len(texts) > 1
    # a random model ends in the middle of a character: whole, that is a replacement character
    assert "".join(texts) == whole.rstrip("\ufffd")


@pytest.mark.parametrize("client", CLIENTS)
def test_every_client_gets_the_same_text(served, client):
    whole, pieces = ask_by(client, served, MESSAGES, max_tokens=8, temperature=0)
    assert whole == _ask(served).choices[0].message.content
    assert pieces.rstrip("\ufffd") == whole.rstrip("\ufffd")


def test_models_are_listed_under_their_name(served, client):
    for path in ("/v1/models", "/models"):
        answer = client.get(path, headers=_bearer(served))
        assert [model["id"] for model in answer.json()["data"]] == ["world", NAME]
    assert served.models == ("world", NAME)
    assert served.engine == "transformers"


def test_unknown_model_is_an_error(served, client):
    body = _chat(model="gpt-4")
    answer = client.post("/v1/chat/completions", headers=_bearer(served), json=body)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    "authorization", [None, "Bearer sk-wrong", "Bearer", "Basic x", "nonsense"]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/chat/completions"), ("POST", "/chat/completions"), ("GET", "/v1/models")],
)
def test_no_answer_without_the_key(client, method, path, authorization):
    headers = {"Authorization": authorization} if authorization else {}
    answer = client.request(method, path, headers=headers, json=_chat())
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", "/"), ("GET", "/ui/"), ("GET", "/fallback/login"), ("POST", "/key/generate")),
        *(("GET", "/openapi.json"), ("GET", "/public/providers"), ("GET", "/health/readiness")),
        *(("POST", "/v1/completions"), ("POST", "/v1/responses"), ("GET", "/config/yaml")),
    ],
)
def test_other_routes_do_not_exist_with_or_without_the_key(served, client, method, path):
    for headers in ({}, _bearer(served)):
        assert client.request(method, path, headers=headers).status_code == 404


def test_liveliness_is_open(client):
    assert client.get("/health/liveliness").status_code == 200


def test_foreign_host_is_refused(served, client):
    headers = {**_bearer(served), "Host": "attacker.example"}
    assert client.get("/v1/models", headers=headers).status_code == 400


def test_body_over_the_limit_is_refused(served, client):
    over = json.dumps(_chat(user="x" * 8 * 2**20)).encode()

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(over), 2**16):
            yield over[start : start + 2**16]

    for content in (over, chunks()):
        answer = client.post("/v1/chat/completions", headers=_bearer(served), content=content)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "request_too_large"
    assert _ask(served).choices


def test_large_body_within_the_limit_passes(served, client):
    body = _chat(user="x" * 2**20)
    answer = client.post("/v1/chat/completions", headers=_bearer(served), json=body)
    assert answer.status_code == 200


@pytest.mark.parametrize("field", ["api_base", "base_url", "api_key", "callbacks", "fallbacks"])
def test_a_body_does_not_choose_the_engine(served, client, field):
    with socket.socket() as elsewhere:
        elsewhere.bind(("127.0.0.1", 0))
        elsewhere.listen()
        elsewhere.settimeout(0.2)
        url = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/v1"
        body = _chat(**{field: url})
        answer = client.post("/v1/chat/completions", headers=_bearer(served), json=body)
        assert answer.status_code == 400
        with pytest.raises(TimeoutError):
            elsewhere.accept()


def test_answers_do_not_name_the_engine(served, client):
    answer = client.post("/v1/chat/completions", headers=_bearer(served), json=_chat())
    assert answer.status_code == 200
    port = (served.key_file.parent / "config.yaml").read_text().partition("127.0.0.1:")[2][:5]
    assert port.isdigit()
    assert not any(port in value for value in answer.headers.values())
    assert port not in answer.text


def test_key_is_in_its_file_only(served):
    folder = served.key_file.parent
    assert served.key_file.stat().st_mode & 0o777 == 0o600
    assert served.key_file.read_text() == served.key
    assert len(served.key) > 40
    assert served.key not in repr(served)
    for path in folder.iterdir():
        if path.is_file() and path != served.key_file:
            assert served.key not in path.read_text(errors="replace"), path
            assert path.stat().st_mode & 0o077 == 0, path
    for process in served.processes:
        assert served.key not in Path(f"/proc/{process.pid}/cmdline").read_text()


def test_gateway_gets_no_foreign_environment(served):
    gateway = served.processes[1]
    environment = Path(f"/proc/{gateway.pid}/environ").read_text().split("\0")
    names = {entry.partition("=")[0] for entry in environment}
    assert "LITELLM_LOCAL_MODEL_COST_MAP" in names
    assert not names & {"DATABASE_URL", "OPENAI_API_KEY", "HTTP_PROXY", "PYTEST_CURRENT_TEST"}


def test_folder_in_use_is_refused(served, run):
    with (
        pytest.raises(UsageError, match="in use by another"),
        serve(run, out=served.key_file.parent),
    ):
        pass


def test_port_in_use_is_refused_before_anything_starts(run, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(UsageError, match=rf"port {port} .* choose another --port"),
            serve(run, port=port, out=tmp_path / "out"),
        ):
            pass
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "example.org"])
def test_other_hosts_are_refused(run, tmp_path, host):
    with pytest.raises(UsageError, match="not loopback"), serve(run, host=host, out=tmp_path):
        pass


@pytest.mark.parametrize("name", ["os.environ/HOME", "*", "a b", "", "a@b", "../a"])
def test_names_that_litellm_reads_as_something_else_are_refused(run, tmp_path, name):
    with pytest.raises(UsageError, match="--name"), serve(run, name=name, out=tmp_path):
        pass


def test_folders_that_cannot_be_served_are_refused(tmp_path, run):
    with pytest.raises(ModelError, match="neither a finished run"), serve(tmp_path / "missing"):
        pass
    assert not (tmp_path / "missing").exists()
    mute = make_tiny_model(tmp_path / "mute", chat_template=False)
    with pytest.raises(ModelError, match="no chat template"), serve(mute):
        pass
    cold = Path(shutil.copytree(run, tmp_path / "cold"))
    manifest = cold / "run.json"
    manifest.write_text(manifest.read_text().replace('"warm_start": true', '"warm_start": false'))
    with pytest.raises(ModelError, match="without a warm start"), serve(cold, stage="warm_start"):
        pass


def test_engine_that_cannot_load_is_told_with_its_log(tiny_model, tmp_path):
    broken = Path(shutil.copytree(tiny_model, tmp_path / "broken"))
    (broken / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ServingError, match=r"the engine died .*engine\.log"), serve(broken):
        pass
    assert not (broken / "serving" / "key").exists()


def _until(condition: Callable[[], bool], timeout_s: float = 30.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return met


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def command(tiny_model: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`rwml serve` on a plain model folder."""
    arguments = ["serve", str(tiny_model), "--name", "tiny", "--out", str(tmp_path), "--json"]
    with subprocess.Popen(
        [sys.executable, "-m", "rwml", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


def test_command_serves_until_sigterm(command, tmp_path):
    ready = json.loads(command.stdout.readline())
    assert ready == {
        "endpoint": ready["endpoint"],
        "key_file": str(tmp_path / "key"),
        "models": ["tiny", "tiny@0"],
        "engine": "transformers",
    }
    servers = _children(command.pid)
    assert len(servers) == 2
    answer = httpx.post(
        f"{ready['endpoint']}/chat/completions",
        headers={"Authorization": f"Bearer {Path(ready['key_file']).read_text()}"},
        json={"model": "tiny", "messages": MESSAGES, "max_tokens": 2},
        trust_env=False,
        timeout=60,
    )
    assert answer.status_code == 200
    command.send_signal(signal.SIGTERM)
    assert command.wait(60) == 0
    assert command.stdout.read() == ""
    assert _until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in servers))
    assert not (tmp_path / "key").exists()


def test_command_says_so_when_the_gateway_dies(command):
    json.loads(command.stdout.readline())
    engine, gateway = sorted(_children(command.pid))
    os.kill(gateway, signal.SIGKILL)
    assert command.wait(60) == 3
    assert "rwml: the gateway died (signal 9)" in command.stderr.read()
    assert _until(lambda: not Path(f"/proc/{engine}").exists())


def test_a_crashed_engine_is_brought_back(served, client):
    engine = served.processes[0]
    os.kill(engine.pid, signal.SIGKILL)
    engine.wait(20)
    answer = client.post("/v1/chat/completions", headers=_bearer(served), json=_chat())
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "engine_unavailable"

    def is_back():
        served.attend()
        return served.processes[0].pid != engine.pid

    assert _until(is_back)
    assert _ask(served).choices


@pytest.mark.parametrize("field", ["frequency_penalty", "logit_bias", "seed", "top_p"])
def test_fields_of_the_capability_table_are_accepted(served, client, field):
    value = {"frequency_penalty": 0, "logit_bias": {"5": -100}, "seed": 1, "top_p": 0.5}[field]
    answer = client.post(
        "/v1/chat/completions", headers=_bearer(served), json=_chat(**{field: value})
    )
    assert answer.status_code == 200, answer.text


def test_a_logit_bias_has_its_effect(served):
    whole = _ask(served)
    biased = _ask(served, logit_bias={"40": 100})
    assert biased.choices[0].message.content != whole.choices[0].message.content


def test_stop_is_refused_since_the_engine_leaves_it_in_the_answer(served):
    """When this engine can do it, the capability table is to be changed."""
    engine = served.fleet.table().versions[NAME]

    def ask(**extra: object) -> str:
        body = {**_chat(max_tokens=32, temperature=0, **extra), "model": engine.model}
        url = f"{engine.url}/chat/completions"
        answer = httpx.post(url, json=body, trust_env=False, timeout=60)
        return answer.json()["choices"][0]["message"]["content"]

    whole = ask()
    found = re.search(r"[\x21-\x7e]{2}", whole[1:-8])
    assert found, whole
    stopped = ask(stop=[found[0]])
    assert len(stopped) < len(whole)
    assert found[0] in stopped


def test_command_refuses_in_one_line(tiny_model, tmp_path):
    refused = subprocess.run(
        [sys.executable, "-m", "rwml", "serve", str(tiny_model), "--host", "0.0.0.0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr.count("\n") == 1


def test_a_world_model_asks_through_the_gateway(served: Served, run: Path) -> None:
    import rwml
    from rwml.errors import WorldModelError, WorldModelUnavailableError
    from rwml.testing import make_trajectory

    trajectory = make_trajectory(1)
    action = trajectory.steps[0].action
    with rwml.WorldModel(served.endpoint, api_key=served.key, run=run, max_tokens=8) as world:
        assert world.name == NAME
        found = world.predict(trajectory, action)
        assert (found.text, found.problem) in ((None, "cut"), (None, "format"))  # random weights
        assert found.completion
    for key in (None, "sk-wrong"):
        with rwml.WorldModel(served.endpoint, api_key=key, run=run, attempts=1) as world:
            with pytest.raises(WorldModelError, match="refused the key: status 401") as caught:
                world.predict(trajectory, action)
            assert not isinstance(caught.value, WorldModelUnavailableError)
    with (
        rwml.WorldModel(served.endpoint, api_key=served.key, model="nobody", run=run) as world,
        pytest.raises(WorldModelError, match="refused the model: status 404"),
    ):
        world.predict(trajectory, action)
