"""A line is made bad in each way, each direction, and healed; nothing is lost, changed or overtaken."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from imcore.testkit.proxy import Proxy, ProxyError, Way, command
from waiting import eventually


class Echo:
    """A server that says back what it hears, and remembers it."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.open = 0
        self.resets = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            while data := await reader.read(1 << 16):
                self.heard += data
                writer.write(data)
                await writer.drain()
        except ConnectionResetError:
            self.resets += 1
        finally:
            self.open -= 1
            writer.close()


@asynccontextmanager
async def lined(**options: object) -> AsyncIterator[tuple[Echo, Proxy]]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        async with Proxy(f"{host}:{port}", **options) as line:  # type: ignore[arg-type]
            yield echo, line


async def connected(line: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", line.port)


async def is_silent(reader: asyncio.StreamReader, seconds: float = 0.05) -> bool:
    """Nothing comes; a wait that can only be for a time."""
    try:
        await asyncio.wait_for(reader.read(1), seconds)
    except TimeoutError:
        return True
    return False


async def test_a_line_may_lead_to_a_unix_socket(tmp_path: Path) -> None:
    """As Postgres has one."""
    echo = Echo()
    place = str(tmp_path / "echo")
    async with await asyncio.start_unix_server(echo.serve, place):
        async with Proxy(place) as line:
            reader, writer = await connected(line)
            writer.write(b"hello")

            assert b"hello" == await reader.readexactly(5)
            writer.close()


async def test_a_good_line_carries_every_byte_both_ways_and_the_end() -> None:
    said = bytes(range(256)) * 20_000
    async with lined() as (echo, line):
        reader, writer = await connected(line)

        async def say() -> None:
            writer.write(said)
            await writer.drain()
            writer.write_eof()

        _, heard = await asyncio.gather(say(), reader.read(-1))

        assert said == heard == bytes(echo.heard)
        assert (len(said), len(said)) == (line.statistics()["up_bytes"], line.statistics()["down_bytes"])
        await eventually(lambda: gone(line))
        writer.close()


async def gone(line: Proxy) -> bool:
    return line.connections == 0


async def test_latency_is_added_each_way_and_order_stays() -> None:
    async with lined() as (_, line):
        line.set(latency_s=0.05, jitter_s=0.05)
        reader, writer = await connected(line)
        began = time.monotonic()
        for n in range(20):
            writer.write(bytes([n]))
            await writer.drain()
            await asyncio.sleep(0)

        assert bytes(range(20)) == await reader.readexactly(20)
        assert time.monotonic() - began >= 0.1
        writer.close()


async def test_latency_can_be_of_one_way_only() -> None:
    async with lined() as (echo, line):
        line.set(latency_s=30, way="down")
        reader, writer = await connected(line)
        writer.write(b"up")

        await eventually(lambda: heard(echo, b"up"))
        assert await is_silent(reader)
        line.heal()  # what is on its way has the new latency
        assert b"up" == await reader.readexactly(2)
        writer.close()


async def heard(echo: Echo, said: bytes) -> bool:
    return bytes(echo.heard) == said


async def test_a_narrow_line_takes_the_time_that_its_rate_says() -> None:
    async with lined() as (_, line):
        line.set(rate_bytes_per_s=100_000, way="up")
        reader, writer = await connected(line)
        began = time.monotonic()
        writer.write(b"x" * 30_000)

        await reader.readexactly(30_000)
        assert time.monotonic() - began >= 0.25
        writer.close()


@pytest.mark.parametrize("verb", ["blackhole", "stall"])
@pytest.mark.parametrize("way", ["up", "down"])
async def test_what_was_held_back_arrives_in_order_when_it_is_healed(verb: str, way: Way) -> None:
    """And the other way is not touched meanwhile."""
    async with lined() as (echo, line):
        reader, writer = await connected(line)
        writer.write(b"0")
        assert b"0" == await reader.readexactly(1)
        getattr(line, verb)(way)
        writer.write(b"123")
        await eventually(lambda: heard(echo, b"0123" if way == "down" else b"0"))
        assert await is_silent(reader)
        writer.write(b"456")
        line.heal()

        assert b"123456" == await reader.readexactly(6)
        assert b"0123456" == bytes(echo.heard)
        writer.close()


async def test_a_blackhole_takes_bytes_and_a_stall_closes_the_window() -> None:
    """Of 16 MiB the blackhole takes what it may hold; a stall only what fits the kernel's buffers."""
    taken = {}
    for verb in ("blackhole", "stall"):
        async with lined(held_bytes_max=8 << 20) as (_, line):
            near = socket.create_connection(("127.0.0.1", line.port))
            near.setblocking(False)
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 << 10)
            await eventually(lambda line=line: is_open(line))  # type: ignore[misc]
            getattr(line, verb)("up")
            taken[verb] = 0
            with suppress(TimeoutError):  # when nothing more is taken
                while taken[verb] < 16 << 20:
                    must_be_taken = verb == "blackhole" and taken[verb] < 8 << 20  # however long it takes
                    async with asyncio.timeout(30 if must_be_taken else 0.5):
                        await asyncio.get_running_loop().sock_sendall(near, b"x" * 4096)
                    taken[verb] += 4096
            near.close()

    assert 8 << 20 <= taken["blackhole"] < 12 << 20
    assert taken["stall"] < 2 << 20


