"""The HTTP API at work, open or behind tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from api.place import Place, serving


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[Place]:
    """An API that believes everybody."""
    async with serving(database_url) as place:
        yield place


@pytest.fixture
async def guarded(database_url: str) -> AsyncIterator[Place]:
    """An API that wants tokens."""
    async with serving(database_url, auth_mode="jwt") as place:
        yield place
