"""What is done to messages after they were sent: edits and recalls, as decisions.

A decision is given what can't change any more (who sent the message, when, what it said) and looks, under the lock of the log, at what
can: the standing of whoever acts and of the author, and what became of the message meanwhile. So of an edit and a recall that come at
once the later finds what the earlier did, and nothing is edited after it was recalled.

The trap: time is that of the process that asks. An author whose time is nearly over may be judged a little early or late.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import orjson

from imcore.commands import RANK, member_key, standing
from imcore.errors import Forbidden, ImcoreError, NoSuchMessage
from imcore.events.messages import FORMATS, Format
from imcore.events.store import Decision, Draft, Key, Rows, draft
from imcore.events.types import AUDIT, JSON, ROOM, AdminActed, MessageEdited, MessageRecalled
from imcore.permissions import Actor, Standing, table
from imcore.projections.amendments import Amendment
from imcore.projections.members import Member


class Target(NamedTuple):
    """A message of a room, as it was sent. In a live room there are no members: whoever may enter it is as good as one."""

    room: str
    seq: int
    author: int
    sent_ms: int
    format: int
    text: str  # of its payload, as columns of the log would have it
    is_live: bool


class Asking(NamedTuple):
    """Who asks, over which connection ("" is none), when, and how long the author of a message may; 0 is always."""

    actor: Actor
    key: str
    now_ms: int
    within_s: float


def amendment_key(room: str, seq: int) -> Key:
    """The row of what became of a message."""
    return ("amendments", (room, seq))


class EditMessage(Decision):
    """The author lets the message read otherwise. The same words again change nothing: no event.

    Raises NoSuchMessage when it was recalled, Forbidden for anybody else, and when the time for it is over.
    """

    __slots__ = ("asking", "body", "format", "target")

    def __init__(self, target: Target, asking: Asking, body: object, format_: Format) -> None:
        super().__init__(
            [member_key(target.room, asking.actor.mid), amendment_key(target.room, target.seq)], [ROOM + target.room]
        )
        self.target, self.asking, self.body, self.format = target, asking, body, format_

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One edit, or none."""
        target, asking = self.target, self.asking
        is_own = target.author == asking.actor.mid
        table().check("messages.edit", asking.actor, _standing(rows, target, asking), is_own=is_own)
        amendment = _amendment(rows, target)
        if amendment is not None and amendment.recalled:
            raise NoSuchMessage
        _check_time(target, asking, "edited")
        text = orjson.dumps(self.body).decode() if FORMATS[self.format] == JSON else str(self.body)
        now = (target.format, target.text) if amendment is None else (amendment.format, amendment.body)
        if now == (FORMATS[self.format], text):
            return []
        fact = MessageEdited.model_validate(
            {"room": target.room, "target": target.seq, "body": self.body, "format": self.format}
        )
        return [draft(ROOM + target.room, fact, asking.actor.mid, key=asking.key)]


class RecallMessage(Decision):
    """The message is to be shown no more: by its author in time, by admins and the owner of the room where they are above the author,
    by a service, and by whom the platform trusts, which is audited. What was recalled already stays so: no event.

    Raises Forbidden for others, and NoSuchRoom for who may not know of the room.
    """

    __slots__ = ("asking", "target")

    def __init__(self, target: Target, asking: Asking) -> None:
        people = dict.fromkeys((asking.actor.mid, target.author))
        keys = [amendment_key(target.room, target.seq), *(member_key(target.room, mid) for mid in people)]
        # Nobody asks for the recall of what is in no room, so the only stream that this may begin is that of audits.
        super().__init__(keys, [ROOM + target.room, AUDIT], creates=True)
        self.target, self.asking = target, asking

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One recall, perhaps with its audit, or none."""
        target, actor = self.target, self.asking.actor
        standing = _standing(rows, target, self.asking)
        self._check(rows, actor, standing)
        amendment = _amendment(rows, target)
        if amendment is not None and amendment.recalled:
            return []
        fact = MessageRecalled(room=target.room, target=target.seq, author=target.author)
        drafts = [draft(ROOM + target.room, fact, actor.mid, key=self.asking.key)]
        if table().by_privilege("messages.recall", actor.role):
            try:
                self._check(rows, Actor(actor.mid, "user"), standing)
            except ImcoreError:  # only its role on the platform allowed it
                acted = AdminActed(verb="messages.recall", room=target.room, mid=target.author)
                drafts.append(draft(AUDIT, acted, actor.mid, key=self.asking.key))
        return drafts

    def _check(self, rows: Rows, actor: Actor, standing: Standing) -> None:
        target = self.target
        is_own = target.author == actor.mid
        author = _member(rows, target.room, target.author)
        rank = 0 if author is None else RANK[author.role]
        table().check("messages.recall", actor, standing, is_own=is_own, target_rank=rank)
        if table().verdict("messages.recall", actor.role, standing) == "own":
            _check_time(target, self.asking, "recalled")


def _check_time(target: Target, asking: Asking, done: str) -> None:
    if asking.within_s and asking.now_ms - target.sent_ms > asking.within_s * 1000:
        raise Forbidden(f"a message can be {done} for {asking.within_s:g} s after it was sent")


def _standing(rows: Rows, target: Target, asking: Asking) -> Standing:
    if target.is_live:
        return "member"
    return standing(_member(rows, target.room, asking.actor.mid), asking.now_ms)


def _member(rows: Rows, room: str, mid: int) -> Member | None:
    row = rows[member_key(room, mid)]
    assert row is None or isinstance(row, Member)
    return row


def _amendment(rows: Rows, target: Target) -> Amendment | None:
    row = rows[amendment_key(target.room, target.seq)]
    assert row is None or isinstance(row, Amendment)
    return row
