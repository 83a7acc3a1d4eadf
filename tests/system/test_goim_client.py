"""A goim client, unchanged: version 1, as goim's own comet would serve it, and better where goim loses."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

from system.clients import AUTH, CHANGE_ROOM, HEARTBEAT, SUBSCRIBE, UNSUBSCRIBE, Clients, Form, frame
from system.servers import Backend, Server

DEADLINE_S = 30
V1: tuple[Form, ...] = ("v1 tcp", "v1 ws")
NOT_TEXT = b"\xff\xfe\x00 any \x80 bytes"


async def test_every_byte_of_a_session_over_tcp_is_goims(server: Server, api: Backend) -> None:
    """The frames as hexadecimal, from the header of the auth to the last push: the reply to auth is empty, the one to a heartbeat is
    an int32, a push is the operation and the body that the backend gave."""
    room = server.new_room("live")
    mid = server.new_mid()
    who = json.dumps({"mid": mid, "key": "", "room_id": room, "platform": "web", "accepts": [1000]}).encode()
    host, _, port = server.tcp.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))

    async def said(sent: bytes, expected: bytes) -> None:
        writer.write(sent)
        async with asyncio.timeout(DEADLINE_S):
            assert expected.hex(" ", 4) == (await reader.readexactly(len(expected))).hex(" ", 4)

    async with asyncio.timeout(DEADLINE_S):
        auth = (16 + len(who)).to_bytes(4, "big") + bytes.fromhex("0010 0001 00000007 00000001") + who
        await said(auth, bytes.fromhex("00000010 0010 0001 00000008 00000001"))
        await said(
            bytes.fromhex("00000010 0010 0001 00000002 00000002"),
            bytes.fromhex("00000014 0010 0001 00000003 00000002 00000001"),
        )
        await said(
            bytes.fromhex("00000013 0010 0001 0000000e 00000003") + b"2,3",
            bytes.fromhex("00000010 0010 0001 0000000f 00000003"),
        )
        await said(
            bytes.fromhex("00000011 0010 0001 00000010 00000004") + b"3",
            bytes.fromhex("00000010 0010 0001 00000011 00000004"),
        )
        await said(
            bytes.fromhex("00000010 0010 0001 0000000c 7fffffff"),
            bytes.fromhex("00000010 0010 0001 0000000d 7fffffff"),
        )
        await said(
            bytes.fromhex("00000010 0010 0001 00000002 ffffffff"),
            bytes.fromhex("00000014 0010 0001 00000003 ffffffff 00000000"),
        )
        await api.push("mids", 1000, NOT_TEXT, mids=[mid])
        await said(
            b"", (16 + len(NOT_TEXT)).to_bytes(4, "big") + bytes.fromhex("0010 0001 000003e8 00000000") + NOT_TEXT
        )
        await api.push("mids", 2, b"", mids=[mid])
        await said(b"", bytes.fromhex("00000010 0010 0001 00000002 00000000"))
        writer.write_eof()
        assert b"" == await reader.read()
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("form", V1)
async def test_a_push_arrives_as_it_was_given(server: Server, api: Backend, connecting: Clients, form: Form) -> None:
    """By key, by person, to a room, to everybody; whatever bytes they are."""
    mid, room = server.new_mid(), server.new_room("live")
    client = await connecting.connect(server, form, mid=mid, key=f"k{mid}", room=room, accepts=[1000, 1001, 1002, 1003])
    payloads = [
        NOT_TEXT,
        b"",
        b'{"a": 1.0,  "b":"\xc3\xa9"}',
        b"plain",
        b"\x00",
        '"\u2028"'.encode(),
        bytes(range(256)),
    ]

    for payload in payloads:
        await api.push("keys", 1000, payload, keys=[client.key])
        await api.push("mids", 1001, payload, mids=[mid])
        await api.push_room(room, 1002, payload)
        await api.push("all", 1003, payload)
    await client.until_said(4 * len(payloads))

    expected = [(op, payload) for payload in payloads for op in (1000, 1001, 1002, 1003)]
    assert expected == [(event.op, event.body) for event in client.events]


async def test_a_batch_is_packets_back_to_back_over_tcp_and_operation_9_over_websocket(
    server: Server, api: Backend, connecting: Clients
) -> None:
    """What waited for a device goes to it together. Over TCP goim writes no outer header; on a WebSocket it does."""
    mid = server.new_mid()
    for form in V1:
        client = await connecting.connect(server, form, mid=mid, key=form)
        await client.bye()
    for n in range(5):
        await api.push("mids", 1000, b"%d" % n, mids=[mid])
    packets = b"".join(frame(1, 1000, 0, b"%d" % n) for n in range(5))
    auth = frame(1, AUTH, 1, b'{"mid":%d,"key":"v1 tcp","accepts":[1000]}' % mid)

    host, _, port = server.tcp.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(auth)
    async with asyncio.timeout(DEADLINE_S):
        assert frame(1, AUTH + 1, 1) + packets == await reader.readexactly(16 + len(packets))
    writer.close()
    await writer.wait_closed()

    ws = await connecting.raw_websocket(server)
    await ws.send_bytes(frame(1, AUTH, 1, b'{"mid":%d,"key":"v1 ws","accepts":[1000]}' % mid))
    async with asyncio.timeout(DEADLINE_S):
        assert frame(1, AUTH + 1, 1) == await ws.receive_bytes()
        assert frame(1, 9, 0, packets) == await ws.receive_bytes()


@pytest.mark.parametrize("form", V1)
async def test_only_what_is_accepted_arrives(server: Server, api: Backend, connecting: Clients, form: Form) -> None:
    """By the auth, and as it is changed by subscribe and unsubscribe."""
    mid = server.new_mid()
    client = await connecting.connect(server, form, mid=mid, accepts=[1000])

    async def push_all_kinds(name: bytes) -> None:
        for op in (1000, 1001, 1002):
            await api.push("mids", op, name, mids=[mid])

    await push_all_kinds(b"at first")
    await client.until_said(1)
    assert {} == await client.ask(SUBSCRIBE, [1001, 1002])
    await push_all_kinds(b"more")
    await client.until_said(4)
    assert {} == await client.ask(UNSUBSCRIBE, [1000, 1002])
    await push_all_kinds(b"less")
    await client.until_said(5)

    expected = [(1000, b"at first"), (1000, b"more"), (1001, b"more"), (1002, b"more"), (1001, b"less")]
    assert expected == [(event.op, event.body) for event in client.events]


@pytest.mark.parametrize("form", V1)
async def test_a_client_that_accepts_nothing_gets_nothing(
    server: Server, api: Backend, connecting: Clients, form: Form
) -> None:
    mid = server.new_mid()
    client = await connecting.connect(server, form, mid=mid, accepts=())
    await api.push("mids", 1000, b"unwanted", mids=[mid])
    await client.ask(SUBSCRIBE, [1001])
    await api.push("mids", 1001, b"wanted", mids=[mid])
    await client.until_said(1)

    assert [b"wanted"] == client.said


@pytest.mark.parametrize("form", V1)
async def test_a_second_connection_of_a_key_closes_the_first(
    server: Server, api: Backend, connecting: Clients, form: Form
) -> None:
    mid = server.new_mid()
    first = await connecting.connect(server, form, mid=mid, key="the one")
    second = await connecting.connect(server, form, mid=mid, key="the one")

    assert (4409 if form == "v1 ws" else None) == await first.until_gone()
    await api.push("mids", 1000, b"for whoever it is now", mids=[mid])
    await second.until_said(1)
    assert [] == first.said


async def test_a_key_of_somebody_else_is_another_key(server: Server, connecting: Clients) -> None:
    """goim lets anybody close anybody's connection by naming its key."""
    first = await connecting.connect(server, "v1 tcp", mid=server.new_mid(), key="the same")
    await connecting.connect(server, "v1 tcp", mid=server.new_mid(), key="the same")

    assert {"online": 0} == await first.ask(HEARTBEAT)


