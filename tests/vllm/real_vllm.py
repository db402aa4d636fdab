"""A real vLLM behind the real gateway: ``make test-vllm``, which names this file to pytest.

pytest does not find it by itself, so that `make test` needs no vLLM. The tiny model is random: what
it says means nothing, and that it says the same to everybody, in pieces and whole, and what each
field of a request does to it, is what is checked. SmolLM2 is the one that has something to say.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.trainer.client_matrix import CLIENTS, TIMEOUT_S, ask_by
from tests.trainer.served_stub import ask, text, traffic

from rwml.cli.output import say
from rwml_trainer.models import load_model, load_tokenizer
from rwml_trainer.runs import read_run
from rwml_trainer.serving.capabilities import can_do
from rwml_trainer.serving.engine import HOST
from rwml_trainer.serving.engine_choice import EngineOptions, choose_engine
from rwml_trainer.serving.registry import Registry
from rwml_trainer.serving.server import Served, serve
from rwml_trainer.serving.versions import add_version
from rwml_trainer.small_models import prepare_smollm2
from rwml_trainer.testing import CHAT_TEMPLATE, make_tiny_model, make_tiny_run

PYTHON = Path(os.environ.get("RWML_VLLM_PYTHON", "build/vllm-venv/bin/python"))
FASTER_START = "enforce-eager: true\n"
"""Further arguments of vLLM: to compile a model takes longer than to ask it all of this."""
SHOWS_TOOLS = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }} <tool_call></tool_call><|im_end|>\n"
    "{% endif %}"
)
MESSAGES = [{"role": "user", "content": "the quick brown fox"}]
COLOURS = ["red", "green"]
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"type": "string", "enum": COLOURS}},
    "required": ["colour"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "paint", "parameters": SCHEMA, "strict": True}}]
PAINT = {"type": "function", "function": {"name": "paint"}}
SPELLS = {
    "temperature": 0,
    "max_tokens": 24,
    "logit_bias": {str(40 + place): 100 - place for place in range(12)},
    "frequency_penalty": 2,
}
"""Has the random model write letters in turn, where it would write broken UTF-8."""
PAUSE_S = 0.1
"""Of each of two clients between requests: 20 a second at most, as in `promote_dropped`."""
LEFT_TO_THE_OTHERS = {"messages", "model", "stream", "stream_options", "user"}
"""Fields that every test here sends, or that are LiteLLM's matter."""

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason=f"no vLLM: {PYTHON} is not there")


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    config = tmp_path_factory.mktemp("config") / "vllm.yaml"
    config.write_text(FASTER_START)
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; each of two engines takes it
    return {"vllm_python": PYTHON, "vllm_config": config, "max_model_len": 2048}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs on one tiny base model, whose template shows tools."""
    folder = tmp_path_factory.mktemp("runs")
    base = make_tiny_model(folder / "base", heads=2)
    (base / "chat_template.jinja").write_text(SHOWS_TOOLS + CHAT_TEMPLATE)
    return [make_tiny_run(folder / f"run{seed}", base, seed=seed) for seed in (1, 2)]


@contextmanager
def serving(run: Path, out: Path, options: dict[str, Any], **more: Any) -> Iterator[Served]:
    choice = choose_engine(EngineOptions(**options, dtype="float32", **more))
    with serve(
        run, name="world@1", out=out, start_engine=choice.start, engine_key=choice.key, notify=say
    ) as served:
        yield served


@pytest.fixture(scope="module")
def served(
    runs: list[Path], options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """Merged weights; what the tests below ask before the name is moved."""
    with serving(runs[0], tmp_path_factory.mktemp("merged"), options) as served:
        yield served


def completion(served: Served, **fields: Any) -> dict[str, Any]:
    fields = {"temperature": 0, "max_tokens": 16, **fields}
    answer = ask(served, MESSAGES[0]["content"], timeout_s=TIMEOUT_S, **fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def said(served: Served, **fields: Any) -> str:
    return completion(served, **fields)["choices"][0]["message"]["content"]


@pytest.mark.parametrize("client", CLIENTS)
def test_every_client_gets_the_answer_whole_and_in_pieces(served: Served, client: str) -> None:
    whole, pieces = ask_by(client, served, MESSAGES, **SPELLS)
    assert whole == pieces == said(served, **SPELLS)
    assert len(whole) == 24


def test_the_answer_is_that_of_the_merged_model(served: Served) -> None:
    import torch

    known = Registry(served.key_file.parent).read().versions["world@1"]
    tokenizer = load_tokenizer(known.folder)
    ids: Any = tokenizer.apply_chat_template(
        MESSAGES, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.inference_mode():
        logits = load_model(known.folder, dtype="float32")(**ids).logits[0, -1]
    expected = logits.log_softmax(-1)
    token = completion(served, logprobs=True, max_tokens=1)["choices"][0]["logprobs"]["content"][0]
    assert token["token"] == tokenizer.decode([int(expected.argmax())])
    assert token["logprob"] == pytest.approx(float(expected.max()), abs=1e-3)


def test_n_gives_several(served: Served) -> None:
    choices = completion(served, n=3, temperature=1)["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]


def test_logprobs_come_with_each_token(served: Served) -> None:
    (choice,) = completion(served, logprobs=True, top_logprobs=2)["choices"]
    tokens = choice["logprobs"]["content"]
    assert len(tokens) == 16
    assert all(len(token["top_logprobs"]) == 2 for token in tokens)
    assert all(token["logprob"] == token["top_logprobs"][0]["logprob"] <= 0 for token in tokens)


def test_stop_ends_an_answer_before_the_string(served: Served) -> None:
    whole = said(served, **SPELLS)
    middle = whole[12:14]
    stopped = completion(served, **SPELLS, stop=[middle])["choices"][0]
    assert stopped["message"]["content"] == whole[: whole.index(middle)]
    assert stopped["finish_reason"] == "stop"


def test_a_seed_draws_the_same_again(served: Served) -> None:
    drawn = [said(served, temperature=1, seed=seed) for seed in (5, 5, 6)]
    assert drawn[0] == drawn[1] != drawn[2]
    nearly_greedy = said(served, temperature=1, top_p=0.0001, seed=5)
    assert nearly_greedy == said(served)


def test_penalties_and_biases_have_their_effect(served: Served) -> None:
    biased = said(served, logit_bias={"40": 100})
    assert biased == 16 * biased[0], "one token, all the time"
    slightly = {"40": 1.5}  # less than a penalty takes away
    assert said(served, logit_bias=slightly) == biased
    for penalty in ("presence_penalty", "frequency_penalty"):
        assert len(set(said(served, logit_bias=slightly, **{penalty: 2}))) > 1


def test_limits_count_tokens(served: Served) -> None:
    assert completion(served, max_tokens=3)["usage"]["completion_tokens"] == 3
    other = completion(served, max_tokens=None, max_completion_tokens=5)
    assert other["usage"]["completion_tokens"] == 5


def test_a_response_format_is_kept_to(served: Served) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "paint", "schema": SCHEMA}}
    told = json.loads(said(served, response_format=form, max_tokens=48))
    assert told["colour"] in COLOURS


@pytest.fixture(scope="module")
def calls(runs: list[Path]) -> dict[str, Any]:
    """Fields of a tool call by a random model, which would write space for ever where it may."""
    tokenizer = load_tokenizer(read_run(runs[0]).base_model)
    pieces = {str(token): str(tokenizer.decode([token])) for token in range(len(tokenizer))}
    no_space = {token: -100 for token, piece in pieces.items() if re.search(r"\s", piece)}
    return {"tools": TOOLS, "tool_choice": PAINT, "max_tokens": 96, "logit_bias": no_space}


@pytest.mark.parametrize("choice", ["required", PAINT], ids=["required", "named"])
def test_a_tool_that_must_be_called_is(served: Served, calls: dict[str, Any], choice: Any) -> None:
    """Also of a random model: vLLM lets it write nothing else."""
    asked = {**calls, "tool_choice": choice, "parallel_tool_calls": False}
    message = completion(served, **asked)["choices"][0]["message"]
    (call,) = message["tool_calls"]
    assert call["function"]["name"] == "paint"
    assert json.loads(call["function"]["arguments"])["colour"] in COLOURS


def test_tools_may_be_left_alone(served: Served) -> None:
    for choice in ("none", "auto"):
        message = completion(served, tools=TOOLS, tool_choice=choice)["choices"][0]["message"]
        assert message["content"]
        assert not message.get("tool_calls")


def test_a_tool_call_comes_in_pieces(served: Served, calls: dict[str, Any]) -> None:
    from openai import OpenAI

    client: Any = OpenAI(base_url=served.endpoint, api_key=served.key, timeout=TIMEOUT_S)
    stream = client.chat.completions.create(model="world", messages=MESSAGES, stream=True, **calls)
    told = [
        call
        for piece in stream
        for choice in piece.choices
        for call in choice.delta.tool_calls or []
    ]
    assert {call.function.name for call in told} - {None} == {"paint"}
    arguments = "".join(call.function.arguments or "" for call in told)
    assert json.loads(arguments)["colour"] in COLOURS


def test_langchain_binds_a_tool(served: Served, calls: dict[str, Any]) -> None:
    from langchain_litellm import ChatLiteLLM

    chat = ChatLiteLLM(model="openai/world", api_base=served.endpoint, api_key=served.key)
    answer: Any = chat.bind(**calls).invoke("paint it")
    (call,) = answer.tool_calls
    assert call["args"]["colour"] in COLOURS


ASKED_ABOVE = {
    *("n", "logprobs", "top_logprobs", "stop", "seed", "temperature", "top_p", "logit_bias"),
    *("presence_penalty", "frequency_penalty", "max_tokens", "max_completion_tokens"),
    *("response_format", "tools", "tool_choice", "parallel_tool_calls"),
}


def test_every_field_of_the_table_was_asked_for() -> None:
    assert can_do("vllm") - LEFT_TO_THE_OTHERS == ASKED_ABOVE


@pytest.mark.parametrize(
    "fields",
    [{"functions": [{"name": "paint"}]}, {"function_call": "auto"}, {"reasoning_effort": "low"}],
)
def test_what_vllm_does_not_do_is_a_clear_400(served: Served, fields: dict[str, Any]) -> None:
    answer = ask(served, **fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] in fields


def test_what_is_too_long_is_a_400_that_says_so(served: Served) -> None:
    answer = ask(served, "fox " * 5000, timeout_s=TIMEOUT_S)
    assert answer.status_code == 400
    assert "2048" in answer.text
    assert HOST not in answer.text


def test_the_engine_answers_nobody_without_its_key(served: Served) -> None:
    engine = served.fleet.table().versions["world@1"]
    assert served.engine == engine.engine == "vllm"
    body = {"model": engine.model, "messages": MESSAGES}
    for key in ("none", served.key):
        headers = {"Authorization": f"Bearer {key}"}
        answer = httpx.post(f"{engine.url}/chat/completions", headers=headers, json=body)
        assert answer.status_code == 401
    words = Path(f"/proc/{served.processes[0].pid}/cmdline").read_text().split("\0")
    assert "--no-trust-remote-code" in words
    assert HOST in words


def test_a_vllm_that_runs_already_is_served(
    served: Served, runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (running,) = served.fleet._running.values()
    monkeypatch.setenv("KEY_OF_THE_OTHER", str(running.engine.key))
    options = EngineOptions(engine_url=running.engine.url, engine_key_env="KEY_OF_THE_OTHER")
    choice = choose_engine(options)
    with serve(
        runs[0],
        name="world@1",
        out=tmp_path,
        start_engine=choice.start,
        engine_key=choice.key,
    ) as other:
        assert other.engine == "vllm"
        assert said(other) == said(served)
        assert len(completion(other, n=2, temperature=1)["choices"]) == 2


def first_logprob(served: Served) -> float:
    (choice,) = completion(served, logprobs=True, max_tokens=1)["choices"]
    return choice["logprobs"]["content"][0]["logprob"]


def promote(served: Served, version: str) -> list[httpx.Response]:
    """What clients were answered while a name moved."""
    registry = Registry(served.key_file.parent)
    asked: dict[str, Any] = {"timeout_s": TIMEOUT_S, "temperature": 0, "max_tokens": 8}
    with traffic(served, pause_s=PAUSE_S, **asked) as answers:
        registry.order("promote", version)
        served.attend()
        moved = len(answers)
        deadline = time.monotonic() + TIMEOUT_S
        while len(answers) < moved + 4:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    outcome = registry.read().aliases["world"].outcome
    assert outcome is not None
    assert outcome.ok, outcome.message
    return answers


def check_promotion(served: Served, answers: list[httpx.Response]) -> None:
    assert {answer.status_code for answer in answers} == {200}
    by_model = {answer.json()["model"]: text(answer) for answer in answers}
    assert by_model.keys() == {"world@1", "world@2"}
    assert by_model["world@1"] != by_model["world@2"]
    assert completion(served)["model"] == "world@2"
    say(f"{len(answers)} answers while the name moved, all 200")


def test_adapters_are_loaded_and_promoted_under_load(
    runs: list[Path], options: dict[str, Any], tmp_path: Path, served: Served
) -> None:
    with serving(runs[0], tmp_path, options, load_lora=True) as shared:
        # merged weights are rounded to bfloat16
        assert first_logprob(shared) == pytest.approx(first_logprob(served), abs=0.05)
        add_version(Registry(tmp_path), runs[1], name="world@2")
        answers = promote(shared, "world@2")
        check_promotion(shared, answers)
        shared.attend()
        assert len(shared.fleet.engines) == 1
        (running,) = shared.fleet._running.values()
        listed = httpx.get(
            f"{running.engine.url}/models",
            headers={"Authorization": f"Bearer {running.engine.key}"},
        )
        assert [model["id"] for model in listed.json()["data"]] == ["base", "world@2"]
        models = httpx.get(
            f"{shared.endpoint}/models", headers={"Authorization": f"Bearer {shared.key}"}
        )
        assert [model["id"] for model in models.json()["data"]] == ["world", "world@2"]


def test_merged_weights_are_promoted_under_load(served: Served, runs: list[Path]) -> None:
    """After the tests that ask the first version."""
    add_version(Registry(served.key_file.parent), runs[1], name="world@2")
    check_promotion(served, promote(served, "world@2"))


@dataclass(frozen=True)
class Started:
    """A server that the command started."""

    endpoint: str
    key: str


@pytest.fixture(scope="module")
def smollm2(options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """`rwml serve` on SmolLM2, with nothing but its options."""
    words = [sys.executable, "-m", "rwml", "serve", str(prepare_smollm2()), "--name", "world"]
    words += ["--serving", str(tmp_path_factory.mktemp("smollm2")), "--json", "--engine", "vllm"]
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert ready["engine"] == "vllm"
        yield Started(ready["endpoint"], Path(ready["key_file"]).read_text())
        process.terminate()
    assert process.returncode == 0


@pytest.mark.parametrize("client", CLIENTS)
def test_smollm2_tells_every_client_the_same(smollm2: Started, client: str) -> None:
    asked = [{"role": "user", "content": "What is the capital of France? One word."}]
    whole, pieces = ask_by(client, smollm2, asked, temperature=0, max_tokens=12)
    assert whole == pieces
    assert "Paris" in whole
