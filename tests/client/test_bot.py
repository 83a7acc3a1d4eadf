"""Bots: callbacks, one after the other, and none of them ends the bot but by its own will."""

from __future__ import annotations

import asyncio
import logging

import pytest

from client.lines import QUICK, url
from imcore.client import Bot, Client, Event, Happening, MemoryCursor, Message, Stop, connect
from system.servers import Server


async def test_a_callback_that_fails_is_logged_and_the_bot_goes_on(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """What the bot's own person says is not given to it; what is no message is given to others."""
    room, mid = server.new_room(), server.new_mid()
    bot = Bot(connect(url(server, "ws"), mid=mid, limits=QUICK))
    heard: list[object] = []
    happened: list[str] = []

    @bot.on_start
    async def enter(im: Client) -> None:
        await im.join(room)
        async with (
            connect(url(server, "ws"), mid=mid, limits=QUICK) as same,
            connect(url(server, "ws"), mid=server.new_mid(), limits=QUICK) as other,
        ):
            await other.join(room)
            await same.send(room, "from the same person")
            for n in range(3):
                await other.send(room, n)

    @bot.on_message
    async def fail_once(im: Client, message: Message) -> None:
        if message.body == 1:
            raise RuntimeError("this callback has a bug")

    @bot.on_message
    async def hear(im: Client, message: Message) -> None:
        heard.append(message.body)
        if message.body == 2:
            raise Stop

    @bot.on_event
    async def see(im: Client, happening: Happening) -> None:
        if isinstance(happening, Event):
            happened.append(happening.type)

    async with asyncio.timeout(60):
        with pytest.raises(Stop):
            await bot.serve()

    assert [0, 1, 2] == heard
    assert ["member_joined", "member_joined"] == happened
    (told,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert told.exc_info is not None
    assert "this callback has a bug" == str(told.exc_info[1])


async def test_what_a_bot_stopped_at_is_there_at_its_next_start(server: Server) -> None:
    room, mid, cursor = server.new_room(), server.new_mid(), MemoryCursor()
    heard: list[object] = []

    async with connect(url(server, "tcp"), mid=server.new_mid(), limits=QUICK) as other:
        await other.join(room)
        for _ in range(2):
            bot = Bot(connect(url(server, "tcp"), mid=mid, cursor=cursor, rooms=[room], limits=QUICK))

            @bot.on_start
            async def ask(im: Client) -> None:
                if not heard:
                    await other.send(room, "first")
                    await other.send(room, "second")

            @bot.on_message
            async def hear(im: Client, message: Message) -> None:
                heard.append(message.body)
                if message.body == "second":
                    raise Stop

            async with asyncio.timeout(60):
                with pytest.raises(Stop):
                    await bot.serve()

    assert ["first", "second", "second"] == heard
