"""The epoch changes when the log went back, and only then; and whoever finds out, everybody knows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from conftest import Server
from events.at_work import AtWork, appending, connected, message, running
from imcore.database import Connection, connect, create_pool
from imcore.errors import DatabaseUnavailable, Unavailable
from imcore.events import history
from imcore.events.history import ARE_OTHERS, History, Kept, break_off, keep, kept
from imcore.events.reader import Reader
from imcore.events.store import Log as Appender
from imcore.events.types import Recorded
from imcore.projections.inline import InlineProjections

OTHER_LINE = "UPDATE log_head SET line = '1/00000001'"
NODE = """
INSERT INTO nodes (node, hostname, address, tcp_port, ws_port, wss_port, region, weight, connections, addresses, started_at,
  lease_until, lease_s) VALUES ($1, '', '', 0, 0, 0, '', 0, 0, 0, now(), now(), 15)
"""


class Process:
    """What one process knows of the log."""

    def __init__(self, *nodes: str) -> None:
        self.ended = 0
        self.history = History(lambda: list(nodes), self._end)

    def _end(self) -> None:
        assert self.history.over.is_set()
        self.ended += 1

    @property
    def epoch(self) -> str:
        return self.history.epoch

    async def begin(self, connection: Connection, found: Kept | None = None) -> Process:
        await self.history.begin(connection, found)
        return self

    async def goes_on(self, connection: Connection) -> bool:
        """Does it know the log that this connection leads to?"""
        try:
            await self.history.check(connection)
        except DatabaseUnavailable:
            assert (1, True) == (self.ended, self.history.over.is_set())
            return False
        assert (0, False) == (self.ended, self.history.over.is_set())
        return True


class Log:
    """A log whose state is kept and put back."""

    def __init__(self, server: Server, url: str) -> None:
        self._server, self.url = server, url

    async def grow(self, events: int = 3) -> list[Recorded]:
        """Somebody appends."""
        async with appending(self.url) as here:
            return [
                told.event for told in await here.tell(*(message("live://r", is_member=False) for _ in range(events)))
            ]

    async def copy(self) -> Log:
        """Its state of now, as a backup has it."""
        return Log(self._server, await self._server.create(urlsplit(self.url).path.lstrip("/")))

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        async with connected(self.url) as made:
            yield made

    async def begun(self, *nodes: str, found: Kept | None = None) -> Process:
        """A process that starts."""
        async with self.connection() as connection:
            return await Process(*nodes).begin(connection, found)

    async def goes_on(self, process: Process) -> bool:
        async with self.connection() as connection:
            return await process.goes_on(connection)

    async def end_connections(self) -> None:
        """Of appenders that are at work."""
        name = urlsplit(self.url).path.lstrip("/")
        await self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()",
            name,
        )

    async def is_watched(self) -> bool:
        """Has somebody looked who the comets are?"""
        async with self.connection() as connection:
            return bool(await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE query = $1", ARE_OTHERS))

    async def execute(self, statement: str, *arguments: object) -> None:
        async with self.connection() as connection:
            await connection.execute(statement, *arguments)


@pytest.fixture
def log(server: Server, database_url: str) -> Log:
    return Log(server, database_url)


def saw(process: Process, events: list[Recorded]) -> None:
    for event in events:
        process.history.saw(event)


async def test_a_log_that_only_grows_keeps_its_epoch(log: Log) -> None:
    process = await log.begun("a")
    epoch = process.epoch
    for _ in range(3):
        saw(process, await log.grow())
        assert await log.goes_on(process)
        assert await log.goes_on(await log.begun("b"))

    assert (epoch, epoch) == (process.epoch, (await log.begun("c")).epoch)


async def test_when_the_end_is_gone_a_new_epoch_begins_and_the_process_is_over(log: Log) -> None:
    process = await log.begun("a")
    saw(process, await log.grow())
    older = await log.copy()
    assert await older.goes_on(process)
    saw(process, await log.grow(1))

    assert not await older.goes_on(process)
    assert not await log.goes_on(process), "it is over, wherever it looks"
    assert process.epoch != (await older.begun()).epoch
    assert process.epoch == (await log.begun()).epoch, "nobody touched the other"


async def test_dropping_partitions_is_no_going_back(log: Log) -> None:
    """Not even of the one with the newest event."""
    process = await log.begun("a")
    saw(process, await log.grow())
    await log.execute("DROP TABLE events_1")
    await log.execute("SELECT imcore_make_partitions(1)")

    assert await log.goes_on(process)
    assert [True, False] == [process.history.keeps(position) for position in (3, 2)]
    saw(process, await log.grow(1))
    assert await log.goes_on(process)


async def test_what_came_in_the_place_of_the_lost_is_told_apart(log: Log) -> None:
    """As long as before, and longer, and each event looks the same."""
    for more in (1, 5):
        process = await log.begun("a")
        older = await log.copy()
        saw(process, await log.grow(1))
        await older.grow(more)

        assert not await older.goes_on(process)
        assert process.epoch != (await older.begun()).epoch


async def test_all_who_find_out_agree_on_one_epoch(log: Log) -> None:
    """Those who saw what was lost, and those who saw less and would not have noticed."""
    processes = [await log.begun(f"{n}") for n in range(3)]
    saw(processes[0], await log.grow())
    older = await log.copy()
    lost = await log.grow()
    saw(processes[1], lost)
    saw(processes[2], lost[:1])

    assert await older.goes_on(processes[0])
    assert not await older.goes_on(processes[1])
    epoch = (await older.begun()).epoch
    assert not await older.goes_on(processes[2])
    assert not await older.goes_on(processes[0])
    assert epoch == (await older.begun()).epoch


async def test_a_failover_without_loss_keeps_the_epoch_if_the_only_comet_says_so(log: Log) -> None:
    process = await log.begun("a")
    await log.execute(NODE, "a")
    saw(process, await log.grow())
    epoch = process.epoch
    await log.execute(OTHER_LINE)

    assert await log.goes_on(process)
    assert (epoch, epoch) == (process.epoch, (await log.begun("b")).epoch)


async def test_a_failover_with_other_comets_around_begins_an_epoch_in_which_the_positions_before_are_good(
    log: Log,
) -> None:
    """Nobody knows what the others saw. Who has seen less goes on, and who has seen more is told."""
    process, other = await log.begun("a"), await log.begun("b")
    await log.execute(NODE, "a")
    await log.execute(NODE, "b")
    events = await log.grow()
    saw(process, events)
    saw(other, events)
    head = events[-1].position
    epoch = process.epoch
    await log.execute(OTHER_LINE)

    assert await log.goes_on(process)
    assert epoch != process.epoch
    assert [True, False] == [process.history.reaches(epoch, position) for position in (head, head + 1)]
    await log.grow()
    assert await log.goes_on(other)
    assert process.epoch == other.epoch
    assert [True, False] == [other.history.reaches(epoch, position) for position in (head, head + 1)]


async def test_a_comet_that_saw_more_than_a_failover_kept_ends_every_epoch_before(log: Log) -> None:
    process, other = await log.begun("a"), await log.begun("b")
    await log.execute(NODE, "a")
    await log.execute(NODE, "b")
    saw(process, await log.grow())
    epoch = process.epoch
    promoted = await log.copy()
    saw(other, await log.grow())
    await promoted.execute(OTHER_LINE)

    assert await promoted.goes_on(process)
    assert process.history.reaches(epoch, 1)
    assert not await promoted.goes_on(other)
    assert not await promoted.goes_on(process)
    assert not (await promoted.begun()).history.reaches(epoch, 1)


async def test_where_nobody_remembers_another_server_or_timeline_is_another_log(log: Log) -> None:
    process = await log.begun("a")
    await log.grow()
    await log.execute(OTHER_LINE)

    later = await log.begun("b")
    assert process.epoch != later.epoch
    assert not later.history.reaches(process.epoch, 1)
    assert later.epoch == (await log.begun("c")).epoch


async def test_who_starts_in_the_middle_of_a_failover_waits_for_a_comet_that_was_there(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who remembers nothing would end the epoch for everybody."""
    monkeypatch.setattr(history, "VOUCH_S", 60.0)
    process = await log.begun("a")
    saw(process, await log.grow())
    await log.execute(NODE, "a")
    await log.execute(OTHER_LINE)
    starting = asyncio.create_task(log.begun("b"))
    while not await log.is_watched():
        await asyncio.sleep(0.01)

    assert not starting.done()
    assert await log.goes_on(process)
    assert process.epoch == (await starting).epoch


