"""The people in a room: who they are, how they come in and go out, and what they may do there."""

from __future__ import annotations

import time
from typing import Annotated, Final

from pydantic import Field

from imcore import membership, reads
from imcore.errors import Forbidden, NoSuchRoom, TooManyRooms
from imcore.events.types import Role
from imcore.projections import queries
from imcore.protocol.packet import INT64_MAX
from imcore.protocol.requests import MEMBERS_ROWS
from imcore.verbs.acting import acting, changed, decided, joined, refuse_live, somebody
from imcore.verbs.means import Means
from imcore.verbs.rooms import After
from imcore.verbs.verb import (
    Answer,
    AnyVerb,
    Args,
    Caller,
    Label,
    Limit,
    Mid,
    Millis,
    Other,
    Place,
    Position,
    Room,
    page,
    verb,
    within,
)

REASON_BYTES_MAX: Final = 256
CHANGES_ROWS: Final = 500

Reason = Annotated[Label, within(REASON_BYTES_MAX)]
UntilMs = Annotated[int, Field(ge=0, le=INT64_MAX, description="milliseconds since 1970; 0 ends it")]


class Somebody(Args):
    """A person in a room."""

    room: Room
    mid: Mid


class Myself(Args):
    """Oneself in a room; a service says for whom it acts (`mid`)."""

    room: Room
    mid: Mid | None = None


class MembersOf(Args):
    """A page of people, in order of mid."""

    room: Room
    after: Mid | None = None
    limit: Limit = MEMBERS_ROWS


class Since(Args):
    """A version of a list of members."""

    room: Room
    after: Position = Field(description="the version that one has")
    limit: Limit = CHANGES_ROWS


class NewMember(Args):
    """Whom to bring in."""

    room: Room
    mid: Mid
    role: Role = "member"


class NewRole(Args):
    """What somebody is to be."""

    room: Room
    mid: Mid
    role: Role


class NewOwner(Args):
    """Who is to own a room."""

    room: Room
    mid: Mid


class NewMute(Args):
    """How long somebody may not send."""

    room: Room
    mid: Mid
    until_ms: UntilMs


class NewMuteOfAll(Args):
    """How long nobody but admins and owners may send."""

    room: Room
    until_ms: UntilMs


class NewBan(Args):
    """How long somebody may not come in."""

    room: Room
    mid: Mid
    until_ms: int = Field(default=0, ge=0, le=INT64_MAX, description="milliseconds since 1970; 0 is for ever")
    reason: Reason = ""


class Asking(Args):
    """What one says who wants to be let in."""

    room: Room
    text: Reason = ""
    mid: Mid | None = Field(default=None, description="for whom; a person leaves it out")


class MyInvitations(Args):
    """A page of one's own invitations; a service says whose (`mid`)."""

    mid: Mid | None = None
    after: After = ""
    limit: Limit = MEMBERS_ROWS


class MemberLine(Answer):
    """A member. `since` is the position of the join. `muted_until_ms` is there of whom somebody has muted."""

    mid: int
    role: str
    since: Position
    online: bool
    muted_until_ms: Millis = 0


class MembersPage(Answer):
    """A page of members. `version`, of the first page, is what `changes` is asked with later; `next`, if there is more, is the `after`
    of the next page."""

    room: str
    version: Position
    members: list[MemberLine]
    next: int = 0


class ChangedMember(Answer):
    """What became of somebody: a member with this role, or, with a role of null, no member any more."""

    position: Position
    mid: int
    role: str | None
    since: Position | None
    muted_until_ms: int | None


class Changes(Answer):
    """What changed up to `version`. `more`: something did after it, to be asked for with it. `reload`: what was asked with is no
    version of this list, because the log went back, and the list is to be read anew."""

    room: str
    version: Position
    reload: bool
    more: bool
    changes: list[ChangedMember]


class BanLine(Answer):
    """A ban. `until_ms` 0 is for ever."""

    mid: int
    by: int
    until_ms: int
    reason: str


class Bans(Answer):
    """A page of bans, in order of mid. `next`, if there is more, is the `after` of the next page."""

    bans: list[BanLine]
    next: int = 0


class InvitationLine(Answer):
    """An open invitation."""

    mid: int
    by: int
    at_ms: Millis


class Invitations(Answer):
    """A page of open invitations, in order of mid. `next`, if there is more, is the `after` of the next page."""

    invitations: list[InvitationLine]
    next: int = 0


class RequestLine(Answer):
    """Somebody who wants to be let in."""

    mid: int
    text: str
    at_ms: Millis


