"""What is stored today is read for ever: names, versions, and the way from old bodies to new."""

from __future__ import annotations

from typing import ClassVar

import pytest
from pydantic import ValidationError

from imcore.events.types import (
    FACTS,
    MESSAGE_TYPES,
    AccountActivated,
    AccountDeactivated,
    AccountRegistered,
    AccountSuspended,
    AdminActed,
    AttachmentRemoved,
    AttachmentStored,
    DeliveryAcked,
    Fact,
    InvitationDeclined,
    InvitationWithdrawn,
    Invited,
    JoinRejected,
    JoinRequested,
    LoggedIn,
    LoggedOut,
    LoginExpired,
    MemberBanned,
    MemberJoined,
    MemberLeft,
    MemberMuted,
    MemberRemoved,
    MemberUnbanned,
    MessageEdited,
    MessagePinned,
    MessageRecalled,
    MessageUnpinned,
    OpsAccepted,
    PasswordChanged,
    PersonBlocked,
    PersonUnblocked,
    PlatformRoleChanged,
    ProfileChanged,
    ReactionAdded,
    ReactionRemoved,
    ReadMarked,
    Recorded,
    Registry,
    RoleChanged,
    RoomChanged,
    RoomCreated,
    RoomDismissed,
    RoomMuted,
    RoomsEntered,
    RoomSwitched,
    SessionClosed,
    SessionOpened,
    SuspensionLifted,
    UnknownType,
    VisibilityChosen,
    registry,
    room_type,
)

