"""Who has read up to where, told to the others while they are there: in small rooms, at most every `GAP_S`, and never stored.

Marks come in one by one, as people scroll. What is told is the newest of each person in each room, in an event of its own that has
no place in the log:

    {"position":0,"room":"group://7","seq":0,"mid":0,"key":"","time":…,"type":"receipt","body":{"room":"group://7","mid":9,"seq":12}}

It may be lost; whoever must know asks (`receipts.list`). In a room of n members who all read, n² of them are written: so rooms of more
than `members_max` have none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import orjson

from imcore.bus.postgres import Ephemeral
from imcore.database import DATABASE_ERRORS, heed_cancellation
from imcore.events.names import Pool

logger = logging.getLogger(__name__)

TYPE: Final = "receipt"
GAP_S: Final = 0.2
MARKS_MAX: Final = 10_000  # of people and rooms, between two tellings

# Which of these rooms are small.
SMALL: Final = "SELECT room FROM rooms WHERE room = ANY($1::text[]) AND members <= $2"


class Receipts:
    """Tells of read marks. `marked` never blocks; `run` is the task that tells."""

    def __init__(self, pool: Pool, push: Callable[[Ephemeral], int], members_max: int, *, gap_s: float = GAP_S) -> None:
        self._pool = pool
        self._push = push
        self._members_max = members_max
        self._gap_s = gap_s
        # Bounded: beyond MARKS_MAX nobody is told.
        self._marks: dict[tuple[str, int], int] = {}
        self._wake = asyncio.Event()
        self.dropped = 0

    @property
    def waiting(self) -> int:
        """Marks that nobody was told of yet."""
        return len(self._marks)

    def marked(self, room: str, mid: int, seq: int) -> None:
        """`mid` has read the room up to `seq`, and it is committed."""
        mark = room, mid
        if mark not in self._marks and len(self._marks) >= MARKS_MAX:
            self.dropped += 1
            return
        self._marks[mark] = max(seq, self._marks.get(mark, 0))
        self._wake.set()

    async def run(self) -> None:
        """Tell, for ever; ends when cancelled."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(self._gap_s)
            self._wake.clear()
            marks, self._marks = self._marks, {}
            try:
                rows = await self._pool.fetch(SMALL, list({room for room, _ in marks}), self._members_max)
            except DATABASE_ERRORS as error:
                heed_cancellation()
                logger.warning("nobody is told of read marks: %s", error)
                self.dropped += len(marks)
                continue
            small = {row["room"] for row in rows}
            for (room, mid), seq in marks.items():
                if room in small:
                    said = orjson.dumps({"room": room, "mid": mid, "seq": seq})
                    self._push(Ephemeral(0, said, room=room, type=TYPE))
