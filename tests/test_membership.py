"""What people may decide about rooms and each other: given what happened, when somebody asks, then this happens. No database."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from imcore.amending import RecallMessage, Target
from imcore.config import load
from imcore.errors import BadRequest, Forbidden, ImcoreError, NoSuchRoom, TooManyRooms, Unauthenticated
from imcore.events.store import Decision, Rows
from imcore.events.types import (
    AUDIT,
    ROOM,
    USER,
    AdminActed,
    Fact,
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
    Recorded,
    Role,
    RoleChanged,
    RoomChanged,
    RoomCreated,
    RoomDismissed,
    RoomMuted,
    direct_pair,
    direct_room,
    registry,
)
from imcore.membership import (
    ROOMS_MAX,
    AcceptInvitation,
    AddMember,
    ApproveRequest,
    AskToJoin,
    BanMember,
    BlockPerson,
    ChangeRoom,
    CreateRoom,
    DeclineInvitation,
    DismissRoom,
    GuestLeaves,
    Invite,
    Join,
    Leave,
    LookIn,
    Mute,
    MuteAll,
    OpenDirect,
    RejectRequest,
    RemoveAttachment,
    RemoveMember,
    RoomDecision,
    SetRole,
    Settings,
    TransferRoom,
    UnbanMember,
    UnblockPerson,
    Uninvite,
    standing,
)
from imcore.permissions import SERVICE_ACTOR, Actor, PlatformRole, Standing, person, table
from imcore.projections.accounts import Account
from imcore.projections.attachments import Attachment
from imcore.projections.bans import Ban
from imcore.projections.inline import InlineProjections
from imcore.projections.invitations import Invitation
from imcore.projections.join_requests import JoinRequest
from imcore.projections.members import Member
from imcore.reacting import Pin
from imcore.roles import account_key

R = "group://r"
OWNER, ADMIN, MEMBER, STRANGER, OTHER = (person(mid) for mid in (1, 2, 3, 4, 5))
MODERATOR = Actor(9, "moderator")
NOW_MS = 1_000


class World:
    """The inline rows after what happened, and what is decided on them."""

    def __init__(self) -> None:
        self.inline = InlineProjections()
        self.rows: Rows = {}
        self.position = 0
        self.seqs: dict[str, int] = {}

    def when(self, decision: Decision) -> list[tuple[str, Fact]]:
        """What happens, stream and fact; the rows are what they are after it."""
        decision.now_ms = NOW_MS
        rows: Rows = {key: self.rows.get(key) for key in decision.keys}
        happened: list[tuple[str, Fact]] = []
        for made in decision.decide(rows):
            assert made.stream in decision.streams, "a decision names its streams"
            self.position += 1
            self.seqs[made.stream] = seq = self.seqs.get(made.stream, 0) + 1
            event = Recorded(
                self.position, made.stream, seq, 0, made.type, 1, made.mid, made.key, None, 0, 0, NOW_MS, made.body
            )
            self.inline.apply(rows, event)
            happened.append((made.stream, registry.parse(made.type, 1, made.body)))
        self.rows.update(rows)
        return happened

    def facts(self, decision: Decision) -> list[Fact]:
        return [fact for _, fact in self.when(decision)]

    def refusal(self, decision: Decision) -> type[ImcoreError] | None:
        before = dict(self.rows)
        try:
            self.when(decision)
        except ImcoreError as error:
            return type(error)
        self.rows = before
        return None


def given(*decisions: Decision) -> World:
    world = World()
    for decision in decisions:
        world.when(decision)
    return world


def a_room(settings: Settings = Settings(public=False)) -> World:  # noqa: B008 - it is immutable
    """A room with an owner, an admin and a member."""
    return given(
        CreateRoom(R, OWNER, settings=settings),
        AddMember(R, ADMIN.mid, OWNER, role="admin"),
        AddMember(R, MEMBER.mid, OWNER),
    )


# --- standings ---------------------------------------------------------------------------------------------------------------


def test_what_somebody_is_to_a_room_follows_from_three_rows() -> None:
    member, ban, invitation = Member("member", 1, 1, 0), Ban(1, 1, NOW_MS + 1, ""), Invitation(1, 1, 0)

    assert "owner" == standing(member._replace(role="owner", muted_until_ms=NOW_MS + 1), None, None, NOW_MS)
    assert "room_admin" == standing(member._replace(role="admin"), None, None, NOW_MS)
    assert "muted" == standing(member._replace(muted_until_ms=NOW_MS + 1), None, None, NOW_MS)
    assert "member" == standing(member._replace(muted_until_ms=NOW_MS), None, None, NOW_MS)
    assert "banned" == standing(None, ban, invitation, NOW_MS)
    assert "banned" == standing(None, ban._replace(until_ms=0), None, NOW_MS)
    assert "invited" == standing(None, ban._replace(until_ms=NOW_MS), invitation, NOW_MS)
    assert "stranger" == standing(None, None, None, NOW_MS)


# --- rooms -------------------------------------------------------------------------------------------------------------------


def test_a_room_is_made_with_its_rules_and_says_no_more_than_there_is_to_say() -> None:
    settings = Settings(title="t", writers="admins", slow_mode_s=5)

    assert [
        RoomCreated(room=R, title="t"),
        RoomChanged(room=R, writers="admins", slow_mode_s=5),
        MemberJoined(room=R, mid=1, role="owner"),
        MemberJoined(room=R, mid=7),
    ] == World().facts(CreateRoom(R, OWNER, settings=settings, members=[7, 1]))
    assert [RoomCreated(room=R)] == World().facts(CreateRoom(R, SERVICE_ACTOR))
    assert BadRequest is World().refusal(CreateRoom("direct://x", OWNER))
    assert BadRequest is World().refusal(CreateRoom(R, OWNER, settings=Settings(members_max=1), members=[7]))


def test_a_change_says_what_is_new_and_only_admins_make_it() -> None:
    world = a_room()

    assert [RoomChanged(room=R, topic="x")] == world.facts(ChangeRoom(R, ADMIN, Settings(topic="x", public=False)))
    assert [] == world.facts(ChangeRoom(R, ADMIN, Settings(topic="x")))
    assert Forbidden is world.refusal(ChangeRoom(R, MEMBER, Settings(topic="y")))
    assert NoSuchRoom is world.refusal(ChangeRoom(R, STRANGER, Settings(topic="y")))


def test_a_dismissed_room_is_there_for_nobody_and_its_name_is_never_free() -> None:
    world = a_room(Settings())
    assert Forbidden is world.refusal(DismissRoom(R, ADMIN))

    assert [RoomDismissed(room=R)] == world.facts(DismissRoom(R, OWNER))

    for decision in (
        Join(R, OTHER, may_create=True), Leave(R, MEMBER), RemoveMember(R, 3, OWNER), ChangeRoom(R, OWNER, Settings(title="t")),
        DismissRoom(R, OWNER),
    ):  # fmt: skip
        assert NoSuchRoom is world.refusal(decision), type(decision).__name__
    assert BadRequest is world.refusal(AddMember(R, 7, SERVICE_ACTOR))
    assert BadRequest is world.refusal(RemoveMember(R, 3, MODERATOR))
    assert world.refusal(CreateRoom(R, OWNER)) is not None


# --- owners ------------------------------------------------------------------------------------------------------------------


def test_the_last_owner_does_not_leave_others_behind() -> None:
    world = a_room()
    assert Forbidden is world.refusal(Leave(R, OWNER))

    assert [
        RoleChanged(room=R, mid=3, role="owner"), RoleChanged(room=R, mid=1, role="admin")
    ] == world.facts(TransferRoom(R, 3, OWNER, former=[1]))  # fmt: skip

    assert [MemberLeft(room=R, mid=1)] == world.facts(Leave(R, OWNER))
    alone = given(CreateRoom(R, OWNER))
    assert [MemberLeft(room=R, mid=1)] == alone.facts(Leave(R, OWNER))


def test_who_owns_a_room_after_a_guest_is_an_admin_or_who_has_been_there_longest() -> None:
    """People before guests, and whose account was given up last; whoever is named and is no member is none of them."""
    world = given(Join(R, person(-9), may_create=True))
    for mid in (6, -8, 5, 4, 3):
        world.when(AddMember(R, mid, SERVICE_ACTOR, role="admin" if mid in (4, 3) else "member"))
    world.rows[account_key(3)] = an_account("user", "deactivated")
    heirs = [3, -8, 5, 6, 4, 77]

    for owner, heir in ((-9, 4), (4, 6), (6, 5), (5, -8), (-8, 3)):
        there = [mid for mid in heirs if mid != owner]
        assert [
            RoleChanged(room=R, mid=heir, role="owner"), MemberLeft(room=R, mid=owner)
        ] == world.facts(GuestLeaves(R, owner, heirs=there)), owner  # fmt: skip
    assert [MemberLeft(room=R, mid=3)] == world.facts(GuestLeaves(R, 3))
    assert [] == world.facts(GuestLeaves(R, 3)), "it is no member any more"


def test_a_guest_who_owns_a_room_alone_stays_where_none_of_those_named_is() -> None:
    """There may be others, who are looked for again."""
    world = given(Join(R, person(-9), may_create=True), AddMember(R, 6, SERVICE_ACTOR))

    assert [] == world.facts(GuestLeaves(R, -9))
    assert [] == world.facts(GuestLeaves(R, -9, heirs=[77]))
    world.when(SetRole(R, 6, SERVICE_ACTOR, "owner"))
    assert [MemberLeft(room=R, mid=-9)] == world.facts(GuestLeaves(R, -9))
    assert [] == World().facts(GuestLeaves(R, -9)), "there is no room"


def test_nobody_raises_itself_or_others_as_high_as_itself() -> None:
    world = a_room()

    for decision in (
        SetRole(R, 2, ADMIN, "owner"), SetRole(R, 3, ADMIN, "admin"), SetRole(R, 3, MEMBER, "admin"), SetRole(R, 1, OWNER, "admin"),
        SetRole(R, 3, OWNER, "owner"), AddMember(R, 7, ADMIN, role="admin"), AddMember(R, 7, OWNER, role="owner"),
        RemoveMember(R, 2, ADMIN), RemoveMember(R, 1, ADMIN), Mute(R, 1, ADMIN, 9), BanMember(R, 1, ADMIN), BanMember(R, 2, ADMIN),
        TransferRoom(R, 2, ADMIN, former=[2]), DismissRoom(R, ADMIN), MuteAll(R, MEMBER, 9),
    ):  # fmt: skip
        assert Forbidden is world.refusal(decision), vars(type(decision))["operation"]
    assert [RoleChanged(room=R, mid=3, role="admin")] == world.facts(SetRole(R, 3, OWNER, "admin"))
    assert [RoomMuted(room=R, until_ms=9)] == world.facts(MuteAll(R, ADMIN, 9))
    assert [] == world.facts(MuteAll(R, ADMIN, 9))


# --- coming in ---------------------------------------------------------------------------------------------------------------


def test_who_is_invited_comes_in_once_and_is_told_in_its_own_stream() -> None:
    world = a_room()

    assert [(f"{USER}4", Invited(room=R, mid=4))] == world.when(Invite(R, 4, ADMIN))
    assert [] == world.when(Invite(R, 4, OWNER))
    assert [(ROOM + R, MemberJoined(room=R, mid=4))] == world.when(AcceptInvitation(R, STRANGER))
    assert [] == world.when(AcceptInvitation(R, STRANGER))
    assert NoSuchRoom is world.refusal(AcceptInvitation(R, OTHER))


def test_an_invitation_opens_a_private_room_to_a_plain_join() -> None:
    world = a_room()
    assert NoSuchRoom is world.refusal(Join(R, STRANGER, may_create=True))
    world.when(Invite(R, 4, ADMIN))

    assert [MemberJoined(room=R, mid=4)] == world.facts(Join(R, STRANGER, may_create=True))


def test_an_invitation_ends_when_it_is_declined_withdrawn_or_its_person_is_banned() -> None:
    endings: Sequence[tuple[Decision, list[Fact]]] = [
        (DeclineInvitation(R, STRANGER), [InvitationDeclined(room=R, mid=4)]),
        (Uninvite(R, 4, ADMIN), [InvitationWithdrawn(room=R, mid=4)]),
        (BanMember(R, 4, ADMIN), [InvitationWithdrawn(room=R, mid=4), MemberBanned(room=R, mid=4)]),
    ]
    for end, said in endings:
        world = a_room()
        world.when(Invite(R, 4, ADMIN))

        assert said == world.facts(end)

        assert NoSuchRoom is world.refusal(AcceptInvitation(R, STRANGER)), said
    assert Forbidden is world.refusal(Invite(R, 4, ADMIN)), "who is banned is not invited"


def test_where_members_are_approved_one_asks_and_is_let_in_or_not() -> None:
    world = a_room(Settings(approval=True))
    assert Forbidden is world.refusal(Join(R, STRANGER, may_create=True))

    assert [JoinRequested(room=R, mid=4, text="please")] == world.facts(AskToJoin(R, STRANGER, "please"))
    assert [] == world.facts(AskToJoin(R, STRANGER, "again"))
    assert Forbidden is world.refusal(ApproveRequest(R, 4, MEMBER))
    assert [MemberJoined(room=R, mid=4)] == world.facts(ApproveRequest(R, 4, ADMIN))
    assert [] == world.facts(ApproveRequest(R, 4, OWNER))
    assert BadRequest is world.refusal(ApproveRequest(R, 5, OWNER))
    world.when(AskToJoin(R, OTHER, ""))
    rejected = JoinRejected(room=R, mid=5)
    assert [("user:5", rejected), (f"room:{R}", rejected)] == world.when(RejectRequest(R, 5, ADMIN)), "and is told"
    assert [] == world.facts(RejectRequest(R, 5, ADMIN))
    assert BadRequest is a_room(Settings()).refusal(AskToJoin(R, STRANGER, ""))
    assert NoSuchRoom is a_room().refusal(AskToJoin(R, STRANGER, "")), "a private room is not there for strangers"


@pytest.mark.parametrize("way", ["join", "add", "accept", "approve"])
def test_a_room_takes_no_more_members_than_it_may_have(way: str) -> None:
    world = a_room(Settings(members_max=3, approval=way == "approve"))
    if way == "accept":
        world.when(Invite(R, 4, ADMIN))
    if way == "approve":
        world.when(AskToJoin(R, STRANGER, ""))
    coming: dict[str, Decision] = {
        "join": Join(R, STRANGER, may_create=False),
        "add": AddMember(R, 4, SERVICE_ACTOR),
        "accept": AcceptInvitation(R, STRANGER),
        "approve": ApproveRequest(R, 4, ADMIN),
    }

    assert Forbidden is world.refusal(coming[way])
    world.when(Leave(R, MEMBER))
    assert [MemberJoined(room=R, mid=4)] == world.facts(coming[way])


MINE = "group://mine"
WAYS: dict[str, Callable[[], RoomDecision]] = {
    "join": lambda: Join(R, STRANGER, may_create=False),
    "join that makes the room": lambda: Join("group://new", STRANGER, may_create=True),
    "add": lambda: AddMember(R, 4, ADMIN),
    "add by a service": lambda: AddMember(R, 4, SERVICE_ACTOR),
    "accept": lambda: AcceptInvitation(R, STRANGER),
    "approve": lambda: ApproveRequest(R, 4, ADMIN),
    "make a room": lambda: CreateRoom("group://new", STRANGER),
    "be brought into a new room": lambda: CreateRoom("group://new", OTHER, members=[4]),
    "be brought into a new room by a service": lambda: CreateRoom("group://new", SERVICE_ACTOR, members=[4]),
    "add by a moderator": lambda: AddMember(R, 4, MODERATOR),
    "open a direct room": lambda: OpenDirect(5, STRANGER),
    "be written to": lambda: OpenDirect(4, OTHER),
    "be written to by a moderator": lambda: OpenDirect(4, MODERATOR),
}
BY_PEOPLE = ("add", "be brought into a new room", "be written to")  # without asking
BY_ITSELF = ("join", "join that makes the room", "accept", "make a room", "open a direct room")


def in_one_room(way: str = "") -> World:
    """The stranger is in a room of its own, and before the door of the other."""
    world = a_room(Settings(approval=way == "approve"))
    world.when(CreateRoom(MINE, STRANGER))
    world.when(AskToJoin(R, STRANGER, "") if way == "approve" else Invite(R, 4, ADMIN))
    return world


@pytest.mark.parametrize("way", WAYS)
def test_nobody_is_in_more_rooms_than_a_person_may_whichever_way_it_comes_in(way: str) -> None:
    """And whoever does it is told whose rooms are too many; how many those are only who is in them."""
    world = in_one_room(way)
    told = r"^mid 4 is in 1 rooms already" if way in BY_ITSELF else r"^mid 4 cannot be brought into more rooms$"

    with pytest.raises(TooManyRooms, match=told):
        world.when(WAYS[way]().within(1))
    assert MemberJoined in map(type, world.facts(WAYS[way]().within(3 if way in BY_PEOPLE else 2)))


@pytest.mark.parametrize("way", WAYS)
def test_other_people_leave_everybody_half_of_its_rooms(way: str) -> None:
    """Of two the other is its own to enter. Whom it asked to let it in, a service and who looks after the server may fill it."""
    world = in_one_room(way)

    assert (TooManyRooms if way in BY_PEOPLE else None) is world.refusal(WAYS[way]().within(2))


def test_nobody_is_locked_out_by_what_others_do() -> None:
    world = in_one_room()
    for n in range(10):
        world.refusal(CreateRoom(f"group://{n}", OTHER, members=[4]).within(4))
        world.refusal(OpenDirect(4, person(100 + n)).within(4))

    assert 2 == len([key for key in world.rows if key[0] == "members" and key[1][1] == 4])
    for own in (AcceptInvitation(R, STRANGER), OpenDirect(3, STRANGER)):
        assert MemberJoined in map(type, world.facts(own.within(4)))


def test_direct_rooms_of_others_fill_half_of_ones_rooms_and_ones_own_fill_all() -> None:
    """Whichever of the two opens it: each is asked by its own number. Who has nothing left for others may write to them."""
    world = in_one_room()
    assert [MemberJoined(room=direct_room(5, 4), mid=mid) for mid in (5, 4)] == world.facts(
        OpenDirect(4, OTHER).within(3)
    )[1:]
    world.when(OpenDirect(4, OTHER).within(3))

    with pytest.raises(TooManyRooms, match=r"^mid 4 cannot be brought into more rooms$"):
        world.when(OpenDirect(4, person(6)).within(3))
    assert None is world.refusal(OpenDirect(6, STRANGER).within(3))
    world.when(OpenDirect(6, STRANGER).within(3))
    for again in (OpenDirect(4, person(6)), OpenDirect(6, STRANGER), OpenDirect(4, OTHER), OpenDirect(5, STRANGER)):
        assert [] == world.facts(again.within(1)), "what is open stays so"


def test_who_opens_a_direct_room_may_be_at_its_end_or_at_its_half() -> None:
    """The opener's own number is refused as its own, the other's as the other's."""
    world = in_one_room()
    world.when(CreateRoom("group://other", OTHER))

    assert TooManyRooms is world.refusal(OpenDirect(5, STRANGER).within(2))
    assert None is world.refusal(OpenDirect(5, STRANGER).within(3))
    with pytest.raises(TooManyRooms, match=r"^mid 4 is in 1 rooms already"):
        world.when(OpenDirect(5, STRANGER).within(1))


