"""A line between two processes that can be made bad: slow, narrow, silent, stuck, broken, refused; each way by itself.

    async with Proxy("127.0.0.1:5432", control="/tmp/pg-line") as line:      # listens on a free port of 127.0.0.1
        line.address                                                          # "127.0.0.1:41573", for whoever connects
        line.set(latency_s=0.05, jitter_s=0.02)                               # both ways; `way="up"` or "down" for one
        line.set(rate_bytes_per_s=32_000, way="down")
        line.blackhole("up")         # bytes are taken and go nowhere: the sender does not notice
        line.stall("down")           # bytes are not taken: the sender's window closes
        line.reset()                 # every connection now gets a RST, both ends
        line.refuse()                # and no new one is taken: connection refused
        line.heal()                  # everything as at first; what was held back arrives, in order
        line.statistics()            # connections and bytes
    await command("/tmp/pg-line", "blackhole", way="up")                      # the same from another process

Up is from whoever connects to the target, down is back. The control socket takes a line of JSON, `{"do":"set","latency_s":0.05}`,
and answers with a line, `{"ok":true,…}` with the statistics, or `{"ok":false,"error":"…"}`. Its address is a path of a Unix socket
or `host:port`.

Bytes never change, are never lost while both ends live, and never overtake each other, whatever the conditions and however they
change; the end of a stream, and a reset, wait behind the bytes before them. A connection holds at most `held_bytes_max` each way,
then it takes no more. A change holds for bytes that are already on their way too.

The trap: this is TCP on both sides, so the kernel here acknowledges what it has taken. A sender into a blackhole sees its bytes
acknowledged; only its own deadlines tell it that nobody answers, and TCP_USER_TIMEOUT does not. And a connection to a blackhole is
accepted, but goes no further until it is healed.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, fields
from random import Random
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias

import orjson

Way: TypeAlias = Literal["up", "down", "both"]
WAYS: Final = ("up", "down")

CHUNK_BYTES: Final = 64 << 10
HELD_BYTES_MAX: Final = 4 << 20
RECEIVE_BYTES: Final = 64 << 10  # of the kernel's buffer: a stall is felt after this much
CONNECTIONS_MAX: Final = 4096  # in the kernel's queue
DRIP_S: Final = 0.02  # a narrow line lets through what it may in this time, at once
LINE_BYTES_MAX: Final = 4096
CONNECT_S: Final = 10
RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER that makes a close a RST


class ProxyError(ValueError):
    """A condition or command that there is not."""


@dataclass(slots=True)
class Conditions:
    """What one way is like. `rate_bytes_per_s` 0 is no limit; latency has up to `jitter_s` added, evenly, in order all the same."""

    latency_s: float = 0.0
    jitter_s: float = 0.0
    rate_bytes_per_s: float = 0.0
    blackhole: bool = False
    stall: bool = False


NAMES: Final = frozenset(one.name for one in fields(Conditions))


@dataclass(slots=True)
class _Road:
    """One way, for all connections: its conditions, and how those who wait hear that they have changed."""

    conditions: Conditions = field(default_factory=Conditions)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    bytes: int = 0

    def change(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def wait(self, seconds: float | None = None) -> None:
        """Until something changes, or for so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.changed.wait()


