"""Rooms and the people in them: what somebody decides about them, one decision a verb.

A decision looks at the rows at its own place in the log: is the room there, what is whoever asks to it (`standing`), what is the person
that it is done to? The permission table says whether it may be. Then it says what happens, or that nothing does because it is so
already. What is not there and what is not one's own are refused alike.

Moderators and admins of the platform may do what the table says without being members. When it is only that which allowed it, the same
decision says so in the audit stream.

The trap: a decision must name every row that its events change. A join changes seven besides the room's: membership, departure, mute,
ban, invitation, request to join, and in how many rooms the person is. All joins are made by `_comes_in`, which asks whether those are
too many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Self

from imcore import roles
from imcore.errors import (
    BadRequest,
    Forbidden,
    ImcoreError,
    NoSuchAttachment,
    NoSuchRoom,
    RateLimited,
    RoomExists,
    TooManyRooms,
)
from imcore.events.store import Decision, Draft, Key, Rows, draft, row_of
from imcore.events.types import (
    AUDIT,
    DIRECT,
    ROOM,
    SERVICE_MID,
    USER,
    AdminActed,
    AttachmentRemoved,
    AttachmentStored,
    Fact,
    History,
    InvitationDeclined,
    InvitationWithdrawn,
    Invited,
    JoinRejected,
    JoinRequested,
    MemberBanned,
    MemberJoined,
    MemberLeft,
    MemberMuted,
    MemberRemoved,
    MemberUnbanned,
    PersonBlocked,
    PersonUnblocked,
    Role,
    RoleChanged,
    RoomChanged,
    RoomCreated,
    RoomDismissed,
    RoomMuted,
    VisibilityChosen,
    VisibleTo,
    Writers,
    direct_pair,
    direct_room,
    room_type,
)
from imcore.permissions import SERVICE_ACTOR, Actor, Rank, Standing, table
from imcore.projections.accounts import DEACTIVATED, Account
from imcore.projections.attachments import Attachment
from imcore.projections.bans import Ban
from imcore.projections.blocks import Block
from imcore.projections.inline import refusal
from imcore.projections.invitations import Invitation
from imcore.projections.join_requests import JoinRequest
from imcore.projections.members import Member
from imcore.projections.mutes import Mute as Muted
from imcore.projections.restrictions import Restriction
from imcore.projections.room_counts import RoomCount
from imcore.projections.rooms import Room
from imcore.projections.uploads import DAY_MS, Uploaded, charged
from imcore.projections.visibility import Visibility
from imcore.roles import PRIVILEGED

RANK: Final = {"member": Rank.MEMBER, "admin": Rank.ADMIN, "owner": Rank.OWNER}
ROOMS_MAX: Final = 10_000  # that somebody may be in, where nobody says otherwise (the setting rooms_per_user_max)
NOBODY: Final[Mapping[int, int]] = {}
MIDS_TOLD: Final = 8  # of whom one act was about, in its line of the audit
TWO: Final = "a direct conversation is of two people, and nothing changes that"


class Settings(NamedTuple):
    """The settings of a room; None leaves one as it is, or as it comes."""

    title: str | None = None
    topic: str | None = None
    public: bool | None = None
    approval: bool | None = None
    history: History | None = None
    writers: Writers | None = None
    slow_mode_s: int | None = None
    members_max: int | None = None


# --- standings ---------------------------------------------------------------------------------------------------------------


def standing(member: Member | None, ban: Ban | None, invitation: Invitation | None, now_ms: int) -> Standing:
    """What somebody is to a room, as these rows say. An admin who is muted is an admin still, who may not send."""
    if member is not None:
        if member.role == "owner":
            return "owner"
        if member.role == "admin":
            return "room_admin"
        return "muted" if member.muted_until_ms > now_ms else "member"
    if ban is not None and ban.holds(now_ms):
        return "banned"
    return "stranger" if invitation is None else "invited"


def check(
    operation: str,
    actor: Actor,
    room: Room | None,
    where: Standing,
    *,
    target_rank: int = 0,
    is_own: bool = False,
) -> bool:
    """Pass, or raise what the table says of somebody with this standing. True if only a privilege on the platform allows it.

    A room that is dismissed is there for services, moderators and admins only. A private one is not there for strangers and the
    banned, whatever the table says of public ones.
    """
    permissions = table()
    if room is None:
        raise NoSuchRoom
    if actor.role == "service":
        permissions.check(operation, actor, is_own=is_own)
        return False
    as_person = actor
    if actor.role in PRIVILEGED and not permissions.rule(operation).by_standing.get((actor.role, where)):
        as_person = Actor(actor.mid, "user")
    try:
        if room.dismissed or (not room.public and where in ("stranger", "banned")):
            raise NoSuchRoom
        permissions.check(operation, as_person, where, target_rank=target_rank, is_own=is_own)
    except ImcoreError:
        if not permissions.by_privilege(operation, actor.role):
            raise
        return True
    return False


# --- rows --------------------------------------------------------------------------------------------------------------------


def room_key(room: str) -> Key:
    """The row of a room."""
    return ("rooms", (room,))


def member_key(room: str, mid: int) -> Key:
    """The row of a member."""
    return ("members", (room, mid))


def count_key(mid: int) -> Key:
    """The row of how many rooms somebody is in."""
    return ("room_counts", (mid,))


def standing_keys(room: str, mid: int) -> list[Key]:
    """The rows that say what somebody is to a room; a service is nothing to any."""
    return [] if mid == SERVICE_MID else [(name, (room, mid)) for name in ("members", "bans", "invitations")]


def join_keys(room: str, mid: int) -> list[Key]:
    """The rows that a join or a ban changes, beside the room's."""
    names = ("members", "mutes", "bans", "invitations", "join_requests")
    return [*((name, (room, mid)) for name in names), ("departures", (mid, room)), count_key(mid)]


