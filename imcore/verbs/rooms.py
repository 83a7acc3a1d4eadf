"""Rooms: making, finding, changing and ending them, and what a person has in its own.

Live rooms are not made and have no members: connections enter them.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from imcore import membership, reads
from imcore.errors import BadRequest, Forbidden, NoSuchRoom, RoomExists, TooManyRooms, Unavailable
from imcore.events.types import ROOM, History, Recorded, Writers
from imcore.membership import Settings
from imcore.projections import queries
from imcore.protocol.packet import ROOM_BYTES_MAX
from imcore.protocol.requests import INBOX_ROWS
from imcore.roles import PRIVILEGED
from imcore.verbs.acting import acting, changed, decided, refuse_live, somebody
from imcore.verbs.means import Means
from imcore.verbs.verb import (
    Answer,
    AnyVerb,
    Args,
    Caller,
    Label,
    Limit,
    Line,
    Mid,
    Millis,
    Place,
    Position,
    Room,
    verb,
    within,
)

NEW_MEMBERS_MAX: Final = 1_000
TITLE_BYTES_MAX: Final = 256
TOPIC_BYTES_MAX: Final = 1_024
SEARCH_BYTES_MAX: Final = 64
DIRECTORY_ROWS: Final = 50
SLOW_MODE_S_MAX: Final = 21_600
MEMBERS_MAX: Final = 1_000_000

Kind = Literal["private", "public", "announcement"]
Title = Annotated[Label, within(TITLE_BYTES_MAX)]
Topic = Annotated[Label, within(TOPIC_BYTES_MAX)]
After = Annotated[Line, within(ROOM_BYTES_MAX)]


class Rules(Args):
    """The settings of a room, each of which may be left out."""

    title: Title | None = None
    topic: Topic | None = None
    kind: Kind | None = Field(
        default=None,
        description="private: who is added or invited comes in. public: anybody joins. announcement: public, and only admins write. "
        "A word for the settings public and writers, which win over it.",
    )
    public: bool | None = None
    approval: bool | None = Field(default=None, description="who wants to join asks, and an admin lets it in")
    history: History | None = Field(
        default=None, description="what members see of the time before their join: nothing (joined), or all of it"
    )
    writers: Writers | None = None
    slow_mode_s: int | None = Field(
        default=None, ge=0, le=SLOW_MODE_S_MAX, description="a member sends once in so long"
    )
    members_max: int | None = Field(default=None, ge=0, le=MEMBERS_MAX, description="0 is no limit")

    def settings(self) -> Settings:
        """What is said, as the commands take it."""
        public, writers = self.public, self.writers
        if self.kind is not None:
            public = self.kind != "private" if public is None else public
            writers = ("admins" if self.kind == "announcement" else "members") if writers is None else writers
        return Settings(
            self.title, self.topic, public, self.approval, self.history, writers, self.slow_mode_s, self.members_max
        )


class NewRoom(Rules):
    """A room to make."""

    # Whether the token names the room is asked by the verb, which says Forbidden: there is nothing to hide.
    name: Room = Field(alias="room")
    members: list[Mid] = Field(default=[], max_length=NEW_MEMBERS_MAX)


class InRoom(Args):
    """A room."""

    room: Room


class Change(Rules):
    """Other settings of a room."""

    room: Room


class Find(Args):
    """What is looked for in the directory."""

    search: Annotated[Line, within(SEARCH_BYTES_MAX)] = Field(
        default="", description="is somewhere in the title, or begins the name"
    )
    after: After = ""
    limit: Limit = DIRECTORY_ROWS


class Made(Place):
    """The room that was made, and where the last of what made it is."""

    room: str


class Me(Answer):
    """One's own membership."""

    role: str
    since: Position
    since_seq: int
    muted_until_ms: Millis


