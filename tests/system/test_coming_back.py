"""Who was away gets what it missed: all of it, once, in order. Here without acks, as goim's clients are."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import sys
from functools import partial
from pathlib import Path

import pytest

from system.clients import AUTH, CHANGE_ROOM, Client, Clients, Form, frame
from system.servers import Backend, Server
from waiting import eventually

V1: tuple[Form, ...] = ("v1 tcp", "v1 ws")
ROUNDS = 4
BODY_BYTES = 16_000
SPEAKERS, SAID_EACH = 10, 2  # each may send 60 at once
IN_SERVER_BYTES = 300_000  # less than unsent_bytes_max: the connection is slow, and not yet behind
UPGRADE = (
    b"GET /sub HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.mark.parametrize("form", V1)
@pytest.mark.parametrize("has_key", [True, False])
async def test_a_goim_client_gets_exactly_what_it_missed(
    server: Server, api: Backend, connecting: Clients, form: Form, has_key: bool
) -> None:
    """Its rooms, what was pushed to it, to its key, and to everybody; between two visits and during them. Without a key, too: then it
    is the person who was away. And who missed nothing gets nothing twice."""
    mid, room, other = server.new_mid(), server.new_room(), server.new_room()
    key = f"phone of {mid}" if has_key else ""
    chance = random.Random(f"{form} {has_key}")
    spoken: list[bytes] = []

    async def speak(times: int) -> None:
        for _ in range(times):
            payload = b"%d" % len(spoken)
            spoken.append(payload)
            match chance.randrange(5 if key else 4):
                case 0:
                    await api.push_room(room, 1000, payload)
                case 1:
                    await api.push_room(other, 1000, payload)
                case 2:
                    await api.push("mids", 1000, payload, mids=[mid])
                case 3:
                    await api.push("all", 1000, payload)
                case 4:
                    await api.push("keys", 1000, payload, keys=[key])

    await api.create(room, mid)
    heard: list[bytes] = []
    for n in range(ROUNDS):
        client = await connecting.connect(server, form, mid=mid, key=key, room=other)
        await client.until_said(len(spoken) - len(heard))
        await speak(7 if n else 3)
        await client.until_said(len(spoken) - len(heard))
        await client.bye()
        heard += client.said
        await speak(9 if n < ROUNDS - 1 else 0)

    assert spoken == heard


@pytest.mark.parametrize("form", V1)
async def test_a_connection_that_takes_over_goes_on_where_the_other_was(
    server: Server, api: Backend, connecting: Clients, form: Form
) -> None:
    """What the first one was given, the second is not given again."""
    mid = server.new_mid()
    visits: list[Client] = []
    for n in range(5):
        visits.append(await connecting.connect(server, form, mid=mid, key="roaming"))
        for m in range(3):
            await api.push("mids", 1000, b"%d.%d" % (n, m), mids=[mid])
        await visits[-1].until_said(3)
    await api.push("mids", 1000, b"the end", mids=[mid])
    await visits[-1].until_said(4)

    assert [[b"%d.%d" % (n, m) for m in range(3)] for n in range(4)] == [visit.said for visit in visits[:-1]]
    assert [b"4.0", b"4.1", b"4.2", b"the end"] == visits[-1].said


@pytest.mark.parametrize("form", V1)
async def test_a_connection_that_takes_over_in_the_middle_of_talk_misses_nothing(
    server: Server, api: Backend, connecting: Clients, form: Form
) -> None:
    """As goim's clients do when they change networks. What was on its way to the old connection may come again on the new one."""
    mid, times = server.new_mid(), 150
    talking = asyncio.create_task(_talk(api, mid, times))
    visits: list[Client] = []
    heard = 0

    async def has_heard(number: int) -> bool:
        """On whichever connection: the one before may have been given more while the next was made."""
        return any(int(payload) >= number for visit in visits for payload in visit.said[-1:])

    while heard < times:
        visits.append(await connecting.connect(server, form, mid=mid, key="roaming"))
        await eventually(partial(has_heard, min(heard + 10, times - 1)))
        heard = max(int(payload) + 1 for visit in visits for payload in visit.said[-1:])
    await talking
    for visit in visits[:-1]:
        await visit.until_gone()

    upto = 0
    for visit in visits:
        numbers = [int(payload) for payload in visit.said]
        if numbers:
            assert list(range(numbers[0], numbers[0] + len(numbers))) == numbers
            assert numbers[0] <= upto
            upto = max(upto, numbers[-1] + 1)
    assert times == upto


async def _talk(api: Backend, mid: int, times: int) -> None:
    for n in range(times):
        await api.push("mids", 1000, b"%d" % n, mids=[mid])