def block_keys(mids: Sequence[int], actor: Actor) -> list[Key]:
    """The rows that say who of these takes nothing of the actor. A moderator's too: it may be none any more when they are looked at."""
    if actor.role == "service":
        return []
    return [("blocks", (mid, actor.mid)) for mid in mids if mid != actor.mid]


def owner_keys(mid: int, role: Role) -> list[Key]:
    """The rows that say whether somebody can be made owner, if that is the role."""
    return [roles.account_key(mid)] if role == "owner" else []


def leave_keys(room: str, mid: int) -> list[Key]:
    """The rows that the end of a membership changes, beside the room's."""
    return [member_key(room, mid), ("departures", (mid, room)), count_key(mid)]


class RoomDecision(Decision):
    """What `actor` decides about a room. `mid` is whom it is done to, if anybody.

    Once `_as_now` was asked, `actor` is what it is at this place in the log; what its token said is `claimed`.
    """

    __slots__ = ("actor", "claimed", "dismissed", "key", "mid", "room", "rooms_max")
    operation = ""

    def __init__(
        self,
        room: str,
        actor: Actor,
        mid: int | None = None,
        *,
        keys: Sequence[Key] = (),
        streams: Sequence[str] = (),
        creates: bool = False,
        key: str = "",
    ) -> None:
        looked_at = dict.fromkeys([room_key(room), *standing_keys(room, actor.mid), *roles.keys(actor), *keys])
        audited = [AUDIT] if actor.role in PRIVILEGED else []
        super().__init__(list(looked_at), [ROOM + room, *streams, *audited], creates=creates)
        self.room, self.actor, self.mid, self.key = room, actor, mid, key
        self.claimed = actor
        self.rooms_max, self.dismissed = ROOMS_MAX, NOBODY

    def within(self, rooms_max: int, dismissed: Mapping[int, int] = NOBODY) -> Self:
        """The same, and nobody is in more than so many rooms by it. `dismissed`: as many rooms of these people are known to be
        dismissed, and do not count. Who is refused for too many though nobody looked at that is to be asked about again."""
        self.rooms_max, self.dismissed = rooms_max, dismissed
        return self

    @property
    def comers(self) -> list[int]:
        """Who may come into the room, or go out of it, by this."""
        return [int(mid) for name, (mid, *_) in self.keys if name == "room_counts"]

    # --- what the rows say ---

    def _as_now(self, rows: Rows) -> Actor:
        """Who does it, as what it is on the platform here. Every decision asks this before it asks what may be done."""
        self.actor = roles.now(rows, self.claimed)
        return self.actor

    def _room(self, rows: Rows) -> Room | None:
        return row_of(rows, Room, "rooms", self.room)

    def _there(self, rows: Rows) -> Room:
        """The room, which `_check` has found."""
        room = self._room(rows)
        assert room is not None, "the room was looked for"
        return room

    def _member(self, rows: Rows, mid: int) -> Member | None:
        return row_of(rows, Member, "members", self.room, mid)

    def _ban(self, rows: Rows, mid: int) -> Ban | None:
        """The ban of somebody, if it is in force."""
        ban = row_of(rows, Ban, "bans", self.room, mid)
        return ban if ban is not None and ban.holds(self.now_ms) else None

    def _standing(self, rows: Rows) -> Standing:
        mid = self.actor.mid
        if mid == SERVICE_MID:
            return "stranger"
        invitation = row_of(rows, Invitation, "invitations", self.room, mid)
        return standing(self._member(rows, mid), self._ban(rows, mid), invitation, self.now_ms)

    def _check(self, rows: Rows, *, target_rank: int = 0, is_own: bool = False) -> list[Draft]:
        """Pass, or raise; what is to be audited."""
        actor, room = self._as_now(rows), self._room(rows)
        is_privileged = check(self.operation, actor, room, self._standing(rows), target_rank=target_rank, is_own=is_own)
        assert room is not None, "who passes passes into a room"
        if room.dismissed:
            raise BadRequest("the room is dismissed: nothing happens in it any more")
        return [self._audited()] if is_privileged else []

    def _audited(self) -> Draft:
        actor = self.actor
        fact = AdminActed(verb=self.operation, role=actor.role, room=self.room, mid=self.mid, detail=self._detail())
        return draft(AUDIT, fact, actor.mid, key=self.key)

    def _detail(self) -> str:
        """What the audit says of it beside the operation, the room and the person."""
        return ""

    def _refuse_direct(self) -> None:
        """Of a direct conversation nobody is told more than its name says."""
        if direct_pair(self.room) is not None:
            raise BadRequest(TWO)

    def _target(self, rows: Rows) -> tuple[Member, list[Draft]]:
        """The member that it is done to, whom the actor must be above; and what is to be audited."""
        assert self.mid is not None
        member = self._member(rows, self.mid)
        audited = self._check(rows, target_rank=0 if member is None else RANK[member.role])
        return self._in_it(member), audited

    def _in_it(self, member: Member | None) -> Member:
        """The same, if there is one: asked once it is known that the actor may do this to somebody in the room."""
        if member is None:
            raise NoSuchRoom if self.actor.role == "service" else BadRequest("this person is not in the room")
        return member

    def _refuse_raising_oneself(self, role: Role, audited: Sequence[Draft]) -> None:
        """By privilege alone (then there is something to be audited) nobody gives itself a rank above member."""
        if audited and self.mid == self.actor.mid and RANK[role] > Rank.MEMBER:
            raise Forbidden("nobody raises himself")

    def _refuse_gone(self, rows: Rows, role: Role) -> None:
        """Who never comes back is made owner of nothing: an account that was given up, and a guest, but by services. The decision has
        named its `owner_keys`."""
        if role != "owner" or self.mid is None:
            return
        account = roles.account_of(rows, self.mid)
        if account is not None and account.state == DEACTIVATED:
            raise BadRequest("this person has given its account up")
        if self.mid < 0 and self.actor.role != "service":
            raise BadRequest("a guest never comes back once its login is over, and is given no room")

    def _check_voice(self, rows: Rows, *, answers: bool = False) -> None:
        """Pass who may send here now; slow mode is not asked, because what asks this is no message. With `answers` the others may where
        only admins write. Its rows must have been named. Raises what a send would be refused with."""
        rules = row_of(rows, Restriction, "restrictions", self.room)
        if rules is not None and answers:
            rules = rules._replace(writers="members")
        refused = refusal(self._member(rows, self.actor.mid), rules, None, self.now_ms)
        if refused is not None:
            raise refused

    def _check_place(self, room: Room) -> None:
        if room.members_max and room.members >= room.members_max:
            raise Forbidden(f"the room is full: {room.members_max} members")

    def _refuse_blocked(self, rows: Rows) -> None:
        """Whoever has blocked the actor is neither invited nor brought in by it. The decision has named their `block_keys`.

        Who is trusted on the platform, here and not only by its token, is asked for no leave."""
        if self.actor.role in PRIVILEGED:
            return
        for name, (mid, *_) in self.keys:
            if name == "blocks" and rows[name, (mid, self.actor.mid)] is not None:
                raise Forbidden(f"mid {mid} takes nothing from you")

    # --- what happens ---

    def _comes_in(self, rows: Rows, mid: int, role: Role = "member", *, is_wanted: bool = False) -> list[Draft]:
        """The join of somebody who is no member, and that it is muted still, if it is. `is_wanted`: it has asked for it, though
        somebody else decides.

        Raises TooManyRooms, which says whose. How many rooms somebody is in is told to nobody else, and other people bring nobody into
        so many that none would be left for what it enters itself.
        """
        count = row_of(rows, RoomCount, "room_counts", mid)
        inside = (0 if count is None else count.rooms) - self.dismissed.get(mid, 0)
        if mid == self.actor.mid:
            if inside >= self.rooms_max:
                raise too_many_rooms(mid, self.rooms_max)
        else:
            is_free = is_wanted or self.actor.role in ("service", *PRIVILEGED)
            if inside >= (self.rooms_max if is_free else brought_max(self.rooms_max)):
                raise TooManyRooms(f"mid {mid} cannot be brought into more rooms")
        joins = self._in_room(MemberJoined(room=self.room, mid=mid, role=role))
        muted = row_of(rows, Muted, "mutes", self.room, mid)
        if muted is None or muted.until_ms <= self.now_ms:
            return [joins]
        again = MemberMuted(room=self.room, mid=mid, until_ms=muted.until_ms)
        return [joins, draft(ROOM + self.room, again, SERVICE_MID)]

    def _in_room(self, fact: Fact) -> Draft:
        return draft(ROOM + self.room, fact, self.actor.mid, key=self.key)

    def _in_user(self, mid: int, fact: Fact) -> Draft:
        return draft(f"{USER}{mid}", fact, self.actor.mid, key=self.key)