class Proxy:
    """A line to `target` ("host:port", or the path of a Unix socket), for as long as the block runs. See the module for its verbs.

    `seed` makes the jitter repeatable. Leaving the block resets what is open.
    """

    def __init__(
        self,
        target: str,
        *,
        control: str = "",
        seed: int = 0,
        held_bytes_max: int = HELD_BYTES_MAX,
    ) -> None:
        self.target = target
        self.address = "127.0.0.1:0"
        self.control = control
        self.connections = 0  # open now
        self.accepted = 0
        self.held_bytes_max = held_bytes_max
        self._roads = {way: _Road() for way in WAYS}
        self._random = Random(seed)
        self._open: set[_Pair] = set()
        self._orders: set[asyncio.Task[None]] = set()
        self._place: socket.socket | None = None
        self._listener: asyncio.Task[None] | None = None
        self._stack = AsyncExitStack()
        self._tasks: asyncio.TaskGroup | None = None
        self._line: socket.socket | None = None

    # --- the verbs ---

    def set(self, *, way: Way = "both", **conditions: float | bool) -> None:
        """Change some conditions: names and units as in `Conditions`. Raises ProxyError for one that there is not."""
        if unknown := conditions.keys() - NAMES:
            raise ProxyError(f"no condition of a line: {', '.join(sorted(unknown))}")
        for road in self._ways(way):
            for name, value in conditions.items():
                wanted = bool if name in ("blackhole", "stall") else float
                if (wanted is float and isinstance(value, bool)) or not isinstance(value, int | float) or value < 0:
                    raise ProxyError(f"{name} cannot be {value!r}")
                setattr(road.conditions, name, wanted(value))
            road.change()

    def blackhole(self, way: Way = "both") -> None:
        """Take bytes and hold them."""
        self.set(way=way, blackhole=True)

    def stall(self, way: Way = "both") -> None:
        """Take no bytes."""
        self.set(way=way, stall=True)

    def reset(self) -> None:
        """Break every connection, now: both ends get a RST, and what was held back is lost."""
        for pair in list(self._open):
            pair.abort()

    def refuse(self) -> None:
        """Take no new connection: ECONNREFUSED. Those that are open go on."""
        if self._line is not None:
            assert self._listener is not None
            self._line.shutdown(socket.SHUT_RDWR)  # at once; the task closes it when nothing waits for it any more
            self._listener.cancel()
            self._line = None

    def heal(self) -> None:
        """A good line again, both ways; new connections are taken; what was held back goes on, in order."""
        for road in self._roads.values():
            road.conditions = Conditions()
            road.change()
        if self._line is None:
            self._listen()

    def statistics(self) -> dict[str, int]:
        """Connections open now and ever, and bytes let through each way."""
        return {
            "connections": self.connections,
            "accepted": self.accepted,
            "up_bytes": self._roads["up"].bytes,
            "down_bytes": self._roads["down"].bytes,
        }

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.address.rpartition(":")[2])

    # --- its life ---

    async def __aenter__(self) -> Self:
        host, _, port = self.address.rpartition(":")
        # Bound for as long as the line lives, and never listening: it keeps the port ours while new connections are refused.
        self._place = _bound(host, int(port))
        self.address = f"{host}:{self._place.getsockname()[1]}"
        self._stack.callback(self._place.close)
        self._tasks = await self._stack.enter_async_context(asyncio.TaskGroup())
        self._stack.callback(self._end)
        self._listen()
        if self.control:
            self._stack.callback((await self._serve_control()).close)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def _end(self) -> None:
        self.refuse()
        self.reset()
        for order in self._orders:
            order.cancel()

    def _ways(self, way: Way) -> list[_Road]:
        if way not in ("up", "down", "both"):
            raise ProxyError(f"a line goes up, down or both, not {way!r}")
        return [road for name, road in self._roads.items() if way in (name, "both")]

    def _listen(self) -> None:
        assert self._tasks is not None, "a line is used inside its block"
        host, _, port = self.address.rpartition(":")
        self._line = _bound(host, int(port))
        self._line.listen(CONNECTIONS_MAX)
        self._listener = self._tasks.create_task(self._accept(self._line))

    async def _accept(self, line: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        assert self._tasks is not None
        try:
            while True:
                near, _ = await loop.sock_accept(line)
                near.setblocking(False)
                self.accepted += 1
                self.connections += 1
                pair = _Pair(near)
                self._open.add(pair)
                self._tasks.create_task(self._carry(pair))
        except OSError:
            if line is self._line:  # else it was shut down
                raise
        finally:
            line.close()

    async def _carry(self, pair: _Pair) -> None:
        """One connection, from its acceptance to its end."""
        try:
            await pair.run(self.target, self._roads, self._random, self.held_bytes_max)
        finally:
            self._open.discard(pair)
            self.connections -= 1
            pair.close()

    # --- the control socket ---

    async def _serve_control(self) -> asyncio.Server:
        host, _, port = self.control.rpartition(":")
        if port.isdigit() and "/" not in self.control:
            server = await asyncio.start_server(self._order, host, int(port), limit=LINE_BYTES_MAX)
            self.control = f"{host}:{server.sockets[0].getsockname()[1]}"
            return server
        return await asyncio.start_unix_server(self._order, self.control, limit=LINE_BYTES_MAX)

    def _order(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._tasks is not None
        task = self._tasks.create_task(self._take_orders(reader, writer))
        self._orders.add(task)
        task.add_done_callback(self._orders.discard)

    async def _take_orders(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, ValueError):  # ValueError: a line that does not end
                while line := await reader.readline():
                    writer.write(orjson.dumps(self.obey(line)) + b"\n")
                    await writer.drain()
        finally:
            writer.close()

    def obey(self, line: bytes) -> dict[str, object]:
        """Do what a line of the control socket says; the answer."""
        try:
            order = orjson.loads(line)
            do = order.pop("do")
            if do not in ("set", "blackhole", "stall", "reset", "refuse", "heal", "statistics"):
                raise ProxyError(f"no such command: {do!r}")
            getattr(self, do)(**order)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            return {"ok": False, "error": f"{type(error).__name__}: {error}"}
        return {"ok": True, **self.statistics()}


async def command(control: str, do: str, **arguments: object) -> dict[str, int]:
    """Tell a line in another process to do something, and wait until it has. Raises ProxyError if it will not."""
    host, _, port = control.rpartition(":")
    is_unix = "/" in control or not port.isdigit()
    reader, writer = await (
        asyncio.open_unix_connection(control) if is_unix else asyncio.open_connection(host, int(port))
    )
    try:
        writer.write(orjson.dumps({"do": do, **arguments}) + b"\n")
        answer: dict[str, int] = orjson.loads(await reader.readline())
    finally:
        writer.close()
    if not answer.pop("ok"):
        raise ProxyError(answer["error"])
    return answer


class _Pair:
    """One connection: the near end and the far end."""

    def __init__(self, near: socket.socket) -> None:
        self.near = near
        self.far: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_aborted = False

    async def run(self, target: str, roads: dict[str, _Road], random: Random, held_bytes_max: int) -> None:
        """Carry bytes both ways until both ends are done, or one breaks, or `abort`."""
        self._task = asyncio.current_task()
        if self._is_aborted:
            return
        try:
            try:
                await self._connect(target, roads["up"])
                await self._carry(roads, random, held_bytes_max)
            except* OSError:
                self._linger()  # whatever broke one end breaks the other
        except asyncio.CancelledError:
            if not self._is_aborted:
                raise

    async def _connect(self, target: str, up: _Road) -> None:
        while up.conditions.blackhole or up.conditions.stall:
            await up.wait()
        place: tuple[str, int] | str = target
        if "/" in target:
            self.far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.far.setblocking(False)
        else:
            host, _, port = target.rpartition(":")
            self.far, place = _socket(), (host, int(port))
        async with asyncio.timeout(CONNECT_S):
            await asyncio.get_running_loop().sock_connect(self.far, place)

    async def _carry(self, roads: dict[str, _Road], random: Random, held_bytes_max: int) -> None:
        assert self.far is not None
        async with asyncio.TaskGroup() as ways:
            for road, source, sink in ((roads["up"], self.near, self.far), (roads["down"], self.far, self.near)):
                lane = _Lane(road, source, sink, random, held_bytes_max)
                ways.create_task(lane.take())
                ways.create_task(lane.give())

    def abort(self) -> None:
        """RST both ends."""
        self._linger()
        self._is_aborted = True
        if self._task is not None:
            self._task.cancel()

    def _linger(self) -> None:
        for end in (self.near, self.far):
            if end is not None:
                with suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def close(self) -> None:
        """Let go of both ends."""
        self.near.close()
        if self.far is not None:
            self.far.close()


class _Broken(OSError):
    """The other end was reset."""


@dataclass(slots=True)
class _Lane:
    """One way of one connection: what was taken and not yet given, in order, each with when it was taken and its jitter."""

    road: _Road
    source: socket.socket
    sink: socket.socket
    random: Random
    held_bytes_max: int
    held: deque[tuple[float, float, bytes | None]] = field(default_factory=deque)  # None: the source was reset
    held_bytes: int = 0
    came: asyncio.Event = field(default_factory=asyncio.Event)
    went: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self) -> None:
        """Read the source to its end."""
        loop = asyncio.get_running_loop()
        while True:
            while self.road.conditions.stall:
                await self.road.wait()
            while self.held_bytes >= self.held_bytes_max:
                self.went.clear()
                await self.went.wait()
            data: bytes | None
            try:
                data = await loop.sock_recv(self.source, CHUNK_BYTES)
            except OSError:
                data = None
            self.held.append((loop.time(), self.random.random(), data))
            self.held_bytes += len(data or b"")
            self.came.set()
            if not data:
                return

    async def give(self) -> None:
        """Write it to the sink, when its time has come."""
        while True:
            while not self.held:
                self.came.clear()
                await self.came.wait()
            taken_at, jitter, data = self.held[0]
            await self._is_due(taken_at, jitter)
            if data is None:
                raise _Broken
            if not data:
                self.sink.shutdown(socket.SHUT_WR)
                return
            await self._write(data)
            self.held.popleft()
            self.held_bytes -= len(data)
            self.went.set()

    async def _is_due(self, taken_at: float, jitter: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            now = self.road.conditions
            due = taken_at + now.latency_s + jitter * now.jitter_s
            if now.blackhole or now.stall:
                await self.road.wait()
            elif due > loop.time():
                await self.road.wait(due - loop.time())
            else:
                return

    async def _write(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        rest = memoryview(data)
        while rest:
            now = self.road.conditions
            if now.blackhole or now.stall:
                await self.road.wait()
                continue
            rate = now.rate_bytes_per_s
            piece = rest[: max(1, int(rate * DRIP_S))] if rate else rest
            await loop.sock_sendall(self.sink, piece)
            self.road.bytes += len(piece)
            rest = rest[len(piece) :]
            if rate:
                await self.road.wait(len(piece) / rate)


def _socket() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def _bound(host: str, port: int) -> socket.socket:
    made = _socket()  # what it accepts has its options
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind((host, port))
    return made