class Shown(Answer):
    """What a room is. A live room has `online`, and none of what hangs on members."""

    room: str
    live: bool
    public: bool
    history: str
    head: int = Field(description="seq of its last event")
    online: int = 0
    kind: Kind = "private"
    title: str = ""
    topic: str = ""
    approval: bool = False
    writers: str = "members"
    slow_mode_s: int = 0
    members_max: int = 0
    muted_until_ms: int = Field(default=0, description="only admins and owners send until then")
    members: int = 0
    owners: list[int] = Field(default=[])
    created: Position = 0
    creator: int = 0
    dismissed: Position = Field(
        default=0, description="where it ended: only services, moderators and admins see that it was"
    )
    standing: str = Field(
        default="", description="what one is to it oneself: stranger, invited, muted, member, room_admin, owner"
    )
    asked_at_ms: Millis = Field(default=0, description="since when one asks to be let in, and has no answer")
    me: Me | None = None


class Listed(Answer):
    """A line of the directory."""

    room: str
    title: str
    topic: str
    members: int
    approval: bool
    writers: str
    created: Position


class Directory(Answer):
    """A page of public rooms in order of name. `next`, if there is more, is the `after` of the next page."""

    rooms: list[Listed]
    next: str = ""


class Mine(Args):
    """A page of one's own rooms; a service says whose (`mid`)."""

    mid: Mid | None = None
    after: After = ""
    limit: Limit = INBOX_ROWS


class InboxRoom(Answer):
    """A room of the inbox: where it is, how far it was read, what is unread, and its newest message as an event, or null."""

    room: str
    head: int
    read: int
    unread: int
    mentions: int = Field(description="how many of the unread name the person, or everybody")
    role: str
    last: dict[str, object] | None


class InboxPage(Answer):
    """A page of the inbox. `next`, if there is more, is the `after` of the next page."""

    rooms: list[InboxRoom]
    next: str = ""


class ReadUpTo(Args):
    """Up to where a room was read."""

    room: Room
    seq: int = Field(ge=0, le=2**63 - 1)


class Marked(Answer):
    """The mark in force, and what is unread after it."""

    room: str
    seq: int
    unread: int


def kind_of(public: bool, writers: str) -> Kind:
    """The word for these two settings."""
    if writers == "admins":
        return "announcement"
    return "public" if public else "private"


@verb("rooms.create", "POST", "/v1/rooms", answer=Made, status=201, errors=(RoomExists, Forbidden, TooManyRooms))
async def create(caller: Caller, means: Means, args: NewRoom) -> Made:
    """Make a room: a public one, if nothing is said.

    Whoever makes it owns it; a service makes rooms without an owner. The members come in with it.
    """
    room, who = args.name, caller.identity
    refuse_live(means, room)
    # Whoever has logged in here may make rooms; a token of somebody else's making says which, as it does for entering. Here a type or
    # all are named on purpose; with a join, which makes a room as well, only the very name is.
    may = means.may_create(who, room) or bool(who.sid) or who.rooms is not None
    if not who.may_enter(room) or not (may or who.role in PRIVILEGED):
        raise Forbidden("this room is not yours to make")
    members = [somebody(mid) for mid in args.members]
    await means.accounts.doors.let_in(who, room, [who.mid, *members], caller.key)
    decision = membership.CreateRoom(
        room, who.actor, settings=args.settings(), members=members, by_privilege=not may, key=caller.key
    )
    try:
        made = await decided(caller, means, decision)
    except RoomExists:
        made = await _made_before(caller, means, room)
        if not made:
            raise
    return Made(room=room, position=made[-1].position, seq=made[-1].seq)


async def _made_before(caller: Caller, means: Means, room: str) -> list[Recorded]:
    """What made this room, if an earlier try of the same request did. Else nothing: it is another's, or was there."""
    if caller.tried_ms is None:
        return []
    found = await means.reads.reader.read_on(
        ROOM + room, 0, NEW_MEMBERS_MAX + 3
    )  # it, its rules, its owner, and its members
    first = found[0]
    if first.mid != caller.mid or first.time_ms < caller.tried_ms:
        return []
    return [event for event in found if (event.mid, event.time_ms) == (first.mid, first.time_ms)]