class LookIn(RoomDecision):
    """Somebody looks at what is in the room, by what it is on the platform; that is audited. Nothing happens where it need not be."""

    __slots__ = ("operation",)

    def __init__(self, operation: str, room: str, actor: Actor) -> None:
        # The room is there, and so is its stream: what this may begin is that of audits only.
        super().__init__(room, actor, creates=True)
        self.operation = operation

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One line of the audit, or none. Of a room that is dismissed, too."""
        is_privileged = check(self.operation, self._as_now(rows), self._room(rows), self._standing(rows))
        return [self._audited()] if is_privileged else []


class SeeMore(Decision):
    """Somebody is shown more of these people (in this room) than they show to it, by what it is on the platform; that is audited.

    Nothing happens if it has no privilege any more: then it is to be shown what anybody would be. Raises Unauthenticated for whose
    account is suspended or given up.
    """

    __slots__ = ("actor", "mids", "operation", "room")

    def __init__(self, operation: str, actor: Actor, mids: Sequence[int], room: str = "") -> None:
        super().__init__(roles.keys(actor), [AUDIT], creates=True)
        self.operation, self.actor, self.mids, self.room = operation, actor, tuple(mids), room

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One line of the audit, or none."""
        actor = roles.now(rows, self.actor)
        if actor.role not in PRIVILEGED:
            return []
        mid, detail = whom(self.mids)
        fact = AdminActed(verb=self.operation, role=actor.role, room=self.room, mid=mid, detail=detail)
        return [draft(AUDIT, fact, actor.mid)]


def whom(mids: Sequence[int]) -> tuple[int | None, str]:
    """Of whom an act is, in its line of the audit: one, or of many people how many, and the first. The log keeps it for ever."""
    if len(mids) <= 1:
        return (mids[0] if mids else None), ""
    first = ",".join(map(str, mids[:MIDS_TOLD]))
    return None, first if len(mids) <= MIDS_TOLD else f"{len(mids)} people: {first},…"


# --- the room ----------------------------------------------------------------------------------------------------------------


