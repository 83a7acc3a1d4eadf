"""The events that are no messages, each by the name of its fact. Written by scripts/write-client; edit that.

`mid` is who did it, and `whom` is whom it is about. What a fact says is in `body` too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from imcore.client.events import Event, Said, Words


@dataclass(frozen=True, slots=True)
class RoomCreated(Event):
    """A room exists, and who may come in and see what was said before."""

    in_room = Said[str]("room")
    public = Said[bool]("public", True)
    history = Said[str]("history", "joined")
    title = Said[str]("title", "")


@dataclass(frozen=True, slots=True)
class MemberJoined(Event):
    """From this position on, `whom` is a member."""

    in_room = Said[str]("room")
    whom = Said[int]("mid")
    role = Said[str]("role", "member")


@dataclass(frozen=True, slots=True)
class MemberLeft(Event):
    """From this position on, `whom` is no member: it left."""

    in_room = Said[str]("room")
    whom = Said[int]("mid")


@dataclass(frozen=True, slots=True)
class MemberRemoved(Event):
    """From this position on, `whom` is no member: somebody removed it."""

    in_room = Said[str]("room")
    whom = Said[int]("mid")


@dataclass(frozen=True, slots=True)
class MemberMuted(Event):
    """`whom` may not send here until then; 0 ends it."""

    in_room = Said[str]("room")
    whom = Said[int]("mid")
    until_ms = Said[int]("until_ms")


@dataclass(frozen=True, slots=True)
class RoleChanged(Event):
    """`whom` has this role in the room from here on."""

    in_room = Said[str]("room")
    whom = Said[int]("mid")
    role = Said[str]("role")


@dataclass(frozen=True, slots=True)
class MessageEdited(Event):
    """The message reads so from here on. `words` is what a message's body is: JSON, or with `format` a text or
    base64 of bytes.
    """

    in_room = Said[str]("room")
    target = Said[int]("target")
    words = Words()


@dataclass(frozen=True, slots=True)
class MessageRecalled(Event):
    """The message is to be shown no more. `author` is who had sent it; who recalled it is the event's own mid."""

    in_room = Said[str]("room")
    target = Said[int]("target")
    author = Said[int]("author")


@dataclass(frozen=True, slots=True)
class ReactionAdded(Event):
    """Whoever did this reacts to the message with `reaction`."""

    in_room = Said[str]("room")
    target = Said[int]("target")
    reaction = Said[str]("reaction")


@dataclass(frozen=True, slots=True)
class ReactionRemoved(Event):
    """Whoever did this reacts to the message with `reaction` no more."""

    in_room = Said[str]("room")
    target = Said[int]("target")
    reaction = Said[str]("reaction")


@dataclass(frozen=True, slots=True)
class MessagePinned(Event):
    """The message is among those that the room shows first."""

    in_room = Said[str]("room")
    target = Said[int]("target")


@dataclass(frozen=True, slots=True)
class MessageUnpinned(Event):
    """The message is no longer among those that the room shows first."""

    in_room = Said[str]("room")
    target = Said[int]("target")


@dataclass(frozen=True, slots=True)
class ReadMarked(Event):
    """`whom` has read the room up to `upto`.

    `messages` and `sent` say how many messages of the room, and how many of its own since it joined, that covers:
    facts of the log, taken when the mark was made, so that unread needs no counting.
    """

    in_room = Said[str]("room")
    whom = Said[int]("mid")
    upto = Said[int]("seq")
    messages = Said[int]("messages")
    sent = Said[int]("sent")


FACTS: Final[Mapping[str, type[Event]]] = {
    "room_created": RoomCreated,
    "member_joined": MemberJoined,
    "member_left": MemberLeft,
    "member_removed": MemberRemoved,
    "member_muted": MemberMuted,
    "role_changed": RoleChanged,
    "message_edited": MessageEdited,
    "message_recalled": MessageRecalled,
    "reaction_added": ReactionAdded,
    "reaction_removed": ReactionRemoved,
    "message_pinned": MessagePinned,
    "message_unpinned": MessageUnpinned,
    "read_marked": ReadMarked,
}


__all__ = [
    "MemberJoined",
    "MemberLeft",
    "MemberMuted",
    "MemberRemoved",
    "MessageEdited",
    "MessagePinned",
    "MessageRecalled",
    "MessageUnpinned",
    "ReactionAdded",
    "ReactionRemoved",
    "ReadMarked",
    "RoleChanged",
    "RoomCreated",
]
