"""Makes the captured files of this folder: one agent's runs, as each producer exports them.

    python tests/data/ingest/make.py [FOLDER]

The real instrumentations watch a real LangGraph agent (a scripted chat model stands where an LLM
would be) and what they export is kept as it came. LangSmith's client and Langfuse's SDK send to a
server on 127.0.0.1; what it got is put into the shape in which their APIs give it out again
(LangSmith: run data format; Langfuse: observations of the API). Each producer runs in a process of
its own, as they patch what they watch.

Needs: openinference-instrumentation-langchain, opentelemetry-instrumentation-langchain,
opentelemetry-instrumentation-openai-v2 (2.4b0 works with opentelemetry-util-genai 0.4b0 only),
opentelemetry-exporter-otlp-proto-common, langsmith, langfuse, openai.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

FOLDER = Path(__file__).parent
SPANS_PER_LINE = 8
TURNS = (
    ("customer-7", "Where are #W1 and #W9?"),
    ("customer-8", "Where is #W2?"),
    ("customer-7", "Then bye."),
)


@tool
def order_status(order_id: str) -> str:
    """Look an order up in the shop's database."""
    found = {"#W1": "delivered", "#W2": "pending"}
    if order_id not in found:
        raise ValueError(f"no order {order_id}")
    return found[order_id]


@tool
def hang_up() -> str:
    """End the call."""
    return "The line is dead."


TOOLS = [order_status, hang_up]


class ScriptedModel(BaseChatModel):
    """Looks up the orders that the user names, says what came back, and hangs up on a bye."""

    model_name: str = "scripted-1"

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=[convert_to_openai_tool(each) for each in tools], **kwargs)

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        last, calls, text = messages[-1], [], ""
        if isinstance(last, ToolMessage):
            text = f"Found: {last.text}"
        elif "bye" in last.text:
            text, calls = "Good bye.", [("hang_up", {})]
        else:
            names = [word.strip("?.,") for word in last.text.split() if word.startswith("#")]
            calls = [("order_status", {"order_id": name}) for name in names]
        message = AIMessage(
            text,
            tool_calls=[
                {"id": f"call_{len(messages)}_{place}", "name": name, "args": args}
                for place, (name, args) in enumerate(calls)
            ],
            usage_metadata={"input_tokens": 20, "output_tokens": 5, "total_tokens": 25},
            response_metadata={"model_name": self.model_name},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])


def make_agent() -> Any:
    """The agent: its run ends after a tool too, so that no request shows what the tool said."""
    model = ScriptedModel().bind_tools(TOOLS)

    def think(state: MessagesState) -> dict[str, Any]:
        system = SystemMessage("You help the customers of a shop.")
        return {"messages": [model.invoke([system, *state["messages"]])]}

    def calls_tools(state: MessagesState) -> str:
        last = state["messages"][-1]
        return "tools" if isinstance(last, AIMessage) and last.tool_calls else END

    def goes_on(state: MessagesState) -> str:
        return END if state["messages"][-1].name == "hang_up" else "agent"

    graph = StateGraph(MessagesState)
    graph.add_node("agent", think)
    graph.add_node("tools", ToolNode(TOOLS, handle_tool_errors=True))
    graph.add_edge(START, "agent")
    graph.add_conditional_edges("agent", calls_tools, ["tools", END])
    graph.add_conditional_edges("tools", goes_on, ["agent", END])
    return graph.compile(checkpointer=InMemorySaver())


def run_agent(*callbacks: Any) -> None:
    """Two conversations, one of them in two runs."""
    agent = make_agent()
    for name, text in TURNS:
        config: Any = {"configurable": {"thread_id": name}, "callbacks": list(callbacks)}
        agent.invoke({"messages": [HumanMessage(text)]}, config)