@pytest.mark.parametrize("end", ["leave", "kick", "ban"])
def test_whoever_is_out_of_one_room_may_come_into_another(end: str) -> None:
    world = in_one_room()
    world.when(AddMember(MINE, OTHER.mid, SERVICE_ACTOR, role="owner" if end == "leave" else "member"))
    who = STRANGER if end == "leave" else OTHER
    assert TooManyRooms is world.refusal(Join("group://new", who, may_create=True).within(1))
    ends = {"leave": Leave(MINE, who), "kick": RemoveMember(MINE, 5, STRANGER), "ban": BanMember(MINE, 5, STRANGER)}

    world.when(ends[end])

    assert None is world.refusal(Join("group://new", who, may_create=True).within(1))


def test_who_is_in_a_room_already_is_never_refused_for_the_number() -> None:
    """The setting may be less than it was, and that costs nobody a room."""
    world = in_one_room()
    world.when(OpenDirect(5, STRANGER))
    again = [
        Join(MINE, STRANGER, may_create=True), AddMember(MINE, 4, SERVICE_ACTOR), AcceptInvitation(MINE, STRANGER),
        ApproveRequest(MINE, 4, SERVICE_ACTOR), OpenDirect(5, STRANGER), OpenDirect(4, OTHER),
    ]  # fmt: skip

    for decision in again:
        assert [] == world.facts(decision.within(1))


