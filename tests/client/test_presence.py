"""Who is watched stays watched, over a server that is killed; what changed meanwhile is told."""

from __future__ import annotations

import asyncio

from client.lines import QUICK, url
from imcore.client import Client, MemberJoined, Presence, Signal, Typing, connect
from system.servers import Server, backend
from waiting import eventually


async def told(im: Client, mid: int, *, online: bool) -> None:
    """Returns when it was told that this person is there, or not."""
    async with asyncio.timeout(60):
        async for event in im.events():
            if isinstance(event, Presence) and event.mid == mid and event.online == online:
                return


async def test_who_is_watched_is_watched_again_after_the_server_was_killed(mortal: Server) -> None:
    room = "group://lobby"
    async with backend(mortal) as api:
        await api.create(room, 1, 2, 3)
    async with connect(url(mortal, "ws"), mid=1, limits=QUICK) as im:
        states = (await im.presence.watch(mids=[2, 3])).people
        assert [(2, False), (3, False)] == [(one.mid, one.online) for one in states]
        other = connect(url(mortal, "tcp"), mid=2, key="phone", limits=QUICK)
        async with other:
            await told(im, 2, online=True)
            mortal.kill()
        await mortal.start_again()
        await told(im, 2, online=False)
        async with connect(url(mortal, "tcp"), mid=3, limits=QUICK):
            await told(im, 3, online=True)
        await im.presence.unwatch()
        assert {} == im._core._watched


async def test_signals_reach_the_others_in_the_room(server: Server) -> None:
    room, one, two = server.new_room(), server.new_mid(), server.new_mid()
    async with (
        backend(server) as api,
        connect(url(server, "ws"), mid=one, limits=QUICK) as alice,
        connect(url(server, "tcp"), mid=two, limits=QUICK) as bob,
        asyncio.timeout(60),
    ):
        await api.create(room, one, two)

        async def both_are_in() -> bool:
            return 2 == (await alice.presence.room(room)).online

        await eventually(both_are_in)
        heard = []
        async for event in bob.events():
            if isinstance(event, MemberJoined) and event.whom == two:  # so it is given what happens there
                await alice.rooms.typing(room)
                await alice.rooms.signal(room, type="cursor", body={"line": 7})
            if isinstance(event, (Typing, Signal)):
                heard.append(event)
                if len(heard) == 2:
                    break
    typing, signal = heard
    assert isinstance(typing, Typing)
    assert (one, room, True) == (typing.mid, typing.room, typing.typing)
    assert isinstance(signal, Signal)
    assert ("cursor", {"line": 7}) == (signal.name, signal.body)
