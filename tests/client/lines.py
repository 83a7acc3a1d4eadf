"""Ways to a server: its addresses, and a proxy that does to a line what networks do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final, Literal

import orjson

from imcore.client import Client, Limits, Message
from imcore.protocol import binary
from imcore.protocol.packet import Op, Packet
from system.servers import Server

Way = Literal["ws", "tcp"]
WAYS: Final[tuple[Way, ...]] = ("ws", "tcp")
# A test waits for facts, so its client is quicker at noticing them than one that should spare a network.
QUICK: Final = Limits(backoff_s=0.1, backoff_max_s=1.0, ack_s=0.05)


def address(way: Way, host_and_port: str) -> str:
    """As `connect` takes it."""
    return f"ws://{host_and_port}/ws" if way == "ws" else f"tcp://{host_and_port}"


def url(server: Server, way: Way) -> str:
    """Of this server."""
    return address(way, server.ws if way == "ws" else server.tcp)


async def hear(im: Client, count: int) -> list[Message]:
    """The next messages, so many of them; the last is not dealt with before the next is asked for."""
    heard: list[Message] = []
    async with asyncio.timeout(60):
        async for message in im:
            heard.append(message)
            if len(heard) == count:
                break
    return heard


async def so(fact: bool) -> bool:
    """For `eventually`, which awaits what it asks."""
    return fact


class Proxy:
    """A line in between. What goes through is as good as `mode` says; `losing` may take packets out of a binary line to the client."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.mode: Literal["open", "silent", "one way"] = (
            "open"  # silent: no byte passes, no end either; one way: none to the client
        )
        self.losing: Callable[[Packet], bool] | None = None
        self.answer = b""  # instead of the server's, to whoever connects
        self.accepted = 0
        self.address = ""
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._writers.add(writer)
        if answer := self.answer:  # as it is now: when the request is there, somebody may have changed it
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()
            return
        host, _, port = self.target.rpartition(":")
        try:
            there, to_there = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.close()
            return
        self._writers.add(to_there)
        ways = [self._pump(reader, to_there, is_down=False), self._pump(there, writer, is_down=True)]
        for task in [asyncio.ensure_future(way) for way in ways]:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_down: bool) -> None:
        decoder = binary.Decoder(1 << 24)
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                if self.mode == "silent" or (self.mode == "one way" and is_down):
                    continue
                if is_down and self.losing is not None:
                    kept = [packet for packet in decoder.feed(data) if not self.losing(packet)]
                    data = b"".join(binary.encode(*packet) for packet in kept)
                writer.write(data)
                await writer.drain()
        writer.close()

    def cut(self) -> None:
        """Every line breaks."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()


@asynccontextmanager
async def proxy(target: str) -> AsyncIterator[Proxy]:
    """A proxy to host:port while the block runs."""
    made = Proxy(target)
    listening = await asyncio.start_server(made._serve, "127.0.0.1", 0)
    host, port = listening.sockets[0].getsockname()
    made.address = f"{host}:{port}"
    try:
        yield made
    finally:
        listening.close()
        made.cut()
        for task in list(made._tasks):
            task.cancel()
        await asyncio.gather(*made._tasks, return_exceptions=True)


def is_event(packet: Packet, words: object) -> bool:
    """Is this the event of a message with this body?"""
    return packet.op == Op.EVENT and bool(orjson.loads(packet.body)["body"] == words)
