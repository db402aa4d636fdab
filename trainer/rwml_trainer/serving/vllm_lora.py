"""One vLLM for all runs of a base model: each version is a LoRA adapter that it loads at run time.

A promotion then needs no second copy of the base model in memory and no second start. vLLM's
switch for that opens routes that read any folder of the machine: it is set for a process that
listens on loopback and asks for a key which only the gateway knows, and the gateway has none of
these routes. An adapter is loaded under the version's name, and only if it is the one that the
version's merged weights were made of.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rwml.errors import ModelError, ServingError
from rwml.files import file_sha256
from rwml_trainer.merging import LORA_CONFIG, LORA_WEIGHTS, read_merge
from rwml_trainer.models import load_tokenizer, template_sha256
from rwml_trainer.runs import read_run, weights_folder
from rwml_trainer.serving.engine import Engine
from rwml_trainer.serving.folders import check_model_folder
from rwml_trainer.serving.process import (
    LOG_LINES,
    STOP_GRACE_S,
    ServerProcess,
    wait_for_completion,
)
from rwml_trainer.serving.registry import Version
from rwml_trainer.serving.vllm_engine import Vllm

BASE = "base"
"""What vLLM calls the base model, which no client can ask."""
ADAPTER = "adapter"
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Of LoRA adapters, as vLLM reserves memory for them (its ``MaxLoRARanks``)."""
AT_ONCE = 2
"""Adapters in one batch (ours): the one that leaves and the one that comes."""
LOAD, UNLOAD = "load_lora_adapter", "unload_lora_adapter"
"""Routes of vLLM, which its switch opens."""
LOAD_S = 60.0
"""For an adapter to be read (ours): one of 100 MB takes seconds."""


@dataclass
class _Host:
    """A vLLM of a base model, and how many versions it runs."""

    engine: Engine
    rank: int
    versions: int = 0


@dataclass
class VllmLora:
    """Starts versions as adapters of a vLLM that is there already, or starts that first.

    Args:
        vllm: how one is started.
    """

    vllm: Vllm
    _hosts: dict[str, _Host] = field(default_factory=dict, init=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False)
    _started: int = field(default=0, init=False)

    def start(self, version: Version, work: Path) -> Engine:
        """Starts a version; what is no LoRA run gets a vLLM of its own.

        Args:
            version: of a run, merged; its base model must be a folder.
            work: of the version; the folder of a base model's vLLM lies beside it.

        Raises:
            ModelError: the run's adapter is another one now, or its base model is not there.
            UsageError: which parser reads the model's tool calls is not known.
        """
        if version.stage is None or read_run(Path(version.source)).weights != "lora":
            return self.vllm.start(version, work)
        work.mkdir(parents=True, exist_ok=True, mode=0o700)
        adapter, base, rank = _take_adapter(version, work / ADAPTER)
        with self._lock:
            host = self._hosts.get(base)
            if host is None or host.engine.process.has_ended or host.rank < rank:
                host = self._start_host(version, base, rank=rank, folder=work.parent)
            host.versions += 1
            process = _AdapterProcess(self, host, version=version.id, log=work / "engine.log")
            return _AdapterEngine(
                "vllm",
                host.engine.url,
                version.id,
                process,
                self.vllm.key,
                tools=host.engine.tools,
                adapter=adapter,
            )

    def release(self, host: _Host, version: str, grace_s: float) -> None:
        """Unloads a version; a vLLM stops with its last one."""
        with self._lock:
            host.versions -= 1
            if host.versions == 0:
                host.engine.process.stop(grace_s)
                self._hosts = {base: each for base, each in self._hosts.items() if each is not host}
            elif not host.engine.process.has_ended:
                with suppress(ServingError):  # it is busy or ends: what is loaded goes with it
                    tell(host.engine, UNLOAD, {"lora_name": version}, timeout_s=grace_s)

    def _start_host(self, version: Version, base: str, *, rank: int, folder: Path) -> _Host:
        self._started += 1
        reserved = next((known for known in RANKS if known >= rank), rank)
        engine = self.vllm.start(
            version.model_copy(update={"folder": base}),
            folder / f"{BASE}-{self._started}",
            name=BASE,
            lora=("--enable-lora", "--max-loras", str(AT_ONCE), "--max-lora-rank", str(reserved)),
        )
        host = self._hosts[base] = _Host(engine, reserved)
        return host


