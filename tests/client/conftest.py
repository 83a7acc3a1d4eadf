"""Servers for the client's tests, and addresses that stay while a server is killed and started again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from client.lines import pin
from conftest import copy_cluster, temporary_folder
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


@pytest.fixture
def mortal(used: Path) -> Iterator[Server]:
    """One for this test, to be killed and started again at the same addresses."""
    folder = used.parent / (used.name + "-mortal")
    folder.mkdir()
    used.rename(folder / "imcore")
    try:
        with running(folder, "--auth", "open", "--no-rate-limits") as server:
            pin(server)
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
