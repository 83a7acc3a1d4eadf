"""What is done to messages after they were sent: edits and recalls, as decisions.

A decision is given what can't change any more (who sent the message, when, what it said) and looks, under the lock of the log, at what
can: the standing of whoever acts and of the author, and what became of the message meanwhile. So of an edit and a recall that come at
once the later finds what the earlier did, and nothing is edited after it was recalled.

The trap: live rooms have no rows. Whoever may enter one is as good as a member, and is asked for nothing but that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import orjson

from imcore import membership
from imcore.errors import BadRequest, Forbidden, NoSuchMessage
from imcore.events.messages import FORMATS, Format
from imcore.events.store import Draft, Key, Rows, row_of
from imcore.events.types import JSON, MessageEdited, MessageRecalled
from imcore.membership import RANK, RoomDecision, member_key
from imcore.permissions import Actor, Standing, table
from imcore.projections import restrictions
from imcore.projections.amendments import Amendment
from imcore.reacting import pin_keys, unpins
from imcore.roles import PRIVILEGED


class Target(NamedTuple):
    """A message of a room, as it was sent."""

    room: str
    seq: int
    author: int
    sent_ms: int
    format: int
    text: str  # of its payload, as columns of the log would have it
    is_live: bool


def amendment_key(room: str, seq: int) -> Key:
    """The row of what became of a message."""
    return ("amendments", (room, seq))


def rules_key(room: str) -> Key:
    """The row of what keeps members of a room from sending."""
    return (restrictions.projection.name, (room,))


class AmendingDecision(RoomDecision):
    """What `actor` does to a message. Its author may for `within_s` after it was sent; 0 is always."""

    __slots__ = ("target", "within_s")

    def __init__(self, target: Target, actor: Actor, within_s: float, *, key: str = "") -> None:
        keys = [
            amendment_key(target.room, target.seq),
            *pin_keys(target.room, target.seq),
            member_key(target.room, target.author),
            rules_key(target.room),
        ]
        # The message is there, and so is its stream: what this may begin is that of audits only.
        is_audited = actor.role in PRIVILEGED
        super().__init__(target.room, actor, target.author, keys=keys, creates=is_audited, key=key)
        self.target, self.within_s = target, within_s

    def _detail(self) -> str:
        return f"message {self.target.seq}"

    def _allowed(self, rows: Rows) -> bool:
        """Pass, or raise; True if only a privilege on the platform allows it."""
        target, actor = self.target, self._as_now(rows)
        is_own = target.author == actor.mid
        where: Standing = "member" if target.is_live else self._standing(rows)
        if target.is_live:
            table().check(self.operation, actor, where, is_own=is_own)
            is_privileged = not is_own and table().by_privilege(self.operation, actor.role)
        else:
            author = self._member(rows, target.author)
            rank = 0 if author is None else RANK[author.role]
            room = self._room(rows)
            is_privileged = membership.check(self.operation, actor, room, where, target_rank=rank, is_own=is_own)
            if room is not None and room.dismissed:
                raise BadRequest("the room is dismissed: nothing happens in it any more")
        if self.within_s and not is_privileged and actor.role != "service" and self._has_time_only(where):
            late = self.now_ms - target.sent_ms > self.within_s * 1000
            if late and not table().by_privilege(self.operation, actor.role):
                raise Forbidden(f"this can be done for {self.within_s:g} s after the message was sent")
            is_privileged = late
        return is_privileged

    def _has_time_only(self, where: Standing) -> bool:
        """Is it as the author, and as nothing else, that this may be done?"""
        return table().verdict(self.operation, "user", where) == "own"

    def _amendment(self, rows: Rows) -> Amendment | None:
        return row_of(rows, Amendment, "amendments", self.target.room, self.target.seq)


class EditMessage(AmendingDecision):
    """The author lets the message read otherwise. The same words again change nothing: no event.

    Raises NoSuchMessage when it was recalled, Forbidden for anybody else, and when the time for it is over, and what a send would be
    refused with.
    """

    __slots__ = ("body", "format")
    operation = "messages.edit"

    def __init__(
        self, target: Target, actor: Actor, within_s: float, body: object, format_: Format, *, key: str = ""
    ) -> None:
        super().__init__(target, actor, within_s, key=key)
        self.body, self.format = body, format_

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One edit, or none."""
        self._allowed(rows)
        self._may_speak(rows)
        target, amendment = self.target, self._amendment(rows)
        if amendment is not None and amendment.recalled:
            raise NoSuchMessage
        text = orjson.dumps(self.body).decode() if FORMATS[self.format] == JSON else str(self.body)
        now = (target.format, target.text) if amendment is None else (amendment.format, amendment.body)
        if now == (FORMATS[self.format], text):
            return []
        said = {"room": target.room, "target": target.seq, "body": self.body, "format": self.format}
        return [self._in_room(MessageEdited.model_validate(said))]

    def _may_speak(self, rows: Rows) -> None:
        """Who may not send now says nothing new by an edit either. (An edit is no message, so slow mode is not asked.)"""
        if self.target.is_live or self.actor.role == "service":
            return
        self._check_voice(rows)


class RecallMessage(AmendingDecision):
    """The message is to be shown no more: by its author in time, by admins and the owner of the room where they are above the author,
    by a service, and by whom the platform trusts, which is audited. What was recalled already stays so: no event.

    Raises Forbidden for others, and NoSuchRoom for who may not know of the room.
    """

    __slots__ = ()
    operation = "messages.recall"

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One recall, perhaps with the end of a pin and with its audit, or none."""
        is_privileged = self._allowed(rows)
        amendment = self._amendment(rows)
        if amendment is not None and amendment.recalled:
            return []
        target = self.target
        recalled = self._in_room(MessageRecalled(room=target.room, target=target.seq, author=target.author))
        unpinned = unpins(rows, target.room, target.seq, self.actor.mid, key=self.key)
        return [recalled, *unpinned, *([self._audited()] if is_privileged else ())]
