"""The examples, each run as a reader would, against a real server."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from imcore.client import Client, Message, connect
from serving import Running, serving
from waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXAMPLES = Path(__file__).parents[2] / "examples"
SAID_S = 60


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def imcore() -> AsyncIterator[Running]:
    with tempfile.TemporaryDirectory(prefix="imcore-", dir="/tmp") as folder:
        async with serving(Path(folder), "--set", "presence_grace_s=1") as running:
            yield running


class Example:
    """A running example, and what it prints."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self) -> str:
        """The next line that it prints."""
        assert self._process.stdout is not None
        async with asyncio.timeout(SAID_S):
            return (await self._process.stdout.readline()).decode().rstrip("\n")

    async def line_with(self, *texts: str) -> str:
        """The next line with all of these texts in it. Fails when the example ends before it."""
        while line := await self.line():
            if all(text in line for text in texts):
                return line
        raise AssertionError(f"it ended without a line with {texts}")

    def type(self, line: str) -> None:
        """What somebody types."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode(errors="surrogateescape"))

    def hang_up(self) -> None:
        """Ctrl-D."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def stop(self) -> None:
        """SIGTERM, as from whoever runs services."""
        self._process.terminate()

    def interrupt(self) -> None:
        """Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()

    async def end(self) -> int:
        """Wait until it has ended by itself."""
        async with asyncio.timeout(SAID_S):
            return await self._process.wait()


@asynccontextmanager
async def example(name: str, *arguments: str) -> AsyncIterator[Example]:
    """An example with these arguments, ended with the block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", str(EXAMPLES / name), *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Example(process)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def test_two_chats_talk(imcore: Running) -> None:
    where = ("--ws", f"ws://{imcore.ws}/ws")
    async with example("chat.py", *where, "--mid", "1", "--text", "Is anybody there?") as first:
        assert "position" in await first.line_with("5 {")

        async with example("chat.py", *where, "--mid", "2", "--text", "Yes, 我在这里") as second:
            await second.line_with("5 {")

            await first.line_with("group://lobby", "member_joined", "'mid': 2")
            await first.line_with("group://lobby", "message_sent", "'mid': 2", "Yes, 我在这里")


async def test_chat_stays_below_forty_lines() -> None:
    """It is there to be read in one look."""
    assert len((EXAMPLES / "chat.py").read_text().splitlines()) < 40


async def test_a_goim_client_prints_what_is_pushed_to_its_room(imcore: Running) -> None:
    async with example("goim_client.py", "--tcp", imcore.tcp) as client:
        assert "in live://1000" == await client.line()

        answer = await push(imcore, "Hello, room")

        assert 0 == answer["code"]
        assert "operation 1000: Hello, room" == await client.line()


async def test_a_push_finds_a_person_and_a_key(imcore: Running) -> None:
    async with example("goim_client.py", "--tcp", imcore.tcp, "--mid", "77", "--key", "phone") as client:
        await client.line()

        await push(imcore, "--mids", "77", "--operation", "1001", "--", "to the person")
        await push(imcore, "--keys", "phone", "--", "to the phone")
        await push(imcore, "--all", "--", "to all")

        assert "operation 1001: to the person" == await client.line()
        assert "operation 1000: to the phone" == await client.line()
        assert "operation 1000: to all" == await client.line()


async def push(imcore: Running, *arguments: str) -> dict[str, object]:
    """Run the example until it ends, well; returns the server's answer."""
    async with example("push.py", "--http", f"http://{imcore.http}", *arguments) as pushing:
        answer: dict[str, object] = json.loads(await pushing.line())
        assert 0 == await pushing.end()
        return answer


async def test_two_people_talk_in_terminals(imcore: Running, tmp_path: Path) -> None:
    """Who comes later sees what was said, and who goes and comes back sees nothing twice."""
    where = ("--ws", f"ws://{imcore.ws}/ws", "--room", "group://terminals")
    async with (
        example("terminal_chat.py", *where, "--mid", "31", "--cursor", str(tmp_path / "31")) as first,
        example("terminal_chat.py", *where, "--mid", "32", "--cursor", str(tmp_path / "32")) as second,
    ):
        await first.line_with("Ctrl-D")
        await second.line_with("Ctrl-D")
        first.type("Is anybody there?")
        await second.line_with("31: Is anybody there?")
        second.type("Yes, 我在这里")
        await first.line_with("32: Yes, 我在这里")
        second.hang_up()
        assert 0 == await second.end()
        first.type("And now?")
        await until_said(imcore, "group://terminals", 31, "And now?")

        async with example("terminal_chat.py", *where, "--mid", "32", "--cursor", str(tmp_path / "32")) as again:
            await again.line_with("31: And now?")
            await again.line_with("Ctrl-D")
            first.type("Welcome back")
            assert "31: Welcome back" in await again.line_with(":")


