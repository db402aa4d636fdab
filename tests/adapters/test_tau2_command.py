"""`rwml record tau2` as a person or a script calls it; models answer from a real endpoint."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.adapters.endpoint import HANG, Endpoint, running_endpoint
from typer.testing import CliRunner, Result

pytest.importorskip("tau2.registry")
pytest.importorskip("langchain_litellm")

import rwml
from rwml.cli.app import build_app
from rwml.cli.endpoints import read_api_key
from rwml.errors import MissingExtraError, RwmlError, UsageError
from rwml_adapters.models import ATTEMPTS, ModelOptions


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with running_endpoint() as server:
        yield server


def invoke(*arguments: str, verb: str = "record") -> Result:
    command = build_app()
    return CliRunner().invoke(command, [verb, "tau2", *arguments])


def store_at(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'rwml.db'}"


MOCK = ("--domain", "mock", "--split", "base", "--task-id", "create_task_1")
CREATE = {"name": "create_task", "arguments": {"user_id": "user_1", "title": "Important Meeting"}}


def test_the_command_records_and_reports(tmp_path: Path) -> None:
    result = invoke("--store", store_at(tmp_path), "--tasks", "2", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["source"] == "tau2:retail"
    assert report["tasks"] == report["trajectories"] == 2
    assert report["success_rate"] == 1.0
    assert report["statuses"] == {"completed": 2}
    assert [episode["task"] for episode in report["episodes"]] == ["0", "1"]
    assert report["recorder"]["failed"] == report["recorder"]["dropped"] == 0
    with rwml.open_store(store_at(tmp_path)) as store:
        counts = store.counts(source="tau2:retail", split="train")
        assert (counts.transitions, counts.errors) == (report["transitions"], report["errors"])
        assert sum(e["steps"] for e in report["episodes"]) == report["transitions"]


def test_an_endpoint_that_is_down_is_no_score(tmp_path: Path) -> None:
    result = invoke(
        "--store", store_at(tmp_path), *MOCK, "--model", "openai/tiny",
        "--api-base", "http://127.0.0.1:9/v1", "--json",
    )  # fmt: skip
    assert result.exit_code == 3
    report = json.loads(result.stdout)
    assert report["statuses"] == {"infrastructure_error": 1}
    assert report["success_rate"] is None
    assert report["episodes"][0]["reward"] is None
    assert "infrastructure error" in result.stderr
    with rwml.open_store(store_at(tmp_path)) as store:
        (trajectory,) = store.trajectories()
    assert trajectory.outcome.reward is None
    assert trajectory.outcome.breakdown["reason"]


def test_a_model_behind_an_endpoint_calls_tools(tmp_path: Path, endpoint: Endpoint) -> None:
    key = tmp_path / "key"
    key.write_text("secret-of-mine\n")
    function = {"name": CREATE["name"], "arguments": json.dumps(CREATE["arguments"])}
    broken = {"name": "get_users", "arguments": "{not json"}
    endpoint.replies = [
        {"content": None, "tool_calls": [{"id": "a", "type": "function", "function": broken}]},
        {"content": None, "tool_calls": [{"id": "b", "type": "function", "function": function}]},
        {"content": ""},
        {"content": "All done, is there anything else?"},
    ]
    result = invoke(
        "--store", store_at(tmp_path), *MOCK, "--model", "openai/tiny",
        "--api-base", endpoint.url, "--api-key-file", str(key), "--max-tokens", "64",
        "--temperature", "0.5", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["success_rate"] == 1.0
    assert report["errors"] == 1
    assert set(endpoint.keys) == {"Bearer secret-of-mine"}
    first, second = endpoint.requests[0], endpoint.requests[1]
    assert {tool["function"]["name"] for tool in first["tools"]} >= {"create_task"}
    assert first["max_tokens"] == 64
    assert first["temperature"] == 0.5
    assert second["messages"][-1]["role"] == "tool"
    assert second["messages"][-1]["tool_call_id"] == second["messages"][-2]["tool_calls"][0]["id"]
    with rwml.open_store(store_at(tmp_path)) as store:
        (trajectory,) = store.trajectories()
    steps = trajectory.steps
    assert steps[0].action.tool_calls[0].raw_arguments == "{not json"
    assert steps[1].usage is not None
    assert (steps[1].usage.prompt_tokens, steps[1].usage.completion_tokens) == (11, 7)
    assert "tiny" in (steps[1].model or "")
    assert steps[2].metadata == {"replaced_empty_reply": True}
    assert trajectory.fingerprint.agent == "openai/tiny-t0.5"


def test_a_model_without_tool_template_is_told_in_words(tmp_path: Path, endpoint: Endpoint) -> None:
    endpoint.replies = [
        {"content": json.dumps(CREATE)},
        {"content": "All done, is there anything else?"},
    ]
    result = invoke(
        "--store", store_at(tmp_path), *MOCK, "--model", "openai/tiny",
        "--api-base", endpoint.url, "--tools-as-text", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["success_rate"] == 1.0
    for request in endpoint.requests:
        assert "tools" not in request
        assert {message["role"] for message in request["messages"]} <= {
            "system",
            "user",
            "assistant",
        }
        assert all("tool_calls" not in message for message in request["messages"])
    assert '"create_task"' in endpoint.requests[0]["messages"][0]["content"]
    assert "Important Meeting" in endpoint.requests[1]["messages"][-1]["content"]
    with rwml.open_store(store_at(tmp_path)) as store:
        (trajectory,) = store.trajectories()
    assert trajectory.steps[0].kind == "tool"
    assert trajectory.steps[0].action.tool_calls[0].name == "create_task"


DONE = {"content": "All done, is there anything else?"}


def calls(name: str, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"content": None, "tool_calls": [{"id": "c", "type": "function", "function": function}]}


def model_at(endpoint: Endpoint, *more: str) -> list[str]:
    return [*MOCK, "--model", "openai/tiny", "--api-base", endpoint.url, *more, "--json"]


def test_a_server_that_hangs_ends_the_episode_after_the_timeout(
    tmp_path: Path, endpoint: Endpoint
) -> None:
    endpoint.replies = [HANG]
    result = invoke(
        "--store", store_at(tmp_path),
        *model_at(endpoint, "--request-timeout", "0.5", "--retries", "0"),
    )  # fmt: skip
    assert result.exit_code == 3
    report = json.loads(result.stdout)
    assert report["statuses"] == {"infrastructure_error": 1}
    assert "imeout" in report["episodes"][0]["reason"]
    assert len(endpoint.requests) == ATTEMPTS


@pytest.mark.parametrize("raw", [b"<html>busy</html>", b'{"choices": []}', b"{"])
def test_an_answer_that_is_none_is_no_failure_of_the_agent(
    tmp_path: Path, endpoint: Endpoint, raw: bytes
) -> None:
    endpoint.replies = [raw]
    result = invoke("--store", store_at(tmp_path), *model_at(endpoint, "--retries", "0"))
    assert result.exit_code == 3
    assert json.loads(result.stdout)["statuses"] == {"infrastructure_error": 1}


def test_an_agent_that_does_all_wrong_fails_and_is_no_fault(
    tmp_path: Path, endpoint: Endpoint
) -> None:
    both = {**calls("nothing", "{}"), "content": "Let me see."}
    endpoint.replies = [{"content": ""}, both, calls("get_users", '{"a": 1}'),
                        calls("get_users", "{"), calls("get_users", "{}")]  # fmt: skip
    result = invoke(*model_at(endpoint, "--max-steps", "6"), verb="eval")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["success_rate"], report["infrastructure_errors"]) == (0.0, 0)
    assert report["statuses"] == {"truncated": 1}
    details = report["details"]
    assert details["tool_calls"] == 5
    assert details["invalid_by_fault"] == {
        "unknown_tool": 1, "wrong_arguments": 1, "malformed": 1,
    }  # fmt: skip
    assert details["invalid_tool_call_share"] == 0.6
    assert details["termination_reasons"] == {"max_steps": 1}
    assert details["by_domain"]["mock"]["success_rate"] == 0.0


@pytest.mark.parametrize("outgrown", ["agent", "user"])
def test_a_conversation_that_outgrows_the_model_is_the_agents_failure_and_not_the_users(
    tmp_path: Path, endpoint: Endpoint, outgrown: str
) -> None:
    message = "This model's maximum context length is 10 tokens. Please reduce the messages."
    error = {"message": message, "type": "invalid_request_error", "code": "context_length_exceeded"}
    endpoint.replies = [(400, json.dumps({"error": error}).encode())]
    simulated = ["--user-model", "openai/ann", "--user-api-base", endpoint.url, "--retries", "0"]
    result = invoke(
        "--store", store_at(tmp_path),
        *model_at(endpoint, *(simulated if outgrown == "user" else [])),
    )  # fmt: skip
    report = json.loads(result.stdout)
    if outgrown == "agent":
        assert (report["success_rate"], report["statuses"]) == (0.0, {"truncated": 1})
        assert len(endpoint.requests) == 1
    else:
        assert report["statuses"] == {"infrastructure_error": 1}


def test_user_models_take_turns_over_the_trials(tmp_path: Path, endpoint: Endpoint) -> None:
    endpoint.replies_of = {
        "tiny": [calls(CREATE["name"], json.dumps(CREATE["arguments"])), DONE] * 4,
        "ann": [{"content": "Create it, please."}, {"content": "Thanks ###STOP###"}] * 2,
        "bob": [{"content": "Now!"}, {"content": "Bye ###STOP###"}] * 2,
    }
    key = tmp_path / "key"
    key.write_text("users-secret")
    result = invoke(
        "--store", store_at(tmp_path),
        *model_at(
            endpoint, "--trials", "4", "--user-model", "openai/ann", "--user-model", "openai/bob",
            "--user-api-base", endpoint.url, "--user-api-key-file", str(key),
            "--user-temperature", "0.7",
        ),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["success_rate"] == 1.0
    of_user = [r for r in endpoint.requests if r["model"] in ("ann", "bob")]
    assert [r["model"] for r in of_user] == ["ann", "ann", "bob", "bob"] * 2
    assert all(r["temperature"] == 0.7 for r in of_user)
    assert "<scenario>" in of_user[0]["messages"][0]["content"]
    keys = {k for k, r in zip(endpoint.keys, endpoint.requests, strict=True) if r in of_user}
    assert keys == {"Bearer users-secret"}
    with rwml.open_store(store_at(tmp_path)) as store:
        found = {t.id.rpartition("-")[2]: t for t in store.trajectories()}
    users = [found[str(trial)].fingerprint.user_simulator for trial in range(4)]
    assert users == ["openai/ann", "openai/bob", "openai/ann", "openai/bob"]
    said = [m.content for step in found["1"].steps for m in step.observation if m.role == "user"]
    assert said == ["Bye"]


@pytest.mark.parametrize(
    "broken", [calls("check_status_bar", "{not json"), {"content": ""}], ids=["malformed", "empty"]
)
def test_a_fault_of_the_user_simulator_is_retried_and_reported_apart(
    tmp_path: Path, endpoint: Endpoint, broken: dict[str, Any]
) -> None:
    endpoint.replies_of = {
        "tiny": [DONE],
        "ann": [broken] * (1 if broken["content"] is None else 2)
        + [{"content": "Hello"}, {"content": "###STOP###"}],
    }
    result = invoke(
        "--store", store_at(tmp_path),
        *model_at(endpoint, "--user-model", "openai/ann", "--user-api-base", endpoint.url),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["statuses"] == {"completed": 1}
    endpoint.replies_of["ann"] = [broken]
    result = invoke(
        "--store", store_at(tmp_path),
        *model_at(
            endpoint, "--user-model", "openai/ann", "--user-api-base", endpoint.url,
            "--retries", "0",
        ),
    )  # fmt: skip
    assert result.exit_code == 3
    report = json.loads(result.stdout)
    assert (report["success_rate"], report["infrastructure_errors"]) == (None, 1)


def test_several_episodes_at_once_give_the_same_results(tmp_path: Path) -> None:
    reports = []
    for concurrency in ("1", "4"):
        folder = tmp_path / concurrency
        folder.mkdir()
        before = sys.stdout, gc.isenabled()
        result = invoke(
            "--store", store_at(folder), "--domain", "retail", "--tasks", "8", "--seed", "3",
            "--concurrency", concurrency, "--json",
        )  # fmt: skip
        assert (sys.stdout, gc.isenabled()) == before
        reports.append(json.loads(result.stdout))
        with rwml.open_store(store_at(folder)) as store:
            actions = {
                t.id: [(s.action.content, s.observation) for s in t.steps]
                for t in store.trajectories()
            }
        reports[-1]["actions"] = actions
    one, four = reports
    for name in ("episodes", "transitions", "errors", "success_rate", "statuses", "actions"):
        assert one[name] == four[name]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--domain", "moon"], "retail, airline, telecom, mock"),
        (["--split", "dev"], "train, test, base"),
        (
            ["--domain", "mock", "--split", "train"],
            "no split 'train' in tau2:mock: use one of base",
        ),
        (["--task-id", "5000"], "no task '5000' in this split: use one of 0, 1,"),
        (["--policy", "wise"], "perturbed, oracle"),
        (["--error-rate", "1.5"], "between 0 and 1"),
        (["--tasks", "0"], "1 or more"),
        (["--max-steps", "0"], "1 or more"),
        (["--tools-as-text"], "add --model"),
        (["--model", "openai/x", "--api-key-file", "/none"], "cannot read the key file"),
        (["--model", "openai/x", "--api-key-env", "RWML_NO_SUCH_KEY"], "RWML_NO_SUCH_KEY"),
        (["--model", "openai/x", "--request-timeout", "0"], "must be more than 0 s"),
        (["--temperature", "1"], "--temperature need a model: add --model"),
        (["--user-api-base", "http://x"], "add --user-model"),
        (
            [
                "--user-model",
                "a",
                "--user-model",
                "b",
                "--user-model",
                "c",
                "--user-api-base",
                "x",
                "--user-api-base",
                "y",
            ],
            "given 2 times for 3 user models",
        ),
        (["--agent", "no_such_module:make"], "no module 'no_such_module'"),
        (["--agent", "json:no_such_name"], "has no 'no_such_name'"),
        (["--agent", "json:__name__"], "is no graph factory"),
        (["--tool-node", "tools"], "add --agent"),
    ],
)
def test_wrong_usage_is_one_line_with_the_choices(
    tmp_path: Path, arguments: list[str], expected: str
) -> None:
    result = invoke("--store", store_at(tmp_path), *arguments)
    assert isinstance(result.exception, UsageError)
    assert expected in str(result.exception)
    assert "\n" not in str(result.exception)
    assert not (tmp_path / "rwml.db").exists()


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tau2.registry")
    monkeypatch.setitem(sys.modules, "tau2", None)
    result = invoke("--store", store_at(tmp_path))
    assert isinstance(result.exception, MissingExtraError)
    assert "rwml[tau2]" in str(result.exception)
    assert result.exception.exit_code == 2


def test_a_missing_model_client_is_said_once_and_nothing_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "langchain_litellm", None)
    result = invoke("--store", store_at(tmp_path), *MOCK, "--model", "openai/tiny")
    assert isinstance(result.exception, MissingExtraError)
    assert "rwml[litellm]" in str(result.exception)
    assert result.exception.exit_code == 2
    assert not (tmp_path / "rwml.db").exists()


def test_the_key_is_not_shown_with_the_options() -> None:
    options = ModelOptions("openai/tiny", None, "secret-of-mine")
    assert options.api_key == "secret-of-mine"
    assert "secret-of-mine" not in repr(options)


def test_missing_data_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tau2.utils.utils

    monkeypatch.setattr(tau2.utils.utils, "DATA_DIR", tmp_path / "gone")
    result = invoke("--store", store_at(tmp_path))
    assert isinstance(result.exception, RwmlError)
    assert "pip install --force-reinstall" in str(result.exception)


def test_no_key_goes_to_a_provider_that_was_not_asked_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "mine")
    assert read_api_key(variable="OPENAI_API_KEY", key_file=None) is None
    own = read_api_key(variable="OPENAI_API_KEY", key_file=None, api_base="http://localhost/v1")
    assert own == "mine"


def test_the_command_loads_nothing_heavy_and_has_an_example() -> None:
    code = (
        "import sys; from rwml_adapters.tau2 import register; "
        "from rwml_adapters.tau2.environment import tau2; "
        "heavy = {'tau2', 'litellm', 'langgraph', 'langchain_core', 'torch'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    help_text = invoke("--help").stdout
    assert "rwml record tau2 --store" in " ".join(help_text.split())


def test_importing_tau2_leaves_no_trace_in_the_process() -> None:
    code = (
        "import random, litellm; random.seed(3); state = random.getstate(); "
        "from rwml_adapters.tau2.package import ensure_tau2; ensure_tau2(); "
        "import sys; assert 'tau2.registry' in sys.modules; "
        "assert litellm.drop_params is False and litellm.suppress_debug_info is False; "
        "assert random.getstate() == state"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, timeout=120, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_wrong_usage_exits_with_2_and_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rwml", "record", "tau2", "--store", store_at(tmp_path),
         "--domain", "moon"],
        check=False, timeout=120, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.strip() == (
        "rwml: no domain 'moon': use one of retail, airline, telecom, mock"
    )
