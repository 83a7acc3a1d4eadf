"""A Postgres beside the servers that use it: stopped, started, put back to an older state, followed by a standby and replaced by it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from imcore.database import Connection, connect
from imcore.database.embedded import programs
from waiting import eventually

STOP_S: Final = 60
PORT: Final = 5432  # of the socket's name
IS_FOLLOWED: Final = """
SELECT count(*) = 1 FROM pg_stat_replication WHERE state = 'streaming' AND replay_lsn = pg_current_wal_lsn()
"""


class Postgres:
    """One data folder, and at times a process on it. It listens on a socket in `home`, always the same."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / "postgres"
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, *others: Postgres) -> str:
        """Of its database; with others, of whichever of them takes connections."""
        homes = ",".join(str(one.home) for one in (self, *others))
        return f"postgresql://postgres@/imcore?host={homes}&port={PORT}"

    async def start(self) -> None:
        """Return when it takes connections."""
        self.home.chmod(0o711)  # as root, Postgres runs as another user
        shutil.chown(self.home, self.folder.stat().st_uid)
        (self.folder / "postmaster.pid").unlink(missing_ok=True)
        settings = ("listen_addresses=", f"unix_socket_directories={self.home}", f"port={PORT}", "fsync=off")
        self._process = self._run("postgres", "-D", str(self.folder), *(f"-c{setting}" for setting in settings))
        await eventually(self._answers)

    async def _answers(self) -> bool:
        async with self.connection() as connection:
            return bool(await connection.fetchval("SELECT true"))

    def stop(self) -> None:
        """A fast shutdown: a standby has everything."""
        if self._process is not None and self._process.poll() is None:
            self._done(self._run("pg_ctl", "-D", str(self.folder), "-m", "fast", "-w", "stop"))
            self._process.wait(STOP_S)
        self._process = None

    def copy(self) -> Path:
        """The state of a Postgres that is stopped."""
        kept = self.home / "kept"
        subprocess.run(["cp", "-a", self.folder, kept], check=True)  # with owners
        return kept

    def put_back(self, kept: Path) -> None:
        """What was kept is there again."""
        shutil.rmtree(self.folder)
        kept.rename(self.folder)

    async def follow(self, primary: Postgres) -> None:
        """Be a standby of it, and have everything that it has."""
        shutil.chown(self.home, primary.folder.stat().st_uid)
        self.home.chmod(0o711)
        command = (
            "-h",
            str(primary.home),
            "-p",
            str(PORT),
            "-U",
            "postgres",
            "-D",
            str(self.folder),
            "-R",
            "-c",
            "fast",
        )
        self._done(self._run("pg_basebackup", *command, like=primary.folder))
        await self.start()
        await eventually(primary.is_followed)

    async def is_followed(self) -> bool:
        """Has its standby everything?"""
        async with self.connection() as connection:
            return bool(await connection.fetchval(IS_FOLLOWED))

    async def promote(self) -> None:
        """From now on it takes writes."""
        async with self.connection() as connection:
            assert await connection.fetchval("SELECT pg_promote()")

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        made = await connect(self.url(), application_name="tests")
        try:
            yield made
        finally:
            await made.close()

    def _run(self, program: str, *arguments: str, like: Path | None = None) -> subprocess.Popen[bytes]:
        """As the user whose data it is: Postgres refuses root."""
        owner = (like or self.folder).stat()
        is_root = os.geteuid() == 0
        with (self.home / "postgres.log").open("ab") as log:
            return subprocess.Popen(
                [str(programs() / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.home,
                env={"PATH": os.defpath, "LC_ALL": "C"},
                start_new_session=True,
                user=owner.st_uid if is_root else None,
                group=owner.st_gid if is_root else None,
                extra_groups=[] if is_root else None,
            )

    def _done(self, process: subprocess.Popen[bytes]) -> None:
        code = process.wait(STOP_S)
        assert 0 == code, (self.home / "postgres.log").read_text(errors="replace")[-2000:]
