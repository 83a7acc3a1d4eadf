"""The Postgres in the data folder: found again after every kind of death, and never shared by two."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import asyncpg
import psutil
import pytest

from conftest import copy_cluster
from imcore.database import connect
from imcore.database.embedded import (
    LOG_BYTES_MAX,
    SOCKET_PATH_BYTES_MAX,
    DataDirInUse,
    EmbeddedFailed,
    embedded,
)
from waiting import eventually

# An imcore as far as the database is concerned. Says the URL when it is up; at SIGINT says what the database answers, and ends.
HOLDER = """
import asyncio, os, signal, sys
from pathlib import Path
from imcore.database import connect
from imcore.database.embedded import embedded

if len(sys.argv) > 2:
    import encodings.idna, getpass, ssl
    os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))

async def main():
    asked_to_stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, asked_to_stop.set)
    async with embedded(Path(sys.argv[1])) as url:
        print(url, flush=True)
        await asked_to_stop.wait()
        connection = await connect(url)
        print(await connection.fetchval("SELECT 'still here'"), flush=True)
        await connection.close()

asyncio.run(main())
"""


class Holder:
    """A process that runs `embedded` until it is killed."""

    def __init__(self, data_dir: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(data_dir), *arguments],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "HOME": "/tmp"},
        )

    def says(self) -> str:
        """The next line that it prints; empty if it ended."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def holding(data_dir: Path, *arguments: str) -> Iterator[Holder]:
    holder = Holder(data_dir, *arguments)
    try:
        yield holder
    finally:
        holder.close()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def note(url: str, text: str) -> None:
    async with connected(url) as connection:
        await connection.execute("CREATE TABLE IF NOT EXISTS notes (text text CHECK (text <> 'forbidden secret'))")
        await connection.execute("INSERT INTO notes VALUES ($1)", text)


async def notes(url: str) -> list[str]:
    async with connected(url) as connection:
        return [row["text"] for row in await connection.fetch("SELECT text FROM notes ORDER BY text")]


async def works(url: str) -> bool:
    async with connected(url) as connection:
        return bool(await connection.fetchval("SELECT true"))


def postmaster(data_dir: Path) -> psutil.Process:
    return psutil.Process(int((data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0]))


def processes_in(data_dir: Path) -> list[psutil.Process]:
    here = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if is_alive(process) and process.cwd().startswith(str(data_dir)):
                here.append(process)
    return here


def is_alive(process: psutil.Process) -> bool:
    # Where process 1 reaps late or never, as in many a container, the dead stay on as zombies.
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


async def test_a_second_start_finds_the_data(data_dir: Path) -> None:
    async with embedded(data_dir) as url:
        await note(url, "kept")

    async with embedded(data_dir) as url:
        assert ["kept"] == await notes(url)
    assert (data_dir / "postgres" / "PG_VERSION").exists(), "the data is where the user can see it"


async def test_it_keeps_what_it_acknowledges_and_listens_on_no_network(used: Path) -> None:
    expected = {
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "data_checksums": "on",
        "server_encoding": "UTF8",
        "listen_addresses": "",
        "jit": "off",
    }
    async with embedded(used) as url, connected(url) as connection:
        assert expected == {name: await connection.fetchval(f"SHOW {name}") for name in expected}
        assert "C" == await connection.fetchval("SELECT datcollate FROM pg_database WHERE datname = current_database()")
        assert [] == postmaster(used).net_connections("tcp")


async def test_only_its_owner_reaches_the_socket(used: Path) -> None:
    async with embedded(used):
        assert 0o700 == stat.S_IMODE((used / "postgres").stat().st_mode)
        assert 0o700 == stat.S_IMODE((used / "postgres" / ".s.PGSQL.5432").stat().st_mode)


async def test_it_is_stopped_and_waited_for_at_the_end(used: Path) -> None:
    async with embedded(used):
        process = postmaster(used)

    assert not is_alive(process)
    assert not (used / "postgres" / "postmaster.pid").exists()


@pytest.mark.parametrize("at", ["postgres.unfinished/PG_VERSION", "postgres/postmaster.pid"])
async def test_a_start_that_is_cancelled_leaves_nobody_behind(data_dir: Path, at: str) -> None:
    async def run() -> None:
        async with embedded(data_dir):
            pytest.fail("it was to be cancelled before")

    start = asyncio.ensure_future(run())
    while not (data_dir / at).exists():
        await asyncio.sleep(0)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start

    async def alone() -> bool:
        return not processes_in(data_dir)

    await eventually(alone)
    async with embedded(data_dir) as url:
        assert await works(url)


