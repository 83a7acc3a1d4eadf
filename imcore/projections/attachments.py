"""The files that there are: whose, for which room, and what they are. One that was removed has no row."""

from __future__ import annotations

from typing import Final, NamedTuple

from imcore import tables
from imcore.events.types import AttachmentRemoved, AttachmentStored, Recorded
from imcore.projections.projection import Key, Projection, types


class Attachment(NamedTuple):
    """A file. `position` is that of its event: who joined the room later may not see it, unless the room shows its history."""

    room: str
    mid: int
    name: str
    media_type: str
    size: int
    sha256: str
    width: int | None
    height: int | None
    position: int
    stored_at_ms: int


TYPES: Final = types(AttachmentStored, AttachmentRemoved)


def keys(recorded: Recorded) -> tuple[Key, ...]:
    match recorded.fact:
        case AttachmentStored(id=id_) | AttachmentRemoved(id=id_):
            return ((id_,),)
    return ()


def apply(key: Key, row: Attachment | None, recorded: Recorded) -> Attachment | None:
    match recorded.fact:
        case AttachmentStored() as fact:
            return row or Attachment(
                fact.room, recorded.mid, fact.name, fact.media_type, fact.size, fact.sha256, fact.width, fact.height,
                recorded.position, recorded.time_ms,
            )  # fmt: skip
        case AttachmentRemoved():
            return None
    return row


projection: Final = Projection("attachments", tables.attachments, Attachment, TYPES, keys, apply)
