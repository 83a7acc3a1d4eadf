"""A log at work, for the tests of the log."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest

from events.at_work import AtWork, appending, assert_sound, choose_seed


@pytest.fixture
async def here(database_url: str) -> AsyncIterator[AtWork]:
    """A log at work on a database of its own, which is sound at the end of every test."""
    async with appending(database_url) as at_work:
        yield at_work
        await assert_sound(at_work.pool)


@pytest.fixture
def chance() -> random.Random:
    """Randomness with its seed printed."""
    return choose_seed()
