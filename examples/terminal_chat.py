"""A chat in a terminal: --mid 1, and in another terminal --mid 2. Kill the server meanwhile: it comes back by itself."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from contextlib import suppress
from pathlib import Path

from imcore.client import Client, ClientError, FileCursor, Message, Removed, Reset, connect


async def show_history(im: Client, room: str) -> int:
    page = await im.history(room, limit=20)
    for message in (event for event in page.events if isinstance(event, Message)):
        show(message)
    print("--- type; Ctrl-D ends", flush=True)
    return page.head


def show(message: Message) -> None:
    print(f"{time.strftime('%H:%M', time.localtime(message.time_ms / 1000))} {message.mid}: {message.body}", flush=True)


async def listen(im: Client, room: str, shown: int) -> None:
    async for event in im.events():
        match event:
            case Message(room=where, seq=seq) if where == room and seq > shown:
                show(event)
            case Removed(room=where) if where == room:
                print("--- you are no longer in this room", flush=True)
            case Reset(reason=reason) if reason != "new":  # something is missing that will not come
                shown = await show_history(im, room)


async def chat(ws: str, mid: int, room: str, token: str, cursor: str) -> None:
    kept = FileCursor(cursor or Path.home() / f".imcore-chat-{mid}.json")
    state = lambda state: print(f"--- {state}", flush=True)  # noqa: E731
    async with connect(ws, mid=mid, token=token or None, cursor=kept, platform="terminal", on_state=state) as im:
        await im.join(room)
        _listening = asyncio.create_task(listen(im, room, await show_history(im, room)))  # noqa: RUF006 # ends with im
        typed = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(typed), sys.stdin)
        while line := await typed.readline():
            if words := line.decode(errors="replace").strip():
                try:
                    await im.send(room, words)
                except ClientError as error:  # muted, too long, …
                    print(f"--- not sent: {error}", flush=True)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {"ws": "ws://127.0.0.1:3102/ws", "mid": 1, "room": "group://lobby", "token": "", "cursor": ""}
    for name, default in defaults.items():
        options.add_argument(f"--{name}", type=type(default), default=default)
    with suppress(KeyboardInterrupt):
        asyncio.run(chat(**vars(options.parse_args())))