async def test_who_was_made_a_member_before_ever_connecting_gets_what_was_said_since(
    server: Server, api: Backend, connecting: Clients
) -> None:
    """A backend brings in somebody whose phone is off. It is offline, not a stranger."""
    room = server.new_room()
    await api.create(room, server.new_mid())
    await api.push_room(room, 1000, b"before")
    mids = [server.new_mid() for _ in V1]
    for mid in mids:
        await api.add(room, mid)
        await api.push("mids", 1000, b"hello", mids=[mid])
    await api.push_room(room, 1000, b"1")
    await api.push("all", 1000, b"to all who were here")
    await api.push_room(room, 1000, b"2")

    for form, mid in zip(V1, mids, strict=True):
        client = await connecting.connect(server, form, mid=mid, key="first")
        await client.until_said(3)
        await api.push("mids", 1000, b"the end", mids=[mid])
        assert [b"hello", b"1", b"2", b"the end"] == await client.until_said(4)


async def test_a_live_room_owes_nothing_to_who_was_away(server: Server, api: Backend, connecting: Clients) -> None:
    """Its messages are for those who are in it."""
    mid, room = server.new_mid(), server.new_room("live")
    client = await connecting.connect(server, "v1 tcp", mid=mid, key="k", room=room)
    await api.push_room(room, 1000, b"here")
    await client.until_said(1)
    await client.ask(CHANGE_ROOM, "")
    await api.push_room(room, 1000, b"outside")
    await client.ask(CHANGE_ROOM, room)
    await api.push_room(room, 1000, b"here again")
    await client.until_said(2)
    await client.bye()
    await api.push_room(room, 1000, b"away")
    await api.push("mids", 1000, b"for you", mids=[mid])
    again = await connecting.connect(server, "v1 tcp", mid=mid, key="k", room=room)
    await api.push_room(room, 1000, b"back")

    assert [b"here", b"here again"] == client.said
    assert [b"for you", b"back"] == await again.until_said(2)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc/net/tcp")
@pytest.mark.parametrize("form", V1)
async def test_what_the_socket_had_not_taken_when_it_broke_comes_again(
    server: Server, connecting: Clients, form: Form
) -> None:
    """A phone that stops reading, and whose connection then breaks. Some bytes are in the kernel, which cannot be known to be lost; the
    others still lay in the server, and count as missed."""
    mid, room = server.new_mid(), server.new_room()
    speakers = [await connecting.connect(server, "v2 tcp", mid=server.new_mid(), room=room) for _ in range(SPEAKERS)]
    witness = await connecting.connect(server, "v2 tcp", mid=server.new_mid(), room=room)
    client = await _silent_client(
        server, form, b'{"mid":%d,"key":"k","accepts":[1000],"room_id":"%b"}' % (mid, room.encode())
    )
    told = 0

    async def speak() -> int:
        """Return when it was written to everybody: what a witness has, the others were given too, as far as their sockets take it."""
        before = len(witness.said)
        await asyncio.gather(*(speaker.send(room, "." * BODY_BYTES) for speaker in speakers for _ in range(SAID_EACH)))
        await witness.until_said(before + SAID_EACH * SPEAKERS)
        return SAID_EACH * SPEAKERS

    await speak()
    before = await speakers[0].send(room, "that is what it has")
    await witness.until_heard("that is what it has")
    while told * BODY_BYTES - await _in_kernel(client, told * BODY_BYTES) < IN_SERVER_BYTES:
        told += await speak()
    in_kernel = await _in_kernel(client, told * BODY_BYTES)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()  # with a reset, as the kernel does for a process that leaves unread bytes behind

    again = await connecting.connect(server, form, mid=mid, key="k")
    last = await speakers[0].send(room, "last")
    await again.until_heard("last")
    assert before["seq"] + told + 1 == last["seq"]
    assert len(again.said) > told - in_kernel // BODY_BYTES


async def _silent_client(server: Server, form: Form, who: bytes) -> socket.socket:
    """A goim client that authenticates and then reads nothing, with nothing between it and the kernel."""
    loop = asyncio.get_running_loop()
    made = socket.socket()
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    auth, reply = frame(1, AUTH, 1, who), frame(1, AUTH + 1, 1)
    host, _, port = (server.tcp if form == "v1 tcp" else server.ws).rpartition(":")
    await loop.sock_connect(made, (host, int(port)))
    if form == "v1 ws":
        await loop.sock_sendall(made, UPGRADE)
        while not (await loop.sock_recv(made, 1024)).endswith(b"\r\n\r\n"):
            pass
        auth, reply = bytes((0x82, 0x80 | len(auth), 0, 0, 0, 0)) + auth, b"\x82\x10" + reply
    await loop.sock_sendall(made, auth)
    assert reply == await loop.sock_recv(made, len(reply))
    return made


async def _in_kernel(client: socket.socket, wanted: int) -> int:
    """How many bytes to this client the kernel holds, on both ends, once it has all that are wanted or takes no more."""
    seen = [-1] * 5
    while seen[0] != (held := _held(client)) and held < wanted:
        seen = [*seen[1:], held]
        await asyncio.sleep(0.01)
    return held


def _held(client: socket.socket) -> int:
    mine, theirs = _address(*client.getsockname()), _address(*client.getpeername())
    total = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        sent, received = (int(part, 16) for part in queues.split(":"))
        if (local, remote) == (mine, theirs):
            total += received
        elif (local, remote) == (theirs, mine):
            total += sent
    return total


def _address(host: str, port: int) -> str:
    return f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}:{port:04X}"