class CreateRoom(RoomDecision):
    """A room, its creator as owner (a service makes rooms without), and its first members. With `by_privilege` only what the actor is
    on the platform lets it make this room. Raises RoomExists."""

    __slots__ = ("by_privilege", "members", "settings")
    operation = "rooms.create"

    def __init__(
        self,
        room: str,
        actor: Actor,
        *,
        settings: Settings = Settings(),  # noqa: B008 - it is immutable
        members: Sequence[int] = (),
        by_privilege: bool = False,
        key: str = "",
    ) -> None:
        # The owner first; nobody twice.
        people = tuple(dict.fromkeys((*((actor.mid,) if actor.mid != SERVICE_MID else ()), *members)))
        joins = (key for mid in people for key in join_keys(room, mid))
        super().__init__(
            room, actor, keys=[("restrictions", (room,)), *joins, *block_keys(people, actor)], creates=True, key=key
        )
        self.settings, self.members, self.by_privilege = settings, people, by_privilege

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """The room, its rules, then its members."""
        table().check(self.operation, self._as_now(rows))
        if self.by_privilege and self.actor.role not in PRIVILEGED:
            raise Forbidden("this room is not yours to make")
        if room_type(self.room) == DIRECT:
            raise BadRequest("a direct conversation is opened with the person that it is with")
        if self._room(rows) is not None:
            raise RoomExists
        settings, room = self.settings, self.room
        if settings.members_max and len(self.members) > settings.members_max:
            raise BadRequest(f"these are more than {settings.members_max} members")
        self._refuse_blocked(rows)
        public = settings.public is not False
        made = RoomCreated(room=room, public=public, history=settings.history or "joined", title=settings.title or "")
        # What is as it comes need not be said.
        rules = Settings(
            topic=settings.topic or None,
            approval=settings.approval or None,
            writers="admins" if settings.writers == "admins" else None,
            slow_mode_s=settings.slow_mode_s or None,
            members_max=settings.members_max or None,
        )
        return [
            self._in_room(made),
            *([self._in_room(RoomChanged(room=room, **rules._asdict()))] if rules != Settings() else ()),
            *(
                event
                for mid in self.members
                for event in self._comes_in(rows, mid, "owner" if mid == self.actor.mid else "member")
            ),
        ]


class ChangeRoom(RoomDecision):
    """Other settings of the room. What is so already is not said again."""

    __slots__ = ("settings",)
    operation = "rooms.change"

    def __init__(self, room: str, actor: Actor, settings: Settings) -> None:
        super().__init__(room, actor, keys=[("restrictions", (room,))])
        self.settings = settings

    def _detail(self) -> str:
        return ", ".join(name for name, value in self.settings._asdict().items() if value is not None)

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One change, or none."""
        self._refuse_direct()
        audited = self._check(rows)
        room = self._there(rows)
        new = {
            name: value for name, value in self.settings._asdict().items() if value not in (None, getattr(room, name))
        }
        if not new:
            return []
        return [self._in_room(RoomChanged(room=self.room, **new)), *audited]


class MuteAll(RoomDecision):
    """Nobody but admins and owners sends until then; 0 ends it."""

    __slots__ = ("until_ms",)
    operation = "rooms.mute_all"

    def __init__(self, room: str, actor: Actor, until_ms: int) -> None:
        super().__init__(room, actor, keys=[("restrictions", (room,))])
        self.until_ms = until_ms

    def _detail(self) -> str:
        return f"until {self.until_ms}"

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One mute, or none."""
        self._refuse_direct()
        audited = self._check(rows)
        if self._there(rows).muted_until_ms == self.until_ms:
            return []
        return [self._in_room(RoomMuted(room=self.room, until_ms=self.until_ms)), *audited]


class DismissRoom(RoomDecision):
    """The room is no more, for everybody. Nothing is written for its members: the room itself says it."""

    __slots__ = ()
    operation = "rooms.dismiss"

    def __init__(self, room: str, actor: Actor) -> None:
        super().__init__(room, actor, keys=[("restrictions", (room,))])

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One end."""
        self._refuse_direct()
        audited = self._check(rows)
        return [self._in_room(RoomDismissed(room=self.room)), *audited]


# --- coming in ---------------------------------------------------------------------------------------------------------------


class _Joining(RoomDecision):
    """A decision that makes somebody a member. `existing` is the membership if there was one: then nothing happens."""

    __slots__ = ("existing",)

    def __init__(
        self, room: str, actor: Actor, mid: int, *, keys: Sequence[Key] = (), creates: bool = False, key: str = ""
    ) -> None:
        super().__init__(room, actor, mid, keys=[*join_keys(room, mid), *keys], creates=creates, key=key)
        self.existing: Member | None = None

    def _joined(self, rows: Rows, role: Role = "member", *, is_wanted: bool = False) -> list[Draft]:
        assert self.mid is not None
        return self._comes_in(rows, self.mid, role, is_wanted=is_wanted)

    def _refuse_banned(self, rows: Rows) -> None:
        assert self.mid is not None
        if self._ban(rows, self.mid) is not None:
            raise Forbidden("this person is banned from the room")


class Join(_Joining):
    """Somebody joins by itself. `may_create`: a room that is not there begins with this join, and belongs to who joins. A private room,
    like one that does not exist, is NoSuchRoom, but for who is invited. Joining again changes nothing."""

    __slots__ = ("may_create",)
    operation = "rooms.join"

    def __init__(self, room: str, actor: Actor, *, may_create: bool, key: str = "") -> None:
        super().__init__(room, actor, actor.mid, creates=may_create, key=key)
        self.may_create = may_create

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One join, or none."""
        room = self._room(rows)
        if room is None:
            if not self.may_create or room_type(self.room) == DIRECT:
                raise NoSuchRoom
            return self._joined(rows, "owner")
        if direct_pair(self.room) is not None and self._member(rows, self.actor.mid) is None:
            raise NoSuchRoom
        audited = self._check(rows)
        self.existing = self._member(rows, self.actor.mid)
        if self.existing is not None:
            return []
        if room.approval and room.public and not audited and self._standing(rows) != "invited":
            raise Forbidden("who wants to join this room must ask, and be let in")
        self._check_place(room)
        return [*self._joined(rows), *audited]


