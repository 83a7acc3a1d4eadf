"""Rooms over connections of every kind: what is decided there, and what those hear whom it concerns."""

from __future__ import annotations

import pytest

from system.clients import AUTH, FORMS, Clients, Form, Refused
from system.servers import Backend, Server
from waiting import eventually

CALL = 38
V2: tuple[Form, ...] = ("v2 tcp", "v2 ws", "json")


async def has_moved(api: Backend, mid: int, room: str) -> None:
    """Wait until it is shown that the person's one connection is in this room and no other."""

    async def is_there() -> bool:
        return bool((await api.sessions(mid))[0]["rooms"] == [room])

    await eventually(is_there)


@pytest.mark.parametrize("form", V2)
async def test_what_http_can_do_a_connection_can_do_by_the_same_name(
    server: Server, connecting: Clients, form: Form
) -> None:
    owner, guest, room = server.new_mid(), server.new_mid(), server.new_room()
    one, two = await connecting.connect(server, form, mid=owner), await connecting.connect(server, form, mid=guest)
    made = await one.ask(CALL, {"verb": "rooms.create", "args": {"room": room, "kind": "private"}})
    assert room == made["answer"]["room"]
    await one.ask(CALL, {"verb": "rooms.invite", "args": {"room": room, "mid": guest}})
    await two.until(lambda: any(event.type == "invited" for event in two.events), "it is told of the invitation")
    await two.ask(CALL, {"verb": "rooms.accept", "args": {"room": room}})
    assert [owner, guest] == [
        member["mid"]
        for member in (await one.ask(CALL, {"verb": "rooms.members", "args": {"room": room}}))["answer"]["members"]
    ]

    with pytest.raises(Refused) as refused:
        await two.ask(CALL, {"verb": "rooms.dismiss", "args": {"room": room}})
    assert "forbidden" == refused.value.code
    await one.ask(CALL, {"verb": "rooms.dismiss", "args": {"room": room}})

    await two.until(lambda: two.removals, "it is told of the end")
    assert ("room_dismissed", room) == (two.removals[0]["type"], two.removals[0]["room"])
    assert any(event.type == "room_dismissed" for event in two.events)
    with pytest.raises(Refused) as refused:
        await two.send(room, "anybody?")
    assert "no_such_room" == refused.value.code


@pytest.mark.parametrize("form", V2)
async def test_a_device_that_was_away_is_told_that_a_room_was_dismissed(
    server: Server, api: Backend, connecting: Clients, form: Form
) -> None:
    mid, other, room = server.new_mid(), server.new_mid(), server.new_room()
    await api.create(room, mid, other)
    device = await connecting.connect(server, form, mid=mid, key="phone")
    await device.ack()
    await device._line.part()
    await api.sessions_once(mid, 0)
    speaker = await connecting.connect(server, "json", mid=other)
    await api._call("DELETE", f"/v1/rooms/{room.replace('://', '/')}", {})
    await speaker.until(lambda: speaker.removals, "the room is dismissed")

    again = await connecting.connect(server, form, mid=mid, key="phone", cursor=device.cursor)

    await again.until(lambda: again.removals, "it is told when it comes back")
    assert ("room_dismissed", room) == (again.removals[0]["type"], again.removals[0]["room"])


@pytest.mark.parametrize("form", FORMS)
async def test_a_connection_switches_rooms_when_its_person_asks_over_http(
    server: Server, api: Backend, connecting: Clients, form: Form
) -> None:
    mid = server.new_mid()
    first, second = server.new_room("live"), server.new_room("live")
    device = await connecting.connect(server, form, mid=mid, key="phone", room=first)

    await api._call("POST", "/v1/sessions/phone/room", {}, {"room": second, "mid": mid})  # at once: the log knows it

    await has_moved(api, mid, second)
    await api.push_room(first, 1000, b"into the old room")
    await api.push_room(second, 1000, b"into the new room")
    await device.until_heard("into the new room")
    assert "into the old room" not in device.texts
    told = [(event.position, event.seq, event.body["room"]) for event in device.events if event.type == "room_switched"]
    assert ([(0, 0, second)] if form in V2 else []) == told


@pytest.mark.parametrize("form", FORMS)
async def test_a_connection_that_is_just_coming_in_switches_rooms_when_its_person_asks_over_http(
    server: Server, api: Backend, connecting: Clients, form: Form
) -> None:
    """The log knows it, and its comet waits still for what it has to read of the person."""
    mid = server.new_mid()
    first, second = server.new_room("live"), server.new_room("live")
    device = await connecting.open(server, form)
    async with server.database() as connection:
        async with connection.transaction():
            await connection.execute("LOCK TABLE departures IN ACCESS EXCLUSIVE MODE")
            more = {} if form in V2 else {"accepts": [1000]}
            opening = await device.post(
                AUTH, {"mid": mid, "key": "phone", "room_id": first, "platform": "test", **more}
            )
            await api.sessions_once(mid, 1)
            await api._call("POST", "/v1/sessions/phone/room", {}, {"room": second, "mid": mid})
            assert not opening.done()
        await device.reply(opening)

    await has_moved(api, mid, second)
    await api.push_room(first, 1000, b"into the old room")
    await api.push_room(second, 1000, b"into the new room")
    await device.until_heard("into the new room")
    assert "into the old room" not in device.texts
    told = [(event.position, event.seq, event.body["room"]) for event in device.events if event.type == "room_switched"]
    assert ([(0, 0, second)] if form in V2 else []) == told
