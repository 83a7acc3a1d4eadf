"""The browser of this run, for the tests that name this module in `pytest_plugins`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from chromium import Chromium, chromium, find_chromium


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Chromium]:
    """A running Chromium. Without one on this machine the test is skipped, and fails where nothing may be missing."""
    program = find_chromium()
    if program is None:
        missing = "There is no Chromium here. To have it (Debian, as root): scripts/install-test-services"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    async with chromium(program) as running:
        yield running
