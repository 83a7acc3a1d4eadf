"""Servers for the client's tests, and addresses that stay while a server is killed and started again."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from conftest import copy_cluster, temporary_folder
from ports import kept
from system.servers import Backend, Server, backend, running


@pytest.fixture(scope="session")
def server(cluster: Path) -> Iterator[Server]:
    """One for all who leave it as it is. At the end its log holds no complaint."""
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        with running(folder, "--auth", "open", "--no-rate-limits") as server:
            yield server
            complaints = server.complaints()
        assert not complaints, complaints


@pytest.fixture(scope="session")
def types(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that checks types as a reader would who does; what it learned of the libraries it knows the next time."""
    cache = tmp_path_factory.mktemp("mypy")
    return [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache), "--config-file", ""]


@pytest.fixture
def mortal(used: Path) -> Iterator[Server]:
    """One for this test, to be killed and started again at the same addresses."""
    folder = used.parent / (used.name + "-mortal")
    folder.mkdir()
    used.rename(folder / "imcore")
    try:
        with kept(3) as places:
            at = [
                word for name, place in zip(("http", "ws", "tcp"), places, strict=True) for word in (f"--{name}", place)
            ]
            with running(folder, "--auth", "open", "--no-rate-limits", *at) as server:
                yield server
    finally:
        (folder / "imcore").rename(used)
        (folder / "server.log").unlink()
        folder.rmdir()


@pytest.fixture
async def api(server: Server) -> AsyncIterator[Backend]:
    """A backend of the shared server."""
    async with backend(server) as made:
        yield made
