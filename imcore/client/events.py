"""What a client hands to its program: events, the answers to its requests, and the notices that are no events.

All of them are frozen. `body` is what JSON gave: whoever changes it changes it for himself.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar

T = TypeVar("T")

MESSAGE_TYPES: Final = frozenset({"message_sent", "message_pushed"})
SIGNAL: Final = "signal:"  # and a name: what an application tells for a moment


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


class Said(Generic[T]):
    """Something that an event's body says, as an attribute of the event. Raises KeyError where it must be there and is not."""

    def __init__(self, name: str, *default: T) -> None:
        self._name, self._default = name, default

    def __get__(self, event: Event, kind: type[Event]) -> T:
        """What it says."""
        if self._default:
            found: T = event.body.get(self._name, self._default[0])
        else:
            found = event.body[self._name]
        return found


class Words:
    """What a message reads since an event: JSON, or text, or bytes."""

    def __get__(self, event: Event, kind: type[Event]) -> Any:
        """As they are meant."""
        words = event.body["body"]
        return b64decode(words) if event.body.get("format") == "base64" else words


@dataclass(frozen=True, slots=True)
class Presence(Event):
    """Somebody whom you watch (`im.presence.watch`) came online, went, or is on other platforms now: `mid`. Never stored."""

    online = Said[bool]("online")
    platforms = Said[Sequence[str]]("platforms")


@dataclass(frozen=True, slots=True)
class Receipt(Event):
    """`whom` has read `room` up to `upto`: told in small rooms to who is there, and never stored. To be sure ask `im.receipts.list`."""

    whom = Said[int]("mid")
    upto = Said[int]("seq")


@dataclass(frozen=True, slots=True)
class Typing(Event):
    """`mid` is typing in `room`, or not any more. Never stored: whoever hears nothing for some seconds takes it as over."""

    typing = Said[bool]("typing")


@dataclass(frozen=True, slots=True)
class Signal(Event):
    """What an application of `mid` wants the others in `room` to know for a moment; `body` is its own. Never stored."""

    @property
    def name(self) -> str:
        """Which signal."""
        return self.type.removeprefix(SIGNAL)


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
    """A member of a room. `muted_until_ms` is 0 of whom nobody has muted, and may have passed."""

    mid: int
    role: str
    since: int
    online: bool
    muted_until_ms: int = 0


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
