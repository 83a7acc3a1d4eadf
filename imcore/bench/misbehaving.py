"""Clients that keep no rule, in a process of their own: what others must not notice.

A third of them *flood*: they authenticate and then write packets as fast as the socket takes them. A third *stall*: they enter the room
that everybody is in, ask for pages of its history, and never read. A third *storm*: they connect, authenticate and leave, again and
again. Whoever is closed or refused comes back at once, whatever it was told. Every third has an address of its own.

They run at the lowest priority: in life their CPU is their own, and here it is taken from what is measured.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import orjson

from imcore.protocol import binary
from imcore.protocol.packet import Op

FIRST_MID = 5_000_000
FLOODED_BYTES = 4_096  # of each write
HISTORY_PAGES = 16
BACK_S = 0.001  # a refused connect comes back after this: a loop without it would measure itself
STOP_S = 60
WAYS = ("flooded bytes", "stalled", "stormed")
LOOKS, LOOK_S = 3_000, 0.01  # until they have begun


class Misbehaving:
    """A running crowd."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def stop(self) -> dict[str, int]:
        """End it: what it did."""
        self._process.send_signal(signal.SIGTERM)
        printed, _ = self._process.communicate(timeout=STOP_S)
        counted: dict[str, int] = orjson.loads(printed)
        return counted


@contextmanager
def misbehaving(port: int, room: str, clients: int) -> Iterator[Misbehaving]:
    """So many clients that misbehave towards the TCP port while the block runs; each in its way before it begins, if the server lets
    them."""
    program = "from imcore.bench.misbehaving import main; main()"
    command = [sys.executable, "-c", program, str(port), room, str(clients)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None, "it was opened as a pipe"
            process.stdout.readline()
            yield Misbehaving(process)
        finally:
            if process.poll() is None:
                process.kill()


class _Crowd:
    def __init__(self, port: int, room: str) -> None:
        self.port = port
        self.room = room
        self.counted: Counter[str] = Counter()

    async def run(self, number: int) -> None:
        """One client, for ever."""
        behave = (self._flood, self._stall, self._storm)[number % 3]
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", self.port, local_addr=(f"127.0.1.{1 + number % 3}", 0), limit=1 << 12
                )
                try:
                    self.counted["connects"] += 1
                    auth = {"mid": FIRST_MID + number, "key": "k", "room_id": self.room, "accepts": [1000]}
                    writer.write(binary.encode(1, Op.AUTH, 1, orjson.dumps(auth)))
                    await reader.readexactly(binary.HEADER.size)
                    self.counted["authenticated"] += 1
                    await behave(reader, writer)
                finally:
                    writer.transport.abort()
            await asyncio.sleep(BACK_S)

    async def _flood(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def drink() -> None:
            while await reader.read(65_536):
                pass
            raise ConnectionResetError

        message = {"room": self.room, "id": str(uuid.uuid4()), "body": "flood"}
        heartbeat = binary.encode(1, Op.HEARTBEAT, 2, b"")
        packets = heartbeat * (FLOODED_BYTES // len(heartbeat)) + binary.encode(1, Op.SEND, 3, orjson.dumps(message))
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(drink())
                while True:
                    writer.write(packets)
                    self.counted["flooded bytes"] += len(packets)
                    await writer.drain()
        except* OSError:
            self.counted["floods that were ended"] += 1

    async def _stall(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        page = binary.encode(1, Op.HISTORY, 2, orjson.dumps({"room": self.room, "limit": 500}))
        for _ in range(HISTORY_PAGES):
            writer.write(page)
        self.counted["stalled"] += 1
        await asyncio.Event().wait()

    async def _storm(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.counted["stormed"] += 1


async def _main(port: int, room: str, clients: int) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    crowd = _Crowd(port, room)
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(crowd.run(number)) for number in range(clients)]
        for _ in range(LOOKS):
            if not clients or all(crowd.counted[what] for what in WAYS) or stop.is_set():
                break
            await asyncio.sleep(LOOK_S)
        sys.stdout.write("misbehaving\n")
        sys.stdout.flush()
        await stop.wait()
        for one in running:
            one.cancel()
    sys.stdout.buffer.write(orjson.dumps(crowd.counted))


def main() -> None:
    """The process."""
    os.nice(19)
    asyncio.run(_main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