class Requests(Answer):
    """A page of open requests, in order of mid. `next`, if there is more, is the `after` of the next page."""

    requests: list[RequestLine]
    next: int = 0


class InvitedTo(Answer):
    """A room that one is invited to, and by whom."""

    room: str
    title: str
    topic: str
    members: int
    by: int
    at_ms: Millis


class Invited(Answer):
    """A page of one's open invitations, in order of the rooms' names. `next`, if there is more, is the `after` of the next page."""

    invitations: list[InvitedTo]
    next: str = ""


# --- the list ----------------------------------------------------------------------------------------------------------------


@verb("rooms.members", "GET", "/v1/rooms/{room}/members", answer=MembersPage, errors=(NoSuchRoom,))
async def members(caller: Caller, means: Means, args: MembersOf) -> bytes:
    """The members of a room in order of mid, and who of them is online."""
    refuse_live(means, args.room)
    actor = caller.identity.actor
    return await reads.members(means.reads, args.room, actor, after=args.after, limit=args.limit)


@verb("rooms.changes", "GET", "/v1/rooms/{room}/members/changes", answer=Changes, errors=(NoSuchRoom,))
async def changes(caller: Caller, means: Means, args: Since) -> bytes:
    """What changed in the list of members since a version of it: each person once, as it is now."""
    refuse_live(means, args.room)
    return await reads.changes(means.reads, args.room, caller.identity.actor, after=args.after, limit=args.limit)


# --- coming in and going out -----------------------------------------------------------------------------------------------------


@verb(
    "rooms.join",
    "POST",
    "/v1/rooms/{room}/join",
    answer=Place,
    status=201,
    statuses=(200,),
    errors=(NoSuchRoom, Forbidden, TooManyRooms),
)
async def join(caller: Caller, means: Means, args: Myself) -> Place | Other:
    """Come in by oneself: into a public room, or where one is invited. Joining again changes nothing."""
    actor = acting(caller, args.mid)
    refuse_live(means, args.room)
    await means.accounts.doors.allow("join", caller.identity, args.room, caller.key)
    joining = membership.Join(args.room, actor, may_create=means.may_create(caller.identity, args.room), key=caller.key)
    return joined(await decided(caller, means, joining), joining.existing)


@verb("rooms.leave", "POST", "/v1/rooms/{room}/leave", answer=Place, errors=(NoSuchRoom, Forbidden))
async def leave(caller: Caller, means: Means, args: Myself) -> Place:
    """Go out by oneself.

    The last owner cannot, as long as others are in the room: it makes somebody else owner first, or dismisses the room.
    """
    actor = acting(caller, args.mid)
    refuse_live(means, args.room)
    return changed(await decided(caller, means, membership.Leave(args.room, actor, key=caller.key)))


@verb(
    "rooms.add",
    "POST",
    "/v1/rooms/{room}/members",
    answer=Place,
    status=201,
    statuses=(200,),
    errors=(NoSuchRoom, Forbidden, TooManyRooms),
)
async def add(caller: Caller, means: Means, args: NewMember) -> Place | Other:
    """Bring somebody in, as a member or with a role below one's own."""
    refuse_live(means, args.room)
    await means.accounts.doors.let_in(caller.identity, args.room, [args.mid], caller.key)
    adding = membership.AddMember(args.room, somebody(args.mid), caller.identity.actor, role=args.role)
    return joined(await decided(caller, means, adding), adding.existing)


@verb("rooms.kick", "DELETE", "/v1/rooms/{room}/members/{mid}", answer=Place, errors=(NoSuchRoom, Forbidden))
async def kick(caller: Caller, means: Means, args: Somebody) -> Place:
    """Take somebody of lower rank out of the room. Nothing keeps it from coming back: see bans."""
    refuse_live(means, args.room)
    kicking = membership.RemoveMember(args.room, somebody(args.mid), caller.identity.actor)
    return changed(await decided(caller, means, kicking))


# --- ranks and mutes -------------------------------------------------------------------------------------------------------------


@verb("rooms.set_role", "PUT", "/v1/rooms/{room}/members/{mid}/role", answer=Place, errors=(NoSuchRoom, Forbidden))
async def set_role(caller: Caller, means: Means, args: NewRole) -> Place:
    """Change what somebody of lower rank is, to a role below one's own, or step down by oneself.

    Ownership is given away with rooms.transfer.
    """
    refuse_live(means, args.room)
    setting = membership.SetRole(args.room, somebody(args.mid), caller.identity.actor, args.role)
    return changed(await decided(caller, means, setting))


