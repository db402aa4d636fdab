"""Stands where vLLM would be in an environment of its own: notes what it is told, and answers.

Of vLLM's API it has chat completions, the two routes for LoRA adapters and its key; a completion
says which model gave it. What vLLM really does is ``make test-vllm``'s to find out. Nothing but
the standard library is imported: it runs in an environment that has nothing else.
"""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

ARGUMENTS = sys.argv[1:]
loaded: dict[str, str] = {}


def option(name: str) -> str:
    return ARGUMENTS[ARGUMENTS.index(name) + 1]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {os.environ['VLLM_API_KEY']}":
            self.reply(401, {})
        elif self.path == "/v1/load_lora_adapter":
            # In place, vLLM would read the adapter anew at each step.
            is_fine = body["lora_name"] not in loaded and "load_inplace" not in body
            if is_fine:
                loaded[body["lora_name"]] = body["lora_path"]
            self.reply(200 if is_fine else 400, {})
        elif self.path == "/v1/unload_lora_adapter":
            self.reply(200 if loaded.pop(body["lora_name"], None) else 404, {})
        elif body["model"] in (option("--served-model-name"), *loaded):
            message = {"role": "assistant", "content": loaded.get(body["model"], "")}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            kept = {"object": "chat.completion", "id": "1", "created": 1, "model": body["model"]}
            self.reply(200, {**kept, "choices": [choice]})
        else:
            self.reply(404, {})

    def reply(self, status: int, body: dict[str, object]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())


if __name__ == "__main__":
    told = {"arguments": ARGUMENTS, "path": sys.path, "environment": dict(os.environ)}
    Path("told.json").write_text(json.dumps(told))
    HTTPServer((option("--host"), int(option("--port"))), Handler).serve_forever()