def test_rooms_that_are_dismissed_do_not_count_once_somebody_has_looked() -> None:
    world = in_one_room()
    world.when(DismissRoom(MINE, STRANGER))
    joining = Join(R, STRANGER, may_create=False)

    assert TooManyRooms is world.refusal(joining.within(1))
    assert [4] == joining.comers
    assert [MemberJoined(room=R, mid=4)] == world.facts(joining.within(1, {4: 1}))


def test_the_limit_is_that_of_the_settings_where_nobody_says_otherwise() -> None:
    assert ROOMS_MAX == load().settings.rooms_per_user_max == Join(R, STRANGER, may_create=False).rooms_max


# --- going out ---------------------------------------------------------------------------------------------------------------


def test_a_ban_takes_a_member_out_and_keeps_it_out_as_long_as_it_holds() -> None:
    world = a_room(Settings())

    assert [
        MemberRemoved(room=R, mid=3), MemberBanned(room=R, mid=3, until_ms=NOW_MS + 1, reason="spam")
    ] == world.facts(BanMember(R, 3, ADMIN, until_ms=NOW_MS + 1, reason="spam"))  # fmt: skip
    assert [] == world.facts(BanMember(R, 3, ADMIN, until_ms=NOW_MS + 1, reason="spam"))
    assert Forbidden is world.refusal(Join(R, MEMBER, may_create=True))
    assert Forbidden is world.refusal(AddMember(R, 3, SERVICE_ACTOR))
    assert [MemberBanned(room=R, mid=4)] == world.facts(BanMember(R, 4, ADMIN)), "who is no member, too"
    assert [MemberUnbanned(room=R, mid=3)] == world.facts(UnbanMember(R, 3, ADMIN))
    assert [MemberJoined(room=R, mid=3)] == world.facts(Join(R, MEMBER, may_create=True))
    assert BadRequest is world.refusal(BanMember(R, 3, ADMIN, until_ms=NOW_MS))