class AddMember(_Joining):
    """Somebody brings `mid` in, who has not blocked it. A member stays as it is."""

    __slots__ = ("role",)
    operation = "rooms.add"

    def __init__(self, room: str, mid: int, actor: Actor, *, role: Role = "member") -> None:
        super().__init__(room, actor, mid, keys=[*block_keys([mid], actor), *owner_keys(mid, role)])
        self.role = role

    def _detail(self) -> str:
        return self.role

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One join, or none."""
        assert self.mid is not None
        self._refuse_direct()
        audited = self._check(rows, target_rank=RANK[self.role])
        self.existing = self._member(rows, self.mid)
        if self.existing is not None:
            return []
        self._refuse_raising_oneself(self.role, audited)
        self._refuse_gone(rows, self.role)
        self._refuse_banned(rows)
        self._refuse_blocked(rows)
        self._check_place(self._there(rows))
        return [*self._joined(rows, self.role), *audited]


class AcceptInvitation(_Joining):
    """Who is invited comes in. Accepting again changes nothing."""

    __slots__ = ()
    operation = "rooms.accept"

    def __init__(self, room: str, actor: Actor, *, key: str = "") -> None:
        super().__init__(room, actor, actor.mid, key=key)

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One join, or none."""
        self._check(rows)
        self.existing = self._member(rows, self.actor.mid)
        if self.existing is not None:
            return []
        self._check_place(self._there(rows))
        return self._joined(rows)


class ApproveRequest(_Joining):
    """Somebody lets in `mid`, who asked for it."""

    __slots__ = ()
    operation = "rooms.approve"

    def __init__(self, room: str, mid: int, actor: Actor) -> None:
        super().__init__(room, actor, mid)

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One join, or none."""
        assert self.mid is not None
        self._refuse_direct()
        audited = self._check(rows)
        self.existing = self._member(rows, self.mid)
        if self.existing is not None:
            return []
        if row_of(rows, JoinRequest, "join_requests", self.room, self.mid) is None:
            raise BadRequest("this person does not ask to join")
        self._check_place(self._there(rows))
        return [*self._joined(rows, is_wanted=True), *audited]


class Invite(RoomDecision):
    """Somebody invites `mid`, who has not blocked it, and is told. Nothing happens if that person is invited or a member already."""

    __slots__ = ()
    operation = "rooms.invite"

    def __init__(self, room: str, mid: int, actor: Actor) -> None:
        keys = [*standing_keys(room, mid), *block_keys([mid], actor)]
        super().__init__(room, actor, mid, keys=keys, streams=[f"{USER}{mid}"])

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One invitation, or none."""
        assert self.mid is not None
        self._refuse_direct()
        audited = self._check(rows)
        if self._ban(rows, self.mid) is not None:
            raise Forbidden("this person is banned from the room")
        if self._member(rows, self.mid) or row_of(rows, Invitation, "invitations", self.room, self.mid):
            return []
        self._refuse_blocked(rows)
        return [self._in_user(self.mid, Invited(room=self.room, mid=self.mid)), *audited]


class Uninvite(RoomDecision):
    """Somebody takes the invitation of `mid` back."""

    __slots__ = ()
    operation = "rooms.uninvite"

    def __init__(self, room: str, mid: int, actor: Actor) -> None:
        super().__init__(room, actor, mid, keys=standing_keys(room, mid), streams=[f"{USER}{mid}"])

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One withdrawal, or none."""
        assert self.mid is not None
        audited = self._check(rows)
        if row_of(rows, Invitation, "invitations", self.room, self.mid) is None:
            return []
        return [self._in_user(self.mid, InvitationWithdrawn(room=self.room, mid=self.mid)), *audited]


class DeclineInvitation(RoomDecision):
    """Who is invited does not want to come in."""

    __slots__ = ()
    operation = "rooms.decline"

    def __init__(self, room: str, actor: Actor, *, key: str = "") -> None:
        super().__init__(room, actor, actor.mid, streams=[f"{USER}{actor.mid}"], key=key)

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One refusal, or none."""
        self._check(rows)
        mid = self.actor.mid
        if row_of(rows, Invitation, "invitations", self.room, mid) is None:
            return []
        return [self._in_user(mid, InvitationDeclined(room=self.room, mid=mid))]


class AskToJoin(RoomDecision):
    """Somebody asks to be let in. Nothing happens if it asks already, or is a member."""

    __slots__ = ("text",)
    operation = "rooms.ask"

    def __init__(self, room: str, actor: Actor, text: str, *, key: str = "") -> None:
        super().__init__(room, actor, actor.mid, keys=[("join_requests", (room, actor.mid))], key=key)
        self.text = text

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One request, or none."""
        mid = self.actor.mid
        if direct_pair(self.room) is not None and self._member(rows, mid) is None:
            raise NoSuchRoom
        audited = self._check(rows)
        if self._member(rows, mid) or row_of(rows, JoinRequest, "join_requests", self.room, mid):
            return []
        room = self._there(rows)
        if room.public and not room.approval:
            raise BadRequest("anybody may join this room: there is nothing to ask for")
        return [self._in_room(JoinRequested(room=self.room, mid=mid, text=self.text)), *audited]


class RejectRequest(RoomDecision):
    """Somebody does not let in `mid`, who asked for it, and is told: it sees nothing of what happens in the room."""

    __slots__ = ()
    operation = "rooms.reject"

    def __init__(self, room: str, mid: int, actor: Actor) -> None:
        super().__init__(room, actor, mid, keys=[("join_requests", (room, mid))], streams=[f"{USER}{mid}"])

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One rejection, said to the person and to the room, or none."""
        assert self.mid is not None
        audited = self._check(rows)
        if row_of(rows, JoinRequest, "join_requests", self.room, self.mid) is None:
            return []
        rejected = JoinRejected(room=self.room, mid=self.mid)
        return [self._in_user(self.mid, rejected), self._in_room(rejected), *audited]