def otlp_lines(spans: list[Any]) -> Iterator[str]:
    """Finished spans as OTLP JSON, one export request per line (OTLP 1.x, JSON encoding)."""
    from google.protobuf.json_format import MessageToDict
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

    for first in range(0, len(spans), SPANS_PER_LINE):
        request = encode_spans(spans[first : first + SPANS_PER_LINE])
        wire = MessageToDict(request, use_integers_for_enums=True)
        for resource in wire["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                for span in scope["spans"]:
                    for key in ("traceId", "spanId", "parentSpanId"):  # hex, unlike protobuf's JSON
                        if key in span:
                            span[key] = base64.b64decode(span[key]).hex()
        yield json.dumps(wire, ensure_ascii=False)


@contextmanager
def collected_spans() -> Iterator[tuple[Any, list[Any]]]:
    """A tracer provider, and the spans that ended in it."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, spans = InMemorySpanExporter(), []
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider, spans
    spans.extend(exporter.get_finished_spans())
    provider.shutdown()


def openinference(*callbacks: Any) -> list[str]:
    """OpenInference's LangChain instrumentation (Arize Phoenix)."""
    from openinference.instrumentation.langchain import LangChainInstrumentor

    with collected_spans() as (provider, spans):
        instrumentor = LangChainInstrumentor()
        instrumentor.instrument(tracer_provider=provider)
        try:
            run_agent(*callbacks)
        finally:
            instrumentor.uninstrument()
    return list(otlp_lines(spans))


def traceloop(*callbacks: Any) -> list[str]:
    """OpenLLMetry's LangChain instrumentation (Traceloop), in OTel's GenAI conventions."""
    from opentelemetry.instrumentation.langchain import LangchainInstrumentor  # pyright: ignore[reportMissingImports]

    with collected_spans() as (provider, spans):
        instrumentor = LangchainInstrumentor()
        instrumentor.instrument(tracer_provider=provider)
        try:
            run_agent(*callbacks)
        finally:
            instrumentor.uninstrument()
    return list(otlp_lines(spans))


def langsmith(*callbacks: Any) -> list[str]:
    """LangSmith's own tracer and client; the runs as `list_runs` gives them, the newest first."""
    from langchain_core.tracers import LangChainTracer
    from langsmith import Client

    posted: dict[str, dict[str, Any]] = {}

    def take(path: str, body: bytes) -> None:
        if path.endswith("/runs/batch"):
            batch = json.loads(body)
            for run in [*batch.get("post", ()), *batch.get("patch", ())]:
                known = posted.setdefault(run["id"], {})
                known.update({name: value for name, value in run.items() if value is not None})

    with server(take) as url:
        client = Client(
            api_url=url,
            api_key="lsv2_test",
            info={
                "batch_ingest_config": {
                    "use_multipart_endpoint": False,
                    "size_limit": 100,
                    "size_limit_bytes": 20_000_000,
                    "scale_up_nthreads_limit": 1,
                    "scale_up_qsize_trigger": 1000,
                }
            },
        )
        run_agent(LangChainTracer(client=client, project_name="shop"), *callbacks)
        client.flush()
        client.cleanup()
    kept = ["id", "name", "run_type", "inputs", "outputs", "error", "start_time", "end_time"]
    kept += ["extra", "tags", "trace_id", "dotted_order", "parent_run_id"]
    project = "11111111-2222-3333-4444-555555555555"
    runs = sorted(posted.values(), key=lambda run: run["dotted_order"], reverse=True)
    return [
        json.dumps(
            {**{name: run.get(name) for name in kept}, "session_id": project}, ensure_ascii=False
        )
        for run in runs
    ]


def langfuse(*callbacks: Any) -> list[str]:
    """Langfuse's LangChain callback handler; the observations as the API gives them."""
    from langfuse import Langfuse, propagate_attributes
    from langfuse.langchain import CallbackHandler
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    with server(lambda path, body: None) as url:
        client = Langfuse(
            public_key="pk-lf-test", secret_key="sk-lf-test", base_url=url, span_exporter=exporter
        )
        handler = CallbackHandler(public_key="pk-lf-test")
        agent = make_agent()
        for name, text in TURNS:
            config: Any = {
                "configurable": {"thread_id": name},
                "callbacks": [handler, *callbacks],
            }
            with propagate_attributes(session_id=name):
                agent.invoke({"messages": [HumanMessage(text)]}, config)
        client.flush()
        spans = exporter.get_finished_spans()
        client.shutdown()
    return [json.dumps(_observation(span), ensure_ascii=False) for span in spans]


def _observation(span: Any) -> dict[str, Any]:
    """A span of Langfuse's SDK as its server gives it out (observations API)."""
    about = dict(span.attributes)

    def field(name: str) -> Any:
        value = about.get(f"langfuse.observation.{name}")
        try:
            return json.loads(value) if isinstance(value, str) else value
        except ValueError:
            return value

    def when(nanoseconds: int) -> str:
        return datetime.fromtimestamp(nanoseconds / 1e9, UTC).isoformat(timespec="milliseconds")

    prefix = "langfuse.observation.metadata."
    return {
        "id": f"{span.context.span_id:016x}",
        "traceId": f"{span.context.trace_id:032x}",
        "parentObservationId": f"{span.parent.span_id:016x}" if span.parent else None,
        "type": str(about.get("langfuse.observation.type", "span")).upper(),
        "name": span.name,
        "startTime": when(span.start_time).replace("+00:00", "Z"),
        "endTime": when(span.end_time).replace("+00:00", "Z"),
        "level": about.get("langfuse.observation.level", "DEFAULT"),
        "statusMessage": about.get("langfuse.observation.status_message"),
        "sessionId": about.get("session.id"),
        "model": about.get("langfuse.observation.model.name"),
        "usageDetails": field("usage_details") or {},
        "input": field("input"),
        "output": field("output"),
        "metadata": {k.removeprefix(prefix): v for k, v in about.items() if k.startswith(prefix)},
    }


def openai_v2() -> tuple[list[str], list[list[dict[str, Any]]]]:
    """OTel's own instrumentation of the OpenAI client, in an agent loop without a framework.

    Returns:
        Lines of OTLP JSON, and the conversations as the loop had them at its end.
    """
    os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "gen_ai_latest_experimental"
    os.environ["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = "span_only"
    from openai import OpenAI
    from opentelemetry.instrumentation.openai_v2 import OpenAIInstrumentor  # pyright: ignore[reportMissingImports]

    conversations: list[list[dict[str, Any]]] = []
    offered: list[Any] = [convert_to_openai_tool(each) for each in TOOLS]
    with (
        server(lambda path, body: None, answer=_chat_completion) as url,
        collected_spans() as (provider, spans),
    ):
        instrumentor = OpenAIInstrumentor()
        instrumentor.instrument(tracer_provider=provider)
        try:
            client = OpenAI(base_url=url, api_key="none", max_retries=0)
            for text in ("Where are #W1 and #W9?", "Where is #W2?"):
                messages: list[Any] = [
                    {"role": "system", "content": "You help."},
                    {"role": "user", "content": text},
                ]
                while messages[-1]["role"] != "assistant":
                    made = client.chat.completions.create(
                        model="scripted-1", messages=messages, tools=offered
                    )
                    messages.append(made.choices[0].message.model_dump(exclude_none=True))
                    for call in messages[-1].get("tool_calls", ()):
                        asked = json.loads(call["function"]["arguments"])
                        try:
                            said = order_status.invoke(asked)
                        except ValueError as error:
                            said = f"Error: {error}"
                        messages.append(
                            {"role": "tool", "tool_call_id": call["id"], "content": said}
                        )
                conversations.append(messages)
        finally:
            instrumentor.uninstrument()
    return list(otlp_lines(spans)), conversations


def _chat_completion(body: bytes) -> dict[str, Any]:
    """What an OpenAI-compatible server answers: calls for the orders named, then their states."""
    messages = json.loads(body)["messages"]
    answer: dict[str, Any] = {"role": "assistant", "content": None}
    results = [m["content"] for m in messages if m["role"] == "tool"]
    if results:
        answer["content"] = "Found: " + ", ".join(results)
    else:
        names = [w.strip("?.,") for w in messages[-1]["content"].split() if w.startswith("#")]
        answer["tool_calls"] = [
            {
                "id": f"call_{name[1:]}",
                "type": "function",
                "function": {"name": "order_status", "arguments": json.dumps({"order_id": name})},
            }
            for name in names
        ]
    reason = "stop" if results else "tool_calls"
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1767225600,
        "model": "scripted-1",
        "choices": [{"index": 0, "message": answer, "finish_reason": reason}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25},
    }


@contextmanager
def server(
    take: Callable[[str, bytes], None], *, answer: Callable[[bytes], dict[str, Any]] | None = None
) -> Iterator[str]:
    """An HTTP server on 127.0.0.1 that gives each POST to `take`; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            take(self.path, body)
            self._answer(json.dumps(answer(body) if answer else {}).encode())

        def do_GET(self) -> None:
            self._answer(b"{}")

        do_PATCH = do_POST  # noqa: N815 - http.server's name

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}"
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()


PRODUCERS: dict[str, Callable[..., list[str]]] = {
    "openinference": openinference,
    "traceloop": traceloop,
    "langsmith": langsmith,
    "langfuse": langfuse,
}


def make(producer: str, folder: Path) -> None:
    """Writes what one producer exported, and for the first ones what rwml recorded of that run."""
    if producer == "openai-v2":
        lines, conversations = openai_v2()
        text = json.dumps(conversations, ensure_ascii=False, indent=1)
        (folder / "openai-v2.truth.json").write_text(text + "\n", encoding="utf-8")
    else:
        lines, recorded = record_too(PRODUCERS[producer])
        truth = "".join(trajectory + "\n" for trajectory in recorded)
        (folder / f"{producer}.truth.jsonl").write_text(truth, encoding="utf-8")
    data = "".join(_without_machine(line) + "\n" for line in lines).encode()
    with gzip.GzipFile(folder / f"{producer}.jsonl.gz", "wb", mtime=0) as file:
        file.write(data)


def _without_machine(line: str) -> str:
    """A line without what it says of the machine it was made on."""
    for found, instead in (
        (sys.prefix, "/venv"),
        (str(FOLDER.parents[2]), "/src"),
        (platform.platform(), "Linux"),
    ):
        line = line.replace(found, instead)
    return line


def record_too(producer: Callable[..., list[str]]) -> tuple[list[str], list[str]]:
    """Runs a producer's agent with rwml's own handler beside it.

    Returns:
        What the producer exported, and the trajectories that rwml recorded, as JSON.
    """
    import tempfile

    import rwml
    from rwml_adapters.langchain import RWMLCallbackHandler

    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'rwml.db'}"
        with rwml.Recorder(store=url) as recorder:
            lines = producer(RWMLCallbackHandler(recorder))
        with rwml.open_store(url, create=False) as store:
            return lines, [
                found.model_dump_json(exclude_defaults=True) for found in store.trajectories()
            ]


if __name__ == "__main__":
    wanted = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    if len(sys.argv) > 2:
        make(sys.argv[2], wanted)
    else:
        for each in (*PRODUCERS, "openai-v2"):
            subprocess.run([sys.executable, __file__, str(wanted), each], check=True)