def test_a_ban_that_is_over_keeps_nobody_out_and_is_forgotten_with_the_join() -> None:
    world = a_room(Settings())
    world.when(BanMember(R, 4, ADMIN, until_ms=NOW_MS + 1))
    assert world.rows["bans", (R, 4)] == Ban(world.position, 2, NOW_MS + 1, "")
    later = Join(R, STRANGER, may_create=False)
    rows: Rows = {key: world.rows.get(key) for key in later.keys}
    later.now_ms = NOW_MS + 1

    assert ["member_joined"] == [draft.type for draft in later.decide(rows)]


def test_of_a_private_room_the_banned_know_as_much_as_strangers() -> None:
    world = a_room()
    world.when(BanMember(R, 3, ADMIN))

    assert NoSuchRoom is world.refusal(Join(R, MEMBER, may_create=True))
    assert NoSuchRoom is world.refusal(AskToJoin(R, MEMBER, ""))


# --- moderators --------------------------------------------------------------------------------------------------------------


def test_what_a_moderator_does_by_privilege_alone_is_audited_in_the_same_step() -> None:
    world = a_room()

    assert [
        (ROOM + R, MemberRemoved(room=R, mid=1)),
        (AUDIT, AdminActed(verb="rooms.kick", role="moderator", room=R, mid=1)),
    ] == world.when(RemoveMember(R, 1, MODERATOR))
    assert [
        (ROOM + R, MemberJoined(room=R, mid=9)),
        (AUDIT, AdminActed(verb="rooms.join", role="moderator", room=R, mid=9)),
    ] == world.when(Join(R, MODERATOR, may_create=False))
    assert [(ROOM + R, MemberLeft(room=R, mid=9))] == world.when(Leave(R, MODERATOR)), "as everybody may"
    assert NoSuchRoom is world.refusal(AcceptInvitation(R, MODERATOR))
    assert NoSuchRoom is world.refusal(RemoveMember("group://none", 1, MODERATOR))


