"""A team chat in a terminal: accounts, a room, answers, reactions, edits, who is there and who is typing.

python examples/team_chat.py alice --register, and in another terminal bob. The login is kept in a file, so the next start asks for
nothing. Kill the server meanwhile: it comes back by itself. What you type is sent, but for

    /invite MID   /reply N WORDS   /react N 👍   /edit N WORDS   /typing   /who
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import sys
from contextlib import suppress
from pathlib import Path

from imcore import client


class Chat:
    """One person in one room. What is said has the number that it has in the room."""

    def __init__(self, im: client.Client, room: str) -> None:
        self.im, self.room = im, room
        self.names: dict[int, str] = {}

    async def name(self, mid: int) -> str:
        if mid not in self.names:
            self.names[mid] = (await self.im.accounts.profile(mid)).name
        return self.names[mid]

    async def show(self, event: client.Event) -> None:
        match event:
            case client.Message(seq=seq, mid=mid, reply_to=answered):
                words = "(taken back)" if event.is_recalled else event.body
                line = f"{seq:4} {await self.name(mid)}: {f'(to {answered}) ' if answered else ''}{words}"
            case client.MessageEdited(target=seq, words=words):
                line = f"{seq:4} reads now: {words}"
            case client.ReactionAdded(target=seq, reaction=reaction, mid=mid):
                line = f"{seq:4} {reaction} {await self.name(mid)}"
            case client.MemberJoined(whom=mid):
                line = f"---- {await self.name(mid)} came in"
                await self.im.presence.watch(mids=[mid])
            case client.Presence(mid=mid, online=online):
                line = f"---- {await self.name(mid)} is {'here' if online else 'away'}"
            case client.Typing(mid=mid, typing=True):
                line = f"---- {await self.name(mid)} is typing"
            case _:
                return
        print(line, flush=True)

    async def enter(self) -> None:
        """Come in, by an invitation or because the room is public, or make it; show what was said lately, and watch who is in it."""
        with suppress(client.RoomExists, client.Forbidden):
            await self.im.rooms.create(self.room, history="all")
        await self.im.rooms.join(self.room)  # joining again changes nothing
        for event in (await self.im.messages.history(self.room, limit=20)).events:
            await self.show(event)
        page = await self.im.rooms.members(self.room)
        await self.im.presence.watch(mids=[one.mid for one in page.members])

    async def listen(self) -> None:
        async for happening in self.im.events():
            if isinstance(happening, client.Event) and happening.room in (self.room, None):
                await self.show(happening)

    async def do(self, line: str) -> None:
        im, room = self.im, self.room
        command, number, words, *_ = *line.split(" ", 2), "", ""
        commands = {
            "/invite": lambda: im.rooms.invite(room, int(number)),
            "/reply": lambda: im.send(room, words, reply_to=int(number)),
            "/react": lambda: im.reactions.add(room, int(number), words),
            "/edit": lambda: im.messages.edit(room, int(number), body=words),
            "/typing": lambda: im.rooms.typing(room),
            "/who": self.tell_who,
        }
        await commands.get(command, lambda: im.send(room, line))()

    async def tell_who(self) -> None:
        here = (await self.im.presence.room(self.room)).people or ()
        print("---- here:", *[f"{await self.name(one.mid)} ({one.mid})" for one in here], flush=True)


async def main(options: argparse.Namespace) -> None:
    kept = Path(options.files) / f"{options.login}.login"
    if options.register:
        async with client.Http(options.url) as http:
            await http.accounts.register(login=options.login, password=options.password)
    if kept.exists():
        login = client.resume(options.url, kept.read_text(), on_change=kept.write_text)
    else:
        password = options.password or getpass.getpass()
        login = client.log_in(options.url, options.login, password, on_change=kept.write_text)
    async with login, login.connect(cursor=client.FileCursor(kept.with_suffix(".cursor"))) as im:
        chat = Chat(im, options.room)
        await chat.enter()
        listening = asyncio.create_task(chat.listen())
        print("---- type; Ctrl-D ends", flush=True)
        typed = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(typed), sys.stdin)
        while line := (await typed.readline()).decode():
            try:
                await chat.do(line.strip())
            except (client.ClientError, ValueError) as error:  # muted, no such message, no number, …
                print(f"---- {error}", flush=True)
        listening.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("login")
    parser.add_argument("--password", default="", help="asked for if it is not given")
    parser.add_argument("--register", action="store_true", help="be somebody new")
    parser.add_argument("--url", default="http://127.0.0.1:3111")
    parser.add_argument("--room", default="group://team")
    parser.add_argument("--files", default=".", help="where the login is kept, and how far you have come")
    asyncio.run(main(parser.parse_args()))