# Never change a line of this: logs hold these bodies under these names. A new version gets a line of its own, and the old one still
# has to be read.
STORED = {
    ("room_created", 1): (
        '{"room":"group://r","public":false,"history":"all","title":"Ä \\u0000"}',
        RoomCreated(room="group://r", public=False, history="all", title="Ä \0"),
    ),
    ("member_joined", 1): (
        '{"room":"group://r","mid":7,"role":"owner"}',
        MemberJoined(room="group://r", mid=7, role="owner"),
    ),
    ("member_left", 1): ('{"room":"group://r","mid":-7}', MemberLeft(room="group://r", mid=-7)),
    ("member_removed", 1): (
        '{"room":"group://r","mid":9223372036854775807}',
        MemberRemoved(room="group://r", mid=2**63 - 1),
    ),
    ("member_muted", 1): (
        '{"room":"group://r","mid":7,"until_ms":1764000000000}',
        MemberMuted(room="group://r", mid=7, until_ms=1_764_000_000_000),
    ),
    ("role_changed", 1): (
        '{"room":"group://r","mid":7,"role":"admin"}',
        RoleChanged(room="group://r", mid=7, role="admin"),
    ),
    ("room_changed", 1): (
        (
            '{"room":"group://r","title":"t","topic":null,"public":null,"approval":true,"history":"all","writers":null,'
            '"slow_mode_s":9,"members_max":null}'
        ),
        RoomChanged(room="group://r", title="t", approval=True, history="all", slow_mode_s=9),
    ),
    ("room_muted", 1): ('{"room":"group://r","until_ms":9}', RoomMuted(room="group://r", until_ms=9)),
    ("room_dismissed", 1): ('{"room":"group://r"}', RoomDismissed(room="group://r")),
    ("member_banned", 1): (
        '{"room":"group://r","mid":7,"until_ms":9,"reason":"spam"}',
        MemberBanned(room="group://r", mid=7, until_ms=9, reason="spam"),
    ),
    ("member_unbanned", 1): ('{"room":"group://r","mid":7}', MemberUnbanned(room="group://r", mid=7)),
    ("join_requested", 1): (
        '{"room":"group://r","mid":7,"text":"please"}',
        JoinRequested(room="group://r", mid=7, text="please"),
    ),
    ("join_rejected", 1): ('{"room":"group://r","mid":7}', JoinRejected(room="group://r", mid=7)),
    ("invited", 1): ('{"room":"group://r","mid":7}', Invited(room="group://r", mid=7)),
    ("invitation_withdrawn", 1): ('{"room":"group://r","mid":7}', InvitationWithdrawn(room="group://r", mid=7)),
    ("invitation_declined", 1): ('{"room":"group://r","mid":7}', InvitationDeclined(room="group://r", mid=7)),
    ("person_blocked", 1): ('{"by":7,"mid":8}', PersonBlocked(by=7, mid=8)),
    ("person_unblocked", 1): ('{"by":7,"mid":8}', PersonUnblocked(by=7, mid=8)),
    ("room_switched", 1): (
        '{"key":"k","opened":12,"room":"live://1"}',
        RoomSwitched(key="k", opened=12, room="live://1"),
    ),
    ("admin_acted", 1): (
        '{"verb":"rooms.kick","role":"moderator","room":"group://r","mid":7,"detail":""}',
        AdminActed(verb="rooms.kick", role="moderator", room="group://r", mid=7),
    ),
    ("message_edited", 1): (
        '{"room":"group://r","target":3,"body":{"text":"better"},"format":"json"}',
        MessageEdited(room="group://r", target=3, body={"text": "better"}),
    ),
    ("message_recalled", 1): (
        '{"room":"group://r","target":3,"author":7}',
        MessageRecalled(room="group://r", target=3, author=7),
    ),
    ("reaction_added", 1): (
        '{"room":"group://r","target":3,"reaction":"👍"}',
        ReactionAdded(room="group://r", target=3, reaction="👍"),
    ),
    ("reaction_removed", 1): (
        '{"room":"group://r","target":3,"reaction":"👍"}',
        ReactionRemoved(room="group://r", target=3, reaction="👍"),
    ),
    ("message_pinned", 1): ('{"room":"group://r","target":3}', MessagePinned(room="group://r", target=3)),
    ("message_unpinned", 1): ('{"room":"group://r","target":3}', MessageUnpinned(room="group://r", target=3)),
    ("read_marked", 1): (
        '{"room":"group://r","mid":7,"seq":30,"messages":20,"sent":3}',
        ReadMarked(room="group://r", mid=7, seq=30, messages=20, sent=3),
    ),
    ("visibility_chosen", 1): (
        '{"mid":7,"choice":"contacts"}',
        VisibilityChosen(mid=7, choice="contacts"),
    ),
    ("account_registered", 1): (
        '{"mid":7,"login":"alice","handle":"alice","name":"Alice","role":"admin","active":true,"credential":"c1"}',
        AccountRegistered(
            mid=7, login="alice", handle="alice", name="Alice", role="admin", active=True, credential="c1", code=""
        ),
    ),
    ("account_registered", 2): (
        '{"mid":7,"login":"alice","handle":"alice","name":"Alice","role":"user","active":true,"credential":"c1","code":"n1"}',
        AccountRegistered(
            mid=7, login="alice", handle="alice", name="Alice", role="user", active=True, credential="c1", code="n1"
        ),
    ),
    ("account_activated", 1): ('{"mid":7}', AccountActivated(mid=7)),
    ("profile_changed", 1): (
        '{"mid":7,"name":"A","avatar":"https://a.example/7","extra":{"team":[1,"x",null]}}',
        ProfileChanged(mid=7, name="A", avatar="https://a.example/7", extra={"team": [1, "x", None]}),
    ),
    ("password_changed", 1): ('{"mid":7,"credential":"c2"}', PasswordChanged(mid=7, credential="c2")),
    ("account_suspended", 1): (
        '{"mid":7,"reason":"spam","sids":["s1","s2"]}',
        AccountSuspended(mid=7, reason="spam", sids=("s1", "s2")),
    ),
    ("suspension_lifted", 1): ('{"mid":7}', SuspensionLifted(mid=7)),
    ("account_deactivated", 1): ('{"mid":7,"sids":[]}', AccountDeactivated(mid=7, sids=())),
    ("platform_role_changed", 1): ('{"mid":7,"role":"moderator"}', PlatformRoleChanged(mid=7, role="moderator")),
    ("logged_in", 1): (
        '{"mid":-7,"sid":"s1","key":"phone","platform":"web","address":"::1"}',
        LoggedIn(mid=-7, sid="s1", key="phone", platform="web", address="::1"),
    ),
    ("logged_out", 1): (
        '{"mid":7,"sids":["s1"],"everywhere":false}',
        LoggedOut(mid=7, sids=("s1",), everywhere=False),
    ),
    ("login_expired", 1): ('{"mid":-7,"sid":"s1"}', LoginExpired(mid=-7, sid="s1")),
    ("attachment_stored", 1): (
        '{"room":"group://r","id":"00ff","name":"Ä.png","media_type":"image/png","size":9,"sha256":"ab","width":3,"height":null}',
        AttachmentStored(
            room="group://r", id="00ff", name="Ä.png", media_type="image/png", size=9, sha256="ab", width=3, height=None
        ),
    ),
    ("attachment_removed", 1): ('{"room":"group://r","id":"00ff"}', AttachmentRemoved(room="group://r", id="00ff")),
    ("session_opened", 1): (
        '{"key":"k","node":"n","platform":"web","address":"::1","rooms":["live://1"],"protocol":"json"}',
        SessionOpened(key="k", node="n", platform="web", address="::1", rooms=("live://1",), protocol="json"),
    ),
    ("session_closed", 1): (
        '{"key":"k","opened":12,"reason":"bye","delivered":null}',
        SessionClosed(key="k", opened=12, reason="bye"),
    ),
    ("rooms_entered", 1): (
        '{"key":"k","opened":12,"rooms":["live://1","live://2"]}',
        RoomsEntered(key="k", opened=12, rooms=("live://1", "live://2")),
    ),
    ("ops_accepted", 1): ('{"key":"k","ops":[1000,1001]}', OpsAccepted(key="k", ops=(1000, 1001))),
    ("delivery_acked", 1): ('{"key":"k","position":99}', DeliveryAcked(key="k", position=99)),
}


