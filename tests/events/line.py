"""The line to Postgres, in our hands: it passes everything on until it is told to lose replies, or is cut.

Nothing else shows what a sender sees when the commit was made and the answer got lost. It is a socket in a folder, as the
Postgres of the tests has it.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

READ_BYTES_MAX = 65_536


class Line:
    """Everything that passes on the way to one Postgres."""

    def __init__(self, behind: Path) -> None:
        self._behind = behind
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._lose_after: bytes | None = None
        self._chance: random.Random | None = None
        self._cut_chance = 0.0
        self._silent = False
        self.lost = asyncio.Event()
        self.cuts = 0

    def lose_replies(self, after: bytes | None = None) -> None:
        """From now on nothing comes back, or from the moment on in which these bytes are sent; `lost` says when it was so."""
        self.lost.clear()
        if after is None:
            self._silent = True
        self._lose_after = after

    def pass_on(self) -> None:
        """Everything passes again. What was lost stays lost."""
        self._silent, self._lose_after, self._cut_chance = False, None, 0

    def cut(self) -> None:
        """End all connections, at both ends."""
        self.cuts += 1
        for writer in self._writers:
            writer.transport.abort()

    def cut_now_and_then(self, chance: random.Random, probability: float) -> None:
        """Cut instead of passing on, one time in so many."""
        self._chance, self._cut_chance = chance, probability

    async def on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        behind: asyncio.StreamWriter | None = None
        try:
            with suppress(OSError):
                back, behind = await asyncio.open_unix_connection(self._behind)
                self._writers.add(behind)
                await asyncio.gather(
                    self._pump(reader, behind, writer, is_reply=False), self._pump(back, writer, behind, is_reply=True)
                )
        finally:
            for one in (writer, behind):
                if one is not None:
                    self._writers.discard(one)
                    one.transport.abort()
            self._tasks.discard(task)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, other: asyncio.StreamWriter, *, is_reply: bool
    ) -> None:
        with suppress(OSError):
            while passing := await reader.read(READ_BYTES_MAX):
                if self._chance is not None and self._chance.random() < self._cut_chance:
                    self.cut()
                    break
                if not is_reply and self._lose_after is not None and self._lose_after in passing:
                    self._silent = True
                if is_reply and self._silent:
                    self.lost.set()
                    continue
                writer.write(passing)
                await writer.drain()
        writer.transport.abort()
        other.transport.abort()

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def line_to(url: str) -> AsyncIterator[tuple[Line, str]]:
    """A line to this database, and the URL of its near end."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    name = f".s.PGSQL.{query['port'][0]}"
    line = Line(Path(query["host"][0]) / name)
    with tempfile.TemporaryDirectory(prefix="line-", dir="/tmp") as folder:
        server = await asyncio.start_unix_server(line.on_connection, Path(folder) / name)
        try:
            yield line, parts._replace(query=urlencode({"host": folder, "port": query["port"][0]})).geturl()
        finally:
            server.close()
            await line.close()