@pytest.mark.parametrize("role", ["moderator", "admin"])
def test_nobody_raises_itself_by_privilege_alone(role: PlatformRole) -> None:
    """Neither a stranger nor a member, nor an admin of the room; others it may raise, and may come in and step down."""
    me = Actor(9, role)
    world = a_room()
    above: tuple[Role, ...] = ("admin", "owner")

    for rank in above:
        assert Forbidden is world.refusal(AddMember(R, 9, me, role=rank)), rank
    assert [MemberJoined(room=R, mid=9)] == world.facts(AddMember(R, 9, me))[:1]
    for rank in above:
        assert Forbidden is world.refusal(SetRole(R, 9, me, rank)), rank
    assert Forbidden is world.refusal(TransferRoom(R, 9, me, former=[1]))
    world.when(SetRole(R, 9, OWNER, "admin"))
    assert Forbidden is world.refusal(SetRole(R, 9, me, "owner"))
    assert Forbidden is world.refusal(TransferRoom(R, 9, me, former=[1]))

    assert RoleChanged(room=R, mid=3, role="owner") in world.facts(SetRole(R, 3, me, "owner"))
    assert RoleChanged(room=R, mid=2, role="owner") in world.facts(TransferRoom(R, 2, me, former=[1]))
    assert MemberJoined(room=R, mid=7, role="owner") in world.facts(AddMember(R, 7, me, role="owner"))
    assert RoleChanged(room=R, mid=9, role="member") in world.facts(SetRole(R, 9, me, "member"))


@pytest.mark.parametrize(
    "brings",
    [
        lambda actor: AddMember(R, 7, actor),
        lambda actor: Invite(R, 7, actor),
        lambda actor: CreateRoom("group://new", actor, members=[6, 7]),
    ],
)
def test_who_is_blocked_by_somebody_neither_invites_nor_brings_it_in(brings: Callable[[Actor], Decision]) -> None:
    """Until it is not blocked any more. Whom the platform trusts does not ask; and who blocks may invite."""
    world = a_room()
    world.when(BlockPerson(ADMIN.mid, person(7)))
    world.when(BlockPerson(6, ADMIN))

    assert Forbidden is world.refusal(brings(ADMIN))
    for actor in (OWNER, SERVICE_ACTOR, Actor(ADMIN.mid, "moderator")):
        assert world.refusal(brings(actor)) is None, actor

    world.when(UnblockPerson(ADMIN.mid, person(7)))
    assert world.refusal(brings(ADMIN)) is None


@pytest.mark.parametrize(
    "brings",
    [
        lambda actor: AddMember(R, 7, actor),
        lambda actor: Invite(R, 7, actor),
        lambda actor: CreateRoom("group://new", actor, members=[6, 7]),
    ],
)
def test_whom_somebody_blocked_is_trusted_by_its_account_and_not_by_its_token(
    brings: Callable[[Actor], Decision],
) -> None:
    """Who is no moderator any more, and an admin of the room still, brings in nobody who has blocked it."""
    world = a_room()
    world.when(BlockPerson(ADMIN.mid, person(7)))
    was_moderator = Actor(ADMIN.mid, "moderator")

    world.rows[account_key(ADMIN.mid)] = an_account("moderator")
    assert world.refusal(brings(was_moderator)) is None
    world.rows[account_key(ADMIN.mid)] = an_account("user")
    assert Forbidden is world.refusal(brings(was_moderator))


