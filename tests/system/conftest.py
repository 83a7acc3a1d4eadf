"""Servers that tests share where their state does not matter, and clients that end with the test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from conftest import copy_cluster, temporary_folder
from system.clients import Clients, clients
from system.servers import Backend, Server, backend, running

BEHIND_S = 5  # more than a busy machine keeps one from reading who reads


@pytest.fixture(scope="session")
def server(cluster: Path) -> Iterator[Server]:
    """One with the default settings, for all who leave it as it is. At the end its log holds no complaint. Only of connections it takes
    as many as a fast machine makes: all tests come from one address."""
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        with running(folder, "--auth", "open", "--set", "handshakes_per_address_burst=1000000") as server:
            yield server
            complaints = server.complaints()
        assert not complaints, complaints


@pytest.fixture(scope="session")
def crowded(cluster: Path) -> Iterator[Server]:
    """One that takes many clients at once, keeps little for each, and has little patience with those that stop reading."""
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        small = ("--set", f"behind_s={BEHIND_S}", "--set", "unsent_bytes_max=65536")
        with running(folder, "--auth", "open", "--no-rate-limits", *small) as server:
            yield server
            complaints = server.complaints()
        assert not complaints, complaints


@pytest.fixture
async def connecting() -> AsyncIterator[Clients]:
    """Makes connections, and ends them."""
    async with clients() as made:
        yield made


@pytest.fixture
async def api(server: Server) -> AsyncIterator[Backend]:
    """A backend of the shared server."""
    async with backend(server) as made:
        yield made
