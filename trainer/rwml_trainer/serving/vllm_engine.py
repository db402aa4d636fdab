"""vLLM as an engine: started by another Python, whose environment has vLLM.

vLLM pins a torch of its own, and TRL supports other versions of it than serving wants: so it has an
environment for itself, and we start it by that environment's Python and never import it. It gets a
key that only the gateway knows, and its switches for developers and for adapters at run time stay
off. What is not said here (GPUs, memory, quantisation) is said in a file of vLLM's own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rwml.errors import UsageError
from rwml_trainer.models import load_tokenizer
from rwml_trainer.serving.engine import HOST, MODEL_LINK, PATIENT, QUIET, Engine, link_model
from rwml_trainer.serving.process import ServerProcess, free_port
from rwml_trainer.serving.registry import Version

MODULE = "vllm.entrypoints.openai.api_server"
AUTO = "auto"
NO_PARSER = "none"
# They would open routes that load code or weights, take pickles, or replace our key.
API_KEY = "VLLM_API_KEY"
RUNTIME_LORA = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"
SWITCHED_OFF = (
    API_KEY,
    RUNTIME_LORA,
    "VLLM_ALLOW_INSECURE_SERIALIZATION",
    "VLLM_SERVER_DEV_MODE",
)
# On a CPU vLLM pins its threads to cores that it counts by itself, so that the two engines of a
# promotion would have the same ones, and the new one come up on what the busy one leaves.
UNPINNED = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
SILENT = {"VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1"}
# What a chat template tells the model to write around a call -> vLLM's parser of that (its page
# "Tool Calling"); None where several parsers read nearly the same, and one has to be named. The
# first that is found counts: GLM and Qwen3-Coder write <tool_call> too.
TOOL_PARSERS: tuple[tuple[str, str | None], ...] = (
    ("<arg_key>", None),  # GLM 4.5, GLM 4.7
    ("<\uff5ctool\u2581calls\u2581begin\uff5c>", None),  # DeepSeek V3, V3.1
    ("<function=", "qwen3_xml"),  # Qwen3-Coder
    ("<tool_call>", "hermes"),  # Qwen 2.5, Qwen 3, Hermes
    ("[TOOL_CALLS]", "mistral"),
    ("<|python_tag|>", "llama3_json"),
    ("<|tool_calls_section_begin|>", "kimi_k2"),
)


@dataclass(frozen=True, kw_only=True)
class Vllm:
    """How vLLM is started.

    Attributes:
        python: of the environment that has it.
        key: that it asks for.
        dtype: of the weights; ``auto`` for the model's own.
        max_model_len: tokens of prompt and answer; None for as many as the model was made for.
        tool_parser: reads calls from what the model writes; ``none`` for no tools; None to choose
            by the chat template.
        config: file of further arguments, as vLLM's ``--config`` takes it; ours win.
    """

    python: Path
    key: str
    dtype: str = AUTO
    max_model_len: int | None = None
    tool_parser: str | None = None
    config: Path | None = None

    def start(
        self, version: Version, work: Path, *, name: str | None = None, lora: Sequence[str] = ()
    ) -> Engine:
        """Starts it for a version; it loads while this returns.

        Args:
            version: its folder has config, safetensors, and a tokenizer with a chat template.
            work: folder for its log and the link to the model; made if missing.
            name: what it calls the model; the version's by default.
            lora: arguments of one that loads LoRA adapters while it runs.

        Raises:
            UsageError: which parser reads this model's tool calls is not known.
        """
        parser = self.parser_for(version)
        link_model(version, work)
        port = free_port()
        process = ServerProcess(
            name="engine",
            command=[*self.command(name or version.id, port=port, parser=parser), *lora],
            env=self._environment({RUNTIME_LORA: "1"} if lora else {}),
            folder=work,
            log=work / "engine.log",
        )
        url = f"http://{HOST}:{port}/v1"
        called = name or version.id
        return Engine("vllm", url, called, process, self.key, tools=parser is not None)

    def command(self, name: str, *, port: int, parser: str | None) -> list[str]:
        """Program and arguments; the last of two equal options counts, so ours come last."""
        # Isolated: neither our PYTHONPATH nor the working directory is on its import path.
        words = [str(self.python.absolute()), "-I", "-m", MODULE]
        if self.config is not None:
            words += ["--config", str(self.config.absolute())]
        words += ["--model", MODEL_LINK, "--served-model-name", name]
        words += ["--host", HOST, "--port", str(port)]
        words += ["--no-trust-remote-code", "--load-format", "safetensors"]
        if self.dtype != AUTO:  # else the file may say it
            words += ["--dtype", self.dtype]
        if self.max_model_len is not None:
            words += ["--max-model-len", str(self.max_model_len)]
        if parser is not None:
            words += ["--enable-auto-tool-choice", "--tool-call-parser", parser]
        return words

    def _environment(self, switched_on: Mapping[str, str]) -> dict[str, str]:
        given = {name: value for name, value in os.environ.items() if name not in SWITCHED_OFF}
        return {**PATIENT, **UNPINNED, **given, **QUIET, **SILENT, **switched_on, API_KEY: self.key}

    def parser_for(self, version: Version) -> str | None:
        """Name of the parser that reads a model's tool calls; None for no tools.

        Raises:
            UsageError: it is not given, and cannot be told from the chat template.
        """
        if not version.tools or self.tool_parser == NO_PARSER:
            return None
        if self.tool_parser is not None:
            return self.tool_parser
        template = str(load_tokenizer(version.folder).chat_template)
        found = next((parser for mark, parser in TOOL_PARSERS if mark in template), None)
        if found is None:
            raise UsageError(
                f"which of vLLM's parsers reads the tool calls of {version.id} cannot be told from "
                f"its chat template: name it by --tool-parser, or --tool-parser {NO_PARSER}"
            )
        return found
