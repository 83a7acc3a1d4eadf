"""People who log in, so many a second whatever is answered, in a process of their own.

Each login is a connection of its own, as each is a person in life, and opens, asks and closes with as little as that takes: what this
costs is taken from the cores of the server. Accounts are made beforehand, and their turns come round.

The trap: the process has the priority of the server. Lower, the client would be late in a storm, and refusals would look slow.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

import orjson
from pydantic import BaseModel, ConfigDict

from imcore.bench.asking import Asking, percentile

PASSWORD: Final = "correct horse battery staple"
MAKERS: Final = 2  # as many as passwords are hashed at the same time
ANSWER_S: Final = 60.0  # who waits for longer is no figure but a fault, and a busy machine is none
STOP_S: Final = 120
OK: Final = 200
REFUSED: Final = (429, 503)


class Counted(BaseModel):
    """What came of the logins. `ok_per_s` counts those answered while more were offered; `wrong` are answers that are neither a login
    nor a refusal which says when to come back."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    seconds: float
    offered: int
    ok: int
    ok_per_s: float
    refused: int
    wrong: dict[str, int]
    ok_p50_ms: float
    ok_p99_ms: float
    refused_p50_ms: float
    refused_p99_ms: float

    def faults(self) -> list[str]:
        """What went wrong: everybody has an answer, and who is refused is told when to come back."""
        return [f"{count} logins: {what}" for what, count in self.wrong.items()]


class Logins:
    """People who are logging in."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def stop(self) -> Counted:
        """No more; what came of those that were."""
        self._process.send_signal(signal.SIGTERM)
        printed, _ = self._process.communicate(timeout=STOP_S)
        return Counted.model_validate_json(printed)


def names(people: int) -> list[str]:
    """The logins of so many accounts."""
    return [f"bench{n}" for n in range(people)]


def register(http: str, people: int) -> None:
    """Make the accounts. Raises WrongAnswer."""

    def make(chosen: list[str]) -> None:
        with Asking(http) as asking:
            for name in chosen:
                asking.ask("POST", "/v1/accounts", {"login": name, "password": PASSWORD})

    with ThreadPoolExecutor(MAKERS) as makers:
        for made in [makers.submit(make, names(people)[n::MAKERS]) for n in range(MAKERS)]:
            made.result()


@contextmanager
def logging_in(http: str, people: int, rate: float) -> Iterator[Logins]:
    """So many logins a second, of these accounts in turn, while the block runs."""
    program = "from imcore.bench.logins import main; main()"
    command = [sys.executable, "-c", program, http.removeprefix("http://"), str(people), str(rate)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None, "it was opened as a pipe"
            process.stdout.readline()  # it is there, and begins
            yield Logins(process)
        finally:
            if process.poll() is None:
                process.kill()


class _Crowd:
    def __init__(self, address: str, people: int) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._requests = [_request(address, name) for name in names(people)]
        self.ok_ms: list[float] = []
        self.refused_ms: list[float] = []
        self.wrong: Counter[str] = Counter()

    async def log_in(self, number: int) -> None:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(ANSWER_S):
                head = await self._ask(self._requests[number % len(self._requests)])
        except (OSError, TimeoutError) as error:
            self.wrong[f"{type(error).__name__}"] += 1
            return
        ms = (time.perf_counter() - started) * 1000
        status = int(head.split(b" ", 2)[1]) if head.startswith(b"HTTP/1.1 ") else 0
        if status == OK:
            self.ok_ms.append(ms)
        elif status in REFUSED and b"\r\nretry-after: " in head.lower():
            self.refused_ms.append(ms)
        else:
            self.wrong[f"status {status}"] += 1

    async def _ask(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(request)
            answer = await reader.read(-1)
            return answer.partition(b"\r\n\r\n")[0]
        finally:
            writer.transport.abort()


def _request(address: str, name: str) -> bytes:
    body = orjson.dumps({"login": name, "password": PASSWORD, "key": "phone"})
    head = f"POST /v1/login HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def _main(address: str, people: int, rate: float) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    crowd = _Crowd(address, people)
    sys.stdout.write("offering\n")
    sys.stdout.flush()
    started, offered = time.monotonic(), 0
    async with asyncio.TaskGroup() as tasks:
        while not stop.is_set():
            while offered < (time.monotonic() - started) * rate:  # on schedule, whatever became of those before
                tasks.create_task(crowd.log_in(offered))
                offered += 1
            await asyncio.sleep(max(0.001, started + offered / rate - time.monotonic()))
        seconds, in_time = time.monotonic() - started, len(crowd.ok_ms)
    counted = Counted(
        seconds=seconds,
        offered=offered,
        ok=len(crowd.ok_ms),
        ok_per_s=in_time / seconds,
        refused=len(crowd.refused_ms),
        wrong=dict(crowd.wrong),
        ok_p50_ms=percentile(crowd.ok_ms, 0.5),
        ok_p99_ms=percentile(crowd.ok_ms, 0.99),
        refused_p50_ms=percentile(crowd.refused_ms, 0.5),
        refused_p99_ms=percentile(crowd.refused_ms, 0.99),
    )
    sys.stdout.write(counted.model_dump_json())


def main() -> None:
    """The process."""
    asyncio.run(_main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