@verb("rooms.show", "GET", "/v1/rooms/{room}", answer=Shown, errors=(NoSuchRoom, Forbidden))
async def show(caller: Caller, means: Means, args: InRoom) -> Shown:
    """What a room is: to its members, to who is invited, to services, and if it is public to whoever may enter."""
    room = args.room
    if means.is_live(room):
        online = (await queries.online_rooms(means.pool, [room]))[room]
        head = (await means.reads.reader.stream_head(ROOM + room)).seq
        return Shown(room=room, live=True, public=True, history="all", head=head, online=online)
    actor = caller.identity.actor
    found = await reads.check(means.reads, "rooms.show", room, actor)
    row, member = found.room, found.member
    told = Shown(
        room=room,
        live=False,
        public=row.public,
        history=row.history,
        title=row.title,
        members=row.members,
        created=row.created,
        creator=row.creator,
        head=(await means.reads.reader.stream_head(ROOM + room)).seq,
        kind=kind_of(row.public, row.writers),
        topic=row.topic,
        approval=row.approval,
        writers=row.writers,
        slow_mode_s=row.slow_mode_s,
        members_max=row.members_max,
        muted_until_ms=row.muted_until_ms,
        owners=list(row.owners),
    )
    more: dict[str, object] = {}
    if row.dismissed:
        more["dismissed"] = row.dismissed
    if not caller.identity.service:
        more["standing"] = reads.standing_of(found)
    if member is None and not caller.identity.service:  # a request outlives the `approval` under which it was made
        at_ms = await queries.asked(means.pool, room, actor.mid)
        more |= {"asked_at_ms": at_ms} if at_ms else {}
    if member is not None:
        more["me"] = Me(
            role=member.role, since=member.since, since_seq=member.since_seq, muted_until_ms=member.muted_until_ms
        )
    return told.model_copy(update=more)


@verb("rooms.change", "PATCH", "/v1/rooms/{room}", answer=Place, errors=(NoSuchRoom, Forbidden))
async def change(caller: Caller, means: Means, args: Change) -> Place:
    """Change what a room is called, who comes in, who writes and how often, and how many may be in it.

    What is left out stays as it is.
    """
    refuse_live(means, args.room)
    changing = membership.ChangeRoom(args.room, caller.identity.actor, args.settings())
    return changed(await decided(caller, means, changing))


@verb("rooms.dismiss", "DELETE", "/v1/rooms/{room}", answer=Place, errors=(NoSuchRoom, Forbidden))
async def dismiss(caller: Caller, means: Means, args: InRoom) -> Place:
    """End a room, for everybody and for good: its name is never free again."""
    refuse_live(means, args.room)
    return changed(await decided(caller, means, membership.DismissRoom(args.room, caller.identity.actor)))


@verb("rooms.directory", "GET", "/v1/rooms", answer=Directory)
async def directory(caller: Caller, means: Means, args: Find) -> Directory:
    """The public rooms that one may enter, in order of name."""
    lines = await queries.directory_page(means.pool, args.after, args.search, args.limit + 1)
    page = lines[: args.limit]
    rooms = [Listed(**line._asdict()) for line in page if caller.identity.may_enter(line.room)]
    return Directory(rooms=rooms, next=page[-1].room) if len(lines) > args.limit else Directory(rooms=rooms)


@verb("inbox.list", "GET", "/v1/inbox", answer=InboxPage, errors=(Unavailable, Forbidden))
async def inbox(caller: Caller, means: Means, args: Mine) -> bytes:
    """One's rooms in order of name, with what is unread in each and its newest message."""
    actor = acting(caller, args.mid)
    return await reads.inbox(means.reads, actor.mid, after=args.after, limit=args.limit)


@verb("rooms.read", "PUT", "/v1/rooms/{room}/read", answer=Marked, errors=(NoSuchRoom, Unavailable))
async def read(caller: Caller, means: Means, args: ReadUpTo) -> bytes:
    """Move one's read mark on. It never goes back, and nobody reads for somebody else."""
    if caller.identity.service:
        raise BadRequest("a person marks what it has read itself")
    refuse_live(means, args.room)
    return await reads.mark_read(means.reads, args.room, caller.mid, args.seq, key=caller.key, fence=caller.fence)


VERBS: Final[tuple[AnyVerb, ...]] = (create, show, change, dismiss, directory, inbox, read)
