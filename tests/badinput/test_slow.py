"""Clients that are silent, slow, half there or gone: they cost little, they are cut in time, and nobody waits for them."""

from __future__ import annotations

import asyncio
import socket
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from badinput.conftest import (
    AUTH_TIMEOUT_S,
    DRIPS,
    HEARTBEAT_MISSES,
    HEARTBEAT_S,
    SWEEP_S,
    Place,
)
from badinput.wire import (
    AUTH,
    EVENT,
    FORMS,
    HEARTBEAT,
    HISTORY,
    PING,
    PUSH_MIN,
    SEND,
    SUB1,
    SUB2,
    TCP1,
    TCP2,
    WS,
    Form,
    Line,
    assert_closed,
    claim,
    connected,
    dialled,
    encoded,
    message,
    touched,
    upgrade,
)
from protocol.frames import client_frame
from waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="package")
forms = pytest.mark.parametrize("form", FORMS, ids=str)

LATE_S = 10.0  # what a machine with other things to do may take beyond a deadline
HTTP_HEADER_S = 15.0
AT_ONCE = 50  # come
IDLE = 300
IDLE_BYTES_MAX = 48 << 10  # of memory for each
SLOW = 100
ROUND_TRIP_S = 0.25  # half of them, while others are slow; a server that waits for one of those would take seconds
FLOOD = 500
MIB = 1 << 20
RECEIVE_BYTES = 65_536
PAGES = 8  # of almost a MiB, together more than what a kernel takes for one connection
HELD_BYTES_MAX = 2 * PAGES * MIB  # by the server for one that does not read


@asynccontextmanager
async def crowd(
    place: Place, forms: tuple[Form, ...], count: int, first: Callable[[int, Line], object] = lambda number, line: None
) -> AsyncIterator[list[Line]]:
    """So many connections, of these forms in turn; `first` is done to each when it is there."""
    async with AsyncExitStack() as stack:

        async def come(number: int) -> Line:
            line = await stack.enter_async_context(dialled(place.where, forms[number % len(forms)]))
            first(number, line)
            return line

        lines: list[Line] = []
        for start in range(0, count, AT_ONCE):
            lines += await asyncio.gather(*(come(number) for number in range(start, min(start + AT_ONCE, count))))
        yield lines


# --- silence ---------------------------------------------------------------------------------------------------------


async def test_a_crowd_of_strangers_costs_little_and_is_cut(impatient: Place) -> None:
    """Those that say nothing at all, and those that stop in the middle of their auth; and who goes on with it then comes too late."""
    await impatient.assert_well()
    await impatient.assert_forgotten()
    held, mid = impatient.rss_bytes, impatient.new_mid()

    def begin(number: int, line: Line) -> None:
        if number % 2 == 0:
            line.put(line.encoded(AUTH, 1, claim(mid, key="late"))[:11])

    before = time.monotonic()
    async with crowd(impatient, FORMS, IDLE, begin) as lines:
        last = time.monotonic()
        assert impatient.rss_bytes - held < IDLE * IDLE_BYTES_MAX

        await asyncio.gather(*(assert_closed(line, "auth_timeout") for line in lines))

        assert AUTH_TIMEOUT_S <= time.monotonic() - before
        assert time.monotonic() - last < AUTH_TIMEOUT_S + SWEEP_S + LATE_S
        for line in lines[::2]:
            await line.push(line.encoded(AUTH, 1, claim(mid, key="late"))[11:])
    await impatient.assert_well()
    assert [] == await impatient.told_of(mid, "late")
    await impatient.assert_forgotten()


async def test_a_client_that_is_not_heard_is_cut(impatient: Place) -> None:
    """Of every form; in silence, or in the middle of a packet that never ends, a byte now and then. Those that are heard stay: by a
    heartbeat, by any other packet, by a ping."""
    async with AsyncExitStack() as stack:

        async def connect(form: Form) -> Line:
            return await stack.enter_async_context(connected(impatient.where, form, impatient.new_mid()))

        beating, asking, pinging = await connect(TCP1), await connect(TCP2), await connect(WS)
        silent = [await connect(form) for form in FORMS]
        halfway = [await connect(form) for form in FORMS[1:]]
        before = time.monotonic()
        halfway.append(await connect(FORMS[0]))
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            ends = [tasks.create_task(assert_closed(line, "heartbeat_timeout")) for line in (*silent, *halfway)]
            sent = 0
            while not all(end.done() for end in ends):
                for line in halfway:
                    line.put(line.encoded(SEND, 1, message("group://a"))[sent : sent + 1])
                sent += 1
                assert not (await beating.ask(HEARTBEAT)).code
                assert "no_such_room" == (await asking.ask(HISTORY, {"room": "group://a"})).code
                pinging.put(client_frame(PING, b"?"))
                assert b"?" == await pinging.pong()
                await asyncio.wait(ends, timeout=HEARTBEAT_S / 4, return_when=asyncio.ALL_COMPLETED)

        patience_s = HEARTBEAT_S * HEARTBEAT_MISSES
        assert patience_s <= time.monotonic() - before
        assert time.monotonic() - began < patience_s + SWEEP_S + LATE_S
        for line in (beating, asking, pinging):
            assert line.close is None
            assert not (await line.ask(HEARTBEAT)).code