class _AdapterProcess(ServerProcess):
    """The vLLM that a version shares with others: it ends with the last of them.

    Args:
        shared: who started it.
        host: the vLLM.
        version: the adapter's name.
        log: file that says where the log is.
    """

    def __init__(self, shared: VllmLora, host: _Host, *, version: str, log: Path) -> None:
        process = host.engine.process
        self.name, self.log, self._popen = process.name, log, process._popen
        self._shared, self._host, self._version = shared, host, version
        self.is_stopped = False
        log.write_text(f"{version} is an adapter of the engine in {process.log}\n")

    def last_lines(self, count: int = LOG_LINES) -> str:
        """The last lines of the vLLM's log."""
        return self._host.engine.process.last_lines(count)

    def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """Unloads the adapter; the vLLM stops with its last one."""
        if not self.is_stopped:
            self.is_stopped = True
            self._shared.release(self._host, self._version, grace_s)


@dataclass(frozen=True)
class _AdapterEngine(Engine):
    """A version that is an adapter; `wait` loads it."""

    adapter: Path = Path()

    def wait(self, deadline: float) -> None:
        """Returns once the adapter is loaded and answers; raises ServingError if it never does."""
        wait_for_completion(
            url=self.url, model=BASE, key=self.key, needs=[self.process], deadline=deadline
        )
        place = {"lora_name": self.model, "lora_path": str(self.adapter)}
        with suppress(ServingError):  # it was never there, but where vLLM was too busy to unload it
            tell(self, UNLOAD, {"lora_name": self.model}, timeout_s=LOAD_S)
        tell(self, LOAD, place, timeout_s=LOAD_S)
        super().wait(deadline)


def tell(engine: Engine, order: str, body: dict[str, str], *, timeout_s: float) -> None:
    """Has a vLLM load or unload an adapter.

    Raises:
        ServingError: it refuses, or does not answer.
    """
    import httpx

    headers = {"Authorization": f"Bearer {engine.key}"}
    try:
        answer = httpx.post(
            f"{engine.url}/{order}",
            headers=headers,
            json=body,
            timeout=timeout_s,
            trust_env=False,
        )
    except httpx.HTTPError as error:
        raise ServingError(f"vLLM does not answer ({order}): {error}") from error
    if answer.status_code != 200:
        raise ServingError(
            f"vLLM refuses {body['lora_name']} ({order}): {answer.text[:300]}; without --load-lora "
            f"its merged weights are served"
        )


def _take_adapter(version: Version, copy: Path) -> tuple[Path, str, int]:
    """Copies a version's adapter, so that what was looked at is what is loaded, now and later.

    Returns:
        Its folder, the folder of its base model, and its rank.

    Raises:
        ModelError: it is not the adapter that was merged, or the base model is no folder.
    """
    merged = read_merge(Path(version.folder))
    adapter = weights_folder(Path(version.source), version.stage or "trained").resolve()
    if merged is None or not _is_copied(
        adapter,
        copy,
        wanted={LORA_CONFIG: merged.lora_config_sha256, LORA_WEIGHTS: merged.lora_sha256},
    ):
        raise ModelError(
            f"the LoRA adapter in {adapter} is not the one that {version.id} was made of: versions "
            f"never change; serve its merged weights, without --load-lora"
        )
    check_model_folder(copy)
    base = Path(merged.base_model)
    if not base.is_dir():
        raise ModelError(
            f"the base model of {version.id} ({base}) is no folder here: serve its "
            f"merged weights, without --load-lora"
        )
    check_model_folder(base)
    if template_sha256(load_tokenizer(str(base))) != version.template_sha256:
        raise ModelError(
            f"the chat template in {base} is not that of {version.id}: serve its merged weights, "
            f"without --load-lora"
        )
    config = json.loads((copy / LORA_CONFIG).read_bytes())
    ranks = [config["r"], *(config.get("rank_pattern") or {}).values()]
    return copy, str(base.resolve()), max(ranks)


def _is_copied(adapter: Path, copy: Path, *, wanted: Mapping[str, str | None]) -> bool:
    """Copies an adapter where it is not there yet; nothing but the wanted one is put there."""
    if _hashes(copy) == wanted:
        return True
    made = Path(tempfile.mkdtemp(dir=copy.parent, prefix=f".{copy.name}-"))
    try:
        for name in wanted:
            if (adapter / name).is_file():
                shutil.copyfile(adapter / name, made / name)
        if _hashes(made) != wanted:
            return False
        shutil.rmtree(copy, ignore_errors=True)
        made.replace(copy)
        return True
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _hashes(folder: Path) -> dict[str, str]:
    """Of all that is in an adapter's folder."""
    return {path.name: file_sha256(path) for path in folder.glob("*") if path.is_file()}
