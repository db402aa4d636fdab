"""Records every model call that goes through LiteLLM, in this process or in LiteLLM's proxy.

`instrument` is what `rwml.instrument()` finds; ``litellm.callbacks = [RWMLLogger(recorder)]`` does
the same by hand; the proxy's config file names `proxy_logger`, which is made when it is first asked
for. It must never raise into the caller nor change what it gets. Importing this package is light
and opens nothing: litellm loads when the program itself imports it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING, Any

import rwml
from rwml.extras import require

if TYPE_CHECKING:
    from rwml_adapters.litellm.logger import RWMLLogger

    proxy_logger: RWMLLogger

__all__ = ["RWMLLogger", "instrument", "proxy_logger"]

_PACKAGE = "litellm"


def instrument(recorder: rwml.Recorder) -> Callable[[], None]:
    """Records every LiteLLM model call of this process.

    litellm takes seconds to import, so where the program has not imported it, recording starts
    when it does.

    Args:
        recorder: where the trajectories go.

    Returns:
        A function that undoes it: no later call is recorded, and none of those in flight.

    Raises:
        MissingExtraError: litellm is not installed.
    """
    require("litellm", _PACKAGE)
    undo: list[Callable[[], None]] = []

    def switch_on() -> None:
        from rwml_adapters.litellm.logger import switch_on

        undo.append(switch_on(recorder))

    if _PACKAGE in sys.modules:
        switch_on()
    else:
        watch = _ImportWatch(recorder, switch_on)
        sys.meta_path.insert(0, watch)
        undo.append(watch.stop)

    def switch_off() -> None:
        while undo:
            undo.pop()()

    return switch_off


def __getattr__(name: str) -> Any:
    if name not in ("RWMLLogger", "proxy_logger"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require("litellm", _PACKAGE)
    if name == "proxy_logger":
        from rwml_adapters.litellm.proxy import make_proxy_logger

        return make_proxy_logger()
    from rwml_adapters.litellm.logger import RWMLLogger

    return RWMLLogger


class _ImportWatch(MetaPathFinder):
    """Calls a function once, right after litellm was imported; finds nothing itself."""

    def __init__(self, recorder: rwml.Recorder, then: Callable[[], None]) -> None:
        self._recorder = recorder
        self._then = then

    def stop(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        self._then = _nothing

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname != _PACKAGE:
            return None
        others = (finder for finder in list(sys.meta_path) if finder is not self)
        specs = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is None or spec.loader is None:
            return spec
        loader: Any = spec.loader
        execute = loader.exec_module

        def exec_module(module: Any) -> None:
            del loader.exec_module  # the loader is as it was before anyone can look at it
            execute(module)
            then, self._then = self._then, _nothing
            with self._recorder.guard():
                then()
                self.stop()

        loader.exec_module = exec_module
        return spec


def _nothing() -> None:
    """Stands for what is done already."""