@pytest.mark.parametrize("name", DRIPS)
async def test_a_request_that_comes_slowly_is_cut(drips: dict[str, asyncio.Task[float]], name: str) -> None:
    assert await drips[name] < HTTP_HEADER_S + LATE_S


# --- not reading -----------------------------------------------------------------------------------------------------


async def test_clients_that_never_read_are_cut_and_keep_nothing(impatient: Place) -> None:
    """They ask for more than any kernel takes, and take nothing. The server gives them up after a while, holds no more for them than
    was under way, and when they read at last they find out why."""
    await impatient.assert_forgotten()
    given_up, held = await impatient.endings("slow_consumer"), impatient.rss_bytes
    room, mid = impatient.new_room(), impatient.new_mid()
    async with AsyncExitStack() as stack:
        writer = await stack.enter_async_context(connected(impatient.where, TCP2, mid, room_id=room))
        writer.put(b"".join(writer.encoded(SEND, n, message(room, "x" * 16_000)) for n in range(60)))
        assert [""] * 60 == [reply.code for reply in await writer.replies(60)]
        deaf = [await stack.enter_async_context(connected(impatient.where, form, mid, room_id=room)) for form in FORMS]
        for line in deaf:
            found: socket.socket = line.writer.get_extra_info("socket")
            found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
            line.writer.transport.pause_reading()  # type: ignore[attr-defined]
            line.put(b"".join(line.encoded(HISTORY, seq, {"room": room, "limit": 500}) for seq in range(PAGES)))

        async def all_are_cut() -> bool:
            assert not (await writer.ask(HEARTBEAT)).code
            assert impatient.rss_bytes - held < len(deaf) * HELD_BYTES_MAX
            return await impatient.endings("slow_consumer") == given_up + len(deaf)

        assert await eventually(all_are_cut)
        for line in deaf:
            line.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for fate in await asyncio.gather(*(assert_closed(line, "slow_consumer") for line in deaf)):
            assert {HISTORY + 1} == {packet.op for packet in fate.packets if packet.op not in (EVENT, PUSH_MIN)}
    await impatient.assert_forgotten()


# --- slow senders ----------------------------------------------------------------------------------------------------


async def test_slow_senders_delay_nobody(place: Place) -> None:
    """Each gives a byte of its packet and then lets the others have a turn; meanwhile somebody asks again and again."""
    async with crowd(place, (TCP1, SUB2, WS), SLOW) as slow:
        async with connected(place.where, TCP2, place.new_mid()) as quick:
            packets = [line.encoded(AUTH, 1, claim(place.new_mid())) for line in slow]
            took_s = []
            for sent in range(max(map(len, packets))):
                for line, packet in zip(slow, packets, strict=True):
                    line.put(packet[sent : sent + 1])
                began = time.monotonic()
                await quick.ask(HEARTBEAT)
                took_s.append(time.monotonic() - began)
        assert statistics.median(took_s) < ROUND_TRIP_S
        replies = await asyncio.gather(*(line.replies(1) for line in slow))
        assert [AUTH + 1] * SLOW == [reply.op for (reply,) in replies]


# --- gone ------------------------------------------------------------------------------------------------------------


@forms
async def test_a_reset_in_the_middle_of_an_answer_harms_nobody(place: Place, form: Form) -> None:
    """A megabyte was asked for, its first bytes are read, then there is nobody any more. Again and again."""
    room, mid = place.new_room(), place.new_mid()
    async with connected(place.where, TCP2, mid, room_id=room) as writer:
        writer.put(b"".join(writer.encoded(SEND, n, message(room, "x" * 8_000)) for n in range(60)))
        await writer.replies(60)
    for taken in (0, 1, 100, 65_536, 65_536):
        async with connected(place.where, form, mid, room_id=room) as line:
            page = line.encoded(HISTORY, 1, {"room": room, "after": 0, "limit": 500})
            line.put(page * 8 + line.encoded(SEND, 2, message(room)) * 20)
            if taken:
                await line.reader.read(taken)
            line.drop(reset=True)
    await place.assert_forgotten()


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_a_flood_of_connections_that_end_at_once_leaves_nothing(place: Place, reset: bool) -> None:
    """Before a word, after the handshake's request, within the auth, after the auth."""
    auth = [encoded(form, AUTH, 1, claim(place.new_mid())) for form in (TCP1, SUB1)]
    said = [(place.where.tcp, b""), (place.where.tcp, auth[0][:10]), (place.where.tcp, auth[0])]
    said += [(place.where.ws, b""), (place.where.ws, b"GET /"), (place.where.ws, upgrade("/sub"))]
    said += [(place.where.ws, upgrade("/sub") + auth[1]), (place.where.http, b""), (place.where.http, b"GET /")]

    async def come_and_go(number: int) -> None:
        address, data = said[number % len(said)]
        async with touched(address) as line:
            line.put(data)
            line.drop(reset=reset)

    for start in range(0, FLOOD, 50):
        await asyncio.gather(*(come_and_go(number) for number in range(start, start + 50)))
    await place.assert_forgotten()
