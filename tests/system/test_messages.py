"""Messages about something, edited and recalled, as they travel: in order, to every form, and to who was away."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import copy_cluster, temporary_folder
from system.clients import HISTORY, SEND, Client, Clients, Form, Refused
from system.servers import Backend, Server, backend, running

CALL = 38
V2: tuple[Form, ...] = ("v2 tcp", "v2 ws", "json")


@pytest.fixture(scope="module")
def forgetful(cluster: Path) -> Iterator[Server]:
    """A server that keeps nothing in memory: who was away reads the log."""
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        with running(folder, "--auth", "open", "--set", "recent_events_max=1") as server:
            yield server
            complaints = server.complaints()
        assert not complaints, complaints


@pytest.fixture(params=["memory", "log"])
async def remembering(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Server, Backend]]:
    """A server that gives who was away what it missed from memory, and one that reads the log."""
    server: Server = request.getfixturevalue("server" if request.param == "memory" else "forgetful")
    async with backend(server) as api:
        yield server, api


async def say(client: Client, room: str, body: object, **about: object) -> int:
    """The seq of a message."""
    place = await client.ask(SEND, {"room": room, "id": str(uuid.uuid4()), "body": body, **about})
    return int(place["seq"])


async def call(client: Client, verb: str, **args: object) -> Any:
    """What a verb answers over the connection."""
    return (await client.ask(CALL, {"verb": verb, "args": args}))["answer"]


async def history(client: Client, room: str, **where: object) -> list[dict[str, Any]]:
    page = await client.ask(HISTORY, {"room": room, **where})
    events: list[dict[str, Any]] = page["events"]
    return events


@pytest.mark.parametrize("form", V2)
async def test_what_one_connection_sends_is_stored_in_that_order(
    server: Server, api: Backend, connecting: Clients, form: Form
) -> None:
    """What some messages are about is looked up first; the others wait for them."""
    mid, room = server.new_mid(), server.new_room()
    await api.create(room, mid)
    client = await connecting.connect(server, form, mid=mid)
    root = await say(client, room, "root")
    futures = []
    for n in range(40):
        about: dict[str, object] = {"reply_to": root} if n % 3 == 0 else {"mentions": [mid]} if n % 7 == 0 else {}
        message = {"room": room, "id": str(uuid.uuid4()), "body": n, **about}
        futures.append(await client.post(SEND, message))

    seqs = [(await client.reply(future))["seq"] for future in futures]

    assert sorted(seqs) == seqs
    stored = [event["body"] for event in await history(client, room, after=root)]
    assert list(range(40)) == stored


async def test_of_those_in_a_row_only_the_wrong_are_refused(server: Server, api: Backend, connecting: Clients) -> None:
    mid, room = server.new_mid(), server.new_room()
    await api.create(room, mid)
    client = await connecting.connect(server, "json", mid=mid)
    root = await say(client, room, "root")
    sent: list[dict[str, object]] = [{}, {"reply_to": 9_999}, {}, {"reply_to": root}, {"mentions": [-1]}, {}]
    futures = [
        await client.post(SEND, {"room": room, "id": str(uuid.uuid4()), "body": n, **about})
        for n, about in enumerate(sent)
    ]

    outcomes = await asyncio.gather(*(client.reply(future) for future in futures), return_exceptions=True)

    assert ["", "no_such_message", "", "", "bad_request", ""] == [
        outcome.code if isinstance(outcome, Refused) else "" for outcome in outcomes
    ]
    assert [0, 2, 3, 5] == [event["body"] for event in await history(client, room, after=root)]


async def test_old_clients_get_the_bare_message_and_new_ones_what_it_is_about(
    server: Server, api: Backend, connecting: Clients
) -> None:
    mids, room = [server.new_mid() for _ in range(3)], server.new_room()
    await api.create(room, *mids)
    old = await connecting.connect(server, "v1 tcp", mid=mids[0])
    new = await connecting.connect(server, "v2 tcp", mid=mids[1])
    sender = await connecting.connect(server, "json", mid=mids[2])

    root = await say(sender, room, {"text": 'a "quoted" \u00fc', "n": [1.5, None]})
    await say(sender, room, {"text": "b"}, reply_to=root, mentions=mids[:2])
    await say(sender, room, "plain text", format="text")
    await say(sender, room, "/wA=", format="base64", mentions="all")

    wanted = ['{"text":"a \\"quoted\\" ü","n":[1.5,null]}'.encode(), b'{"text":"b"}', b"plain text", b"\xff\x00"]
    assert wanted == await old.until_said(4)
    await new.until_said(4)
    told = [event.get("about") for event in await history(new, room, after=root - 1)]
    assert [
        None, {"reply_to": root, "mentions": mids[:2]}, {"format": "text"}, {"mentions": "all", "format": "base64"},
    ] == told  # fmt: skip


@pytest.mark.parametrize("form", V2)
async def test_who_was_away_is_not_told_what_was_recalled_meanwhile(
    remembering: tuple[Server, Backend], connecting: Clients, form: Form
) -> None:
    """Nor what it was edited to. The places are all there: seqs have no hole."""
    server, api = remembering
    anna, ben, room = server.new_mid(), server.new_mid(), server.new_room()
    await api.create(room, anna, ben)
    away = await connecting.connect(server, form, mid=ben, key=f"phone of {ben}", accepts=None)
    speaker = await connecting.connect(server, "json", mid=anna)
    first = await say(speaker, room, "first")
    await away.until_said(1)
    cursor = await away.ack()
    await away.bye()

    recalled = await say(speaker, room, "secret one", mentions=[ben])
    await call(speaker, "messages.edit", room=room, seq=recalled, body={"secret": "two"})
    kept = await say(speaker, room, "kept")
    await call(speaker, "messages.recall", room=room, seq=recalled)
    head = await say(speaker, room, "last")

    back = await connecting.connect(server, form, mid=ben, key=f"phone of {ben}", cursor=cursor, accepts=None)
    await back.until_heard("last")
    mine = [event for event in back.events if event.stream == f"room:{room}"]
    assert list(range(first + 1, head + 1)) == [event.seq for event in mine]
    assert [None, "kept", "last"] == [event.body for event in mine if event.op]
    assert "secret" not in repr(back.events)
    assert kept in [event.seq for event in mine]


async def test_an_old_client_that_was_away_gets_nothing_of_what_was_recalled(
    remembering: tuple[Server, Backend], connecting: Clients
) -> None:
    server, api = remembering
    anna, ben, room = server.new_mid(), server.new_mid(), server.new_room()
    await api.create(room, anna, ben)
    speaker = await connecting.connect(server, "json", mid=anna)
    old = await connecting.connect(server, "v1 tcp", mid=ben, key=f"phone of {ben}")
    await say(speaker, room, "first")
    await old.until_said(1)
    await old.bye()
    await api.sessions_once(ben, 0)

    seq = await say(speaker, room, "secret")
    await say(speaker, room, "kept")
    await call(speaker, "messages.recall", room=room, seq=seq)
    back = await connecting.connect(server, "v1 tcp", mid=ben, key=f"phone of {ben}")

    await back.until_heard("kept")
    assert ["kept"] == back.texts


async def test_edits_and_recalls_come_to_everybody_in_their_places(
    server: Server, api: Backend, connecting: Clients
) -> None:
    anna, ben, room = server.new_mid(), server.new_mid(), server.new_room()
    await api.create(room, anna, ben)
    listener = await connecting.connect(server, "v2 ws", mid=ben, accepts=None)
    speaker = await connecting.connect(server, "json", mid=anna, accepts=None)
    seq = await say(speaker, room, "one")

    edit = await call(speaker, "messages.edit", room=room, seq=seq, body="two")
    recall = await call(speaker, "messages.recall", room=room, seq=seq)

    await listener.until(lambda: listener.events and listener.events[-1].position == recall["position"], "the recall")
    told = {event.seq: (event.type, event.body) for event in listener.events if event.stream == f"room:{room}"}
    assert ("message_sent", "one") == told[seq], "what was delivered before stays delivered"
    assert ("message_edited", {"room": room, "target": seq, "body": "two", "format": "json"}) == told[edit["seq"]]
    assert ("message_recalled", {"room": room, "target": seq, "author": anna}) == told[recall["seq"]]
    await speaker.until(lambda: any(one.position == recall["position"] for one in speaker.events), "its own recall too")


@pytest.mark.parametrize("form", V2)
async def test_both_doors_answer_the_same(server: Server, api: Backend, connecting: Clients, form: Form) -> None:
    mid, room = server.new_mid(), server.new_room()
    await api.create(room, mid)
    client = await connecting.connect(server, form, mid=mid)
    root = await say(client, room, "root")
    sent = await call(
        client, "messages.send", room=room, id=str(uuid.uuid4()), body={"a": 1}, thread=root, reply_to=root
    )
    await call(client, "messages.edit", room=room, seq=root, body="changed")
    path = f"/v1/rooms/{room.replace('://', '/')}/messages"

    assert await api.get(path, after=1) == await call(client, "messages.history", room=room, after=1)
    assert await client.ask(HISTORY, {"room": room}) == await call(client, "messages.history", room=room)
    around = {"room": room, "around": root, "limit": 3}
    assert await client.ask(HISTORY, around) == await call(client, "messages.history", **around)
    long_ago = {"room": room, "at": 0, "limit": 5}
    assert await client.ask(HISTORY, long_ago) == await call(client, "messages.history", **long_ago)
    assert await client.ask(HISTORY, long_ago) != await client.ask(HISTORY, {"room": room, "limit": 5})
    for name, rest in (("show", ""), ("thread", "/thread"), ("edits", "/edits")):
        assert await api.get(f"{path}/{root}{rest}") == await call(client, f"messages.{name}", room=room, seq=root)
    assert [sent["seq"]] == [
        event["seq"] for event in (await call(client, "messages.thread", room=room, seq=root))["events"]
    ]
    with pytest.raises(Refused, match="no_such_message"):
        await call(client, "messages.show", room=room, seq=9_999)
    with pytest.raises(Refused, match="no_such_room"):
        await call(client, "messages.recall", room="group://none", seq=1)