async def test_a_comet_that_says_nothing_is_not_waited_for_longer(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "VOUCH_S", 0.1)
    process = await log.begun("a")
    await log.grow()
    await log.execute(NODE, "a")
    await log.execute(OTHER_LINE)

    assert process.epoch != (await log.begun("b")).epoch


async def test_what_a_run_wrote_down_tells_the_next_one_that_the_log_went_back(log: Log, tmp_path: Path) -> None:
    """Everything was stopped, and an older copy put back: the database itself shows nothing."""
    path = tmp_path / "seen.json"
    assert kept(path) is None
    process = await log.begun("a")
    older = await log.copy()
    saw(process, await log.grow())
    keep(path, process.history)

    assert process.epoch == (await log.begun("b", found=kept(path))).epoch
    assert process.epoch == (await older.begun("b")).epoch, "without it nobody knows"
    again = await older.begun("b", found=kept(path))
    assert process.epoch != again.epoch
    assert await older.goes_on(again)
    assert again.epoch == (await older.begun("c", found=kept(path))).epoch, "it is of an epoch that is no more"


async def test_what_a_run_wrote_down_speaks_for_a_failover_without_loss(log: Log, tmp_path: Path) -> None:
    path = tmp_path / "seen.json"
    process = await log.begun("a")
    saw(process, await log.grow())
    keep(path, process.history)
    await log.execute(OTHER_LINE)

    assert process.epoch == (await log.begun("b", found=kept(path))).epoch