# --- going out ---------------------------------------------------------------------------------------------------------------


class Leave(RoomDecision):
    """Somebody leaves by itself. Who is no member gets NoSuchRoom. The last owner stays as long as others are in the room: it makes
    somebody else owner first, or dismisses the room."""

    __slots__ = ()
    operation = "rooms.leave"

    def __init__(self, room: str, actor: Actor, *, key: str = "") -> None:
        super().__init__(room, actor, actor.mid, keys=leave_keys(room, actor.mid), key=key)

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One leave."""
        self._refuse_direct()
        mid = self.actor.mid
        self._check(rows)
        if self._member(rows, mid) is None:
            raise NoSuchRoom
        room = self._there(rows)
        if room.owners == (mid,) and room.members > 1:
            raise Forbidden("the last owner makes somebody else owner first, or dismisses the room")
        return [self._in_room(MemberLeft(room=self.room, mid=mid))]


class GuestLeaves(RoomDecision):
    """The login of this guest is over, so it is in the room no longer. That is a leave, by nobody's wish.

    As for all who leave, the last owner leaves nobody behind without one. Nobody is asked: the first of `heirs` in `heir_order` is the
    owner from here on. They are the first of the others, as far as is known; if none of them is a member any more, nothing happens, and
    it is to be tried again with those of now. Nothing happens either to who is no member, and in rooms that are direct or dismissed.
    """

    __slots__ = ("heirs",)

    def __init__(self, room: str, mid: int, *, heirs: Sequence[int] = ()) -> None:
        theirs = [key for heir in heirs for key in (member_key(room, heir), roles.account_key(heir))]
        super().__init__(room, SERVICE_ACTOR, mid, keys=[*leave_keys(room, mid), *theirs])
        self.heirs = tuple(heirs)

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One leave, behind the raising of the owner to come; or nothing."""
        assert self.mid is not None
        room = self._room(rows)
        if room is None or room.dismissed or self._member(rows, self.mid) is None or direct_pair(self.room) is not None:
            return []
        leaves = self._in_room(MemberLeft(room=self.room, mid=self.mid))
        if room.owners != (self.mid,) or room.members == 1:
            return [leaves]
        there = [
            (heir_order(heir, member, roles.account_of(rows, heir)), heir)
            for heir in self.heirs
            if (member := self._member(rows, heir)) is not None
        ]
        if not there:
            return []
        return [self._in_room(RoleChanged(room=self.room, mid=min(there)[1], role="owner")), leaves]


def heir_order(mid: int, member: Member, account: Account | None) -> tuple[bool, bool, bool, int]:
    """Who comes first in this owns a room that its last owner leaves without a word: admins, then who has been there longest. Who never
    comes back owns it only where nobody else is: guests, and last of all accounts that were given up."""
    is_given_up = account is not None and account.state == DEACTIVATED
    return is_given_up, mid < 0, member.role != "admin", member.since


class RemoveMember(RoomDecision):
    """Somebody of higher rank, or a service, removes `mid`."""

    __slots__ = ()
    operation = "rooms.kick"

    def __init__(self, room: str, mid: int, actor: Actor) -> None:
        super().__init__(room, actor, mid, keys=leave_keys(room, mid))

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One removal."""
        assert self.mid is not None
        self._refuse_direct()
        _, audited = self._target(rows)
        return [self._in_room(MemberRemoved(room=self.room, mid=self.mid)), *audited]


class BanMember(RoomDecision):
    """Somebody of higher rank, or a service, keeps `mid` out until then (0: for ever). A member is removed in the same step; an
    invitation and a request to join end, and the person is told."""

    __slots__ = ("reason", "until_ms")
    operation = "rooms.ban"

    def __init__(self, room: str, mid: int, actor: Actor, *, until_ms: int = 0, reason: str = "") -> None:
        super().__init__(room, actor, mid, keys=join_keys(room, mid), streams=[f"{USER}{mid}"])
        self.until_ms, self.reason = until_ms, reason

    def _detail(self) -> str:
        return self.reason

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """A removal and a ban, the ban only, or nothing if it is so already."""
        assert self.mid is not None
        self._refuse_direct()
        member = self._member(rows, self.mid)
        audited = self._check(rows, target_rank=0 if member is None else RANK[member.role])
        if self.mid == self.actor.mid:
            raise BadRequest("nobody bans itself")
        if 0 < self.until_ms <= self.now_ms:
            raise BadRequest("until_ms has passed already")
        ban = self._ban(rows, self.mid)
        if ban is not None and (ban.until_ms, ban.reason) == (self.until_ms, self.reason):
            return []
        banned = MemberBanned(room=self.room, mid=self.mid, until_ms=self.until_ms, reason=self.reason)
        removed = [] if member is None else [self._in_room(MemberRemoved(room=self.room, mid=self.mid))]
        return [*self._ended(rows, self.mid), *removed, self._in_room(banned), *audited]

    def _ended(self, rows: Rows, mid: int) -> list[Draft]:
        """What the person waits for no longer, as it would be told without a ban."""
        invitation = row_of(rows, Invitation, "invitations", self.room, mid)
        request = row_of(rows, JoinRequest, "join_requests", self.room, mid)
        return [
            *([self._in_user(mid, InvitationWithdrawn(room=self.room, mid=mid))] if invitation else ()),
            *([self._in_user(mid, JoinRejected(room=self.room, mid=mid))] if request else ()),
        ]


class UnbanMember(RoomDecision):
    """Somebody lets `mid` come in again."""

    __slots__ = ()
    operation = "rooms.unban"

    def __init__(self, room: str, mid: int, actor: Actor) -> None:
        super().__init__(room, actor, mid, keys=[("bans", (room, mid))])

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """The end of a ban, or nothing."""
        assert self.mid is not None
        audited = self._check(rows)
        if row_of(rows, Ban, "bans", self.room, self.mid) is None:
            return []
        return [self._in_room(MemberUnbanned(room=self.room, mid=self.mid)), *audited]


# --- ranks -------------------------------------------------------------------------------------------------------------------


class SetRole(RoomDecision):
    """Somebody above both the old and the new role, or a service, changes the role of `mid`. Who has one may step down by itself; the
    last owner makes somebody else owner instead."""

    __slots__ = ("role",)
    operation = "rooms.set_role"

    def __init__(self, room: str, mid: int, actor: Actor, role: Role) -> None:
        super().__init__(room, actor, mid, keys=[member_key(room, mid), *owner_keys(mid, role)])
        self.role = role

    def _detail(self) -> str:
        return self.role

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One change, or none if it is so already."""
        assert self.mid is not None
        self._refuse_direct()
        member = self._member(rows, self.mid)
        rank = 0 if member is None else max(RANK[member.role], RANK[self.role])
        steps_down = self.mid == self.actor.mid and member is not None and RANK[self.role] < RANK[member.role]
        audited = self._check(rows, target_rank=rank, is_own=steps_down)
        if self._in_it(member).role == self.role:
            return []
        if steps_down and not audited and self._there(rows).owners == (self.mid,):
            raise Forbidden("the last owner makes somebody else owner, or dismisses the room")
        self._refuse_raising_oneself(self.role, audited)
        self._refuse_gone(rows, self.role)
        return [self._in_room(RoleChanged(room=self.room, mid=self.mid, role=self.role)), *audited]


