"""The load client: load.c compiled on first use, started, and its report read.

The program is kept in the user's cache under a name that holds the digest of its source, so a changed source is
compiled again and two checkouts do not meet. Without a compiler there is no load: `NoLoadClient` says what to install,
and nothing slower takes its place, because its figures would be those of the substitute.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict

from imcore.errors import ImcoreError

SOURCE = Path(__file__).with_name("load.c")
FLAGS = ("-O2", "-std=gnu11")
COMPILE_S = 120
STOP_S = 20

Carrier = Literal["tcp", "ws", "json"]
Word = Literal["ready", "measuring", "measured", "back"]


class NoLoadClient(ImcoreError):
    """The load client cannot be built or run here."""

    code: ClassVar[str] = "no_load_client"
    retry: ClassVar[bool] = False


class LoadFailed(ImcoreError):
    """The load client ended without a report."""

    code: ClassVar[str] = "load_failed"


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Times(_Read):
    """Percentiles in milliseconds; at most 1.6 % too high, never too low."""

    count: int
    p50: float
    p90: float
    p99: float
    p99_9: float
    max: float


class Report(_Read):
    """What load prints at its end: `window_…` and `…_per_s` are of the measured window, the rest of the whole run."""

    carrier: Carrier
    seed: int
    clients: int
    ready: int
    failed: int
    failures: dict[str, int]
    ready_s: float
    connect_ms: Times
    cursor: str
    window_s: float
    window_acked: int
    window_delivered: int
    window_bytes: int
    window_reads: int
    acked_per_s: float
    delivered_per_s: float
    sent: int
    acked: int
    errors: int
    error_codes: dict[str, int]
    unanswered: int
    unexpected: int
    delivered: int
    delivered_each_min: int
    delivered_each_max: int
    disordered: int
    other_events: int
    first_delivery_s: float
    last_delivery_s: float
    bytes: int
    reads: int
    closes: int
    close_codes: dict[str, int]
    ack_ms: Times
    delivery_ms: Times
    send_lag_ms: Times
    connected: int
    tries: int
    unrecovered: int
    repeated: int
    missing: int
    seqs: int
    all_back_s: float
    away_ms: Times
    window_cpu_s: float
    cpu_s: float

    def faults(self) -> list[str]:
        """What went wrong: in a benchmark every client connects, nothing is refused, nobody is closed."""
        faults = []
        if self.failed:
            faults.append(f"{self.failed} of {self.clients} clients failed to connect {_tally(self.failures)}")
        if self.errors:
            faults.append(f"{self.errors} of {self.sent} sends were answered with an error {_tally(self.error_codes)}")
        if self.unanswered:
            faults.append(f"{self.unanswered} sends were not answered")
        if self.unexpected:
            faults.append(f"{self.unexpected} replies belong to no request")
        if self.closes:
            faults.append(f"{self.closes} connections were closed {_tally(self.close_codes)}")
        return faults

    def delivery_faults(self, each: int) -> list[str]:
        """What went wrong if each client that did not send should have `each` messages, of one sender, in order."""
        faults = []
        if not self.delivered_each_min == self.delivered_each_max == each:
            got = f"between {self.delivered_each_min} and {self.delivered_each_max}"
            faults.append(f"clients received {got} of {each} messages")
        if self.disordered:
            faults.append(f"{self.disordered} deliveries were repeated or out of order")
        return faults

    def device_faults(self, each: int) -> list[str]:
        """What went wrong with devices, which may be cut off and come back: all are there at the end, and each had `each` messages,
        once as it counts them, in order, with nothing missing between."""
        faults = []
        if self.ready != self.clients or self.connected != self.clients:
            faults.append(f"{self.connected} of {self.clients} devices are connected at the end")
        if self.unrecovered:
            faults.append(f"{self.unrecovered} times a device was told that it could not go on where it was")
        if self.missing:
            faults.append(f"{self.missing} events are missing between those that came")
        if self.errors or self.unexpected:
            faults.append(f"{self.errors} errors {_tally(self.error_codes)}, {self.unexpected} replies to no request")
        return faults + self.delivery_faults(each)


class Load:
    """One running load client. Its owner waits for its words, in order, and then for its report."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._said: list[str] = []

    def wait_for(self, word: Word) -> None:
        """Return when it says this. Raises LoadFailed when it ends before. Its own deadlines bound the wait."""
        assert self._process.stderr is not None, "it was opened as a pipe"
        for line in self._process.stderr:
            self._said.append(line.strip())
            if line.strip() == word:
                return
        raise self._failed()

    def stop(self) -> None:
        """End the run early; the report follows."""
        self._process.send_signal(signal.SIGTERM)

    def read_again(self) -> None:
        """Stalled devices read again."""
        self._process.send_signal(signal.SIGUSR1)

    def report(self) -> Report:
        """Wait for its end and give what it measured. Raises LoadFailed."""
        printed, said = self._process.communicate()
        self._said += said.splitlines()
        if self._process.returncode != 0:
            raise self._failed()
        return Report.model_validate_json(printed)

    def _failed(self) -> LoadFailed:
        said = [line for line in self._said if line not in get_args(Word)]
        self._process.wait(STOP_S)
        return LoadFailed(f"load ended with {self._process.returncode}: {'; '.join(said[-5:]) or 'it said nothing'}")


@contextmanager
def load(carrier: Carrier, port: int, **options: str | float | bool | None) -> Iterator[Load]:
    """Start a load client.

    An option is one of load's by its name (`connect_rate=500`); True is a bare flag, None is left out. The client is
    killed at the end of the block if it still runs.

    Raises NoLoadClient.
    """
    command = [str(program()), carrier, "--port", str(port)]
    for name, value in options.items():
        if value is not None and value is not False:
            command.append("--" + name.replace("_", "-"))
            if value is not True:
                command.append(str(value))
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    with process:
        try:
            yield Load(process)
        finally:
            if process.poll() is None:
                process.kill()


def program() -> Path:
    """The compiled load client, compiled now if need be.

    Raises NoLoadClient when there is no compiler, when it fails, and where load.c cannot run.
    """
    if sys.platform != "linux":
        raise NoLoadClient(f"the load client needs Linux (epoll), and this is {sys.platform}")
    digest = hashlib.sha256(SOURCE.read_bytes() + " ".join(FLAGS).encode() + platform.machine().encode()).hexdigest()
    target = _cache() / f"load-{digest[:16]}"
    if not target.exists():
        _compile(target)
    return target


def compiler() -> str | None:
    """Where the C compiler is: $CC, or cc."""
    return shutil.which(os.environ.get("CC") or "cc")


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imcore"


def _compile(target: Path) -> None:
    cc = compiler()
    if cc is None:
        raise NoLoadClient(
            "the load client is written in C and there is no compiler: install one (Debian: gcc) or set CC"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder, "load")
            done = subprocess.run(
                [cc, *FLAGS, "-o", str(made), str(SOURCE)],
                capture_output=True,
                text=True,
                timeout=COMPILE_S,
                check=False,
            )
            if done.returncode != 0:
                raise NoLoadClient(f"{cc} cannot compile {SOURCE.name}: {done.stderr.strip()[:2000]}")
            made.replace(target)  # in one step, so that another process never runs half a program
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoLoadClient(f"the load client cannot be compiled into {target.parent}: {error}") from error


def _tally(counts: dict[str, int]) -> str:
    return "(" + ", ".join(f"{text}: {count}" for text, count in counts.items()) + ")"
