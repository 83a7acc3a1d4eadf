"""What a client hands to its program: events, the answers to its requests, and the notices that are no events.

All of them are frozen. `body` is what JSON gave: whoever changes it changes it for himself.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

MESSAGE_TYPES: Final = frozenset({"message_sent", "message_pushed"})


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, at its place in the log. (`place`, `seq`) names it, for ever.

    `room` is None for what is no event of a room; then `stream` is `user:<mid>`, `key:<key>` or `all:`. `body` is what was sent, or the
    facts by `type`; bytes where a backend pushed what is no text. `op` is 0 where it is no message, `id` None where the sender
    chose none. A push that was not stored has `position` and `seq` 0.
    """

    position: int
    room: str | None
    stream: str
    seq: int
    mid: int
    key: str
    id: str | None
    time_ms: int
    type: str
    op: int
    body: Any

    @property
    def is_message(self) -> bool:
        """Did somebody say something, or did a room only change?"""
        return False

    @property
    def place(self) -> str:
        """The room, or the stream where there is no room."""
        return self.stream if self.room is None else self.room


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a forwarded message was said first, and by whom."""

    room: str
    seq: int
    mid: int


@dataclass(frozen=True, slots=True)
class Message(Event):
    """An event that is a message: `message_sent` by somebody, or `message_pushed` by a backend.

    `reply_to` is the seq of the message that it answers, `thread` that of the first of its thread, `mentions` are those whom it names,
    or "all" who are in the room, `forwarded` says where it was said first. In history a message reads as it does now: `edits` counts
    how often it was edited, and one that was recalled (`is_recalled`) has None for a body.
    """

    reply_to: int | None = None
    thread: int | None = None
    mentions: tuple[int, ...] | Literal["all"] = ()
    forwarded: Origin | None = None
    edits: int = 0
    is_recalled: bool = False

    @property
    def is_message(self) -> bool:
        """Always."""
        return True

    def names(self, mid: int) -> bool:
        """Does it name this person, or everybody in the room?"""
        return self.mentions == "all" or mid in self.mentions


@dataclass(frozen=True, slots=True)
class Edited(Event):
    """The message with the seq `target` reads `says` from here on; None if it was recalled meanwhile."""

    @property
    def target(self) -> int:
        """The seq of the message."""
        return int(self.body["target"])

    @property
    def says(self) -> Any:
        """Its new body; bytes where that is no text."""
        body = self.body["body"]
        return b64decode(body) if self.body.get("format") == "base64" else body


@dataclass(frozen=True, slots=True)
class Recalled(Event):
    """The message with the seq `target` is to be shown no more; `mid` recalled it."""

    @property
    def target(self) -> int:
        """The seq of the message."""
        return int(self.body["target"])

    @property
    def author(self) -> int:
        """Who had sent it."""
        return int(self.body["author"])


@dataclass(frozen=True, slots=True)
class Removed:
    """You are no longer in this room: `by` removed you, or you left it on another device."""

    room: str
    position: int
    type: str
    by: int


@dataclass(frozen=True, slots=True)
class Reset:
    """Something was missed that will not come: fetch what you show anew.

    `reason` is `new`, `expired`, `epoch` or `too_far` as the server gave it (docs/client.md says what each means), or `gap`:
    events of `room` are missing and its history does not have them.
    """

    reason: str
    position: int
    room: str | None = None


Happening: TypeAlias = Event | Removed | Reset


@dataclass(frozen=True, slots=True)
class Sent:
    """Where a message is stored, for good. `duplicate`: it was there already, under the same id."""

    room: str
    id: str
    position: int
    seq: int
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Joined:
    """The place of a join. `duplicate`: you were in the room already."""

    room: str
    position: int
    seq: int
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Page:
    """Events of a room in order of seq; `head` is its last seq, `more` says that there are events beyond the page. Around a seq that is
    before the page, and `more_after` says it of those behind it."""

    room: str
    events: Sequence[Event]
    head: int
    more: bool
    more_after: bool = False


@dataclass(frozen=True, slots=True)
class Unread:
    """The read mark in force, and how many messages of others come after it."""

    room: str
    seq: int
    unread: int


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a room."""

    mid: int
    role: str
    since: int
    online: bool


@dataclass(frozen=True, slots=True)
class Members:
    """A page of members in order of mid; with `next`, ask again with `after=next`."""

    room: str
    members: Sequence[Member]
    next: int | None


@dataclass(frozen=True, slots=True)
class Conversation:
    """A room in the inbox: its last seq, your read mark, what is unread, your role, the newest message that you may see, and how many
    of the unread name you."""

    room: str
    head: int
    read: int
    unread: int
    role: str
    last: Event | None
    mentions: int = 0


@dataclass(frozen=True, slots=True)
class Inbox:
    """A page of rooms in order of name; with `next`, ask again with `after=next`."""

    rooms: Sequence[Conversation]
    next: str | None


def from_envelope(envelope: Mapping[str, Any]) -> Event:
    """An event of the wire. Raises KeyError for what is none."""
    room = envelope.get("room")
    body = envelope["body"]
    type_ = envelope["type"]
    facts = (
        envelope["position"],
        room,
        f"room:{room}" if room is not None else envelope["stream"],
        envelope["seq"],
        envelope["mid"],
        envelope["key"],
        envelope.get("id"),
        envelope["time"],
        type_,
        envelope.get("op", 0),
        b64decode(body) if envelope.get("base64") else body,
    )
    if type_ not in MESSAGE_TYPES:
        return KINDS.get(type_, Event)(*facts)
    if "about" not in envelope and "edited" not in envelope and "recalled" not in envelope:
        return Message(*facts)
    about = envelope.get("about") or {}
    mentions = about.get("mentions") or ()
    forwarded = about.get("forwarded")
    return Message(
        *facts,
        reply_to=about.get("reply_to"),
        thread=about.get("thread"),
        mentions="all" if mentions == "all" else tuple(mentions),
        forwarded=None if forwarded is None else Origin(forwarded["room"], forwarded["seq"], forwarded["mid"]),
        edits=(envelope.get("edited") or {}).get("count", 0),
        is_recalled="recalled" in envelope,
    )


KINDS: Final[dict[str, type[Event]]] = {"message_edited": Edited, "message_recalled": Recalled}