async def test_a_folder_that_vanishes_is_not_replaced_by_an_empty_one(used: Path) -> None:
    """Whoever deletes the data under a running imcore must notice it."""
    async with embedded(used):
        process = postmaster(used)
        (used / "postgres").rename(used / "elsewhere")
        process.kill()

        async def said() -> bool:
            return "could not access directory" in (used / "postgres.log").read_text()

        await eventually(said)
        assert not (used / "postgres").exists()


async def test_an_error_in_the_block_stops_it_too_and_comes_out_as_it_is(used: Path) -> None:
    processes: list[psutil.Process] = []

    async def fail() -> None:
        async with embedded(used):
            processes.append(postmaster(used))
            raise PermissionError("mine")

    with pytest.raises(PermissionError, match="mine"):
        await fail()
    assert not is_alive(processes[0])


async def test_killing_imcore_and_postgres_loses_nothing(used: Path) -> None:
    with holding(used) as holder:
        url = holder.says()
        await note(url, "committed")
        postmaster(used).kill()
        holder.kill()

    async with embedded(used) as url:
        assert ["committed"] == await notes(url)


async def test_a_backend_at_work_does_not_outlive_its_killed_postmaster_for_long(used: Path) -> None:
    """It holds the shared memory, and no new Postgres could start."""
    endless = "DO $$ BEGIN LOOP END LOOP; END $$"
    with holding(used) as holder:
        connection = await connect(holder.says())
        work = asyncio.ensure_future(connection.execute(endless))

        async def at_work() -> bool:
            async with connected(holder_url) as other:
                return bool(await other.fetchval("SELECT count(*) FROM pg_stat_activity WHERE query = $1", endless))

        holder_url = f"postgresql://postgres@/imcore?host={used}/postgres"
        await eventually(at_work)
        holder.kill()
        postmaster(used).kill()

        async with embedded(used) as url:
            assert await works(url)
    with pytest.raises(asyncpg.PostgresConnectionError):
        await work
    connection.terminate()


async def test_the_postgres_of_a_killed_imcore_is_adopted(used: Path) -> None:
    with holding(used) as holder:
        await note(holder.says(), "before")
        orphan = postmaster(used)
        holder.kill()

    assert is_alive(orphan), "it waits for the next start"
    async with embedded(used) as url:
        assert orphan == postmaster(used)
        assert ["before"] == await notes(url)
    assert not is_alive(orphan), "whoever adopts it stops it"


async def test_an_orphan_with_other_settings_is_replaced(used: Path) -> None:
    with holding(used) as holder:
        holder.says()
        orphan = postmaster(used)
        holder.kill()

    async with embedded(used, shared_buffers_mb=32) as url, connected(url) as connection:
        assert "32MB" == await connection.fetchval("SHOW shared_buffers")
        assert not is_alive(orphan)


async def test_a_postgres_that_is_killed_is_started_again(used: Path) -> None:
    async with embedded(used) as url:
        await note(url, "before")
        killed = postmaster(used)
        killed.kill()

        async def found() -> list[str]:
            return await notes(url)

        assert ["before"] == await eventually(found)
        assert killed != postmaster(used)


@pytest.mark.parametrize("in_the_file", ["another process", "no number", "nothing"])
async def test_a_stale_pid_file_stops_nobody(used: Path, in_the_file: str) -> None:
    """After the restart of a container, its pid may be anybody's; after a power cut, the file may be empty."""
    owner = (used / "postgres").stat()
    as_owner = (owner.st_uid, owner.st_gid) if os.geteuid() == 0 else (None, None)
    with subprocess.Popen(["sleep", "600"], user=as_owner[0], group=as_owner[1]) as somebody:
        first = {"another process": str(somebody.pid), "no number": "?", "nothing": ""}[in_the_file]
        text = "\n".join(
            [first, f"{used}/postgres", "1700000000", "5432", f"{used}/postgres", "", "  4101  9", "ready", ""]
        )
        for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
            path = used / "postgres" / name
            path.write_text(text if in_the_file != "nothing" else "")
            os.chown(path, owner.st_uid, owner.st_gid)

        async with embedded(used) as url:
            assert await works(url)
        assert somebody.poll() is None, "and nobody else is killed for it"
        somebody.kill()


async def test_a_second_imcore_on_the_folder_is_refused(used: Path) -> None:
    with holding(used) as holder:
        holder.says()

        with pytest.raises(DataDirInUse) as refusal:
            async with embedded(used):
                pass
        assert (used.resolve(), holder.process.pid) == (refusal.value.data_dir, refusal.value.pid)
        assert str(used) in str(refusal.value)
        assert str(holder.process.pid) in str(refusal.value)
        assert is_alive(postmaster(used)), "the refused one touched nothing"