def test_every_type_ever_stored_is_read_as_it_was_meant() -> None:
    for (type_, version), (body, fact) in STORED.items():
        assert fact == registry.parse(type_, version, body), type_


def test_every_type_is_among_the_stored_ones() -> None:
    """A new type, or a new version, gets a line above in the same commit."""
    assert {(fact.type, fact.version) for fact in FACTS} <= set(STORED)
    assert {"message_sent", "message_pushed"} == MESSAGE_TYPES


def test_every_fact_is_stored_under_its_own_name() -> None:
    for (type_, version), (body, fact) in STORED.items():
        assert type_ == fact.type
        assert version < fact.version or body == fact.model_dump_json()


def test_a_stored_fact_is_read_from_its_event() -> None:
    body, fact = STORED["member_joined", 1]
    event = Recorded(1, "room:group://r", 1, 0, "member_joined", 1, 7, "", None, 0, 0, 0, body)
    assert fact == event.fact
    assert "group://r" == event.room
    assert "" == event._replace(stream="user:7").room


def test_a_message_is_no_fact() -> None:
    event = Recorded(1, "room:group://r", 1, 1, "message_sent", 1, 7, "", None, 1000, 0, 0, "{}")
    with pytest.raises(UnknownType):
        _ = event.fact


@pytest.mark.parametrize(
    "body",
    [
        '{"room":"r","mid":"7"}',
        '{"room":"r","mid":7.0}',
        '{"room":"r","mid":true}',
        '{"room":"r","mid":9223372036854775808}',
        '{"room":"r","mid":7,"more":1}',
        '{"room":"r"}',
        '{"room":7,"mid":7}',
        "[]",
        "",
    ],
)
def test_a_body_that_is_not_of_its_type_is_refused(body: str) -> None:
    with pytest.raises(ValidationError):
        registry.parse("member_left", 1, body)


def test_a_fact_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        MemberLeft(room="r", mid=7).mid = 8  # type: ignore[misc]


# --- versions --------------------------------------------------------------------------------------------------------------------


class Painted(Fact):
    """Version 1 had a `color`, version 2 a list of them, version 3 calls them shades and counts coats."""

    type = "painted"
    version: ClassVar[int] = 3
    shades: tuple[str, ...]
    coats: int


def to_list(stored: dict[str, object]) -> dict[str, object]:
    return {"colors": [stored["color"]]}


def to_shades(stored: dict[str, object]) -> dict[str, object]:
    return {"shades": stored["colors"], "coats": 1}


PAINTED = Registry((Painted,), {("painted", 1): to_list, ("painted", 2): to_shades})


def test_older_versions_are_read_through_each_upcaster_in_turn() -> None:
    red = Painted(shades=("red",), coats=1)
    assert red == PAINTED.parse("painted", 1, '{"color":"red"}')
    assert red == PAINTED.parse("painted", 2, '{"colors":["red"]}')
    assert red == PAINTED.parse("painted", 3, '{"shades":["red"],"coats":1}')
    assert Painted(shades=(), coats=2) == PAINTED.parse("painted", 3, '{"shades":[],"coats":2}')


@pytest.mark.parametrize(
    ("type_", "version"), [("painted", 4), ("painted", 0), ("painted", -1), ("sanded", 1), ("", 1)]
)
def test_a_type_or_version_of_a_newer_program_is_said_to_be_unknown(type_: str, version: int) -> None:
    with pytest.raises(UnknownType, match=f"{type_} version {version}"):
        PAINTED.parse(type_, version, "{}")


def test_a_version_without_a_way_to_it_is_refused() -> None:
    with pytest.raises(ValueError, match="painted is at version 3 but has no upcaster from 2"):
        Registry((Painted,), {("painted", 1): to_list})
    with pytest.raises(ValueError, match="has no upcaster from 1"):
        Registry().add(Painted)


def test_a_name_is_given_once() -> None:
    with pytest.raises(ValueError, match="there is an event type painted already"):
        PAINTED.add(Painted, {1: to_list, 2: to_shades})
    for taken in MESSAGE_TYPES:
        another = type("Another", (Fact,), {"type": taken, "__module__": __name__})
        with pytest.raises(ValueError, match=f"there is an event type {taken} already"):
            Registry().add(another)


def test_upcasters_of_one_type_are_not_anothers() -> None:
    other = Registry((MemberLeft,), {("painted", 1): to_list})
    with pytest.raises(UnknownType):
        other.parse("painted", 1, '{"color":"red"}')


def test_the_kind_of_a_room_stands_before_its_name() -> None:
    assert "live" == room_type("live://1000")
    assert "group" == room_type("group://a://b")
