"""How many bytes each person has stored today, by the time of the events: what was removed again counts all the same.

Every file counts as `FILE_BYTES_MIN` at least, which is about what its place in a store, its event and its row cost: or a person could
store a thousand million empty ones.

The trap: only the last day of each person is kept. A row of another day means that nothing was stored today.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from imcore import tables
from imcore.events.types import SERVICE_MID, AttachmentStored, Recorded
from imcore.projections.projection import Key, Projection, types

DAY_MS: Final = 86_400_000
FILE_BYTES_MIN: Final = 4_096


class Uploaded(NamedTuple):
    """What a person stored on a day (of UTC, counted from 1970), as it is charged."""

    day: int
    bytes: int

    def on(self, day: int) -> int:
        """How many bytes on that day, as far as this says."""
        return self.bytes if day == self.day else 0


TYPES: Final = types(AttachmentStored)


def charged(size: int) -> int:
    """As how many bytes a file of this size counts."""
    return max(size, FILE_BYTES_MIN)


def keys(recorded: Recorded) -> tuple[Key, ...]:
    return () if recorded.mid == SERVICE_MID or recorded.type not in TYPES else ((recorded.mid,),)


def apply(key: Key, row: Uploaded | None, recorded: Recorded) -> Uploaded | None:
    match recorded.fact:
        case AttachmentStored(size=size):
            day = recorded.time_ms // DAY_MS
            return Uploaded(day, charged(size) + (0 if row is None else row.on(day)))
    return row


projection: Final = Projection("uploads", tables.uploads, Uploaded, TYPES, keys, apply)
