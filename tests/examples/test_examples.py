"""The examples, each run as a reader would, against a real server."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from serving import Running, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXAMPLES = Path(__file__).parents[2] / "examples"
SAID_S = 20


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def imcore() -> AsyncIterator[Running]:
    with tempfile.TemporaryDirectory(prefix="imcore-", dir="/tmp") as folder:
        async with serving(Path(folder)) as running:
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

    async def end(self) -> int:
        """Wait until it has ended by itself."""
        async with asyncio.timeout(SAID_S):
            return await self._process.wait()


@asynccontextmanager
async def example(name: str, *arguments: str) -> AsyncIterator[Example]:
    """An example with these arguments, ended with the block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", str(EXAMPLES / name), *arguments),
        stdin=asyncio.subprocess.DEVNULL,
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
