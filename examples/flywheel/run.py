"""The flywheel, twice round: record, train, serve, record what is served, train on that, promote.

All of it is real but the model, which is random and tiny, and the customers, who are a script. So
this shows how the parts fit together; it shows nothing about learning.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from tokenizers import Tokenizer

import rwml
from rwml_trainer.testing import make_tiny_model

NAME = "assistant"
CUSTOMERS = 16
SYSTEM = "You help the customers of a shop."


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        work = Path(folder)
        make_tiny_model(work / "model")
        recipe = Path(__file__).with_name("recipe.toml").read_text()
        (work / "recipe.toml").write_text(recipe.replace("MODEL", str(work / "model")))
        turn(work)


def turn(work: Path) -> None:
    store = f"sqlite:///{work / 'rwml.db'}"
    record_first_traffic(store)
    run(*("build", "--store", store, "--recipe", "recipe.toml", "--out", "data1"))
    run(*("train", "data1", "--recipe", "recipe.toml", "--out", "runs/1"))
    where = ("--serving", "serving")
    with serving("runs/1", "--name", f"{NAME}@1", *where, "--store", store) as server:
        for customer in range(CUSTOMERS):
            talk(server, customer, round=1)
        # What was served is the next round's data.
        chosen = ("--from-model", f"{NAME}@1")
        run(*("build", "--store", store, *chosen, "--recipe", "recipe.toml", "--out", "data2"))
        run(*("train", "data2", "--recipe", "recipe.toml", "--out", "runs/2"))
        run(*("serve", "add", "runs/2", "--name", f"{NAME}@2", *where))
        run(*("serve", "promote", f"{NAME}@2", *where))
        for customer in range(2):
            talk(server, customer, round=2)
    with rwml.open_store(store, create=False) as opened:
        models = Counter(transition.model for transition in opened.transitions(history=0))
    print("recorded transitions by the model that acted:")
    for model, count in sorted(models.items(), key=str):
        print(f"  {model}: {count}")
    if not {f"{NAME}@1", f"{NAME}@2"} <= models.keys():
        raise SystemExit("the traffic of a version is missing")


def record_first_traffic(store: str) -> None:
    """What the loop begins with: here a script answers the customers."""
    with rwml.Recorder(store=store) as recorder:
        for customer in range(CUSTOMERS):
            seen = [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": question(customer)},
            ]
            task = f"first-{customer}"
            with recorder.trajectory(source="script", task_id=task, messages=seen) as trajectory:
                trajectory.act({"role": "assistant", "content": f"Order {customer} is on its way."})
                trajectory.observe({"role": "user", "content": reply(customer)})


def question(customer: int) -> str:
    return f"Where is order {customer}?"


def reply(customer: int) -> str:
    return f"Thank you. And when will order {customer} be here?"


def talk(server: dict[str, Any], customer: int, *, round: int) -> None:
    """A customer asks, hears the model, and asks once more: that is its next state.

    The tiny model has learned nothing, and would repeat empty lines: it is told to say something.
    """
    word = str(Tokenizer.from_file("model/tokenizer.json").token_to_id("o"))
    messages: list[dict[str, Any]] = [{"role": "system", "content": SYSTEM}]
    key = Path(server["key_file"]).read_text()
    headers = {
        "Authorization": f"Bearer {key}",
        "x-litellm-session-id": f"round-{round}-customer-{customer}",
    }
    with httpx.Client(headers=headers, timeout=60, trust_env=False) as client:
        for asked in (question(customer), reply(customer)):
            messages.append({"role": "user", "content": asked})
            request = {"model": NAME, "messages": messages, "max_tokens": 12}
            request["logit_bias"] = {word: 100}
            answer = client.post(f"{server['endpoint']}/chat/completions", json=request)
            message = answer.raise_for_status().json()["choices"][0]["message"]
            messages.append({"role": "assistant", "content": message["content"]})


def run(*arguments: str) -> dict[str, Any]:
    """A command of rwml; its result."""
    command = [sys.executable, "-m", "rwml", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(f"rwml {' '.join(arguments)}\n{done.stderr[-2000:]}")
    print("rwml", *arguments)
    return json.loads(done.stdout)


@contextmanager
def serving(*arguments: str) -> Iterator[dict[str, Any]]:
    """`rwml serve`; yields what it says when it is ready, and stops it at the end."""
    command = [sys.executable, "-m", "rwml", "serve", *arguments, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                raise SystemExit("rwml serve did not come up")
            print("rwml serve", *arguments)
            yield json.loads(line)
        finally:
            process.terminate()
            process.wait(60)


if __name__ == "__main__":
    main()