async def test_who_names_no_key_is_given_one(server: Server, api: Backend, connecting: Clients) -> None:
    """So that its connections live beside each other, and a backend can name each."""
    mid = server.new_mid()
    pair = [await connecting.connect(server, form, mid=mid) for form in V1]
    keys = [session["key"] for session in await api.sessions_once(mid, 2)]

    assert 2 == len(set(keys))
    for key in keys:
        await api.push("keys", 1000, key.encode(), keys=[key])
    for client in pair:
        await client.until_said(1)
    assert sorted(keys) == sorted(client.said[0].decode() for client in pair)


async def test_goims_anonymous_viewers_are_guests_of_their_own(
    server: Server, api: Backend, connecting: Clients
) -> None:
    """mid 0 is everybody's and nobody's: what is said to one guest is not heard by another, and what is said in a room is."""
    room = server.new_room("live")
    guests = [await connecting.connect(server, form, mid=0, room=room) for form in V1]
    await api.push("mids", 1000, b"to nobody", mids=[0])
    await api.push_room(room, 1000, b"to all here")

    for guest in guests:
        assert [b"to all here"] == await guest.until_said(1)


@pytest.mark.parametrize("form", V1)
async def test_change_room_leaves_one_and_enters_another(
    server: Server, api: Backend, connecting: Clients, form: Form
) -> None:
    """The heartbeat counts who is in the room with it."""
    one, other = server.new_room("live"), server.new_room("live")
    client = await connecting.connect(server, form, mid=server.new_mid(), room=one)
    neighbour = await connecting.connect(server, "v1 tcp", mid=server.new_mid(), room=other)
    assert {"online": 1} == await client.ask(HEARTBEAT)

    await api.push_room(one, 1000, b"1")
    await api.push_room(other, 1000, b"not yet")
    await client.ask(CHANGE_ROOM, other)
    await api.push_room(one, 1000, b"no more")
    await api.push_room(other, 1000, b"2")
    assert {"online": 2} == await client.ask(HEARTBEAT)
    await client.until_said(2)
    await client.ask(CHANGE_ROOM, "")
    await api.push_room(other, 1000, b"gone")
    assert {"online": 0} == await client.ask(HEARTBEAT)
    assert {"online": 1} == await neighbour.ask(HEARTBEAT)
    await neighbour.until_said(3)

    assert [b"1", b"2"] == client.said
    assert [b"not yet", b"2", b"gone"] == neighbour.said