async def test_terminal_chat_is_short() -> None:
    """It is there to be read in one look."""
    assert len((EXAMPLES / "terminal_chat.py").read_text().splitlines()) <= 60


async def test_a_terminal_chat_takes_what_is_typed(imcore: Running, tmp_path: Path) -> None:
    """What is no text and what is nothing too; and Ctrl-C is an end like another."""
    where = ("--ws", f"ws://{imcore.ws}/ws", "--room", "group://typed")
    async with (
        example("terminal_chat.py", *where, "--mid", "33", "--cursor", str(tmp_path / "33")) as first,
        example("terminal_chat.py", *where, "--mid", "34", "--cursor", str(tmp_path / "34")) as second,
    ):
        await second.line_with("Ctrl-D")
        await first.line_with("Ctrl-D")
        first.type("")
        first.type(" ")
        first.type("caf\udce9")
        assert "33: caf\ufffd" in await second.line_with("33:")
        first.interrupt()
        await first.line_with("--- closed")
        assert 0 == await first.end()


async def test_a_team_talks_in_terminals(imcore: Running, tmp_path: Path) -> None:
    """Two who register, an invitation, an answer, a reaction, an edit, who is there; and a login that needs no password again."""
    common = ("--url", f"http://{imcore.http}", "--room", "group://crew", "--files", str(tmp_path))
    new = (*common, "--register", "--password", "a long password")
    async with example("team_chat.py", "carol", *new) as carol:
        await carol.line_with("Ctrl-D")
        async with example("team_chat.py", "dave", *new, "--room", "group://daves-own") as dave:
            await dave.line_with("Ctrl-D")
            dave.type("/who")
            mid = (await dave.line_with("here:", "dave")).rpartition("(")[2].rstrip(")")
        carol.type(f"/invite {mid}")
        carol.type("Is anybody there?")
        carol.type("/who")
        await carol.line_with("here:", "carol")  # one after the other: what she typed before is said
        async with example("team_chat.py", "dave", *common) as dave:
            await carol.line_with("dave came in")
            asked = (await dave.line_with("carol: Is anybody there?")).split()[0]
            await dave.line_with("Ctrl-D")
            dave.type(f"/reply {asked} Yes, 我在这里")
            await carol.line_with(f"dave: (to {asked}) Yes, 我在这里")
            carol.type("/typing")
            await dave.line_with("carol is typing")
            dave.type(f"/react {asked} 👍")
            await carol.line_with(asked, "👍", "dave")
            carol.type(f"/edit {asked} Is somebody there?")
            await dave.line_with(asked, "reads now: Is somebody there?")
            carol.type("/react no 👍")
            await carol.line_with("----", "invalid literal")
            dave.hang_up()
            assert 0 == await dave.end()
        await carol.line_with("dave is away")
        async with example("team_chat.py", "erin", *new) as erin:  # whom nobody invited: the room is public
            await erin.line_with("carol: Is somebody there?")
            await carol.line_with("erin came in")
            erin.hang_up()
            assert 0 == await erin.end()
        carol.hang_up()
        assert 0 == await carol.end()


async def test_team_chat_can_be_read_in_two_minutes() -> None:
    assert len((EXAMPLES / "team_chat.py").read_text().splitlines()) <= 120


async def test_a_bot_answers_and_goes_on_where_it_was(imcore: Running, tmp_path: Path) -> None:
    url, room = f"tcp://{imcore.tcp}", "group://bots"
    options = ("--url", url, "--room", room, "--db", str(tmp_path / "bot.db"))
    async with connect(url, mid=41) as im:
        async with example("bot.py", *options) as bot:
            assert f"in {room}" == await bot.line()
            await im.join(room)
            await im.send(room, "!echo Hello, bot")
            assert ["Hello, bot"] == await bodies(im, 1)
            bot.kill()
            await bot.end()
        await im.send(room, "!echo while you were away")
        await im.send(room, "!count")
        async with example("bot.py", *options) as bot:
            assert ["while you were away", "2 messages"] == await bodies(im, 2)
            bot.stop()
            assert 0 == await bot.end()


async def until_said(imcore: Running, room: str, mid: int, words: str) -> None:
    """The room has this of this person."""
    async with connect(f"tcp://{imcore.tcp}", mid=mid) as im:

        async def is_said() -> bool:
            history = await im.messages.history(room)
            return any(isinstance(event, Message) and event.body == words for event in history.events)

        await eventually(is_said)


async def bodies(im: Client, count: int) -> list[object]:
    """Of the next messages."""
    heard: list[object] = []
    async with asyncio.timeout(SAID_S):
        async for message in im:
            heard.append(message.body)
            if len(heard) == count:
                break
    return heard
