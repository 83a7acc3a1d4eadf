"""A server to measure: `imcore serve` in a process of its own, on an embedded Postgres and an empty data folder.

It says in one JSON line where it listens; the port is the kernel's choice, so benchmarks can run beside anything. It
runs without authentication and, unless it is asked for, without rate limits, and otherwise as it comes.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from imcore.bench.load import Carrier
from imcore.bench.processes import Usage, postmaster, usage
from imcore.errors import ImcoreError

START_S = 60
STOP_S = 30
LOG_LINES = 12


class ServerFailed(ImcoreError):
    """The server that was to be measured did not start, or ended."""

    code: ClassVar[str] = "server_failed"


class Ready(BaseModel):
    """The line that the server prints when it takes connections. Addresses are host:port; one without comets has the first only."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    http: str
    ws: str = ""
    tcp: str = ""
    pid: int


class Server:
    """A running server."""

    def __init__(self, process: subprocess.Popen[str], ready: Ready, data_dir: Path, log: Path) -> None:
        self._process, self._ready, self._data_dir, self._log = process, ready, data_dir, log
        self._was_killed = False

    @property
    def database_url(self) -> str:
        """Of its embedded Postgres. Raises ServerFailed when that does not run."""
        url = self.running_url()
        if url is None:
            raise ServerFailed(f"no Postgres runs in {self._data_dir}")
        return url

    def running_url(self) -> str | None:
        """The same, or None while it does not run."""
        from imcore.database.embedded import running_url  # psutil: most scenarios do without

        return running_url(self._data_dir)

    @property
    def http(self) -> str:
        """Where its HTTP API is."""
        return f"http://{self._ready.http}"

    @property
    def sharing(self) -> list[str]:
        """The arguments that make another server work on the same database, and take the tokens that this one signed."""
        return ["--database-url", self.database_url, "--data", str(self._data_dir)]

    @property
    def addresses(self) -> list[str]:
        """The arguments that make another server listen where this one does."""
        return ["--http", self._ready.http, "--ws", self._ready.ws, "--tcp", self._ready.tcp]

    def kill(self) -> None:
        """kill -9, of its workers too; its Postgres stays."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        self._was_killed = True
        self._process.kill()
        for pid in map(int, children):
            if pid != self.postmaster():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.wait()

    @contextmanager
    def without_postgres(self) -> Iterator[None]:
        """Its Postgres is killed, and does not find its data while the block runs; then it is started again by imcore."""
        folder, away = self._data_dir / "postgres", self._data_dir / "away"
        pid = self.postmaster()
        folder.rename(away)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        try:
            yield
        finally:
            away.rename(folder)

    def postmaster(self) -> int | None:
        """The first process of its Postgres."""
        return postmaster(self._data_dir)

    def port(self, carrier: Carrier) -> int:
        """Where clients of this carrier connect."""
        address = self._ready.tcp if carrier == "tcp" else self._ready.ws
        return int(address.rpartition(":")[2])

    def usage(self) -> Usage:
        """What it and its Postgres have used so far."""
        return usage(self._process.pid, self._data_dir)

    def faults(self) -> list[str]:
        """What went wrong with it, if anything did."""
        if self._was_killed or self._process.poll() is None:
            return []
        return [f"the server ended with {self._process.returncode}; its last words: {_tail(self._log)}"]


@contextmanager
def serve(folder: Path, *arguments: str, rate_limits: bool = False) -> Iterator[Server]:
    """Run a server while the block runs; its data is a new folder below `folder`, removed at the end. Arguments win over those that
    every server here has.

    Raises ServerFailed with the end of its log when it does not start.
    """
    data_dir = Path(tempfile.mkdtemp(prefix="server-", dir=folder))
    log = data_dir.with_suffix(".log")
    command = [
        *(*_program(), "serve", "--auth", "open", "--data", str(data_dir)),
        *(() if rate_limits else ("--no-rate-limits",)),
        *("--http", "127.0.0.1:0", "--ws", "127.0.0.1:0", "--tcp", "127.0.0.1:0", *arguments),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=output, text=True)
    with process:
        try:
            yield Server(process, _wait_until_ready(process, log), data_dir, log)
        finally:
            _stop(process)
            _stop_orphan(data_dir)
            shutil.rmtree(data_dir, ignore_errors=True)


def _program() -> list[str]:
    # The script of the same environment, so that what is measured is what a user starts.
    script = Path(sys.executable).with_name("imcore")
    return [str(script)] if os.access(script, os.X_OK) else [sys.executable, "-m", "imcore"]


def _wait_until_ready(process: subprocess.Popen[str], log: Path) -> Ready:
    assert process.stdout is not None, "it was opened as a pipe"
    too_late = threading.Timer(START_S, process.kill)  # its end ends the read below
    too_late.start()
    try:
        line = process.stdout.readline()
    finally:
        too_late.cancel()
    try:
        return Ready.model_validate_json(line)
    except ValidationError:
        said = repr(line.strip()) if line else "nothing"
        raise ServerFailed(
            f"the server was not ready in {START_S} s or ended before; it printed {said}, its last words: {_tail(log)}"
        ) from None


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()


def _stop_orphan(data_dir: Path) -> None:
    # A server that died left its Postgres behind. It is ours if it works in our folder; the number alone may be
    # another's by now.
    pid = postmaster(data_dir)
    if pid is None or not Path(f"/proc/{pid}/cwd").resolve().is_relative_to(data_dir):
        return
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGQUIT)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:]) or "none"
