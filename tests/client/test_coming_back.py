"""The client comes back: after kills, drains, silence and lost answers, with nothing lost, doubled or out of order."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import signal
import socket
import time
from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import orjson
import psutil
import pytest
from aiohttp.http import WS_KEY

from client.lines import QUICK, WAYS, Way, address, hear, is_event, proxy, so, url
from imcore.client import (
    Change,
    Client,
    Limits,
    MemoryCursor,
    Message,
    Reset,
    SendTimeout,
    Sent,
    State,
    carriers,
    connect,
)
from imcore.protocol import binary
from imcore.protocol.packet import Op
from system.servers import Backend, Server
from waiting import eventually

MESSAGES = 600
UNDER_WAY = 20


async def talk(im: Client, room: str, times: int) -> list[Sent]:
    """So many messages, some at once."""
    doors = asyncio.Semaphore(UNDER_WAY)

    async def say(n: int) -> Sent:
        async with doors:
            return await im.send(room, f"{n} of {im.mid}")

    return await asyncio.gather(*(say(n) for n in range(times)))


async def listen(im: Client, heard: list[Message]) -> None:
    """For as long as it is connected."""
    async for message in im:
        heard.append(message)  # noqa: PERF401 # somebody looks at it meanwhile


def places(messages: Sequence[Message | Sent]) -> list[tuple[int, str | None]]:
    """Where they are, and which."""
    return [(message.seq, message.id) for message in messages]


async def test_kill_9_of_the_server_while_both_talk(mortal: Server) -> None:
    """Three times. Each send has one outcome and is in the log once; each of the others' messages is heard once, in order."""
    room = "group://lobby"
    async with (
        connect(url(mortal, "ws"), mid=1, limits=QUICK) as alice,
        connect(url(mortal, "tcp"), mid=2, limits=QUICK) as bob,
    ):
        await alice.join(room)
        await bob.join(room)
        heard: dict[Client, list[Message]] = {alice: [], bob: []}
        listening = [asyncio.create_task(listen(im, heard[im])) for im in (alice, bob)]
        talking = [asyncio.create_task(talk(im, room, MESSAGES)) for im in (alice, bob)]
        for n in range(1, 4):
            await eventually(lambda n=n: so(len(heard[bob]) >= n * MESSAGES // 5))  # type: ignore[misc]
            mortal.kill()
            await mortal.start_again()
        async with asyncio.timeout(60):
            said = await asyncio.gather(*talking)
        await eventually(lambda: so(len(heard[alice]) >= MESSAGES and len(heard[bob]) >= MESSAGES))

        assert sorted(places(said[0])) == places(heard[bob])
        assert sorted(places(said[1])) == places(heard[alice])
        log = [(entry.seq, entry.client_id) for entry in await mortal.events() if entry.type == "message_sent"]
        assert sorted(places([*said[0], *said[1]])) == log
        assert min(alice.statistics.connects, bob.statistics.connects) > 1
        assert 0 == alice.statistics.unfilled + bob.statistics.unfilled
    for task in listening:
        await task


async def test_kill_9_of_postgres_while_both_talk(mortal: Server) -> None:
    """The outcome of what was under way is unknown, and asked for, by the server or by the client, until it is known."""
    room = "group://lobby"
    async with (
        connect(url(mortal, "ws"), mid=1, limits=QUICK) as alice,
        connect(url(mortal, "tcp"), mid=2, limits=QUICK) as bob,
    ):
        await alice.join(room)
        await bob.join(room)
        heard: list[Message] = []
        killed: set[int] = set()
        listening = asyncio.create_task(listen(bob, heard))
        talking = asyncio.create_task(talk(alice, room, MESSAGES))
        for n in range(1, 3):
            await eventually(lambda n=n: so(len(heard) >= n * MESSAGES // 5))  # type: ignore[misc]
            postgres = await eventually(lambda: _postgres(mortal, killed))
            assert postgres is not None
            killed.add(postgres.pid)
            for process in (postgres, *postgres.children()):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        async with asyncio.timeout(60):
            said = await talking
        await eventually(lambda: so(len(heard) >= MESSAGES))

        assert sorted(places(said)) == places(heard)
        log = [(entry.seq, entry.client_id) for entry in await mortal.events() if entry.type == "message_sent"]
        assert sorted(places(said)) == log
    await listening


@pytest.mark.parametrize("way", WAYS)
async def test_a_server_that_stops_says_so_and_its_clients_come_back(mortal: Server, way: Way) -> None:
    """After the delay that each was told, without an error for anybody."""
    steps: list[tuple[object, ...]] = []
    states: list[State] = []
    async with connect(url(mortal, way), mid=1, limits=QUICK, observe=steps.append, on_state=states.append) as im:
        await im.join("group://a")
        mortal.ask_to_stop()
        assert 0 == await mortal.stopped()
        sending = asyncio.create_task(im.send("group://a", "said while nobody was there"))
        await mortal.start_again()
        async with asyncio.timeout(60):
            sent = await sending

    assert 2 == sent.seq
    closed = next(step for step in steps if step[0] == "closed")
    assert ("closed", 1, 4001, "going_away") == closed
    assert [State.CONNECTING, State.CONNECTED, State.WAITING] == states[:3]


@pytest.mark.parametrize("way", WAYS)
async def test_a_message_whose_answer_was_lost_is_stored_once(server: Server, way: Way) -> None:
    """The server stored it, and the line breaks before the answer is through."""
    room = server.new_room()
    async with (
        proxy(server.ws if way == "ws" else server.tcp) as line,
        connect(address(way, line.address), mid=server.new_mid(), limits=QUICK) as im,
    ):
        await im.join(room)
        line.mode = "one way"
        sending = asyncio.create_task(im.send(room, "did you get this?"))
        await eventually(lambda: _stored(server, room, 1))
        line.mode = "open"
        line.cut()
        async with asyncio.timeout(60):
            sent = await sending

        assert (2, True) == (sent.seq, sent.duplicate)
        assert 1 == im.statistics.resends
        assert 3 == (await im.send(room, "and this?")).seq
    assert await _stored(server, room, 2)


@pytest.mark.parametrize("way", WAYS)
async def test_a_line_that_went_silent_is_noticed(server: Server, way: Way) -> None:
    """No end, no byte: as when a router forgot the connection. What was asked is asked again on a new one."""
    room = server.new_room()
    limits = Limits(backoff_s=0.1, answer_s=0.5, heartbeat_s=0.5, connect_s=2.0, auth_s=2.0)
    steps: list[tuple[object, ...]] = []

    def observe(step: tuple[object, ...]) -> None:
        steps.append(step)
        if step[0] == "closed":  # at once: the next try may come in a moment, and would find the line silent too
            line.mode = "open"

    async with (
        proxy(server.ws if way == "ws" else server.tcp) as line,
        connect(address(way, line.address), mid=server.new_mid(), limits=limits, observe=observe) as im,
    ):
        await im.join(room)
        line.mode = "silent"
        async with asyncio.timeout(60):
            assert 2 == (await im.send(room, "hello?")).seq

    assert "no_answer" == next(step[3] for step in steps if step[0] == "closed")


@pytest.mark.parametrize("way", WAYS)
async def test_a_line_that_takes_nothing_is_left_with_nothing_open(way: Way) -> None:
    """Not even the socket, though it still has much to give: who stands still may stand still for days, and others come after."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    listening.bind(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    is_over = asyncio.Event()

    async def stand_still(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if way == "ws":
            asked = await reader.readuntil(b"\r\n\r\n")
            key = asked.partition(b"Sec-WebSocket-Key: ")[2][:24]
            accept = b64encode(hashlib.sha1(key + WS_KEY).digest())
            writer.write(b"HTTP/1.1 101 \r\nUpgrade: websocket\r\nConnection: upgrade\r\n")
            writer.write(b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
        await is_over.wait()
        writer.transport.abort()

    def lines() -> int:
        return sum(bool(one.raddr) and one.raddr.port == port for one in psutil.Process().net_connections("tcp"))

    there = await asyncio.start_server(stand_still, sock=listening, limit=4096)
    carrier = await carriers.connect(address(way, f"127.0.0.1:{port}"), None)
    assert 1 == lines()
    with suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            while True:
                await carrier.write([b" " * 60_000])

    with suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            await carrier.close()

    await eventually(lambda: so(lines() == 0))
    is_over.set()
    there.close()


async def test_a_quiet_line_is_kept_alive_and_not_given_up(server: Server) -> None:
    steps: list[tuple[object, ...]] = []
    limits = Limits(heartbeat_s=0.05)
    async with connect(url(server, "tcp"), mid=server.new_mid(), limits=limits, observe=steps.append) as im:
        await eventually(lambda: so(sum(step[0] == "reply" and step[2] == 3 for step in steps) >= 10))

        assert 1 == im.statistics.connects


async def test_a_server_that_stands_still_leaves_the_outcome_open(mortal: Server) -> None:
    """The caller's time is over, and nobody knows. The same id again is the answer."""
    async with connect(url(mortal, "ws"), mid=1, limits=QUICK) as im:
        await im.join("group://a")
        mortal.process.send_signal(signal.SIGSTOP)
        await eventually(lambda: so(mortal.process.status() == psutil.STATUS_STOPPED))
        with pytest.raises(SendTimeout) as unknown:
            await im.send("group://a", "in doubt", timeout_s=0.3)
        mortal.process.send_signal(signal.SIGCONT)

        again = await im.send("group://a", "in doubt", id=unknown.value.id)

        assert unknown.value.retry
        assert [again.seq] == [entry.seq for entry in await mortal.events() if entry.client_id == unknown.value.id]


async def test_a_handshake_that_is_put_off_is_tried_again_when_the_server_said(server: Server) -> None:
    """503 with Retry-After, as a load balancer gives it, or the server itself while it drains."""
    limits = Limits(backoff_s=0.01)
    began = time.monotonic()
    async with proxy(server.ws) as line:
        line.answer = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
        connecting = asyncio.create_task(_once(address("ws", line.address), server.new_mid(), limits))
        await eventually(lambda: so(line.accepted == 1))
        line.answer = b""
        async with asyncio.timeout(60):
            await connecting

        assert 2 == line.accepted
    assert time.monotonic() - began >= 1


async def test_of_several_addresses_one_that_answers_is_found(server: Server) -> None:
    async with proxy("127.0.0.1:1") as dead:
        urls = [address("tcp", dead.address), "tcp://127.0.0.1:1", address("ws", dead.address), url(server, "tcp")]
        for _ in range(5):
            async with asyncio.timeout(60):
                await _once(urls, server.new_mid(), Limits(backoff_s=0.01))


async def test_waits_grow_are_random_and_have_an_end(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody listens there."""
    caplog.set_level(logging.WARNING, "imcore.client")
    limits = Limits(backoff_s=0.001, backoff_max_s=0.016)
    connecting = asyncio.create_task(_once("tcp://127.0.0.1:1", 1, limits))
    await eventually(lambda: so(len(caplog.records) >= 100))
    connecting.cancel()
    await asyncio.wait([connecting])

    waits = waits_of(caplog)
    assert all(wait <= 0.001 * 2**n for n, wait in enumerate(waits[:5]))
    assert 0.012 < max(waits) <= 0.016
    assert len(set(waits[5:])) == len(waits[5:]), "they are drawn"


async def test_who_was_told_when_to_come_does_not_pay_for_the_failures_before(caplog: pytest.LogCaptureFixture) -> None:
    """A server that crashes and soon after is started anew has its clients back as soon as it said."""
    caplog.set_level(logging.WARNING, "imcore.client")
    accepted = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        if accepted == 8:
            await reader.read(1)
            farewell = {"code": "going_away", "message": "", "retry": True, "close": 4001, "delay_ms": 1}
            writer.write(binary.encode(2, Op.DISCONNECT, 0, orjson.dumps(farewell)))
            await writer.drain()
        writer.close()

    there = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = there.sockets[0].getsockname()[1]
    limits = Limits(backoff_s=0.001, backoff_max_s=60)
    connecting = asyncio.create_task(_once(f"tcp://127.0.0.1:{port}", 1, limits))
    await eventually(lambda: so(len(waits_of(caplog)) >= 12))
    connecting.cancel()
    await asyncio.wait([connecting])
    there.close()
    waits = waits_of(caplog)

    assert 0.001 == waits[7], "what the server said"
    assert all(wait <= 0.001 * 2 ** (n + 1) for n, wait in enumerate(waits[8:12]))


def waits_of(caplog: pytest.LogCaptureFixture) -> list[float]:
    """How long the client said it would wait, each time."""
    told = [record for record in caplog.records if record.name == "imcore.client.client"]
    return [float(str(record.args[1])) for record in told if isinstance(record.args, tuple)]


async def test_a_hole_is_filled_from_the_history(server: Server) -> None:
    """Two events never come, in the middle of talk. The loop has them nevertheless, in their places."""
    room = server.new_room()
    async with (
        proxy(server.tcp) as line,
        connect(address("tcp", line.address), mid=server.new_mid(), limits=QUICK) as im,
        connect(url(server, "ws"), mid=server.new_mid(), limits=QUICK) as other,
    ):
        await other.join(room)
        await im.join(room)
        line.losing = lambda packet: is_event(packet, 3) or is_event(packet, 4)
        for n in range(10):
            await other.send(room, n)
            if n % 2:
                await im.send(room, "mine")  # holes of one's own are none

        heard = await hear(im, 10)

        assert list(range(10)) == [message.body for message in heard]
        assert sorted(heard, key=lambda message: message.seq) == heard
        assert (1, 2, 0) == (im.statistics.gaps, im.statistics.filled, im.statistics.unfilled)
        assert 1 == im.statistics.connects


async def test_a_hole_that_the_history_does_not_fill_is_told(server: Server, api: Backend) -> None:
    """Of what is for the person alone there is no history: a reset says that something is missing."""
    mid = server.new_mid()
    async with (
        proxy(server.tcp) as line,
        connect(address("tcp", line.address), mid=mid, limits=QUICK) as im,
    ):
        line.losing = lambda packet: is_event(packet, 2)
        for n in (1, 2, 3):
            await api.push("mids", 1000, b"%d" % n, mids=[mid])
        events = im.events()
        async with asyncio.timeout(60):
            seen = [await anext(events) for _ in range(4)]

    assert [Reset("new", 0), 1, Reset("gap", 0), 3] == [one.body if isinstance(one, Message) else one for one in seen]


async def test_a_loop_that_sees_no_resets_has_them_in_the_log(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """All but the first of a device, which is no loss."""
    room, mid, cursor = server.new_room(), server.new_mid(), MemoryCursor()
    async with connect(url(server, "ws"), mid=server.new_mid(), limits=QUICK) as other:
        await other.join(room)
        async with connect(url(server, "ws"), mid=mid, cursor=cursor, rooms=[room], limits=QUICK) as im:
            await other.send(room, "first")
            await hear(im, 1)
        assert [] == [record for record in caplog.records if record.levelno >= logging.WARNING]
        await cursor.keep(Change(cursor="another-log.1"))

        async with connect(url(server, "ws"), mid=mid, cursor=cursor, limits=QUICK) as im:
            await other.send(room, "second")
            assert ["second"] == [message.body for message in await hear(im, 1)]

    (told,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "! missed, and not to come (epoch): all rooms" == told.getMessage()


async def test_own_sends_are_no_holes(server: Server) -> None:
    """Many of both, interleaved as they come: nothing is looked for."""
    room = server.new_room()
    async with (
        connect(url(server, "tcp"), mid=server.new_mid(), limits=QUICK) as im,
        connect(url(server, "tcp"), mid=server.new_mid(), limits=QUICK) as other,
    ):
        await im.join(room)
        await other.join(room)
        _, _, heard, also = await asyncio.gather(
            talk(im, room, 300), talk(other, room, 300), hear(im, 300), hear(other, 300)
        )

        assert sorted({message.seq for message in (*heard, *also)}) == list(range(3, 603))
        assert (0, 0) == (im.statistics.gaps, other.statistics.gaps)


# --- slow programs ---


@pytest.mark.parametrize("way", WAYS)
async def test_a_slow_program_makes_the_server_wait_and_misses_nothing(server: Server, way: Way) -> None:
    """It takes nothing while 3,000 messages of a kilobyte come: a bounded number of them lie in the client, and none is lost."""
    room, total = server.new_room(), 3_000
    limits = Limits(queue_events_max=50, overflow_events_max=100, backoff_s=0.1)
    async with (
        connect(url(server, way), mid=server.new_mid(), limits=limits) as im,
        connect(url(server, "tcp"), mid=server.new_mid()) as other,
    ):
        await im.join(room)
        await other.join(room)
        await asyncio.gather(*(other.send(room, f"{n} " + "x" * 1_000) for n in range(total)))
        most = im._core.backlog
        heard = []
        async for message in im:
            most = max(most, im._core.backlog)
            heard.append(int(message.body.split()[0]))
            if len(heard) == total:
                break

        # What one read brings is taken in as a whole.
        assert most <= 100
        assert sorted(heard) == list(range(total))
        assert 0 == im.statistics.gaps


@pytest.mark.parametrize("way", WAYS)
async def test_a_program_that_answers_each_message_gets_its_answers_through_a_backlog(server: Server, way: Way) -> None:
    """Its send waits for an answer that lies behind more events than the client may keep. It comes, and then the others do."""
    room, total = server.new_room(), 1_500
    mid, cursor = server.new_mid(), MemoryCursor()
    limits = Limits(queue_events_max=50, overflow_events_max=200, backoff_s=0.1)
    async with connect(url(server, way), mid=mid, cursor=cursor) as im:
        await im.join(room)
    async with connect(url(server, "tcp"), mid=server.new_mid()) as other:
        await other.join(room)
        await asyncio.gather(*(other.send(room, n) for n in range(total)))
    heard = []
    async with connect(url(server, way), mid=mid, cursor=cursor, limits=limits) as im, asyncio.timeout(180):
        async for message in im:
            heard.append(message.body)
            await im.send(room, f"{message.body} it is")
            if len(heard) == total:
                break

        assert sorted(heard) == list(range(total))
        assert im.statistics.overflows > 0
        assert 0 == im.statistics.gaps


# --- acks ---


async def test_what_is_not_acknowledged_comes_again_to_the_next_client(server: Server) -> None:
    """Manual acks: an ack is for the event and all before it, and only that counts."""
    mid, room, cursor = server.new_mid(), server.new_room(), MemoryCursor()
    async with connect(url(server, "ws"), mid=server.new_mid(), limits=QUICK) as other:
        async with connect(url(server, "ws"), mid=mid, cursor=cursor, acks="manual", limits=QUICK) as im:
            await im.join(room)
            await other.join(room)
            for n in range(6):
                await other.send(room, n)
            heard = await hear(im, 5)
            await im.ack(heard[3])
            await im.ack(heard[1])  # nothing new
        async with connect(url(server, "tcp"), mid=mid, cursor=cursor, acks="manual", limits=QUICK) as im:
            again = await hear(im, 2)

    assert [0, 1, 2, 3, 4] == [message.body for message in heard]
    assert [4, 5] == [message.body for message in again]


async def test_a_program_that_acknowledges_nothing_is_given_no_more_until_it_does(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    mid, room = server.new_mid(), server.new_room()
    few = replace(QUICK, unacked_events_max=3)
    async with (
        connect(url(server, "ws"), mid=server.new_mid(), limits=QUICK) as other,
        connect(url(server, "ws"), mid=mid, acks="manual", limits=few) as im,
    ):
        await im.join(room)
        await other.join(room)
        for n in range(6):
            await other.send(room, n)
        heard = await hear(im, 3)
        fourth = asyncio.create_task(hear(im, 1))
        await im.history(room)  # whatever was on its way has come
        assert not fourth.done()
        assert ["3 events are due to be acked: no more are given until some are"] == [
            record.getMessage() for record in caplog.records if "acked" in record.getMessage()
        ]

        await im.ack(heard[0])

        assert [3] == [message.body for message in await fourth]
        await im.ack(heard[2])
        assert [4, 5] == [message.body for message in await hear(im, 2)]


async def test_a_loop_that_is_cancelled_sees_the_event_again_and_one_that_ends_does_not(server: Server) -> None:
    mid, room, cursor = server.new_mid(), server.new_room(), MemoryCursor()

    async def fail(im: Client) -> None:
        async for message in im:
            if message.body == 2:
                raise RuntimeError("in the middle of it")

    async with connect(url(server, "ws"), mid=server.new_mid(), limits=QUICK) as other:
        async with connect(url(server, "ws"), mid=mid, cursor=cursor, limits=QUICK) as im:
            await im.join(room)
            await other.join(room)
            for n in range(6):
                await other.send(room, n)
            assert [0, 1] == [message.body for message in await hear(im, 2)]
        with pytest.raises(RuntimeError):
            async with connect(url(server, "ws"), mid=mid, cursor=cursor, limits=QUICK) as im:
                await fail(im)
        async with connect(url(server, "ws"), mid=mid, cursor=cursor, limits=QUICK) as im:
            assert [2, 3, 4, 5] == [message.body for message in await hear(im, 4)]


async def test_the_server_knows_what_was_dealt_with_and_the_next_device_begins_there(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no cursor of its own, but the same key, it goes on after the last ack."""
    monkeypatch.setattr(
        "imcore.client.client.GOODBYE_S", 60.0
    )  # a server that is slow to answer the last ack is waited for
    mid, room = server.new_mid(), server.new_room()
    async with connect(url(server, "ws"), mid=server.new_mid(), limits=QUICK) as other:
        async with connect(url(server, "ws"), mid=mid, key="k", limits=QUICK) as im:
            await im.join(room)
            for n in range(3):
                await other.join(room)
                await other.send(room, n)
            await hear(im, 3)
        await other.send(room, 3)
        async with connect(url(server, "ws"), mid=mid, key="k", limits=QUICK) as im:
            assert [3] == [message.body for message in await hear(im, 1)]


async def _postgres(server: Server, killed: set[int]) -> psutil.Process | None:
    """The one that runs now."""
    postgres = server.postgres()
    return postgres if postgres.is_running() and postgres.pid not in killed else None


async def _once(urls: str | list[str], mid: int, limits: Limits) -> None:
    async with connect(urls, mid=mid, limits=limits):
        pass


async def _stored(server: Server, room: str, times: int) -> bool:
    found = [entry for entry in await server.events() if entry.room == room and entry.type == "message_sent"]
    return len(found) == times
