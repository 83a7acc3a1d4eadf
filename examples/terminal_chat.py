"""A chat in a terminal: what was said lately, what is said now, and whatever you type.

python examples/terminal_chat.py --mid 1, and in another terminal --mid 2. Kill the server meanwhile: it comes back by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

from imcore.client import Client, ClientError, FileCursor, Message, Removed, Reset, connect


def show(message: Message) -> None:
    clock = time.strftime("%H:%M", time.localtime(message.time_ms / 1000))
    print(f"{clock} {message.mid}: {message.body}", flush=True)


async def show_history(im: Client, room: str) -> int:
    page = await im.history(room, limit=20)
    for event in page.events:
        if isinstance(event, Message):
            show(event)
    print("--- type; Ctrl-D ends", flush=True)
    return page.head


async def listen(im: Client, room: str, shown: int) -> None:
    async for event in im.events():
        match event:
            case Message(room=where, seq=seq) if where == room and seq > shown:
                show(event)
            case Removed(room=where) if where == room:
                print("--- you are no longer in this room")
            case Reset(reason=reason) if reason != "new":  # something is missing that will not come
                shown = await show_history(im, room)


async def chat(url: str, mid: int, room: str, token: str, cursor: str) -> None:
    async with connect(
        url, mid=mid, token=token or None, cursor=FileCursor(cursor or Path.home() / f".imcore-chat-{mid}.json"),
        platform="terminal", on_state=lambda state: print(f"--- {state}", flush=True),
    ) as im:  # fmt: skip
        await im.join(room)
        listening = asyncio.create_task(listen(im, room, await show_history(im, room)))
        typed = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(typed), sys.stdin)
        while line := await typed.readline():
            try:
                await im.send(room, line.decode().strip())
            except ClientError as error:  # muted, too long, …
                print(f"--- not sent: {error}")
        listening.cancel()


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--ws", dest="url", default="ws://127.0.0.1:3102/ws")
    options.add_argument("--mid", type=int, default=1)
    options.add_argument("--room", default="group://lobby")
    options.add_argument("--token", default="")
    options.add_argument("--cursor", default="", help="the file that remembers how far you have come")
    asyncio.run(chat(**vars(options.parse_args())))