class TransferRoom(RoomDecision):
    """`mid`, a member, owns the room from here on; those of `former` who own it become admins. A person gives away its own. Nobody
    gives a room to who never comes back: to an account that was given up, or to a guest, but for services."""

    __slots__ = ("former",)
    operation = "rooms.transfer"

    def __init__(self, room: str, mid: int, actor: Actor, *, former: Sequence[int]) -> None:
        people = [member_key(room, one) for one in (mid, *former)]
        super().__init__(room, actor, mid, keys=[*people, *owner_keys(mid, "owner")])
        self.former = tuple(former)

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """The new owner, then the former ones: there is an owner at every place in the log."""
        assert self.mid is not None
        self._refuse_direct()
        audited = self._check(rows)
        self._in_it(self._member(rows, self.mid))
        self._refuse_raising_oneself("owner", audited)
        self._refuse_gone(rows, "owner")
        owners = self._there(rows).owners
        raised = [] if self.mid in owners else [RoleChanged(room=self.room, mid=self.mid, role="owner")]
        lowered = [
            RoleChanged(room=self.room, mid=one, role="admin")
            for one in self.former
            if one in owners and one != self.mid
        ]
        happened = [self._in_room(fact) for fact in (*raised, *lowered)]
        return [*happened, *audited] if happened else []


