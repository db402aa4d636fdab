"""Record what goes through a LiteLLM proxy with one line in its config file.

The proxy, the store and the client's requests are real. A scripted server stands where a model
provider would be, so this runs in seconds, on loopback only, and needs no key.
"""

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

CONFIG = Path(__file__).with_name("config.yaml")
ORDERS = {"#W1": "delivered", "#W2": "pending"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "order_status",
            "description": "Look an order up in the shop's database.",
            "parameters": {
                "type": "object",
                "properties": {"order_id": {"type": "string"}},
                "required": ["order_id"],
            },
        },
    }
]
START_TIMEOUT_S = 120.0


class Provider(BaseHTTPRequestHandler):
    """Speaks OpenAI's protocol: looks up the order that the user names, and says what came back."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"]
        last = asked[-1]
        if last["role"] == "tool":
            message = {"role": "assistant", "content": f"Your order: {last['content']}."}
        else:
            arguments = json.dumps({"order_id": last["content"].split()[-1]})
            function = {"name": "order_status", "arguments": arguments}
            call = {"id": f"call_{secrets.token_hex(6)}", "type": "function", "function": function}
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
        about = {"id": "1", "object": "chat.completion", "created": 1, "model": "scripted"}
        body = json.dumps({**about, "choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def provider() -> Iterator[str]:
    """The scripted provider on a free port; yields its base URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()


@contextmanager
def proxy(*, store: str, upstream: str, key: str, log: Path) -> Iterator[str]:
    """LiteLLM's proxy in a process of its own; yields its base URL, and stops it at the end."""
    port = free_port()
    environment = {
        **os.environ,
        "RWML_STORE": store,
        "UPSTREAM_URL": upstream,
        "UPSTREAM_KEY": "none",
        "LITELLM_MASTER_KEY": key,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it tries a download at each start
        "LITELLM_MODE": "PRODUCTION",  # else it loads a .env
    }
    command = [sys.executable, "-m", "litellm.proxy.proxy_cli", "--config", str(CONFIG)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as output:
        process = subprocess.Popen(  # noqa: S603 - our own command
            command, env=environment, stdout=output, stderr=output
        )
    try:
        wait_until_up(f"http://127.0.0.1:{port}", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()  # on SIGTERM the logger writes what it still has
        try:
            process.wait(30)
        finally:
            process.kill()


def wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if httpx.get(f"{url}/health/liveliness", trust_env=False).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise SystemExit(f"the proxy did not come up:\n{log.read_text()[-2000:]}")


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def run_agent(url: str, key: str) -> None:
    """An agent with one tool, as a client of the proxy: any OpenAI client does the same."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": "You help a shop's customers."}]
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as client:
        for order_id in ("#W1", "#W9"):
            messages.append({"role": "user", "content": f"Where is order {order_id}"})
            while True:
                request = {"model": "shop-model", "messages": messages, "tools": TOOLS}
                request["litellm_session_id"] = "customer-7"
                answer = client.post("/chat/completions", json=request).raise_for_status().json()
                message = answer["choices"][0]["message"]
                messages.append(message)
                if not message.get("tool_calls"):
                    break
                for call in message["tool_calls"]:
                    wanted = json.loads(call["function"]["arguments"])["order_id"]
                    found = ORDERS.get(wanted, f"Error: no order {wanted}")
                    messages.append({"role": "tool", "tool_call_id": call["id"], "content": found})


def rwml(*arguments: str) -> str:
    command = [sys.executable, "-m", "rwml", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout


def main() -> None:
    key = f"sk-{secrets.token_urlsafe(24)}"
    with tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:///{Path(folder) / 'rwml.db'}"
        log = Path(folder) / "proxy.log"
        with provider() as upstream, proxy(store=store, upstream=upstream, key=key, log=log) as url:
            run_agent(url, key)
        listed = json.loads(rwml("show", "--store", store, "--json"))
        for trajectory in listed["trajectories"]:
            print(rwml("show", trajectory["id"], "--store", store))
        print(rwml("doctor", "--store", store))


if __name__ == "__main__":
    main()
