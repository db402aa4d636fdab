"""Server processes: stopped in every case, and their death is told."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rwml.errors import ServingError
from rwml_trainer.serving.process import (
    ServerProcess,
    bind,
    free_port,
    stop_all,
    wait_for_completion,
)

SLEEP = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
PARENT = """
import sys, os, time
from pathlib import Path
from rwml_trainer.serving.process import ServerProcess
work = Path(sys.argv[1])
server = ServerProcess(name="engine", command=[sys.executable, "-c", sys.argv[2]],
                       env=os.environ, folder=work, log=work / "log")
print(server.pid, flush=True)
time.sleep(600)
"""


def start(work: Path, code: str, name: str = "engine") -> ServerProcess:
    return ServerProcess(
        name=name,
        command=[sys.executable, "-c", code],
        env=os.environ,
        folder=work,
        log=work / "engine.log",
    )


def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return met


def is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def says_up(log: Path) -> bool:
    return log.exists() and "up" in log.read_text()


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, needs prctl")


@linux
@pytest.mark.parametrize("code", [SLEEP, STUBBORN])
def test_stop_ends_the_process(tmp_path, code):
    server = start(tmp_path, code)
    assert until(lambda: says_up(tmp_path / "engine.log"))
    server.stop(grace_s=0.5)
    assert not is_running(server.pid)
    server.stop()  # twice does no harm


LEAVES_LAST = """
import signal, sys, time
from pathlib import Path
own, other = Path(sys.argv[1]), Path(sys.argv[2])
def leave(*_):
    own.touch()
    while not other.exists():
        time.sleep(0.02)
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
print('up', flush=True)
time.sleep(600)
"""


def test_all_are_asked_to_end_before_any_is_waited_for(tmp_path):
    told = [tmp_path / "one.told", tmp_path / "two.told"]
    servers = []
    for names in (told, told[::-1]):
        folder = names[0].with_suffix("")
        folder.mkdir()
        command = [sys.executable, "-c", LEAVES_LAST, *map(str, names)]
        server = ServerProcess(
            name="engine", command=command, env=os.environ, folder=folder, log=folder / "log"
        )
        assert until(lambda log=folder / "log": says_up(log))
        servers.append(server)
    stop_all(servers, grace_s=20)
    assert [server.how_it_ended for server in servers] == ["exit code 0"] * 2


@linux
def test_stop_ends_what_the_process_started(tmp_path):
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEP!r}]); {SLEEP}"
    with start(tmp_path, code) as server:
        assert until(lambda: (tmp_path / "engine.log").read_text().count("up") == 2)
        group = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()]
        members = [pid for pid in group if _group(pid) == server.pid]
        assert len(members) == 2
    assert until(lambda: not any(is_running(pid) for pid in members))


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


@linux
@pytest.mark.parametrize("code", [SLEEP, STUBBORN])
def test_killed_parent_takes_the_process_along(tmp_path, code):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path), code], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
    assert until(lambda: says_up(tmp_path / "log"))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert until(lambda: not is_running(pid))


def test_log_is_private_and_death_is_told_with_its_last_lines(tmp_path):
    code = "print('first'); print('out of memory'); raise SystemExit(7)"
    with start(tmp_path, code) as server:
        server.wait(20)
        with pytest.raises(ServingError, match=r"engine died \(exit code 7\).*out of memory"):
            server.check()
    assert (tmp_path / "engine.log").stat().st_mode & 0o777 == 0o600


def test_waiting_ends_when_the_server_dies(tmp_path):
    with (
        start(tmp_path, "raise SystemExit('no such model')") as server,
        pytest.raises(ServingError, match="no such model"),
    ):
        wait_for_completion(
            url=f"http://127.0.0.1:{free_port()}/v1",
            model="m",
            key=None,
            needs=[server],
            deadline=time.monotonic() + 20,
        )


def test_waiting_ends_in_time(tmp_path):
    with start(tmp_path, SLEEP) as server, pytest.raises(ServingError, match="not ready in time"):
        wait_for_completion(
            url=f"http://127.0.0.1:{free_port()}/v1",
            model="m",
            key=None,
            needs=[server],
            deadline=time.monotonic() + 0.5,
        )


def test_first_answer_is_final(tmp_path):
    code = (
        "import http.server as h, sys\n"
        "class H(h.BaseHTTPRequestHandler):\n"
        "    def do_POST(self): self.send_error(422, 'no template')\n"
        "h.HTTPServer(('127.0.0.1', {port}), H).serve_forever()"
    )
    port = free_port()
    with (
        start(tmp_path, code.format(port=port)) as server,
        pytest.raises(ServingError, match="answers a chat completion with 422"),
    ):
        wait_for_completion(
            url=f"http://127.0.0.1:{port}/v1",
            model="m",
            key=None,
            needs=[server],
            deadline=time.monotonic() + 20,
        )


def test_bound_port_is_held():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            bind("127.0.0.1", taken.getsockname()[1])
