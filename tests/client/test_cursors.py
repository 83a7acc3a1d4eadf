"""What is kept is kept, whole, whenever the program dies."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from client.lines import QUICK, url
from imcore.client import Change, Cursor, FileCursor, Kept, MemoryCursor, Message, SqliteCursor, connect
from system.servers import Server

MAKERS: dict[str, Callable[[Path], Cursor]] = {
    "memory": lambda path: MemoryCursor(),
    "file": FileCursor,
    "sqlite": SqliteCursor,
    "sqlite, not flushed": lambda path: SqliteCursor(path, flush=False),
}
KILLS = 8
LINES_A_LIFE_MAX = 60
PAUSE_S = 0.003  # between two messages: more than the slowest program deals with would only pile up


def message(room: str, seq: int) -> Message:
    """Something that the loop would give."""
    return Message(seq, room, f"room:{room}", seq, 1, "k", None, 0, "message_sent", 1000, "words")


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Cursor]:
    """A cursor of each kind. Made again, it is that of a program that was started again; of memory there is one."""
    maker, one = MAKERS[request.param], MemoryCursor()
    return lambda: one if request.param == "memory" else maker(tmp_path / "cursor")


async def test_a_new_cursor_is_empty(make: Callable[[], Cursor]) -> None:
    cursor = make()

    assert Kept() == await cursor.load()
    await cursor.close()


async def test_what_was_kept_is_there_after_a_restart(make: Callable[[], Cursor]) -> None:
    cursor = make()
    await cursor.load()
    await cursor.keep(Change(key="k", mid=-7))
    await cursor.keep(Change(cursor="e.41", seen={"group://a": 3, "user:7": 1}))
    await cursor.keep(Change(seen={"group://a": 4, "group://日本": 9}))
    await cursor.close()

    again = make()

    expected = Kept("k", -7, "e.41", {"group://a": 4, "user:7": 1, "group://日本": 9})
    assert expected == await again.load()
    assert expected == await again.load(), "looking changes nothing"
    await again.close()


async def test_a_seq_never_goes_back_but_with_the_log(make: Callable[[], Cursor]) -> None:
    cursor = make()
    await cursor.load()
    await cursor.keep(Change(seen={"group://a": 9, "group://b": 2}))
    await cursor.keep(Change(seen={"group://a": 8}))
    assert {"group://a": 9, "group://b": 2} == (await cursor.load()).seen

    await cursor.keep(Change(cursor="f.1", seen={"group://a": 1}, forgets=True))
    await cursor.close()

    again = make()
    assert Kept("", None, "f.1", {"group://a": 1}) == await again.load()
    await again.close()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version":2}', '{"version":1}', '{"version":1,"key":"k","mid":1,"cursor":""}']
)
async def test_a_file_that_is_no_cursor_is_refused_and_an_empty_one_is_new(tmp_path: Path, text: str) -> None:
    file = tmp_path / "cursor"
    file.write_text(text)
    if text:
        with pytest.raises(ValueError, match="cursor"):
            await FileCursor(file).load()
        assert text == file.read_text()
    else:
        assert Kept() == await FileCursor(file).load()


async def test_a_write_that_was_waited_for_no_longer_does_not_undo_a_later_one(tmp_path: Path) -> None:
    """Cancelled or not, the last change wins."""
    cursor = FileCursor(tmp_path / "cursor")
    for seq in range(1, 60):
        keeping = asyncio.ensure_future(cursor.keep(Change(seen={"group://a": seq})))
        await asyncio.sleep(0)
        if seq % 3:
            keeping.cancel()
            await asyncio.wait([keeping])
        else:
            await keeping
            assert {"group://a": seq} == (await FileCursor(tmp_path / "cursor").load()).seen


async def test_the_program_writes_into_the_transaction_that_moves_the_cursor(tmp_path: Path) -> None:
    cursor = SqliteCursor(tmp_path / "bot.db")
    cursor.database.execute("CREATE TABLE words (body TEXT)")
    with cursor.storing(message("group://a", 1)) as database:
        database.execute("INSERT INTO words VALUES ('one')")
    with pytest.raises(RuntimeError), cursor.storing(message("group://a", 2)) as database:
        _fail_halfway(database)
    await cursor.keep(Change(seen={"group://a": 1}))  # what the loop says of it afterwards
    await cursor.close()

    again = SqliteCursor(tmp_path / "bot.db")
    assert {"group://a": 1} == (await again.load()).seen
    assert [("one",)] == again.database.execute("SELECT body FROM words").fetchall()
    await again.close()


def _fail_halfway(database: sqlite3.Connection) -> None:
    database.execute("INSERT INTO words VALUES ('two')")
    raise RuntimeError("in the middle of it")


# --- kill -9 ---


async def started(*arguments: str) -> asyncio.subprocess.Process:
    """The program, ready."""
    folder = str(Path(__file__).parents[1])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "client.program", *arguments),
        stdout=asyncio.subprocess.PIPE,
        cwd=folder,
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        assert b"ready\n" == await process.stdout.readline()
    return process


@pytest.mark.parametrize("how", ["file", "sqlite", "storing"])
async def test_kill_9_of_a_program_while_messages_flow(server: Server, tmp_path: Path, how: str) -> None:
    """Each message is seen once, in order, over all its lives. One that it was killed with in hand, between dealing with it and
    storing that, may be seen again, at once after the start; with `storing` none is."""
    chance = random.Random(how)
    mid, room = server.new_mid(), "group://lobby"
    words, database = tmp_path / "words", tmp_path / "cursor"
    lives: list[int] = []  # lines at each kill

    def lines() -> list[tuple[int, str]]:
        if how == "storing":
            with sqlite3.connect(database) as opened:
                found: list[tuple[int, str]] = opened.execute("SELECT seq, body FROM words ORDER BY rowid").fetchall()
            opened.close()
            return found
        return [(int(line.split(" ", 1)[0]), line.split(" ", 1)[1]) for line in words.read_text().splitlines()]

    async with connect(url(server, "tcp"), mid=server.new_mid(), limits=QUICK) as other:
        await other.join(room)
        arguments = (url(server, "ws"), str(mid), str(database), str(words), how)
        process = await started(*arguments)
        said: list[tuple[int, Any]] = []

        is_enough = asyncio.Event()

        async def talk() -> None:
            while not is_enough.is_set():
                sent = await other.send(room, f"{len(said)} for {mid}")
                said.append((sent.seq, f"{len(said)} for {mid}"))
                with suppress(TimeoutError):
                    async with asyncio.timeout(PAUSE_S):
                        await is_enough.wait()

        talking = asyncio.create_task(talk())
        for _ in range(KILLS):
            goal = len(lines()) + chance.randrange(1, LINES_A_LIFE_MAX)
            async with asyncio.timeout(60):
                while len(lines()) < goal:
                    await asyncio.sleep(chance.random() * 0.005)
            process.kill()
            await process.wait()
            lives.append(len(lines()))
            process = await started(*arguments)
        is_enough.set()
        await talking
        sent = await other.send(room, "the end")
        said.append((sent.seq, "the end"))
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
        assert b"done\n" == out

    seen = lines()
    repeated = [n for n in range(1, len(seen)) if seen[n] == seen[n - 1]]
    assert said == [line for n, line in enumerate(seen) if n not in repeated]
    if how == "storing":
        assert [] == repeated
    assert set(repeated) <= set(lives), "what is seen again comes first after a kill"
    assert KILLS == len(set(lives)), "it got somewhere in each of its lives"
