"""The demo's use of a served model: start `rwml serve`, ask it, let the agent play with it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rwml.demo.stages import Result, run_json, rwml_command
from rwml.errors import ServingError
from rwml.extras import require

STOP_TIMEOUT_S = 30.0
QUESTION = (
    'Action: get_user_details({"user_id": "nobody_0000"})\n'
    "What comes back? Reply with <next_state>...</next_state>."
)


@contextmanager
def running_server(arguments: Sequence[str]) -> Iterator[Result]:
    """Runs `rwml serve` and yields what it says when it is ready; always stops it.

    Raises:
        ServingError: it ended before it was ready.
    """
    process = subprocess.Popen(  # noqa: S603 - our own program, no shell
        rwml_command(["serve", *arguments, "--json"]), stdout=subprocess.PIPE, text=True
    )
    try:
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            raise ServingError(f"'rwml serve' ended with exit code {process.wait()}")
        yield json.loads(line)
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ask(ready: Result) -> str:
    """A completion of the served model, through LiteLLM as any client would ask for it.

    Raises:
        ServingError: it has no text.
    """
    require("litellm", "litellm")
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm

    answer: Any = litellm.completion(
        model=f"openai/{model_name(ready)}",
        api_base=str(ready["endpoint"]),
        api_key=Path(str(ready["key_file"])).read_text(encoding="utf-8").strip(),
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=64,
        temperature=0.0,
    )
    text = answer.choices[0].message.content
    if text is None:
        raise ServingError("the served model answered without a text")
    return str(text)


def play_one_task(ready: Result, store: str) -> Result:
    """Lets the LangGraph agent work on one tau2 task with the served model; it is recorded."""
    played = run_json(
        [
            *("record", "tau2", "--domain", "retail", "--split", "train", "--tasks", "1"),
            *("--store", store, "--model", f"openai/{model_name(ready)}"),
            *("--api-base", str(ready["endpoint"]), "--api-key-file", str(ready["key_file"])),
            *("--tools-as-text", "--max-steps", "6", "--max-tokens", "64"),
        ]
    )
    episodes = played["episodes"]
    if not isinstance(episodes, list) or not episodes or not isinstance(episodes[0], dict):
        raise ServingError("the agent on the served model played no episode")
    return {key: episodes[0].get(key) for key in ("task", "steps", "status", "reward")}


def model_name(ready: Result) -> str:
    """Name of the (only) model that a server said it serves."""
    models = ready["models"]
    if not isinstance(models, list) or not models:
        raise ServingError("'rwml serve' names no model")
    return str(models[0])