@verb("rooms.transfer", "PUT", "/v1/rooms/{room}/owner", answer=Place, errors=(NoSuchRoom, Forbidden))
async def transfer(caller: Caller, means: Means, args: NewOwner) -> Place:
    """Make a member the owner of the room. Whoever owned it is an admin then; of several owners, a person gives away its own."""
    refuse_live(means, args.room)
    actor = caller.identity.actor
    former: tuple[int, ...] = (actor.mid,)
    if actor.role not in ("user", "guest"):
        found = await queries.room(means.pool, args.room)
        if found is not None and actor.mid not in found.owners:
            former = found.owners
    transferring = membership.TransferRoom(args.room, somebody(args.mid), actor, former=former)
    return changed(await decided(caller, means, transferring))


@verb("rooms.mute", "PUT", "/v1/rooms/{room}/members/{mid}/mute", answer=Place, errors=(NoSuchRoom, Forbidden))
async def mute(caller: Caller, means: Means, args: NewMute) -> Place:
    """Keep somebody of lower rank from sending for a while."""
    refuse_live(means, args.room)
    muting = membership.Mute(args.room, somebody(args.mid), caller.identity.actor, args.until_ms)
    return changed(await decided(caller, means, muting))


@verb("rooms.mute_all", "PUT", "/v1/rooms/{room}/mute", answer=Place, errors=(NoSuchRoom, Forbidden))
async def mute_all(caller: Caller, means: Means, args: NewMuteOfAll) -> Place:
    """Keep everybody but admins and owners from sending for a while."""
    refuse_live(means, args.room)
    muting = membership.MuteAll(args.room, caller.identity.actor, args.until_ms)
    return changed(await decided(caller, means, muting))


# --- bans ------------------------------------------------------------------------------------------------------------------------


@verb("rooms.ban", "PUT", "/v1/rooms/{room}/bans/{mid}", answer=Place, errors=(NoSuchRoom, Forbidden))
async def ban(caller: Caller, means: Means, args: NewBan) -> Place:
    """Keep somebody out of the room, for a while or for ever. A member is taken out by it; its invitation ends, too."""
    refuse_live(means, args.room)
    banning = membership.BanMember(
        args.room, somebody(args.mid), caller.identity.actor, until_ms=args.until_ms, reason=args.reason
    )
    return changed(await decided(caller, means, banning))


@verb("rooms.unban", "DELETE", "/v1/rooms/{room}/bans/{mid}", answer=Place, errors=(NoSuchRoom, Forbidden))
async def unban(caller: Caller, means: Means, args: Somebody) -> Place:
    """Let somebody come in again."""
    refuse_live(means, args.room)
    unbanning = membership.UnbanMember(args.room, somebody(args.mid), caller.identity.actor)
    return changed(await decided(caller, means, unbanning))


@verb("rooms.bans", "GET", "/v1/rooms/{room}/bans", answer=Bans, errors=(NoSuchRoom, Forbidden))
async def bans(caller: Caller, means: Means, args: MembersOf) -> Bans:
    """Who may not come in, until when, and why."""
    refuse_live(means, args.room)
    await reads.check(means.reads, "rooms.bans", args.room, caller.identity.actor)
    now_ms = time.time_ns() // 1_000_000
    lines = await queries.bans_page(means.pool, args.room, args.after, args.limit + 1, now_ms)
    return page(Bans, "bans", [BanLine(**line._asdict()) for line in lines], args.limit, "mid")


# --- invitations -----------------------------------------------------------------------------------------------------------------


@verb("rooms.invite", "PUT", "/v1/rooms/{room}/invitations/{mid}", answer=Place, errors=(NoSuchRoom, Forbidden))
async def invite(caller: Caller, means: Means, args: Somebody) -> Place:
    """Invite somebody, who is told on every device, and comes in by accepting."""
    refuse_live(means, args.room)
    inviting = membership.Invite(args.room, somebody(args.mid), caller.identity.actor)
    return changed(await decided(caller, means, inviting))


@verb("rooms.uninvite", "DELETE", "/v1/rooms/{room}/invitations/{mid}", answer=Place, errors=(NoSuchRoom, Forbidden))
async def uninvite(caller: Caller, means: Means, args: Somebody) -> Place:
    """Take an invitation back."""
    refuse_live(means, args.room)
    uninviting = membership.Uninvite(args.room, somebody(args.mid), caller.identity.actor)
    return changed(await decided(caller, means, uninviting))