async def is_open(line: Proxy) -> bool:
    return line.connections == 1


async def test_who_leaves_a_blackhole_is_not_missed_before_it_is_healed() -> None:
    """A pulled cable: the server sees a connection that is half open."""
    async with lined() as (echo, line):
        reader, writer = await connected(line)
        writer.write(b"x")
        await reader.readexactly(1)
        line.blackhole("both")
        writer.transport.abort()
        async with asyncio.timeout(20):
            assert not await reader.read(1)
        assert 1 == echo.open

        line.heal()
        await eventually(lambda: left(echo))


async def left(echo: Echo) -> bool:
    return echo.open == 0


async def test_a_connection_into_a_blackhole_is_made_when_it_is_healed() -> None:
    async with lined() as (echo, line):
        line.blackhole("up")
        reader, writer = await connected(line)
        writer.write(b"x")
        assert await is_silent(reader)
        assert 0 == echo.open

        line.heal()
        assert b"x" == await reader.readexactly(1)
        writer.close()


async def test_a_reset_breaks_both_ends_of_every_connection() -> None:
    async with lined() as (echo, line):
        lines = [await connected(line) for _ in range(3)]
        for reader, writer in lines:
            writer.write(b"x")
            await reader.readexactly(1)
        line.reset()

        for reader, writer in lines:
            with pytest.raises(ConnectionResetError):
                await reader.read(1)
            writer.close()
        await eventually(lambda: left(echo))
        assert 3 == echo.resets
        reader, writer = await connected(line)
        writer.write(b"y")
        assert b"y" == await reader.readexactly(1), "the next one is taken"
        writer.close()


async def test_one_end_that_breaks_breaks_the_other() -> None:
    async with lined() as (echo, line):
        reader, writer = await connected(line)
        writer.write(b"x")
        await reader.readexactly(1)
        writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()

        await eventually(lambda: left(echo))
        assert 1 == echo.resets


async def test_a_line_that_refuses_takes_nobody_new_until_it_is_healed() -> None:
    """On the same port again, and those who are there stay."""
    async with lined() as (_, line):
        reader, writer = await connected(line)
        writer.write(b"x")
        await reader.readexactly(1)
        for _ in range(3):
            line.refuse()
            with pytest.raises(ConnectionRefusedError):
                await connected(line)
            writer.write(b"y")
            assert b"y" == await reader.readexactly(1)
            line.heal()
            other, its_writer = await connected(line)
            its_writer.write(b"z")
            assert b"z" == await other.readexactly(1)
            its_writer.close()
        writer.close()


async def test_a_target_that_is_not_there_resets_who_asks_for_it() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        async with Proxy(f"127.0.0.1:{nobody.getsockname()[1]}") as line:
            reader, writer = await connected(line)
            with pytest.raises(ConnectionResetError):
                await reader.read(1)
            writer.close()


async def test_it_ends_with_everything_held_back() -> None:
    async with asyncio.timeout(30), lined() as (_, line):
        _, writer = await connected(line)
        writer.write(b"x" * 100_000)
        await eventually(lambda: is_open(line))
        line.blackhole()
        _, other = await connected(line)
    writer.close()
    other.close()


@pytest.mark.parametrize("where", ["unix", "tcp"])
async def test_it_is_told_from_another_process(where: str, tmp_path: Path) -> None:
    control = str(tmp_path / "line") if where == "unix" else "127.0.0.1:0"
    async with lined(control=control) as (_, line):
        reader, writer = await connected(line)
        answer = await command(line.control, "blackhole", way="up")
        assert {"connections", "accepted", "up_bytes", "down_bytes"} == answer.keys()
        writer.write(b"x")
        assert await is_silent(reader)
        await command(line.control, "set", latency_s=0.001, jitter_s=0)
        await command(line.control, "heal")
        assert b"x" == await reader.readexactly(1)
        assert (1, 1) == tuple((await command(line.control, "statistics")).values())[2:]
        writer.close()


@pytest.mark.parametrize(
    ("do", "arguments"),
    [("set", {"latency": 1}), ("set", {"latency_s": -1}), ("set", {"latency_s": True}), ("heal", {"way": "up"}),
     ("stall", {"way": "left"}), ("obey", {}), ("__init__", {})],
)  # fmt: skip
async def test_what_it_cannot_do_it_says(do: str, arguments: dict[str, object], tmp_path: Path) -> None:
    async with lined(control=str(tmp_path / "line")) as (_, line):
        with pytest.raises(ProxyError):
            await command(line.control, do, **arguments)
