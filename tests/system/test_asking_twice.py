"""A call under an idempotency key happens once: on one connection, on the next one, and over HTTP."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from imcore.client import Http
from system.clients import FORMS, Client, Clients, Form, Refused
from system.servers import Server

CALL = 38
V2: tuple[Form, ...] = ("v2 tcp", "v2 ws", "json")


async def call(client: Client, verb: str, key: str | None, **args: Any) -> dict[str, Any]:
    """The body of the reply."""
    body = {"verb": verb, "args": args, **({} if key is None else {"idempotency_key": key})}
    told: dict[str, Any] = await client.ask(CALL, body)
    return told


@pytest.mark.parametrize("form", FORMS)
async def test_the_first_answer_is_told_again_on_the_next_connection_too(
    server: Server, connecting: Clients, form: Form
) -> None:
    mid, room, key = server.new_mid(), server.new_room(), str(uuid.uuid4())
    one = await connecting.connect(server, form, mid=mid, key="phone")
    first = await call(one, "rooms.create", key, room=room)
    again = await call(one, "rooms.create", key, room=room)
    two = await connecting.connect(server, form, mid=mid, key="phone")
    later = await call(two, "rooms.create", key, room=room)
    with pytest.raises(Refused) as refused:
        await call(two, "rooms.create", None, room=room)

    assert room == first["answer"]["room"]
    assert "replayed" not in first
    assert [{**first, "replayed": True}] * 2 == [again, later]
    assert "room_exists" == refused.value.code


async def test_a_key_is_one_over_http_and_over_a_connection(server: Server, connecting: Clients) -> None:
    mid, room, key = server.new_mid(), server.new_room(), str(uuid.uuid4())
    line = await connecting.connect(server, "json", mid=mid)
    first = await call(line, "rooms.create", key, room=room)
    async with Http(f"http://{server.http}") as http:
        assert http._session is not None
        headers = {"Imcore-Mid": str(mid), "Idempotency-Key": key}
        async with http._session.post(f"{http.url}/v1/rooms", json={"room": room}, headers=headers) as response:
            assert (201, "true") == (response.status, response.headers["Idempotency-Replayed"])
            assert first["answer"] == await response.json()


async def test_of_two_connections_at_once_one_makes_it_happen(server: Server, connecting: Clients) -> None:
    mid = server.new_mid()
    lines = [await connecting.connect(server, "json", mid=mid, key=key) for key in ("phone", "tablet")]
    for _ in range(20):
        room, key = server.new_room(), str(uuid.uuid4())
        told = await asyncio.gather(
            *(call(line, "rooms.create", key, room=room) for line in lines), return_exceptions=True
        )
        answers = [one["answer"] for one in told if isinstance(one, dict)]
        codes = {one.code for one in told if isinstance(one, Refused)}
        assert answers
        assert codes <= {"under_way"}, "nobody is told that the room exists"
        assert all(one == answers[0] for one in answers)


async def test_a_key_that_was_used_for_something_else_is_refused_and_one_of_an_error_is_free(
    server: Server, connecting: Clients
) -> None:
    line = await connecting.connect(server, "json", mid=server.new_mid())
    room, key = server.new_room(), str(uuid.uuid4())
    with pytest.raises(Refused) as missing:
        await call(line, "rooms.change", key, room=room, title="t")
    await call(line, "rooms.create", key, room=room)
    with pytest.raises(Refused) as other:
        await call(line, "rooms.create", key, room=server.new_room())

    assert ["no_such_room", "idempotency_conflict"] == [missing.value.code, other.value.code]


async def test_what_is_done_to_the_connection_and_signals_are_done_each_time(
    server: Server, connecting: Clients
) -> None:
    """An answer from before would say that somebody is watched whom nobody watches, and that was told what was not."""
    anna, ben, room, key = server.new_mid(), server.new_mid(), server.new_room(), str(uuid.uuid4())
    hers = await connecting.connect(server, "json", mid=anna)
    his = await connecting.connect(server, "json", mid=ben)
    await call(hers, "rooms.create", None, room=room, members=[ben])
    await his.until(lambda: any(event.type == "member_joined" for event in his.events), "he is in the room")
    for _ in range(2):
        assert "replayed" not in await call(hers, "presence.watch", key, mids=[ben])
        assert "replayed" not in await call(hers, "rooms.typing", key, room=room)

    await his.until(lambda: 2 == sum(event.type == "typing" for event in his.events), "both are told")
