"""`rwml record tau2` as a person or a script calls it; models answer from a real endpoint."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

pytest.importorskip("tau2.registry")
pytest.importorskip("langchain_litellm")

import rwml
from rwml.cli.app import build_app
from rwml.errors import MissingExtraError, RwmlError, UsageError
from rwml_adapters.models import ModelOptions, read_api_key


class Endpoint(ThreadingHTTPServer):
    """An OpenAI-compatible server on loopback that answers from a list and keeps the requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies: list[dict[str, Any]] = []
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint  # type: ignore[assignment]  # the only server that makes it

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.keys.append(self.headers.get("Authorization"))
        self.server.requests.append(json.loads(body))
        place = min(len(self.server.requests), len(self.server.replies)) - 1
        message = {"role": "assistant", **self.server.replies[place]}
        answer = {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "tiny",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
        }
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(5)


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
