"""Callbacks instead of a loop: for programs that only react.

    bot = Bot(connect("wss://im.example.com/ws", token=..., cursor=SqliteCursor("bot.db")))

    @bot.on_message
    async def answer(im: Client, message: Message) -> None:
        await im.send(message.room, "I heard you")

    bot.run()

Callbacks are called one after the other, in the order in which they were given, an event at a time; an event is dealt with when all of
them have returned. A callback that raises, or is not async, does not end the bot: the error is logged, with its traceback, and the
event counts as dealt with, because it would raise again for ever. Whoever wants to stop then raises `Stop`: the event comes again at
the next start.

The trap: a bot that answers messages in rooms where other bots do so too may talk with them until the end of days. What this person
said (`mid` is the bot's own, on whatever device) is not given to callbacks unless asked for with `own=True`.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from imcore.client.client import Client
from imcore.client.events import Event, Happening, Message

log = logging.getLogger(__name__)

OnMessage = Callable[[Client, Message], Awaitable[object]]
OnEvent = Callable[[Client, Happening], Awaitable[object]]
OnStart = Callable[[Client], Awaitable[object]]
M = TypeVar("M", bound=OnMessage)
E = TypeVar("E", bound=OnEvent)
S = TypeVar("S", bound=OnStart)
T = TypeVar("T", bound=Happening)


class Stop(Exception):
    """Raised by a callback: the bot ends, and the event is not dealt with."""


class Bot:
    """A client that calls back. `own`: messages of the bot's own person too."""

    def __init__(self, client: Client, *, own: bool = False) -> None:
        self.client = client
        self._own = own
        self._on_message: list[OnMessage] = []
        self._on_event: list[OnEvent] = []
        self._on_start: list[OnStart] = []

    def on_message(self, callback: M) -> M:
        """Call this with each message of others."""
        self._on_message.append(callback)
        return callback

    def on_event(self, callback: E) -> E:
        """Call this with everything that is no message: joins and leaves, `Removed`, `Reset`."""
        self._on_event.append(callback)
        return callback

    def on_start(self, callback: S) -> S:
        """Call this once, when the bot is connected for the first time: the place to join rooms. Raises what it raises."""
        self._on_start.append(callback)
        return callback

    async def serve(self) -> None:
        """Connect and call back, until cancelled or a callback raises Stop. Raises ConnectionClosed as the client does."""
        async with self.client as im:
            for start in self._on_start:
                await start(im)
            async for happening in im.events():
                await self._call(im, happening)
                await im.ack(happening)

    def run(self) -> None:
        """`serve` as a program: returns after Ctrl-C, SIGTERM or Stop."""
        with suppress(KeyboardInterrupt, Stop, asyncio.CancelledError):
            asyncio.run(self._run())

    async def _run(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        with suppress(NotImplementedError):  # where there are no signals
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        await self.serve()

    async def _call(self, im: Client, happening: Happening) -> None:
        if isinstance(happening, Message):
            if happening.mid == im.mid and not self._own:
                return
            for on_message in self._on_message:
                await self._guarded(on_message, im, happening)
        else:
            for on_event in self._on_event:
                await self._guarded(on_event, im, happening)

    @staticmethod
    async def _guarded(callback: Callable[[Client, T], Awaitable[object]], im: Client, happening: T) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            called: object = callback(im, happening)
            if not isinstance(called, Awaitable):
                raise TypeError(f"{callback!r} is not async")
            await called
        except Stop:
            raise
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and task.cancelling():  # it is we who are to end
                raise
            place = happening.place if isinstance(happening, Event) else happening.room
            log.exception("! a callback failed", extra={"place": place, "position": happening.position})