def test_a_block_changes_nothing_for_who_is_there_already_or_has_asked() -> None:
    world = a_room(Settings(public=True, approval=True))
    world.when(AskToJoin(R, OTHER, ""))
    world.when(BlockPerson(ADMIN.mid, MEMBER))
    world.when(BlockPerson(ADMIN.mid, OTHER))

    assert [] == world.facts(AddMember(R, MEMBER.mid, ADMIN))
    assert [] == world.facts(Invite(R, MEMBER.mid, ADMIN))
    assert [MemberJoined(room=R, mid=OTHER.mid)] == world.facts(ApproveRequest(R, OTHER.mid, ADMIN))


MUTE_MS = NOW_MS + 9
STILL_MUTED = MemberMuted(room=R, mid=3, until_ms=MUTE_MS)


@pytest.mark.parametrize(
    "goes", [Leave(R, MEMBER), RemoveMember(R, 3, OWNER), BanMember(R, 3, OWNER)], ids=lambda it: it.operation
)
@pytest.mark.parametrize(
    "comes",
    [
        Join(R, MEMBER, may_create=False),
        AddMember(R, 3, ADMIN),
        AcceptInvitation(R, MEMBER),
        ApproveRequest(R, 3, ADMIN),
        AddMember(R, 3, SERVICE_ACTOR, role="admin"),
    ],
    ids=lambda it: it.operation,
)
def test_who_goes_out_and_comes_in_again_is_muted_still(goes: Decision, comes: Decision) -> None:
    """However it went, and however it comes. The server says it, in its own name, behind the join."""
    world = a_room(Settings(public=True, approval=isinstance(comes, ApproveRequest)))
    world.when(Mute(R, 3, ADMIN, MUTE_MS))
    world.when(goes)
    world.when(UnbanMember(R, 3, OWNER))
    if isinstance(comes, AcceptInvitation):
        world.when(Invite(R, 3, OWNER))
    if isinstance(comes, ApproveRequest):
        world.when(AskToJoin(R, MEMBER, ""))

    assert STILL_MUTED == world.facts(comes)[1]

    member = world.rows["members", (R, 3)]
    assert isinstance(member, Member)
    assert member.muted_until_ms == MUTE_MS


@pytest.mark.parametrize("until_ms", [0, NOW_MS])
def test_a_mute_that_is_over_or_was_ended_does_not_come_back(until_ms: int) -> None:
    world = a_room(Settings())
    world.when(Mute(R, 3, ADMIN, MUTE_MS))
    world.when(Mute(R, 3, ADMIN, until_ms))
    world.when(Leave(R, MEMBER))

    assert [MemberJoined(room=R, mid=3)] == world.facts(Join(R, MEMBER, may_create=False))


def test_who_has_a_rank_may_step_down_and_the_last_owner_may_not() -> None:
    """It takes nobody's leave, and no rank is gained by it."""
    world = a_room()
    for role in ("member", "admin"):
        assert Forbidden is world.refusal(SetRole(R, OWNER.mid, OWNER, role))
    assert Forbidden is world.refusal(SetRole(R, ADMIN.mid, ADMIN, "owner"))
    assert Forbidden is world.refusal(SetRole(R, MEMBER.mid, MEMBER, "admin"))

    assert [RoleChanged(room=R, mid=ADMIN.mid, role="member")] == world.facts(SetRole(R, ADMIN.mid, ADMIN, "member"))
    assert Forbidden is world.refusal(SetRole(R, ADMIN.mid, ADMIN, "admin"))
    world.when(SetRole(R, MEMBER.mid, SERVICE_ACTOR, "owner"))
    assert [RoleChanged(room=R, mid=OWNER.mid, role="admin")] == world.facts(SetRole(R, OWNER.mid, OWNER, "admin"))
    assert Forbidden is world.refusal(SetRole(R, MEMBER.mid, MEMBER, "admin"))


@pytest.mark.parametrize("actor", [MODERATOR, SERVICE_ACTOR])
def test_nobody_makes_an_account_that_was_given_up_an_owner(actor: Actor) -> None:
    """By no way in which somebody becomes one."""
    world = a_room()
    for mid in (MEMBER.mid, 7):
        world.rows[account_key(mid)] = an_account("user", "deactivated")

    assert BadRequest is world.refusal(TransferRoom(R, MEMBER.mid, actor, former=[1]))
    assert BadRequest is world.refusal(SetRole(R, MEMBER.mid, actor, "owner"))
    assert BadRequest is world.refusal(AddMember(R, 7, actor, role="owner"))
    assert None is world.refusal(SetRole(R, MEMBER.mid, actor, "admin"))


def test_a_guest_is_given_no_room_but_by_a_service() -> None:
    world = a_room()
    world.when(AddMember(R, -5, OWNER))

    for giver in (OWNER, MODERATOR):
        assert BadRequest is world.refusal(TransferRoom(R, -5, giver, former=[1])), giver
    assert BadRequest is world.refusal(SetRole(R, -5, MODERATOR, "owner"))
    assert BadRequest is world.refusal(AddMember(R, -6, MODERATOR, role="owner"))
    assert None is world.refusal(SetRole(R, -5, MODERATOR, "admin"))
    assert None is world.refusal(AddMember(R, -6, SERVICE_ACTOR, role="owner"))
    assert RoleChanged(room=R, mid=-5, role="owner") in world.facts(TransferRoom(R, -5, SERVICE_ACTOR, former=[1]))


