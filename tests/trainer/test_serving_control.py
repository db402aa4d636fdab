"""The pair of sockets between the server and its gateway: real ones, and a gateway that is late."""

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rwml.errors import ServingError
from rwml_trainer.serving.control import Control, GatewaySilentError, Order, listen, open_pair
from rwml_trainer.serving.routing import Table


def running() -> Any:
    """Stands for a process that is there."""
    return SimpleNamespace(
        check=lambda: None, wait=lambda s: None, last_lines=lambda: "", log=Path("log")
    )


def test_a_late_reply_is_not_taken_for_that_of_another_order() -> None:
    ours, theirs = open_pair()
    seen: list[Order] = []
    goes_on = threading.Event()

    def carry_out(order: Order) -> Mapping[str, int]:
        seen.append(order)
        goes_on.wait()
        return {} if order.kind == "serve" else {"count": len(seen)}

    with theirs:
        listen(os.dup(theirs.fileno()), carry_out)
    control = Control(ours, running())
    for _ in range(2):  # the second one is not even given, so that none piles up
        with pytest.raises(GatewaySilentError, match="does not answer"):
            control.serve(Table(), deadline=time.monotonic())
    goes_on.set()
    assert control.count("world@1") == 2
    assert [(order.kind, order.number) for order in seen] == [("serve", 1), ("count", 2)]
    control.serve(Table())
    control.close()


def test_a_gateway_that_is_gone_is_not_a_silent_one() -> None:
    ours, theirs = open_pair()
    theirs.close()
    with pytest.raises(ServingError, match="hung up") as raised:
        Control(ours, running()).count("world@1")
    assert not isinstance(raised.value, GatewaySilentError)
