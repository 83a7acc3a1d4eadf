"""Servers with accounts, whose passwords cost little."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from accounts.place import CHEAP
from api.place import Place, serving


@pytest.fixture
async def guarded(database_url: str) -> AsyncIterator[Place]:
    """An API that wants tokens."""
    async with serving(database_url, auth_mode="jwt", **CHEAP) as place:
        yield place


@pytest.fixture
async def strict(database_url: str) -> AsyncIterator[Place]:
    """The same, where a refresh token is good once and no more."""
    async with serving(database_url, auth_mode="jwt", refresh_grace_s=0.0, **CHEAP) as place:
        yield place
