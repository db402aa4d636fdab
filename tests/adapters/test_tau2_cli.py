"""Registered graphs in tau2's own command line, with models from a LiteLLM provider of ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tau2.registry")
pytest.importorskip("langchain_litellm")

from typer.testing import CliRunner

import rwml
from rwml.cli.app import build_app

PROGRAM = '''
"""tau2's command line with two agents of ours; their models and the user's are played here."""
import json

import litellm
from langchain.agents import create_agent
from langchain_litellm import ChatLiteLLM

from rwml_adapters.tau2 import register, tool_stubs
from rwml_adapters.tau2.graphs import policy_graph


def answer(model, **message):
    return litellm.ModelResponse(
        model=model, choices=[{"message": {"role": "assistant", "content": None, **message}}]
    )


class Player(litellm.CustomLLM):
    def completion(self, model, messages, **kwargs):
        made = sum(message["role"] == "assistant" for message in messages)
        heard = str(messages[-1]["content"])
        if model == "user":
            text = "Please create a task." if made == 0 else "Thanks. ###STOP###"
            return answer(model, content=text)
        if any(message["role"] == "tool" for message in messages):
            text = "Done, the result was: " + heard
            return answer(model, content=text)
        arguments = json.dumps({"user_id": "user_1", "title": "Important Meeting"})
        call = {"id": "call_1", "type": "function",
                "function": {"name": "create_task", "arguments": arguments}}
        return answer(model, tool_calls=[call])


litellm.custom_provider_map = [{"provider": "ours", "custom_handler": Player()}]


def model_of(llm, llm_args):
    return ChatLiteLLM(model=llm, temperature=llm_args["temperature"],
                       model_kwargs={"_skip_mcp_handler": True})


def plain(tools, policy, llm, llm_args):
    return policy_graph(model_of(llm, llm_args).bind_tools(tools))


def with_tools(tools, policy, llm, llm_args):
    return create_agent(model_of(llm, llm_args), tool_stubs(tools), system_prompt=policy)


register(plain, name="plain_graph")
register(with_tools, name="graph_with_tools")

if __name__ == "__main__":
    from tau2.cli import main

    main()
'''


@pytest.mark.parametrize("agent", ["plain_graph", "graph_with_tools", "llm_agent"])
def test_registered_graphs_are_agents_of_tau2_run(tmp_path: Path, agent: str) -> None:
    program = tmp_path / "our_tau2.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program), "run", "--domain", "mock", "--task-ids", "create_task_1",
         "--agent", agent, "--agent-llm", "ours/agent", "--user-llm", "ours/user",
         "--agent-llm-args", '{"temperature": 0.5, "_skip_mcp_handler": true}',
         "--user-llm-args", '{"temperature": 0.0, "_skip_mcp_handler": true}',
         "--results-dir", str(tmp_path / "results"), "--save-to", "run", "--num-trials", "2"],
        check=False, capture_output=True, text=True, timeout=120, cwd=tmp_path,
        env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "results" / "run.json").read_text())
    rewards = [simulation["reward_info"]["reward"] for simulation in results["simulations"]]
    assert rewards == [1.0, 1.0]
    if agent == "llm_agent":  # tau2's own: its file is read like ours
        check_ingested(tmp_path / "results" / "run.json", tmp_path / "rwml.db")
    said = [m["content"] or "" for m in results["simulations"][0]["messages"]]
    assert any("the result was" in text and "task_2" in text for text in said)


def check_ingested(path: Path, database: Path) -> None:
    store = f"sqlite:///{database}"
    report = CliRunner().invoke(build_app(), ["ingest", str(path), "--store", store, "--json"])
    assert json.loads(report.stdout)["trajectories"] == 2
    with rwml.open_store(store) as opened:
        for trajectory in opened.trajectories():
            assert trajectory.fingerprint.agent == "ours/agent"
            assert trajectory.fingerprint.user_simulator == "ours/user"
            assert [step.kind for step in trajectory.steps] == ["tool", "user"]
            assert trajectory.steps[0].action.tool_calls[0].name == "create_task"
            assert trajectory.outcome.success is True
