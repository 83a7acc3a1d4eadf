"""A way to Postgres that can be held up: a Unix socket before the real one.

Held up, bytes are neither lost nor delivered: to both ends the other one is silent, and when the way is open again they arrive in
order. It can be done to all connections or to those of one purpose, which is the `application_name` that they come with.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, quote, urlsplit

from conftest import temporary_folder

CHUNK_BYTES: Final = 65_536
BUS: Final = "imcore bus"


class Between:
    """Stands between one server and its Postgres."""

    def __init__(self, url: str, folder: Path) -> None:
        parts = urlsplit(url)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        name = f".s.PGSQL.{query['port']}"
        self.path, self._target = folder / name, Path(query["host"]) / name
        self.url = parts._replace(query=f"host={quote(str(folder))}&port={query['port']}").geturl()
        self.held: Counter[str] = Counter()  # bytes that had to wait, by purpose
        self._open: dict[str, asyncio.Event] = {}
        self._is_open = True  # for purposes that were not named
        self._relays: set[asyncio.Task[None]] = set()

    def hold_up(self, *purposes: str) -> None:
        """From now on these connections, and new ones of the kind, are silent; without a name all are."""
        self._is_open = bool(purposes)
        for purpose in purposes or list(self._open):
            self._gate(purpose).clear()

    def let_pass(self) -> None:
        """The way is open again."""
        self._is_open = True
        for gate in self._open.values():
            gate.set()

    def _gate(self, purpose: str) -> asyncio.Event:
        if purpose not in self._open:
            self._open[purpose] = asyncio.Event()
            if self._is_open:
                self._open[purpose].set()
        return self._open[purpose]

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection until an end closes it."""
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        there: asyncio.StreamWriter | None = None
        try:
            length = await reader.readexactly(4)
            start = await reader.readexactly(int.from_bytes(length, "big") - 4)
            purpose = _purpose(start)
            answers, there = await asyncio.open_unix_connection(str(self._target))
            there.write(length + start)
            pumps = [
                asyncio.ensure_future(self._pump(reader, there, purpose)),
                asyncio.ensure_future(self._pump(answers, writer, purpose)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.wait(pumps)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the end of one connection, or of the test
        finally:
            self._relays.discard(task)
            for end in (writer, there):
                if end is not None:
                    end.close()
                    with suppress(OSError):
                        await end.wait_closed()

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, purpose: str) -> None:
        gate = self._gate(purpose)
        with suppress(OSError):
            while data := await source.read(CHUNK_BYTES):
                if not gate.is_set():
                    self.held[purpose] += len(data)
                    await gate.wait()
                target.write(data)
                await target.drain()

    async def end(self) -> None:
        """Close what is open."""
        for relay in list(self._relays):
            relay.cancel()
        if self._relays:
            await asyncio.wait(list(self._relays))


def _purpose(start: bytes) -> str:
    """The application_name of a startup packet: a version, then names and values, each ended by a zero."""
    words = start[4:].split(b"\0")
    told = dict(zip(words[::2], words[1::2], strict=False))
    return told.get(b"application_name", b"").decode()


@asynccontextmanager
async def between(url: str) -> AsyncIterator[Between]:
    """A way to this database while the block runs."""
    with temporary_folder() as folder:
        made = Between(url, folder)
        listener = await asyncio.start_unix_server(made.accept, str(made.path))
        try:
            yield made
        finally:
            made.let_pass()
            listener.close()
            await made.end()
