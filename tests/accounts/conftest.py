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