@verb("rooms.invitations", "GET", "/v1/rooms/{room}/invitations", answer=Invitations, errors=(NoSuchRoom, Forbidden))
async def invitations(caller: Caller, means: Means, args: MembersOf) -> Invitations:
    """Who is invited and has not answered."""
    refuse_live(means, args.room)
    await reads.check(means.reads, "rooms.invitations", args.room, caller.identity.actor)
    lines = await queries.invitations_page(means.pool, args.room, args.after, args.limit + 1)
    return page(Invitations, "invitations", [InvitationLine(**line._asdict()) for line in lines], args.limit, "mid")


@verb(
    "rooms.accept",
    "POST",
    "/v1/rooms/{room}/invitation",
    answer=Place,
    status=201,
    statuses=(200,),
    errors=(NoSuchRoom, Forbidden, TooManyRooms),
)
async def accept(caller: Caller, means: Means, args: Myself) -> Place | Other:
    """Come in where one is invited. Accepting again changes nothing."""
    actor = acting(caller, args.mid)
    refuse_live(means, args.room)
    await means.accounts.doors.allow("join", caller.identity, args.room, caller.key)
    accepting = membership.AcceptInvitation(args.room, actor, key=caller.key)
    return joined(await decided(caller, means, accepting), accepting.existing)


@verb("rooms.decline", "DELETE", "/v1/rooms/{room}/invitation", answer=Place, errors=(NoSuchRoom,))
async def decline(caller: Caller, means: Means, args: Myself) -> Place:
    """Do not come in where one is invited."""
    actor = acting(caller, args.mid)
    refuse_live(means, args.room)
    return changed(await decided(caller, means, membership.DeclineInvitation(args.room, actor, key=caller.key)))


@verb("invitations.mine", "GET", "/v1/invitations", answer=Invited, errors=(Forbidden,))
async def mine(caller: Caller, means: Means, args: MyInvitations) -> Invited:
    """The rooms that one is invited to."""
    actor = acting(caller, args.mid)
    lines = await queries.invited_page(means.pool, actor.mid, args.after, args.limit + 1)
    return page(Invited, "invitations", [InvitedTo(**line._asdict()) for line in lines], args.limit, "room")


# --- requests to join ------------------------------------------------------------------------------------------------------------


@verb("rooms.ask", "POST", "/v1/rooms/{room}/requests", answer=Place, errors=(NoSuchRoom, Forbidden))
async def ask(caller: Caller, means: Means, args: Asking) -> Place:
    """Ask to be let into a room whose members are approved. Its members see what one says."""
    actor = acting(caller, args.mid)
    refuse_live(means, args.room)
    return changed(await decided(caller, means, membership.AskToJoin(args.room, actor, args.text, key=caller.key)))


@verb("rooms.requests", "GET", "/v1/rooms/{room}/requests", answer=Requests, errors=(NoSuchRoom, Forbidden))
async def requests(caller: Caller, means: Means, args: MembersOf) -> Requests:
    """Who asks to be let in."""
    refuse_live(means, args.room)
    await reads.check(means.reads, "rooms.requests", args.room, caller.identity.actor)
    lines = await queries.requests_page(means.pool, args.room, args.after, args.limit + 1)
    return page(Requests, "requests", [RequestLine(**line._asdict()) for line in lines], args.limit, "mid")


@verb(
    "rooms.approve",
    "PUT",
    "/v1/rooms/{room}/requests/{mid}",
    answer=Place,
    status=201,
    statuses=(200,),
    errors=(NoSuchRoom, Forbidden, TooManyRooms),
)
async def approve(caller: Caller, means: Means, args: Somebody) -> Place | Other:
    """Let somebody in who asked for it."""
    refuse_live(means, args.room)
    await means.accounts.doors.let_in(caller.identity, args.room, [args.mid], caller.key)
    approving = membership.ApproveRequest(args.room, somebody(args.mid), caller.identity.actor)
    return joined(await decided(caller, means, approving), approving.existing)


@verb("rooms.reject", "DELETE", "/v1/rooms/{room}/requests/{mid}", answer=Place, errors=(NoSuchRoom, Forbidden))
async def reject(caller: Caller, means: Means, args: Somebody) -> Place:
    """Do not let somebody in who asked for it."""
    refuse_live(means, args.room)
    rejecting = membership.RejectRequest(args.room, somebody(args.mid), caller.identity.actor)
    return changed(await decided(caller, means, rejecting))


VERBS: Final[tuple[AnyVerb, ...]] = (
    members, changes, join, leave, add, kick, set_role, transfer, mute, mute_all, ban, unban, bans, invite, uninvite, invitations,
    accept, decline, mine, ask, requests, approve, reject,
)  # fmt: skip
