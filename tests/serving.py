"""`imcore serve` as a user starts it: a process of its own on a data folder, which says in one JSON line where it listens."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel

PROGRAM: Final = [sys.executable, "-m", "imcore.cli"]
ANYWHERE: Final = "127.0.0.1:0"
START_S: Final = 120
STOP_S: Final = 60


class Ready(BaseModel):
    """What the server says when it takes connections. Addresses are host:port."""

    http: str
    ws: str
    tcp: str
    pid: int


@dataclass(frozen=True, slots=True)
class Running:
    """A server that runs."""

    http: str
    ws: str
    tcp: str
    log: Path

    @property
    def page(self) -> str:
        """Where a browser goes."""
        return f"http://{self.http}/"


@asynccontextmanager
async def serving(data_dir: Path, *arguments: str, at: Sequence[str] = ()) -> AsyncIterator[Running]:
    """A server on this folder while the block runs, `at` these addresses (HTTP, WebSocket, TCP: see ports.py), or anywhere.

    Raises AssertionError with the last lines of its log when it does not start.
    """
    log = data_dir / "server.log"
    http, ws, tcp = at or (ANYWHERE, ANYWHERE, ANYWHERE)
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(*PROGRAM, "serve", "--auth", "open", "--data", str(data_dir / "imcore")),
            *("--http", http, "--ws", ws, "--tcp", tcp, *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=output,
        )
    assert process.stdout is not None, "it was opened as a pipe"
    try:
        async with asyncio.timeout(START_S):
            line = await process.stdout.readline()
        assert line, f"the server did not start: {log.read_text()[-3000:]}"
        ready = Ready.model_validate_json(line)
        yield Running(ready.http, ready.ws, ready.tcp, log)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_S):
                await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
