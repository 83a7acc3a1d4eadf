"""What lies in the store and is no attachment goes: bytes whose upload was not followed by an event, and those of removed ones whose
deletion failed.

The store is walked through in order of id, a page at a time, for ever. Bytes younger than a day are left alone: their event may be on
its way. One process does it, or several: nothing is deleted that may be missed.

The trap: to a database that knows nothing all bytes are orphans. A page of many that are old, and of which it knows none, belongs to
another service, or the database was put back to a time before them; nothing of it is deleted, and the log says so.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from imcore.attachments.store import Store
from imcore.database import DATABASE_ERRORS, heed_cancellation
from imcore.errors import StoreUnavailable
from imcore.events.names import Pool

logger = logging.getLogger(__name__)

PAGE: Final = 500
PAUSE_S: Final = 60.0
ORPHAN_S: Final = 86_400.0
STRANGERS: Final = 50  # so many on a page and none known: they are not ours

KNOWN: Final = "SELECT id FROM attachments WHERE id = ANY($1::text[])"


class Sweeper:
    """Walks through the store. `now` is the time in seconds since 1970."""

    def __init__(self, store: Store, pool: Pool, *, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._pool = pool
        self._now = now
        self._after = ""
        self.swept = 0

    async def run(self) -> None:
        """A page, a pause, for ever; survives the loss of the database and of the store."""
        while True:
            await asyncio.sleep(PAUSE_S)
            try:
                await self.step()
            except StoreUnavailable as error:
                logger.warning("the store of attachments cannot be swept: %s", error.detail)
            except DATABASE_ERRORS as error:
                heed_cancellation()
                logger.warning("the store of attachments cannot be swept: %s: %s", type(error).__name__, error)

    async def step(self) -> int:
        """One page; how much of it was deleted. A round begins with what unfinished uploads left."""
        before_s = self._now() - ORPHAN_S
        if not self._after:
            self.swept += await self._store.tidy(before_s)
        page = await self._store.page(self._after, PAGE)
        self._after = page[-1].id if page else ""
        old = [kept.id for kept in page if kept.written_s < before_s]
        if not old:
            return 0
        # After the page was read: an event that was committed before is seen.
        known = {row["id"] for row in await self._pool.fetch(KNOWN, old)}
        orphans = [id_ for id_ in old if id_ not in known]
        if not known and len(orphans) >= STRANGERS:
            logger.error(
                "the store of attachments holds %d files after %s of which this database knows none: nothing of it is deleted",
                len(orphans),
                orphans[0],
            )
            return 0
        for id_ in orphans:
            await self._store.delete(id_)
        self.swept += len(orphans)
        return len(orphans)