def test_who_is_banned_is_told_that_its_invitation_or_request_ended() -> None:
    """On every device, as if they had been taken back. The room is told of the ban alone, whose place is the last."""
    world = a_room(Settings(public=True, approval=True))
    world.when(Invite(R, OTHER.mid, OWNER))
    world.when(AskToJoin(R, OTHER, ""))
    banned = MemberBanned(room=R, mid=OTHER.mid)

    assert [
        (f"{USER}5", InvitationWithdrawn(room=R, mid=OTHER.mid)),
        (f"{USER}5", JoinRejected(room=R, mid=OTHER.mid)),
        (ROOM + R, banned),
    ] == world.when(BanMember(R, OTHER.mid, ADMIN))
    assert [(ROOM + R, MemberBanned(room=R, mid=OTHER.mid, reason="x"))] == world.when(
        BanMember(R, OTHER.mid, ADMIN, reason="x")
    )
    assert world.rows["invitations", (R, OTHER.mid)] is world.rows["join_requests", (R, OTHER.mid)] is None


def test_what_a_moderator_may_do_as_a_member_is_not_audited() -> None:
    world = a_room()
    world.when(AddMember(R, 9, OWNER, role="admin"))

    assert [(ROOM + R, MemberMuted(room=R, mid=3, until_ms=9))] == world.when(Mute(R, 3, MODERATOR, 9))


# --- the table ---------------------------------------------------------------------------------------------------------------

TARGET = 3  # a plain member
STANDINGS_OF: dict[Standing, Actor] = {
    "stranger": person(4), "invited": person(5), "banned": person(6), "muted": person(7), "member": person(8),
    "room_admin": ADMIN, "owner": OWNER,
}  # fmt: skip
OPERATIONS: dict[str, Callable[[Actor], Decision]] = {
    "rooms.change": lambda actor: ChangeRoom(R, actor, Settings(topic="x")),
    "rooms.dismiss": lambda actor: DismissRoom(R, actor),
    "rooms.mute_all": lambda actor: MuteAll(R, actor, 9),
    "rooms.add": lambda actor: AddMember(R, 50, actor),
    "rooms.kick": lambda actor: RemoveMember(R, TARGET, actor),
    "rooms.set_role": lambda actor: SetRole(R, TARGET, actor, "member"),
    "rooms.mute": lambda actor: Mute(R, TARGET, actor, 9),
    "rooms.ban": lambda actor: BanMember(R, TARGET, actor),
    "rooms.unban": lambda actor: UnbanMember(R, 6, actor),
    "rooms.transfer": lambda actor: TransferRoom(R, TARGET, actor, former=[actor.mid]),
    "rooms.invite": lambda actor: Invite(R, 50, actor),
    "rooms.uninvite": lambda actor: Uninvite(R, 5, actor),
    "rooms.approve": lambda actor: ApproveRequest(R, 51, actor),
    "rooms.reject": lambda actor: RejectRequest(R, 51, actor),
    "rooms.accept": lambda actor: AcceptInvitation(R, actor),
    "rooms.decline": lambda actor: DeclineInvitation(R, actor),
    "rooms.ask": lambda actor: AskToJoin(R, actor, ""),
    "rooms.leave": lambda actor: Leave(R, actor),
}
REFUSALS = {"no": Forbidden, "hidden": NoSuchRoom, "yes": None}


