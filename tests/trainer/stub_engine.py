"""An engine that answers at once, or when it is told to: what the model says is not the point.

The last message says what to do: ``wait`` holds the answer (a stream after its first piece) until
the file ``gate`` is in the working directory; ``die`` ends the process; ``fail`` is a 500, and
``hard`` one of the model `FRAIL`. Any
other is answered with the name of the model's folder, after what a world model would say, and
after as many seconds as `DELAY` in the environment says. While the file ``hold`` is in the working
directory it does not come up.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from rwml_trainer.serving.engine import HOST, Engine
from rwml_trainer.serving.process import ServerProcess, free_port
from rwml_trainer.serving.registry import Version

STATE = "<next_state>ok</next_state>"
DELAY = "RWML_TEST_DELAY_S"
PIECES = 5
MUTE = "mute"
"""A model whose folder is called so predicts nothing."""
FRAIL = "frail"
"""One that fails where others do not."""
REFUSER = "refuser"
"""One that refuses to be shown tools."""
CALLER = "caller"
"""One that calls the first tool that it is shown, as its schema says."""


def start_stub(version: Version, work: Path) -> Engine:
    """Starts it in a process of its own, as `start_transformers` does."""
    work.mkdir(parents=True, exist_ok=True)
    port = free_port()
    process = ServerProcess(
        name="engine",
        command=[sys.executable, __file__, str(port), Path(version.folder).name],
        env=os.environ,
        folder=work,
        log=work / "engine.log",
    )
    return Engine("transformers", f"http://{HOST}:{port}/v1", "stub", process)


def text_of(model: str) -> str:
    return f"from {model}" if model == MUTE else f"{STATE} from {model}"


def _make_app(model: str) -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    delay_s = float(os.environ.get(DELAY, "0"))

    async def complete(request: Request) -> Response:
        body = await request.json()
        asked = body["messages"][-1]["content"]
        if model == REFUSER and body.get("tools"):
            return JSONResponse({"error": {"message": "too long"}}, 400)
        if asked == "die":
            os._exit(9)
        if asked == "fail" or (asked == "hard" and model == FRAIL):
            return JSONResponse({"error": {"message": f"secret of {request.url}"}}, 500)
        if body.get("stream"):
            return StreamingResponse(_stream(asked, text_of(model)), media_type="text/event-stream")
        if asked == "wait":
            await _until_told()
        await asyncio.sleep(delay_s)
        message = {"role": "assistant", "content": text_of(model), "seen": sorted(body)}
        if model == CALLER and body.get("tools"):
            message["tool_calls"] = [_call(body["tools"][0]["function"])]
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        return JSONResponse(
            {
                "id": "1",
                "object": "chat.completion",
                "created": 1,
                "model": "stub",
                "choices": [choice],
                "usage": usage,
            }
        )

    return Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"])])


def _call(tool: Any) -> dict[str, Any]:
    arguments = json.dumps(dict.fromkeys(tool["parameters"].get("required", []), "W1"))
    function = {"name": tool["name"], "arguments": arguments}
    return {"id": "call_1", "type": "function", "function": function}


async def _stream(asked: str, text: str) -> AsyncIterator[str]:
    pieces = [f"{number} " for number in range(PIECES)] + [text]
    for place, piece in enumerate(pieces):
        if asked == "wait" and place == 1:
            await _until_told()
        choice = {"index": 0, "delta": {"role": "assistant", "content": piece}}
        if place == len(pieces) - 1:
            choice["finish_reason"] = "stop"
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "stub"}
        yield f"data: {json.dumps({**chunk, 'choices': [choice]})}\n\n"
    yield "data: [DONE]\n\n"


async def _until_told() -> None:
    while not Path("gate").exists():
        await asyncio.sleep(0.02)


if __name__ == "__main__":
    import uvicorn

    while Path("hold").exists():
        time.sleep(0.02)
    uvicorn.run(_make_app(sys.argv[2]), host=HOST, port=int(sys.argv[1]), log_level="warning")