class Mute(RoomDecision):
    """Somebody of higher rank, or a service, keeps `mid` from sending until then, whether it stays or comes back; 0 ends it."""

    __slots__ = ("until_ms",)
    operation = "rooms.mute"

    def __init__(self, room: str, mid: int, actor: Actor, until_ms: int) -> None:
        super().__init__(room, actor, mid, keys=[member_key(room, mid), ("mutes", (room, mid))])
        self.until_ms = until_ms

    def _detail(self) -> str:
        return f"until {self.until_ms}"

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One mute."""
        assert self.mid is not None
        self._refuse_direct()
        _, audited = self._target(rows)
        return [self._in_room(MemberMuted(room=self.room, mid=self.mid, until_ms=self.until_ms)), *audited]


def too_many_rooms(mid: int, rooms_max: int) -> TooManyRooms:
    """Who is in too many; this is for nobody else to know."""
    return TooManyRooms(f"mid {mid} is in {rooms_max} rooms already, and nobody may be in more")


def brought_max(rooms_max: int) -> int:
    """How many rooms somebody is in when other people bring it into no more: half of those that it may be in, rounded up."""
    return (rooms_max + 1) // 2


# --- two people --------------------------------------------------------------------------------------------------------------


class OpenDirect(RoomDecision):
    """The direct conversation of `actor` and `mid`: one room for the two, made by whoever comes first. Opening it again changes
    nothing (`existing` is the actor's membership), and neither does a block; but where one of the two has blocked the other, none is
    made. It counts as any other room: of who is brought into it others fill half of its rooms. What is open stays so."""

    __slots__ = ("existing",)
    operation = "direct.open"

    def __init__(self, mid: int, actor: Actor, *, key: str = "") -> None:
        me = actor.mid
        room = direct_room(me, mid)
        blocks: list[Key] = [("blocks", (me, mid)), ("blocks", (mid, me))]
        keys = [*join_keys(room, me), *join_keys(room, mid), *blocks]
        super().__init__(room, actor, mid, keys=keys, creates=True, key=key)
        self.existing: Member | None = None

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """A room and its two members, or nothing."""
        assert self.mid is not None
        table().check(self.operation, self._as_now(rows))
        me = self.actor.mid
        if me == self.mid:
            raise BadRequest("a direct conversation is with somebody else")
        missing = [mid for mid in (me, self.mid) if self._member(rows, mid) is None]
        if not missing:
            self.existing = self._member(rows, me)
            return []
        if row_of(rows, Block, "blocks", self.mid, me):
            raise Forbidden("this person takes no messages from you")
        if row_of(rows, Block, "blocks", me, self.mid):
            raise Forbidden("you have blocked this person")
        made = RoomCreated(room=self.room, public=False, history="all")
        return [
            *([self._in_room(made)] if self._room(rows) is None else ()),
            *(event for mid in missing for event in self._comes_in(rows, mid)),
        ]


class BlockPerson(Decision):
    """`actor` takes no direct messages of `mid` any more."""

    __slots__ = ("actor", "key", "mid")

    def __init__(self, mid: int, actor: Actor, *, key: str = "") -> None:
        super().__init__(_block_keys(actor.mid, mid), [f"{USER}{actor.mid}"])
        self.mid, self.actor, self.key = mid, actor, key

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One block, or none."""
        by, mid = self.actor.mid, self.mid
        if by == mid:
            raise BadRequest("nobody blocks itself")
        if row_of(rows, Block, "blocks", by, mid) is not None:
            return []
        return [draft(f"{USER}{by}", PersonBlocked(by=by, mid=mid), by, key=self.key)]


class UnblockPerson(Decision):
    """`actor` takes direct messages of `mid` again."""

    __slots__ = ("actor", "key", "mid")

    def __init__(self, mid: int, actor: Actor, *, key: str = "") -> None:
        super().__init__(_block_keys(actor.mid, mid), [f"{USER}{actor.mid}"])
        self.mid, self.actor, self.key = mid, actor, key

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """The end of a block, or nothing."""
        by, mid = self.actor.mid, self.mid
        if row_of(rows, Block, "blocks", by, mid) is None:
            return []
        return [draft(f"{USER}{by}", PersonUnblocked(by=by, mid=mid), by, key=self.key)]


class ChooseVisibility(Decision):
    """`actor` chooses who may see whether it is online. Choosing the same again changes nothing."""

    __slots__ = ("actor", "choice", "key")

    def __init__(self, choice: VisibleTo, actor: Actor, *, key: str = "") -> None:
        super().__init__([("visibility", (actor.mid,))], [f"{USER}{actor.mid}"], creates=True)
        self.choice, self.actor, self.key = choice, actor, key

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One choice, or none."""
        mid = self.actor.mid
        row = row_of(rows, Visibility, "visibility", mid)
        if self.choice == ("everybody" if row is None else row.choice):
            return []
        return [draft(f"{USER}{mid}", VisibilityChosen(mid=mid, choice=self.choice), mid, key=self.key)]


def _block_keys(by: int, mid: int) -> list[Key]:
    return [("blocks", (by, mid)), member_key(direct_room(by, mid), mid)]


# --- attachments ---------------------------------------------------------------------------------------------------------------


class StoreAttachment(RoomDecision):
    """`actor` has put a file into the store, may send in this room now, and has not stored too much today.

    Raises NoSuchRoom, Forbidden, Muted, and RateLimited with the time until tomorrow.
    """

    __slots__ = ("bytes_per_day_max", "fact")
    operation = "attachments.store"

    def __init__(self, actor: Actor, fact: AttachmentStored, *, bytes_per_day_max: int, key: str = "") -> None:
        own: list[Key] = [] if actor.mid == SERVICE_MID else [("uploads", (actor.mid,))]
        keys: list[Key] = [("attachments", (fact.id,)), ("restrictions", (fact.room,)), *own]
        super().__init__(fact.room, actor, keys=keys, streams=[f"{USER}{actor.mid}"], creates=True, key=key)
        self.fact, self.bytes_per_day_max = fact, bytes_per_day_max

    def _detail(self) -> str:
        return self.fact.id

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One attachment."""
        mid, audited = self.actor.mid, self._check(rows)
        if mid != SERVICE_MID:
            if self._member(rows, mid) is not None:
                self._check_voice(rows)
            check_allowance(row_of(rows, Uploaded, "uploads", mid), self.fact.size, self.bytes_per_day_max, self.now_ms)
        return [self._in_user(mid, self.fact), *audited]


class RemoveAttachment(RoomDecision):
    """`actor` removes a file that `mid` stored for the room: its own, or one of somebody below.

    Raises NoSuchAttachment, NoSuchRoom (which callers tell as the former), Forbidden.
    """

    __slots__ = ("author", "id")
    operation = "attachments.remove"

    def __init__(self, id_: str, room: str, author: int, actor: Actor, *, key: str = "") -> None:
        keys: list[Key] = [("attachments", (id_,))]
        if author != SERVICE_MID:
            keys.append(member_key(room, author))
        super().__init__(room, actor, author, keys=keys, streams=[f"{USER}{author}"], key=key)
        self.id, self.author = id_, author

    def _detail(self) -> str:
        return self.id

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One removal."""
        row = row_of(rows, Attachment, "attachments", self.id)
        if row is None:
            raise NoSuchAttachment
        author = None if self.author == SERVICE_MID else self._member(rows, self.author)
        is_privileged = check(
            self.operation,
            self._as_now(rows),
            self._room(rows),
            self._standing(rows),
            target_rank=0 if author is None else RANK[author.role],
            is_own=row.mid == self.actor.mid,
        )
        removed = self._in_user(self.author, AttachmentRemoved(room=self.room, id=self.id))
        return [removed, *([self._audited()] if is_privileged else ())]


def check_allowance(uploaded: Uploaded | None, size: int, bytes_per_day_max: int, now_ms: int) -> None:
    """May somebody who stored this much store a file of this size today? Raises RateLimited, with the time until tomorrow."""
    stored = 0 if uploaded is None else uploaded.on(now_ms // DAY_MS)
    if stored + charged(size) > bytes_per_day_max:
        raise RateLimited(f"{bytes_per_day_max} bytes may be stored in a day", retry_after_ms=DAY_MS - now_ms % DAY_MS)