@pytest.mark.parametrize("public", [True, False], ids=["public", "private"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_decision_does_what_the_table_says_of_every_standing(operation: str, public: bool) -> None:
    """In a private room strangers and the banned find nothing at all; a moderator, whoever it is to the room, may where the table says
    so, and then it is audited unless any member like it may."""
    for where, actor in STANDINGS_OF.items():
        for role in ("user", "guest", "moderator", "admin"):
            world = a_room(Settings(approval=True))
            world.when(AskToJoin(R, person(51), ""))
            world.when(AddMember(R, 90, SERVICE_ACTOR, role="owner"))  # so that it is never the last who leaves
            world.when(ChangeRoom(R, OWNER, Settings(public=public)))
            for mid in (7, 8):
                world.when(AddMember(R, mid, OWNER))
            for made in (Invite(R, 5, OWNER), BanMember(R, 6, OWNER), Mute(R, 7, OWNER, NOW_MS + 1)):
                world.when(made)
            by = Actor(actor.mid, role)
            verdict = table().verdict(operation, "user" if role != "guest" else "guest", where)
            expected = REFUSALS["yes" if verdict == "below" else verdict]
            if not public and where in ("stranger", "banned"):
                expected = NoSuchRoom
            is_privileged = expected is not None and table().by_privilege(operation, by.role)

            decision = OPERATIONS[operation](by)
            if expected is None or is_privileged:
                streams = [stream for stream, _ in world.when(decision)]
                assert is_privileged == (AUDIT in streams) or not streams, (where, role)
            else:
                assert expected is world.refusal(decision), (where, role)


# What a moderator may do in rooms that it is not in.
BY_PRIVILEGE: dict[str, Callable[[Actor], Decision]] = {
    **{name: make for name, make in OPERATIONS.items() if table().by_privilege(name, "moderator")},
    "rooms.join": lambda actor: Join(R, actor, may_create=False),
    "messages.recall": lambda actor: RecallMessage(Target(R, 1, MEMBER.mid, NOW_MS, 1, "x", False), actor, 0),
    "attachments.remove": lambda actor: RemoveAttachment("a", R, MEMBER.mid, actor),
    "pins.add": lambda actor: Pin(R, 1, actor, adds=True),
    "messages.history": lambda actor: LookIn("messages.history", R, actor),
}


def an_account(role: str, state: str = "active") -> Account:
    return Account("mod", "mod", "", "{}", role, state, "", "", 1, 1, 1, activated=True)


def kinds(of: type[Any]) -> list[type[Any]]:
    return [of, *(kin for child in of.__subclasses__() for kin in kinds(child))]


def test_every_decision_by_privilege_is_looked_at_here() -> None:
    named = {kind.operation for kind in kinds(RoomDecision) if isinstance(kind.operation, str) and kind.operation}
    there = {name for name in named if table().by_privilege(name, "moderator") and table().rule(name).hangs_on_standing}

    assert there <= set(BY_PRIVILEGE)


@pytest.mark.parametrize("operation", BY_PRIVILEGE)
def test_a_privilege_is_what_the_account_says_and_not_the_token(operation: str) -> None:
    """Of who has no account here, the token stands."""
    world = a_room()
    world.rows[("join_requests", (R, 51))] = JoinRequest(1, "", NOW_MS)
    world.rows[("attachments", ("a",))] = Attachment(
        room=R, mid=MEMBER.mid, name="a", media_type="text/plain", size=1, sha256="", width=None, height=None,
        position=1, stored_at_ms=NOW_MS,
    )  # fmt: skip

    assert None is world.refusal(BY_PRIVILEGE[operation](MODERATOR))
    for account, expected in (
        (an_account("moderator"), None),
        (an_account("user"), NoSuchRoom),
        (an_account("moderator", "suspended"), Unauthenticated),
        (an_account("moderator", "deactivated"), Unauthenticated),
    ):
        world.rows[account_key(MODERATOR.mid)] = account
        assert expected is world.refusal(BY_PRIVILEGE[operation](MODERATOR)), account


def test_what_is_done_by_privilege_is_audited_as_what_the_account_says() -> None:
    world = a_room()
    world.rows[account_key(9)] = an_account("moderator")

    assert AdminActed(verb="rooms.kick", role="moderator", room=R, mid=3) in world.facts(
        RemoveMember(R, 3, Actor(9, "admin"))
    )


def test_a_token_that_says_less_than_the_account_is_not_made_more_of() -> None:
    """Whoever made it gave no more away: the lesser of the two counts."""
    world = a_room()
    world.rows[account_key(MODERATOR.mid)] = an_account("admin")

    assert AdminActed(verb="rooms.kick", role="moderator", room=R, mid=3) in world.facts(RemoveMember(R, 3, MODERATOR))


def test_who_may_make_a_room_by_privilege_alone_has_it_still() -> None:
    world = World()
    world.rows[account_key(MODERATOR.mid)] = an_account("user")

    assert Forbidden is world.refusal(CreateRoom(R, MODERATOR, by_privilege=True))
    assert None is world.refusal(CreateRoom(R, MODERATOR))


# --- two people --------------------------------------------------------------------------------------------------------------


def test_the_room_of_two_has_one_name_whoever_asks() -> None:
    assert direct_room(7, -3) == direct_room(-3, 7) == "direct://-3-7"
    assert (-3, 7) == direct_pair("direct://-3-7")
    assert [None] * 5 == [direct_pair(f"direct://{name}") for name in ("7-3", "07-8", "7-7-8", "x", "0-7")]


def test_a_direct_conversation_is_opened_once_and_nothing_changes_who_is_in_it() -> None:
    world = World()
    room = direct_room(3, 4)

    assert [
        RoomCreated(room=room, public=False, history="all"), MemberJoined(room=room, mid=4), MemberJoined(room=room, mid=3)
    ] == world.facts(OpenDirect(3, STRANGER))  # fmt: skip
    assert [] == world.facts(OpenDirect(4, MEMBER))
    for decision in (
        Leave(room, MEMBER), AddMember(room, 5, SERVICE_ACTOR), RemoveMember(room, 3, SERVICE_ACTOR), Invite(room, 5, MEMBER),
        BanMember(room, 3, SERVICE_ACTOR), TransferRoom(room, 3, SERVICE_ACTOR, former=[]), DismissRoom(room, SERVICE_ACTOR),
        SetRole(room, 3, SERVICE_ACTOR, "owner"), ChangeRoom(room, SERVICE_ACTOR, Settings(public=True)),
    ):  # fmt: skip
        assert BadRequest is world.refusal(decision), type(decision).__name__
    assert NoSuchRoom is world.refusal(Join(room, OTHER, may_create=True))
    assert NoSuchRoom is world.refusal(Join(direct_room(5, 6), OTHER, may_create=True))
    assert BadRequest is world.refusal(OpenDirect(3, MEMBER))
    assert Forbidden is world.refusal(OpenDirect(3, person(-7))), "guests open none"


def test_a_block_marks_the_others_membership_until_it_ends() -> None:
    world = given(OpenDirect(3, STRANGER))
    room = direct_room(3, 4)

    def is_blocked(mid: int) -> bool:
        row = world.rows["members", (room, mid)]
        assert isinstance(row, Member)
        return row.blocked

    assert [(f"{USER}3", PersonBlocked(by=3, mid=4))] == world.when(BlockPerson(4, MEMBER))
    assert (True, False) == (is_blocked(4), is_blocked(3))
    assert [] == world.when(BlockPerson(4, MEMBER))
    assert [] == world.when(OpenDirect(3, STRANGER)), "the room is there"
    assert [(f"{USER}3", PersonUnblocked(by=3, mid=4))] == world.when(UnblockPerson(4, MEMBER))
    assert not is_blocked(4)
    assert [] == world.when(UnblockPerson(4, MEMBER))
    assert BadRequest is world.refusal(BlockPerson(3, MEMBER))


def test_where_one_has_blocked_the_other_no_direct_room_is_made() -> None:
    world = given(BlockPerson(4, MEMBER))

    assert Forbidden is world.refusal(OpenDirect(3, STRANGER))
    assert Forbidden is world.refusal(OpenDirect(4, MEMBER))
