"""What recording costs an agent, against OpenInference and LangChain's own tracer.

A real LangGraph agent runs with each handler in turn; a step is one model call and one tool call
with a result of 2 KB, and all the callbacks that LangGraph fires for them. Two things are measured:

- Latency: the time that the agent's threads spend inside the handler, per step, less that of a
  handler that does nothing. Background threads run meanwhile, as in production; nothing is drained
  inside the measured part. The model waits 2 ms per call, as a call over a network would at least.
- CPU: what the whole process spends per step, background threads and their draining included, less
  that of the run with a handler that does nothing.

OpenInference exports through OTel's `BatchSpanProcessor` to an exporter that drops all; LangChain's
tracer has a client that drops all; rwml writes to a SQLite file with its usual redaction.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.measure import Result

import rwml

STEPS = 20
ROUNDS = 12
WARM_UP = 2
PAYLOAD = "A line of a result that a tool has found. " * 49  # 2 KB
MODEL_WAIT_S = 0.002
_EVENTS = (
    "on_chain_start", "on_chain_end", "on_chain_error", "on_chat_model_start", "on_llm_start",
    "on_llm_new_token", "on_llm_end", "on_llm_error", "on_tool_start", "on_tool_end",
    "on_tool_error",
)  # fmt: skip
_IGNORED_BY = {"chain": "ignore_chain", "llm": "ignore_llm", "tool": "ignore_agent"}


@dataclass
class Measured:
    """Seconds: in the handler for each step, and of CPU for all of them."""

    steps_s: list[float] = field(default_factory=list)
    cpu_s: float = 0.0


@dataclass(frozen=True)
class Subject:
    """A handler, and what waits until its background work is done."""

    handler: Any
    drain: Callable[[], object]


def recorder_overhead() -> list[Result]:
    """Microseconds per step of rwml, and what they are of OpenInference's and LangChain's."""
    with _subjects() as subjects:
        found = {name: Measured() for name in subjects}
        for number in range(ROUNDS + WARM_UP):
            for name, subject in subjects.items():
                measured = Measured() if number < WARM_UP else found[name]
                _run(subject, measured)
    nothing = statistics.median(found["nothing"].steps_s) * 1e6
    added = {
        name: statistics.median(measured.steps_s) * 1e6 - nothing
        for name, measured in found.items()
    }
    late = {name: _quantile(measured.steps_s, 0.99) * 1e6 for name, measured in found.items()}
    steps = STEPS * ROUNDS
    cpu = {
        name: (measured.cpu_s - found["nothing"].cpu_s) / steps * 1e6
        for name, measured in found.items()
    }
    ours = added["rwml"]
    return [
        _result("recorder_overhead_vs_openinference", ours, added["openinference"]),
        _result("recorder_overhead_vs_langchain_tracer", ours, added["langchain"]),
        _result("recorder_overhead_p50_us", ours, nothing),
        _result("recorder_overhead_p99_us", late["rwml"] - late["nothing"], late["nothing"]),
        _result("recorder_cpu_vs_openinference", cpu["rwml"], cpu["openinference"]),
        _result("recorder_cpu_vs_langchain_tracer", cpu["rwml"], cpu["langchain"]),
    ]


def _result(name: str, value: float, baseline: float) -> Result:
    unit = "us added per step"
    return Result(name=name, value=value, unit=unit, baseline=baseline, ratio=value / baseline)


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


def _run(subject: Subject, measured: Measured) -> None:
    """One conversation; its first and last step, which start and end the run, are left out."""
    clock = _clocked(subject.handler)
    config: Any = {
        "callbacks": [clock],
        "recursion_limit": 10 * STEPS,
        "configurable": {"thread_id": uuid.uuid4().hex},
    }
    graph = _agent()
    started = time.process_time()
    graph.invoke({"messages": [("user", "Find everything.")]}, config)
    subject.drain()
    measured.cpu_s += time.process_time() - started
    measured.steps_s += clock.steps_s()[1:-1]


def _clocked(inner: Any) -> Any:
    """A handler that adds up, for each step, what another one takes."""
    from langchain_core.callbacks import BaseCallbackHandler

    class Clock(BaseCallbackHandler):
        run_inline = inner.run_inline

        def __init__(self) -> None:
            self.taken: list[tuple[bool, float]] = []  # appended to from several threads

        def steps_s(self) -> list[float]:
            sums: list[float] = [0.0]
            for begins, seconds in self.taken:
                if begins:
                    sums.append(0.0)
                sums[-1] += seconds
            return sums[1:]

    def timed(name: str) -> Callable[..., None]:
        call = getattr(inner, name)
        begins = name == "on_chat_model_start"
        ignored = getattr(inner, _IGNORED_BY.get(name.split("_")[1], "ignore_chat_model"))

        def event(self: Clock, *arguments: Any, **named: Any) -> None:
            if ignored:
                return
            started = time.perf_counter()
            call(*arguments, **named)
            self.taken.append((begins, time.perf_counter() - started))

        return event

    for name in _EVENTS:
        setattr(Clock, name, timed(name))
    return Clock()


@contextmanager
def _subjects() -> Iterator[dict[str, Subject]]:
    from langchain_core.callbacks import BaseCallbackHandler
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from rwml_adapters.langchain import RWMLCallbackHandler

    class Nothing(BaseCallbackHandler):
        run_inline = True

        def on_chat_model_start(self, *arguments: Any, **named: Any) -> None:
            """The base class refuses this one."""

    # It warns at every span with more attributes than it keeps by default; the cut is timed, too.
    logging.getLogger("opentelemetry").setLevel(logging.ERROR)
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(_null_exporter()))
    with (
        tempfile.TemporaryDirectory() as folder,
        rwml.Recorder(store=f"sqlite:///{Path(folder) / 'rwml.db'}") as recorder,
    ):
        yield {
            "nothing": Subject(Nothing(), lambda: None),
            "rwml": Subject(RWMLCallbackHandler(recorder), lambda: recorder.flush(60)),
            "openinference": Subject(_openinference(provider), provider.force_flush),
            "langchain": Subject(_langchain_tracer(), lambda: None),
        }
        if recorder.stats.dropped or recorder.stats.errors:
            raise RuntimeError(f"not everything was recorded: {recorder.stats}")
    provider.shutdown()


def _null_exporter() -> Any:
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Null(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    return Null()


def _openinference(provider: Any) -> Any:
    """The handler that its instrumentor adds to every run."""
    from openinference.instrumentation import OITracer, TraceConfig
    from openinference.instrumentation.langchain._tracer import OpenInferenceTracer

    tracer: Any = OITracer(provider.get_tracer("bench"), config=TraceConfig())
    return OpenInferenceTracer(tracer, False)


def _langchain_tracer() -> Any:
    from langchain_core.tracers.langchain import LangChainTracer
    from langsmith import Client

    class Null(Client):
        def create_run(self, *arguments: Any, **named: Any) -> None:
            """Drops it."""

        def update_run(self, *arguments: Any, **named: Any) -> None:
            """Drops it."""

    client = Null(api_url="http://127.0.0.1:9", api_key="none", auto_batch_tracing=False)
    return LangChainTracer(client=client, project_name="bench")


def _agent() -> Any:
    from langchain_core.messages import AIMessage, BaseMessage
    from langchain_core.tools import tool
    from langgraph.graph import END, START, MessagesState, StateGraph
    from langgraph.prebuilt import ToolNode, tools_condition

    from rwml.testing import ScriptedChatModel

    @tool
    def find(what: str) -> str:
        """Find something."""
        return f"{what}: {PAYLOAD}"

    def script(messages: list[BaseMessage]) -> AIMessage:
        time.sleep(MODEL_WAIT_S)
        number = len(messages) // 2
        if number == STEPS + 1:
            return AIMessage("That is everything.")
        call = {"id": uuid.uuid4().hex, "name": "find", "args": {"what": f"part {number}"}}
        return AIMessage("", tool_calls=[call])

    model = ScriptedChatModel(script=script).bind_tools([find])

    def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("agent", think)
    graph.add_node("tools", ToolNode([find]))
    graph.add_edge(START, "agent")
    graph.add_conditional_edges("agent", tools_condition, {"tools": "tools", END: END})
    graph.add_edge("tools", "agent")
    return graph.compile()