async def test_a_folder_that_was_half_made_is_made_again(data_dir: Path) -> None:
    unfinished = data_dir / "postgres.unfinished"
    while not unfinished.exists():  # a machine may be busy until it is made whole: then again
        with holding(data_dir) as holder:

            async def at_work() -> bool:
                return (unfinished / "PG_VERSION").exists() or (data_dir / "postgres").exists()

            await eventually(at_work)
            holder.kill()
        if not unfinished.exists():
            for process in processes_in(data_dir):
                process.kill()
            shutil.rmtree(data_dir / "postgres")
    assert not (data_dir / "postgres").exists()

    async with embedded(data_dir) as url:
        await note(url, "made")
        assert ["made"] == await notes(url)
    assert ["imcore.lock", "postgres", "postgres.log"] == sorted(path.name for path in data_dir.iterdir())


async def test_ctrl_c_leaves_postgres_to_imcore(used: Path) -> None:
    """The terminal sends SIGINT to the whole group; imcore must still be able to write while it drains."""
    with holding(used) as holder:
        holder.says()

        os.killpg(holder.process.pid, signal.SIGINT)

        assert "still here" == holder.says()
        assert 0 == holder.process.wait()


async def test_a_long_path_puts_the_socket_elsewhere_and_in_private(cluster: Path, data_dir: Path) -> None:
    deep = data_dir / ("d" * SOCKET_PATH_BYTES_MAX)
    deep.mkdir()
    copy_cluster(cluster, deep)

    async with embedded(deep) as url:
        assert await works(url)
        socket_dir = Path((deep / "postgres" / "postmaster.pid").read_text().splitlines()[4])
        assert 0o700 == stat.S_IMODE(socket_dir.stat().st_mode)
    assert not socket_dir.exists()


@pytest.mark.parametrize("name", ['a b&c=%20 "d"', "é?#", "one,two"])
async def test_a_path_with_signs_in_it_works(cluster: Path, data_dir: Path, name: str) -> None:
    odd = data_dir / name
    odd.mkdir()
    copy_cluster(cluster, odd)

    async with embedded(odd) as url:
        assert await works(url)


async def test_the_folder_of_another_version_is_left_alone(used: Path) -> None:
    (used / "postgres" / "PG_VERSION").write_text("16\n")

    with pytest.raises(EmbeddedFailed, match="made by Postgres 16"):
        async with embedded(used):
            pass


async def test_a_folder_of_something_else_is_left_alone(data_dir: Path) -> None:
    (data_dir / "postgres").mkdir()
    (data_dir / "postgres" / "thesis.txt").write_text("years of work")

    with pytest.raises(EmbeddedFailed, match="neither empty nor a data folder"):
        async with embedded(data_dir):
            pass
    assert "years of work" == (data_dir / "postgres" / "thesis.txt").read_text()


async def test_why_it_does_not_start_is_said(used: Path) -> None:
    (used / "postgres" / "postgresql.conf").write_text("no_such_setting = on\n")

    with pytest.raises(EmbeddedFailed, match="no_such_setting"):
        async with embedded(used):
            pass


async def test_the_log_is_bounded(used: Path) -> None:
    log = used / "postgres.log"
    async with embedded(used):
        os.truncate(log, LOG_BYTES_MAX + 1)

        async def emptied() -> bool:
            return log.stat().st_size < LOG_BYTES_MAX

        await eventually(emptied)
    assert LOG_BYTES_MAX + 1 <= (used / "postgres.log.1").stat().st_size
    assert "shut down" in log.read_text(), "and it goes on"


async def test_a_refused_row_is_not_quoted_in_the_log(used: Path) -> None:
    """A body is never logged, by Postgres neither."""
    async with embedded(used) as url:
        await note(url, "fine")
        with pytest.raises(asyncpg.CheckViolationError):
            await note(url, "forbidden secret")

    log = (used / "postgres.log").read_text()
    assert "violates check constraint" in log
    assert "secret" not in log.replace(
        "CREATE TABLE IF NOT EXISTS notes (text text CHECK (text <> 'forbidden secret'))", ""
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_it_runs_for_an_ordinary_user_and_then_for_root(data_dir: Path) -> None:
    """Root takes it over as the owner of the folder, so the owner can have it back."""
    uid = 65534
    os.chown(data_dir, uid, uid)
    with holding(data_dir, str(uid)) as holder:
        await note(holder.says(), "of the user")
        assert uid == postmaster(data_dir).uids().real
        holder.process.send_signal(signal.SIGINT)
        assert "still here" == holder.says()
        assert 0 == holder.process.wait()

    async with embedded(data_dir) as url:
        assert ["of the user"] == await notes(url)
        assert uid == postmaster(data_dir).uids().real
