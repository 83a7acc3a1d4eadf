"""Messages by their verbs, beside what `send` and `history` have."""

from __future__ import annotations

import pytest

from client.lines import QUICK, WAYS, Way, hear, url
from imcore.client import Http, Message, MessageEdited, MessageRecalled, NoSuchMessage, connect
from system.servers import Backend, Server


@pytest.mark.parametrize("way", WAYS)
async def test_what_becomes_of_a_message_is_told_and_history_has_it_as_it_reads_now(
    server: Server, api: Backend, way: Way
) -> None:
    room, one, two = server.new_room(), server.new_mid(), server.new_mid()
    await api.create(room, one, two)
    async with (
        connect(url(server, way), mid=one, limits=QUICK) as alice,
        connect(url(server, "tcp"), mid=two, limits=QUICK) as bob,
        Http(f"http://{server.http}", mid=two) as http,
    ):
        first, second = await alice.send(room, "helo"), await alice.send(room, "oops")
        edited = await alice.messages.edit(room, first.seq, body="hello")
        assert (await alice.messages.edit(room, first.seq, body="hello")).unchanged
        await alice.messages.recall(room, second.seq)
        happened = []
        async for happening in bob.events():
            if isinstance(happening, (MessageEdited, MessageRecalled)):
                happened.append(happening)
            if len(happened) == 2:
                break
        page = await bob.messages.history(room)
        with pytest.raises(NoSuchMessage):
            await bob.messages.show(room, 999)
        assert (
            list(page.events)
            == list((await bob.history(room)).events)
            == list((await http.messages.history(room)).events)
        )

    assert [(MessageEdited, first.seq), (MessageRecalled, second.seq)] == [(type(it), it.target) for it in happened]
    assert isinstance(happened[0], MessageEdited)
    assert ("hello", edited.position) == (happened[0].words, happened[0].position)
    said = [it for it in page.events if isinstance(it, Message)]
    assert [("hello", 1, False), (None, 0, True)] == [(it.body, it.edits, it.is_recalled) for it in said]


async def test_a_message_sent_by_its_verb_is_not_heard_back_and_makes_no_hole(server: Server, api: Backend) -> None:
    room, one, two = server.new_room(), server.new_mid(), server.new_mid()
    await api.create(room, one, two)
    async with (
        connect(url(server, "ws"), mid=one, limits=QUICK) as alice,
        connect(url(server, "ws"), mid=two, limits=QUICK) as bob,
    ):
        await bob.send(room, "1")
        await hear(alice, 1)
        own = await alice.messages.send(room, body="2")
        await alice.messages.forward(room, own.seq, to=room)
        await bob.send(room, "3")
        (heard,) = await hear(alice, 1)
        assert ["2", "2"] == [it.body for it in await hear(bob, 2)]

    assert "3" == heard.body
    assert (0, 0) == (alice.statistics.gaps, alice.statistics.own)


@pytest.mark.parametrize("way", WAYS)
async def test_pins_come_with_their_messages(server: Server, api: Backend, way: Way) -> None:
    room, one = server.new_room(), server.new_mid()
    await api.create(room, one)
    async with (
        connect(url(server, way), mid=one, limits=QUICK) as alice,
        Http(f"http://{server.http}") as http,
    ):
        sent = await alice.send(room, "helo")
        await alice.messages.edit(room, sent.seq, body="hello")
        await http.pins.add(room, sent.seq)
        (pin,) = (await alice.pins.list(room)).pins

    assert isinstance(pin.message, Message)
    assert (sent.seq, "hello", 1) == (pin.seq, pin.message.body, pin.message.edits)
