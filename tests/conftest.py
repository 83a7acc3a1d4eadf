"""One Postgres for the whole run, and a database of its own for each test.

The server is the embedded one, on a folder that is removed at the end. A template database is migrated once; `database_url` is
a copy of it, made for the test and dropped after it. A test that needs tables takes `database_url`; one that makes the tables
takes `empty_database_url`; one that kills the server starts its own in `data_dir` (see test_embedded.py).

Folders are made in memory where there is enough of it: a new Postgres is 1,300 files, and no test here pulls the plug.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings

from imcore.database import Connection, connect
from imcore.database.embedded import embedded
from imcore.database.migrations import upgrade
from parts import PARTS, TESTS, part_of

MEMORY = Path("/dev/shm")
MEMORY_BYTES_MIN = 4 << 30

# However slow a machine is, an example that took long is no fault. The rest is as it was: with CI set, each run has the same examples.
settings.register_profile("unhurried", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", choices=PARTS, help="only the tests of this part, see tests/parts.py; else all of them")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Of two parts, only the one that was asked for is even imported."""
    part = config.getoption("part")
    if part is None or TESTS not in collection_path.parents or collection_path.is_dir():
        return None
    return True if part_of(collection_path) != part else None


@dataclass(frozen=True, slots=True)
class Server:
    """The Postgres of this run, on which databases come and go. `kept` is a connection to it, for the loop that is of the whole run."""

    url: str
    kept: Connection
    loop: asyncio.AbstractEventLoop

    def url_of(self, database: str) -> str:
        return urlsplit(self.url)._replace(path=f"/{database}").geturl()

    async def create(self, template: str) -> str:
        """Make a database as a copy of another one, and return its URL. Nobody may be connected to the template."""
        name = f"test_{uuid.uuid4().hex}"
        # Of what is in memory copying the files is a third faster than writing the pages into the log of Postgres.
        await self.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return self.url_of(name)

    async def drop(self, url: str) -> None:
        """Drop a database, whoever is still connected to it."""
        await self.execute(f"DROP DATABASE {urlsplit(url).path.lstrip('/')} WITH (FORCE)")

    async def execute(self, statement: str) -> None:
        if asyncio.get_running_loop() is self.loop:
            await self.kept.execute(statement)
            return
        connection = await connect(self.url, application_name="tests")
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    @asynccontextmanager
    async def database(self, template: str) -> AsyncIterator[str]:
        url = await self.create(template)
        try:
            yield url
        finally:
            await self.drop(url)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """An empty folder with a short path (a socket's path has room for about a hundred bytes), removed at the end."""
    in_memory = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES_MIN
    with tempfile.TemporaryDirectory(prefix="imcore-", dir=MEMORY if in_memory else "/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A folder for a Postgres, for one test."""
    with temporary_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path]:
    """A folder on which Postgres ran once and was stopped. Only for copying: making one takes most of a second."""
    with temporary_folder() as folder:

        async def run_once() -> None:
            async with embedded(folder):
                pass

        asyncio.run(run_once())
        yield folder


@pytest.fixture
def used(cluster: Path, data_dir: Path) -> Path:
    """A copy of that folder, for one test."""
    copy_cluster(cluster, data_dir)
    return data_dir


def copy_cluster(cluster: Path, data_dir: Path) -> None:
    subprocess.run(["cp", "-a", cluster / "postgres", data_dir], check=True)  # with owners, unlike shutil


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def server() -> AsyncIterator[Server]:
    """The Postgres of this run."""
    with temporary_folder() as folder:
        async with embedded(folder) as url:
            kept = await connect(url, application_name="tests")
            yield Server(url, kept, asyncio.get_running_loop())
            await kept.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def template(server: Server) -> str:
    """The name of a database with today's tables and nothing in them."""
    url = await server.create("template1")
    await upgrade(url)
    return urlsplit(url).path.lstrip("/")


@pytest_asyncio.fixture(loop_scope="session")
async def database_url(server: Server, template: str) -> AsyncIterator[str]:
    """A database with today's tables, for one test."""
    async with server.database(template) as url:
        yield url


@pytest_asyncio.fixture(loop_scope="session")
async def empty_database_url(server: Server) -> AsyncIterator[str]:
    """A database without tables, for one test."""
    async with server.database("template1") as url:
        yield url