async def test_packets_may_come_in_pieces_and_before_the_auth_is_answered(server: Server) -> None:
    """goim's clients write auth and the first heartbeat without waiting, and TCP cuts where it likes."""
    host, _, port = server.tcp.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    said = frame(1, AUTH, 1, b'{"mid":%d,"accepts":[1000]}' % server.new_mid()) + frame(1, HEARTBEAT, 2)
    for n in range(len(said)):
        writer.write(said[n : n + 1])
        await writer.drain()

    expected = frame(1, AUTH + 1, 1) + frame(1, HEARTBEAT + 1, 2, bytes(4))
    async with asyncio.timeout(DEADLINE_S):
        assert expected == await reader.readexactly(len(expected))
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    "said", [frame(1, HEARTBEAT, 1), frame(1, AUTH, 1, b"no JSON"), frame(1, AUTH, 1, b'{"mid":"7"}'), frame(3, AUTH, 1, b"{}"),
             b"\xff" * 16, b"GET / HTTP/1.1\r\n\r\n"],
)  # fmt: skip
async def test_who_does_not_begin_with_an_auth_is_hung_up_on(server: Server, said: bytes) -> None:
    """Version 1 has no words for it: not a byte in answer."""
    host, _, port = server.tcp.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(said)

    async with asyncio.timeout(DEADLINE_S):
        assert b"" == await reader.read()
    writer.close()
    await writer.wait_closed()
