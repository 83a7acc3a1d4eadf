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


async def test_no_callback_ends_the_bot_by_mistake(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Not one that is no coroutine, and not one in which a task of its own was cancelled."""
    room = server.new_room()
    bot = Bot(connect(url(server, "ws"), mid=server.new_mid(), limits=QUICK))
    heard: list[object] = []

    @bot.on_start
    async def enter(im: Client) -> None:
        await im.join(room)
        async with connect(url(server, "ws"), mid=server.new_mid(), limits=QUICK) as other:
            await other.join(room)
            for n in range(2):
                await other.send(room, n)

    @bot.on_message
    async def give_up(im: Client, message: Message) -> None:
        sleeping = asyncio.create_task(asyncio.sleep(60))
        sleeping.cancel()
        await sleeping

    def fail(im: Client, message: Message) -> None:
        raise ValueError("not even async")

    def forget(im: Client, message: Message) -> None:
        heard.append(message.body)

    bot.on_message(fail)  # type: ignore[type-var]
    bot.on_message(forget)  # type: ignore[type-var]

    @bot.on_message
    async def stop(im: Client, message: Message) -> None:
        if message.body == 1:
            raise Stop

    async with asyncio.timeout(30):
        with pytest.raises(Stop):
            await bot.serve()

    assert [0, 1] == heard
    told = [record.exc_info for record in caplog.records if record.levelno >= logging.ERROR]
    kinds = [info[0] for info in told if info is not None]
    assert 2 * [asyncio.CancelledError, ValueError, TypeError] == kinds
    assert "forget" in str(told[2])


async def test_a_bot_that_is_cancelled_ends(server: Server) -> None:
    """In the middle of a callback too, and the message is not dealt with."""
    room, mid, cursor = server.new_room(), server.new_mid(), MemoryCursor()
    is_in = asyncio.Event()
    bot = Bot(connect(url(server, "ws"), mid=mid, cursor=cursor, rooms=[room], limits=QUICK))

    @bot.on_start
    async def speak(im: Client) -> None:
        async with connect(url(server, "ws"), mid=server.new_mid(), rooms=[room], limits=QUICK) as other:
            await other.send(room, "hello")

    @bot.on_message
    async def linger(im: Client, message: Message) -> None:
        is_in.set()
        await asyncio.sleep(60)

    serving = asyncio.create_task(bot.serve())
    async with asyncio.timeout(30):
        await is_in.wait()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        async with connect(url(server, "ws"), mid=mid, cursor=cursor, limits=QUICK) as again:
            async for message in again:
                assert "hello" == message.body
                break


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
