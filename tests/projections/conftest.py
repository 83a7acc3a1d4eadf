"""A log at work, for the tests of what is folded from it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from projections.place import Place, place


@pytest.fixture
async def here(database_url: str) -> AsyncIterator[Place]:
    """A log at work on a database of its own."""
    async with place(database_url) as at_work:
        yield at_work
