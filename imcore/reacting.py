"""What is done to messages without sending one, as decisions: reactions and pins.

The caller has looked whether there is a message at that place, because that never changes. What may change is looked at under the lock
of the log: what somebody is to the room, what it sees, what became of the message, and how many reactions or pins there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Self

from imcore.errors import BadRequest, NoSuchMessage, NoSuchRoom
from imcore.events.store import Draft, Key, Rows, draft, row_of
from imcore.events.types import ROOM, MessagePinned, MessageUnpinned, ReactionAdded, ReactionRemoved
from imcore.membership import RoomDecision
from imcore.permissions import Actor
from imcore.projections import restrictions
from imcore.projections.amendments import Amendment
from imcore.projections.pins import PinCount
from imcore.projections.reactions import ReactionCounts
from imcore.roles import PRIVILEGED

REACTIONS_MAX: Final = 20  # different ones on a message
PINS_MAX: Final = 100  # in a room


class _AboutMessage(RoomDecision):
    """Something is done to the message `seq`. Whoever does it must see it: what was said before somebody joined is NoSuchMessage, and
    so is what was recalled, unless something is only taken away from it."""

    __slots__ = ("adds", "operation", "seq")

    def __init__(self, operation: str, room: str, seq: int, actor: Actor, keys: Sequence[Key], *, adds: bool) -> None:
        # The message is there, and so is its stream: what this may begin is that of audits only.
        is_audited = actor.role in PRIVILEGED
        super().__init__(room, actor, keys=[("amendments", (room, seq)), *keys], creates=is_audited)
        self.operation, self.seq, self.adds = operation, seq, adds

    def fenced(self, mid: int, key: str, fence: int) -> Self:
        """The same, asked for by a session."""
        self.key = key
        return super().fenced(mid, key, fence)

    def _detail(self) -> str:
        return f"message {self.seq}"

    def _allowed(self, rows: Rows, *, may_be_stranger: bool) -> list[Draft]:
        """Pass, or raise; what is to be audited. `may_be_stranger`: by who is no member too, if the table says so."""
        audited = self._check(rows)
        member = self._member(rows, self.actor.mid) if self.actor.mid else None
        if member is None:
            if not may_be_stranger:
                raise NoSuchRoom
        elif self._there(rows).history != "all" and self.seq < member.since_seq:
            raise NoSuchMessage
        if self.adds and is_recalled(rows, self.room, self.seq):
            raise NoSuchMessage
        return audited


def is_recalled(rows: Rows, room: str, seq: int) -> bool:
    """Was the message recalled? Of the row of amendments that the decision has named."""
    row = row_of(rows, Amendment, "amendments", room, seq)
    return row is not None and row.recalled > 0


class React(_AboutMessage):
    """Somebody reacts to a message, or no more (`adds`). What is so already changes nothing. A message has at most REACTIONS_MAX
    different reactions."""

    __slots__ = ("reaction",)

    def __init__(self, room: str, seq: int, reaction: str, actor: Actor, *, adds: bool) -> None:
        super().__init__(
            "reactions.add" if adds else "reactions.remove",
            room,
            seq,
            actor,
            [
                ("reactions", (room, seq, reaction, actor.mid)),
                ("reaction_counts", (room, seq)),
                *([(restrictions.projection.name, (room,))] if adds else ()),
            ],
            adds=adds,
        )
        self.reaction = reaction

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One reaction more or less, or none."""
        audited = self._allowed(rows, may_be_stranger=False)
        if self.adds:
            # Who is muted, alone or with all, or blocked says nothing by a reaction either. Where only admins write the others
            # may react: that is how a room answers what is announced to it.
            self._check_voice(rows, answers=True)
        room, seq, reaction = self.room, self.seq, self.reaction
        if (rows["reactions", (room, seq, reaction, self.actor.mid)] is not None) == self.adds:
            return []
        if not self.adds:
            return [self._in_room(ReactionRemoved(room=room, target=seq, reaction=reaction)), *audited]
        counts = row_of(rows, ReactionCounts, "reaction_counts", room, seq)
        if counts is not None and reaction not in counts.reactions and len(counts.reactions) >= REACTIONS_MAX:
            raise BadRequest(f"the message has {REACTIONS_MAX} different reactions already")
        return [self._in_room(ReactionAdded(room=room, target=seq, reaction=reaction)), *audited]


class Pin(_AboutMessage):
    """A message is pinned, or no more (`adds`). What is so already changes nothing. A room has at most PINS_MAX."""

    __slots__ = ()

    def __init__(self, room: str, seq: int, actor: Actor, *, adds: bool) -> None:
        super().__init__(
            "pins.add" if adds else "pins.remove",
            room,
            seq,
            actor,
            pin_keys(room, seq),
            adds=adds,
        )

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One pin more or less, or none."""
        audited = self._allowed(rows, may_be_stranger=True)
        if (rows["pins", (self.room, self.seq)] is not None) == self.adds:
            return []
        if not self.adds:
            return [self._in_room(MessageUnpinned(room=self.room, target=self.seq)), *audited]
        count = row_of(rows, PinCount, "pin_counts", self.room)
        if count is not None and count.pins >= PINS_MAX:
            raise BadRequest(f"the room has {PINS_MAX} pins already")
        return [self._in_room(MessagePinned(room=self.room, target=self.seq)), *audited]


def pin_keys(room: str, seq: int) -> list[Key]:
    """The rows that pinning or unpinning a message changes."""
    return [("pins", (room, seq)), ("pin_counts", (room,))]


def unpins(rows: Rows, room: str, seq: int, by: int, *, key: str = "") -> list[Draft]:
    """What a decision that takes a message away adds to what it says: that it is pinned no more, if it was. Names `pin_keys`."""
    if rows["pins", (room, seq)] is None:
        return []
    return [draft(ROOM + room, MessageUnpinned(room=room, target=seq), by, key=key)]
