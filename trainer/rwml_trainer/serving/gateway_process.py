"""The gateway's process: loads LiteLLM, puts the guard in front, serves until SIGTERM.

``python -m rwml_trainer.serving.gateway_process``, as `gateway.start` calls it. It refuses to run
without a key. LiteLLM's own master key is a random one that nobody has.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from rwml_trainer.serving.control import Order, listen
from rwml_trainer.serving.gateway import ENGINE_KEY, deployment, in_url
from rwml_trainer.serving.guard import BODY_LIMIT, BODY_TIMEOUT_S, Guard
from rwml_trainer.serving.http_server import HEAD_TIMEOUT_S, DrainingServer
from rwml_trainer.serving.keys import KeyRing
from rwml_trainer.serving.routing import Switchboard, Table


def main() -> None:
    """Serves until a signal comes and what was in flight has ended."""
    arguments = _arguments()
    keys = KeyRing(arguments.keys)
    if not keys:
        raise SystemExit(f"no key in {arguments.keys}: the gateway does not start without one")
    os.environ["LITELLM_MASTER_KEY"] = f"sk-{secrets.token_urlsafe(32)}"  # before LiteLLM loads
    os.environ["CONFIG_FILE_PATH"] = str(arguments.config)
    from litellm.proxy.proxy_server import app

    bound = socket.socket(fileno=arguments.fd)
    switchboard = Switchboard()
    guard = Guard(
        app,
        keys=keys,
        switchboard=switchboard,
        hosts=_hosts(bound, arguments.name),
        body_limit=arguments.body_limit,
        body_timeout_s=arguments.body_timeout,
    )

    def take_orders() -> None:
        loop = asyncio.get_running_loop()

        def carry_out(order: Order) -> Mapping[str, JsonValue]:
            return asyncio.run_coroutine_threadsafe(_carry_out(order, switchboard), loop).result()

        listen(arguments.control, carry_out)

    server = DrainingServer(
        guard,
        switchboard=switchboard,
        on_started=take_orders,
        head_timeout_s=arguments.head_timeout,
    )
    server.run(sockets=[bound])


async def _carry_out(order: Order, switchboard: Switchboard) -> Mapping[str, JsonValue]:
    if order.kind == "count":
        return {"count": switchboard.in_flight(order.version)}
    if order.kind == "report":
        return {"report": switchboard.report().model_dump(mode="json")}
    if order.table is not None:
        _tell_litellm(order.table)
        switchboard.table = order.table
    return {}


def _tell_litellm(table: Table) -> None:
    """Brings LiteLLM's router in line: its requests in flight keep the deployment they have."""
    from litellm.proxy import proxy_server
    from litellm.types.router import Deployment

    router = proxy_server.llm_router
    if router is None:
        raise RuntimeError("LiteLLM has no router: its configuration names no model")
    key = os.environ[ENGINE_KEY]
    for version, target in table.versions.items():
        router.upsert_deployment(Deployment.model_validate(deployment(version, target, key=key)))
    for known in router.get_model_ids():
        if known not in table.versions:
            router.delete_deployment(known)
    proxy_server.llm_model_list = router.get_model_list()


def _hosts(bound: socket.socket, names: list[str]) -> list[str]:
    host, port = bound.getsockname()[:2]
    own = {in_url(host), "127.0.0.1", "localhost", "[::1]"}
    # Behind a TLS proxy, or on port 80, the name stands alone.
    return [*(f"{name}:{port}" for name in (*own, *names)), *names]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--keys", type=Path, required=True, help="file of the keys' hashes")
    parser.add_argument("--fd", type=int, required=True, help="bound socket to listen on")
    parser.add_argument("--control", type=int, required=True, help="where the server gives orders")
    parser.add_argument("--name", action="append", default=[], help="further host name")
    parser.add_argument("--body-limit", type=int, default=BODY_LIMIT)
    parser.add_argument("--body-timeout", type=float, default=BODY_TIMEOUT_S)
    parser.add_argument("--head-timeout", type=float, default=HEAD_TIMEOUT_S)
    return parser.parse_args()


if __name__ == "__main__":
    main()