@pytest.mark.parametrize("content", [b"", b"{}", b'{"epoch":"e","witness":{"position":1}}', b"[1]", b"\xff"])
def test_what_cannot_be_read_says_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "seen.json"
    path.write_bytes(content)

    assert kept(path) is None


@pytest.mark.parametrize("road", ["drafts", "decisions"])
async def test_nothing_is_acknowledged_on_a_connection_to_an_older_log(log: Log, road: str) -> None:
    """Even if nobody asked where the connection leads, as after a pooler has moved it: the outcome is unknown, and never a place that
    was given to something else."""
    older = await log.copy()
    urls = [log.url, older.url]
    async with create_pool(log.url) as pool:
        appender = Appender(lambda: connect(urls[0]), InlineProjections(), lambda batch: None)
        here = AtWork(log.url, appender, pool, Reader(pool, appender.names), [])
        async with running(appender.run()):
            tell = here.tell if road == "drafts" else here.tell_decided
            first = await tell(*(message("live://r", is_member=False) for _ in range(3)))
            assert [1, 2, 3] == [told.event.position for told in first]
            urls.reverse()
            await log.end_connections()
            for _ in range(2):  # the first may be told of the lost connection
                for told in await tell(message("live://r", is_member=False)):
                    assert isinstance(told.outcome, Unavailable), told


async def test_an_operator_can_say_that_it_is_another_log(log: Log) -> None:
    process = await log.begun("a")
    saw(process, await log.grow())
    async with log.connection() as connection:
        epoch = await break_off(connection)

    assert epoch != process.epoch
    assert not await log.goes_on(process)
    assert epoch == (await log.begun("b")).epoch


async def test_who_may_only_read_and_write_may_check(log: Log, server: Server) -> None:
    """The server is asked for its identity; that takes no superuser."""
    await log.execute("DROP ROLE IF EXISTS imcore_history_test")
    await log.execute("CREATE ROLE imcore_history_test LOGIN")
    try:
        await log.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO imcore_history_test")
        plain = Log(server, urlsplit(log.url)._replace(netloc="imcore_history_test@").geturl())
        assert await plain.goes_on(await plain.begun("a"))
    finally:
        await log.execute("DROP OWNED BY imcore_history_test")
        await log.execute("DROP ROLE imcore_history_test")


def test_a_witness_is_what_must_never_change(log: Log) -> None:
    """The body may be erased."""
    assert {"position", "seq", "messages", "type", "mid", "key", "op", "time_ms"} == set(history.Witness._fields)
