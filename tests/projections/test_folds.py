"""Each projection, event by event: no database."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import JsonValue

from imcore.events import messages
from imcore.events.messages import EVERYBODY_MID, About
from imcore.events.store import MEMBER, Draft, Key, Rows
from imcore.events.types import (
    BASE64,
    JSON,
    MESSAGE_PUSHED,
    MESSAGE_SENT,
    ROOM,
    SERVICE_MID,
    SESSION,
    TEXT,
    USER,
    AccountActivated,
    AccountDeactivated,
    AccountRegistered,
    AccountSuspended,
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
    PasswordChanged,
    PersonBlocked,
    PersonUnblocked,
    PlatformRoleChanged,
    ProfileChanged,
    ReactionAdded,
    ReactionRemoved,
    ReadMarked,
    Recorded,
    RoleChanged,
    RoomChanged,
    RoomCreated,
    RoomDismissed,
    RoomMuted,
    RoomsEntered,
    SessionClosed,
    SessionOpened,
    SuspensionLifted,
    VisibilityChosen,
)
from imcore.projections import (
    PROJECTIONS,
    accounts,
    amendments,
    attachments,
    code_uses,
    deliveries,
    departures,
    edits,
    handles,
    inbox,
    logins,
    logouts,
    members,
    mentions,
    mutes,
    room_counts,
    rooms,
    sessions,
    threads,
    uploads,
)
from imcore.projections.accounts import Account
from imcore.projections.amendments import Amendment
from imcore.projections.attachments import Attachment
from imcore.projections.code_uses import CodeUses
from imcore.projections.deliveries import Delivery
from imcore.projections.departures import Departure
from imcore.projections.edits import Edit
from imcore.projections.handles import Handle
from imcore.projections.inbox import Inbox
from imcore.projections.inline import InlineProjections
from imcore.projections.logins import Login
from imcore.projections.logouts import KEEP_MS, Logout
from imcore.projections.members import Member
from imcore.projections.mentions import Mention
from imcore.projections.mutes import Mute
from imcore.projections.projection import fold
from imcore.projections.room_counts import RoomCount
from imcore.projections.rooms import Room
from imcore.projections.sessions import Session
from imcore.projections.threads import Part
from imcore.projections.uploads import DAY_MS, FILE_BYTES_MIN, Uploaded

R = "group://r"
NOBODY = 99


def given(*happened: Fact | About | int, by: int = 7, mid: int = 7) -> list[Recorded]:
    """Facts in order; a number is a message of that person in the room, an About one of `by`. Session facts are those of `mid`."""
    events: list[Recorded] = []
    seqs: dict[str, int] = {}
    said = 0
    for position, what in enumerate(happened, 1):
        version = 1
        if isinstance(what, About):
            version, body = messages.stored(what, '"hi"')
            stream, type_, who, op = ROOM + R, MESSAGE_SENT, by, 1000
            said += 1
        elif isinstance(what, int):
            stream, type_, body, who, op = ROOM + R, MESSAGE_SENT if what else MESSAGE_PUSHED, "hi", what, 1000
            said += 1
        else:
            stream = _stream(what, mid)
            type_, version, body, who, op = what.type, what.version, what.model_dump_json(), by, 0
        seqs[stream] = seq = seqs.get(stream, 0) + 1
        count = said if stream == ROOM + R else 0
        events.append(
            Recorded(position, stream, seq, count, type_, version, who, "", None, op, JSON, 1000 + position, body)
        )
    return events


def _stream(fact: Fact, mid: int) -> str:
    match fact:
        case ReadMarked() | VisibilityChosen() | Invited() | InvitationWithdrawn() | InvitationDeclined():
            return f"{USER}{fact.mid}"
        case _ if not hasattr(fact, "room") and hasattr(fact, "mid"):
            return f"{USER}{mid}"
        case AttachmentStored() | AttachmentRemoved():
            return f"{USER}{mid}"
        case PersonBlocked() | PersonUnblocked():
            return f"{USER}{fact.by}"
        case SessionOpened() | SessionClosed() | RoomsEntered() | DeliveryAcked():
            return f"{SESSION}{mid}"
        case _ if not hasattr(fact, "room"):
            return f"{USER}{mid}"
    return ROOM + R


def joined(mid: int = 7) -> MemberJoined:
    return MemberJoined(room=R, mid=mid)


def left(mid: int = 7) -> MemberLeft:
    return MemberLeft(room=R, mid=mid)


def edited(
    target: int = 1, body: JsonValue = "new", format_: Literal["json", "text", "base64"] = "json"
) -> MessageEdited:
    return MessageEdited(room=R, target=target, body=body, format=format_)


def recalled(target: int = 1) -> MessageRecalled:
    return MessageRecalled(room=R, target=target, author=7)


def opened(key: str = "phone", node: str = "a") -> SessionOpened:
    return SessionOpened(key=key, node=node, platform="web", address="10.0.0.1", rooms=("live://1",))


def attached(id_: str, size: int = 5) -> AttachmentStored:
    return AttachmentStored(room=R, id=id_, name="a.txt", media_type="text/plain", size=size, sha256="00")


def closed(position: int, key: str = "phone", delivered: int | None = None) -> SessionClosed:
    return SessionClosed(key=key, opened=position, reason="left", delivered=delivered)


def about_messages() -> tuple[Fact, ...]:
    """One of each that is about a message."""
    return (
        ReactionAdded(room=R, target=3, reaction="👍"), ReactionRemoved(room=R, target=3, reaction="👍"),
        MessagePinned(room=R, target=3), MessageUnpinned(room=R, target=3),
        MessageEdited(room=R, target=3, body="new"), MessageRecalled(room=R, target=3, author=7),
    )  # fmt: skip


# --- departures ---------------------------------------------------------------------------------------------------------------


def test_a_departure_is_there_from_the_end_of_a_membership_to_the_next_join() -> None:
    removed = MemberRemoved(room=R, mid=7)

    assert {} == fold(departures.projection, given(joined()))
    assert {(7, R): Departure(2, 3, removed=True)} == fold(departures.projection, given(joined(), removed, by=3))
    assert {(7, R): Departure(2, 7, removed=False)} == fold(departures.projection, given(joined(), left()))
    assert {} == fold(departures.projection, given(joined(), left(), joined()))
    assert {(7, R): Departure(4, 7, removed=False)} == fold(
        departures.projection, given(joined(), removed, joined(), left())
    )


# --- members -----------------------------------------------------------------------------------------------------------------


def test_a_second_join_keeps_the_first_date() -> None:
    """History stays visible from the first join; joining again hides nothing."""
    log = given(joined(), 7, joined())

    assert {(R, 7): Member("member", since=1, since_seq=1, muted_until_ms=0, changed=1)} == fold(
        members.projection, log
    )


@pytest.mark.parametrize("end", [left(), MemberRemoved(room=R, mid=7)])
def test_who_leaves_or_is_removed_is_no_member_and_comes_back_as_a_new_one(end: Fact) -> None:
    muted = MemberMuted(room=R, mid=7, until_ms=10**15)

    assert {} == fold(members.projection, given(joined(), end))
    assert {(R, 7): Member("member", 4, 4, 0, changed=4)} == fold(
        members.projection, given(joined(), muted, end, joined())
    )


def test_roles_and_mutes_change_members_only() -> None:
    owner, mute = RoleChanged(room=R, mid=7, role="owner"), MemberMuted(room=R, mid=7, until_ms=5)

    assert {(R, 7): Member("owner", 1, 1, 5, changed=3)} == fold(members.projection, given(joined(), owner, mute))
    assert {} == fold(members.projection, given(owner, mute))


def test_a_mute_stays_whoever_goes_and_until_it_is_ended() -> None:
    mute, end = MemberMuted(room=R, mid=7, until_ms=5), MemberMuted(room=R, mid=7, until_ms=0)

    assert {(R, 7): Mute(5)} == fold(mutes.projection, given(joined(), mute, left(), joined(), left()))
    assert {} == fold(mutes.projection, given(joined(), mute, end))


def test_a_person_is_in_as_many_rooms_as_it_joined_and_is_still_in() -> None:
    """A dismissed room says nothing of its members, and counts."""
    other = MemberJoined(room="group://other", mid=7)

    assert {(7,): RoomCount(2), (8,): RoomCount(1)} == fold(room_counts.projection, given(joined(), joined(8), other))
    assert {(7,): RoomCount(1)} == fold(room_counts.projection, given(joined(), other, left()))
    assert {} == fold(
        room_counts.projection, given(joined(), other, left(), MemberRemoved(room="group://other", mid=7))
    )
    assert {} == fold(room_counts.projection, given(left()))
    assert {(7,): RoomCount(1)} == fold(room_counts.projection, given(joined(), RoomDismissed(room=R)))


# --- rooms -------------------------------------------------------------------------------------------------------------------


def test_a_room_is_made_by_its_creation_or_by_the_first_join() -> None:
    made = RoomCreated(room=R, public=False, history="all", title="t")

    assert {(R,): Room(1, 7, False, "all", "t", 0)} == fold(rooms.projection, given(made))
    assert {(R,): Room(1, 7, True, "joined", "", 2)} == fold(rooms.projection, given(joined(), joined(8)))


def test_a_room_counts_its_members_and_stays_when_it_is_empty() -> None:
    log = given(joined(), joined(8), left(), MemberRemoved(room=R, mid=8))

    assert fold(rooms.projection, log)[R,].members == 0


def test_a_room_is_made_once() -> None:
    log = given(joined(), RoomCreated(room=R, public=False))

    assert {(R,): Room(1, 7, True, "joined", "", 1)} == fold(rooms.projection, log)


# --- sessions and deliveries ---------------------------------------------------------------------------------------------------


def test_a_session_is_there_from_its_opening_to_its_close() -> None:
    assert {(7, "phone"): Session(1, "a", "web", "10.0.0.1", ("live://1",), 1001)} == fold(
        sessions.projection, given(opened())
    )
    assert {} == fold(sessions.projection, given(opened(), closed(1)))


def test_a_late_close_does_not_end_the_session_that_took_over() -> None:
    log = given(opened(), opened(node="b"), closed(1))

    assert fold(sessions.projection, log)[7, "phone"].node == "b"


def test_whose_session_it_is_says_the_stream() -> None:
    """The service closes the sessions of a lost comet, and is not the person itself."""
    log = given(opened(), closed(1), by=SERVICE_MID, mid=-3)

    assert {(-3, "phone")} == fold(sessions.projection, log[:1]).keys()
    assert {} == fold(sessions.projection, log)


def test_entering_rooms_replaces_the_rooms_of_an_open_session() -> None:
    entered = RoomsEntered(key="phone", opened=1, rooms=("live://2", "live://3"))

    assert fold(sessions.projection, given(opened(), entered))[7, "phone"].rooms == ("live://2", "live://3")
    assert {} == fold(sessions.projection, given(entered))
    older = given(opened(), opened(), entered)
    assert fold(sessions.projection, older) == fold(sessions.projection, older[:2]), (
        "it was an older session that entered"
    )


def test_a_device_has_received_what_it_ever_said() -> None:
    """Acks may come late and in any order; a close carries the last one; a new session takes nothing back."""
    acks = (DeliveryAcked(key="phone", position=5), DeliveryAcked(key="phone", position=3))

    assert {(7, "phone"): Delivery(5)} == fold(deliveries.projection, given(*acks))
    assert {(7, "phone"): Delivery(9)} == fold(deliveries.projection, given(*acks, opened(), closed(3, delivered=9)))
    assert {(7, "phone"): Delivery(5)} == fold(deliveries.projection, given(*acks, opened(), closed(3)))


# --- inbox -------------------------------------------------------------------------------------------------------------------


def unread(log: list[Recorded], mid: int = 7) -> int:
    row = fold(inbox.projection, log)[mid, R]
    return max(event.messages for event in log if event.room) - row.seen - (row.sent - row.sent_seen)


def marked(seq: int, messages: int, sent: int, mid: int = 7) -> ReadMarked:
    return ReadMarked(room=R, mid=mid, seq=seq, messages=messages, sent=sent)


def test_unread_are_the_messages_of_others_after_the_join() -> None:
    assert unread(given(8, 8, joined(), 8, 7, SERVICE_MID, 8)) == 3


def test_reading_takes_away_what_it_covers_and_no_own_messages_twice() -> None:
    log = given(joined(), 7, 8, 8, 7, 8, marked(seq=4, messages=3, sent=1))

    assert unread(log) == 1
    assert unread([*log, *given(joined(), 7, 8, 8, 7, 8, marked(seq=6, messages=5, sent=2))[-1:]]) == 0


def test_a_mark_never_goes_back() -> None:
    log = given(joined(), 8, 8, marked(3, 2, 0), marked(2, 1, 0))

    assert fold(inbox.projection, log)[7, R].read_seq == 3
    assert unread(log) == 0


def test_a_second_join_forgets_nothing() -> None:
    log = given(joined(), 8, marked(2, 1, 0), joined())

    assert {(7, R): Inbox(since_seq=1, read_seq=2, seen=1, sent=0, sent_seen=0)} == fold(inbox.projection, log)


def test_a_mark_of_an_earlier_membership_does_not_touch_the_next() -> None:
    """It was made before the person left, and recorded after the person came back."""
    log = given(joined(), 8, 7, 7, left(), joined(), 8, marked(seq=4, messages=3, sent=2))

    assert {(7, R): Inbox(since_seq=6, read_seq=6, seen=3, sent=0, sent_seen=0)} == fold(inbox.projection, log)
    assert unread(log) == 1


def test_who_is_no_member_and_the_service_have_no_inbox() -> None:
    assert {} == fold(inbox.projection, given(NOBODY, marked(1, 1, 1, mid=NOBODY), joined(SERVICE_MID), 8))


# --- amendments ----------------------------------------------------------------------------------------------------------------


def test_a_message_reads_as_its_last_edit_and_says_how_often_it_was_edited() -> None:
    log = given(7, edited(body={"text": "b"}), edited(body="c", format_="text"), edited(body="/w==", format_="base64"))

    assert {(R, 1): Amendment(1, 2, 1002, JSON, '{"text":"b"}', 0, 0)} == fold(amendments.projection, log[:2])
    assert {(R, 1): Amendment(2, 3, 1003, TEXT, "c", 0, 0)} == fold(amendments.projection, log[:3])
    assert {(R, 1): Amendment(3, 4, 1004, BASE64, "/w==", 0, 0)} == fold(amendments.projection, log)


def test_of_a_recalled_message_no_words_are_left_and_nothing_changes_it() -> None:
    gone = Amendment(1, 2, 1002, JSON, "", 3, 9)

    assert {(R, 1): gone} == fold(amendments.projection, given(7, edited(body="secret"), recalled(), by=9))
    assert {(R, 1): gone} == fold(amendments.projection, given(7, edited(), recalled(), edited(), recalled(), by=9))


def test_every_edit_is_found_by_its_message() -> None:
    log = given(7, edited(), 7, edited(3), edited(), by=9)

    assert {(R, 1, 2): Edit(9), (R, 3, 4): Edit(9), (R, 1, 5): Edit(9)} == fold(edits.projection, log)


# --- mentions and threads --------------------------------------------------------------------------------------------------------


def test_whoever_a_message_names_has_a_row() -> None:
    log = given(7, About(mentions=(8, 9)), About(mentions=(EVERYBODY_MID,)), About(reply_to=1), by=5)

    assert {
        (8, R, 2): Mention(2, 5), (9, R, 2): Mention(2, 5), (EVERYBODY_MID, R, 3): Mention(3, 5),
    } == fold(mentions.projection, log)  # fmt: skip


def test_a_thread_has_its_messages_and_not_its_first() -> None:
    log = given(7, About(thread=1), 8, About(thread=1, reply_to=2), About(thread=3), by=5)

    assert {(R, 1, 2): Part(5), (R, 1, 4): Part(5), (R, 3, 5): Part(5)} == fold(threads.projection, log)


# --- accounts ----------------------------------------------------------------------------------------------------------------


def registered(*, active: bool = True) -> AccountRegistered:
    return AccountRegistered(mid=7, login="alice", handle="alice", name="Alice", active=active, credential="c", code="")


def suspended(*sids: str) -> AccountSuspended:
    return AccountSuspended(mid=7, reason="spam", sids=sids or ("s",))


def logged_in(sid: str = "s") -> LoggedIn:
    return LoggedIn(mid=7, sid=sid, key=f"key of {sid}", platform="web", address="::1")


def logged_out(*sids: str, everywhere: bool = False) -> LoggedOut:
    return LoggedOut(mid=7, sids=sids or ("s",), everywhere=everywhere)


def test_an_account_is_what_happened_to_it_last() -> None:
    def after(*facts: Fact) -> Account:
        return fold(accounts.projection, given(registered(active=False), *facts))[7,]

    pending = Account(
        "alice", "Alice", "", "{}", "user", "pending", "", "c", created=1, created_ms=1001, changed=1, activated=False
    )
    assert pending == after()
    assert "active" == after(AccountActivated(mid=7)).state
    assert ("pending", 2) == (after(SuspensionLifted(mid=7)).state, after(SuspensionLifted(mid=7)).changed)
    assert ("suspended", "spam") == (after(suspended()).state, after(suspended()).reason)
    lifted = after(AccountActivated(mid=7), suspended(), SuspensionLifted(mid=7))
    assert ("active", "") == (lifted.state, lifted.reason)
    waits = after(suspended(), SuspensionLifted(mid=7))
    assert ("pending", "") == (waits.state, waits.reason), "nobody has let it in yet"
    assert "active" == after(suspended(), SuspensionLifted(mid=7), AccountActivated(mid=7)).state
    assert "deactivated" == after(AccountDeactivated(mid=7, sids=()), suspended()).state
    assert "moderator" == after(PlatformRoleChanged(mid=7, role="moderator")).role
    assert "c2" == after(PasswordChanged(mid=7, credential="c2")).credential
    shown = after(ProfileChanged(mid=7, name="A", avatar="https://a", extra={"b": [1]}))
    assert ("A", "https://a", '{"b":[1]}') == (shown.name, shown.avatar, shown.extra)


def test_what_happens_to_no_account_makes_none() -> None:
    assert {} == fold(accounts.projection, given(AccountActivated(mid=7), suspended()))


def test_a_name_is_the_first_ones_for_ever() -> None:
    second = registered().model_copy(update={"mid": 8})
    log = given(registered(), AccountDeactivated(mid=7, sids=()), second)

    assert {("alice",): Handle(7)} == fold(handles.projection, log)


def test_the_uses_of_a_code_are_counted_and_no_code_is_none() -> None:
    log = given(registered(), *(registered().model_copy(update={"mid": mid, "code": "c"}) for mid in (8, 9)))

    assert {("c",): CodeUses(2)} == fold(code_uses.projection, log)


def test_a_login_is_there_until_it_ends() -> None:
    assert {(7, "s"): Login("key of s", "web", "::1", 1, 1001)} == fold(logins.projection, given(logged_in()))
    for end in (logged_out(), suspended(), AccountDeactivated(mid=7, sids=("s",)), LoginExpired(mid=7, sid="s")):
        left = fold(logins.projection, given(logged_in(), logged_in("other"), end))
        assert [(7, "other")] == list(left)


def test_a_logout_of_one_device_is_remembered_by_its_name_for_a_while() -> None:
    log = given(logged_out("a"), logged_out("b", "c"))
    assert {(7,): Logout(2, 0, 0, 0, ("1001 a", "1002 b", "1002 c"))} == fold(logouts.projection, log)

    later = [*log, log[0]._replace(position=3, time_ms=1001 + KEEP_MS)]
    assert Logout(3, 0, 0, 0, ("1002 b", "1002 c", f"{1001 + KEEP_MS} a")) == fold(logouts.projection, later)[7,]


def test_what_ended_a_guest_is_forgotten_with_its_login() -> None:
    ends = [LoggedOut(mid=mid, sids=("s",), everywhere=False) for mid in (7, -7)]
    left = fold(logouts.projection, given(*ends, LoginExpired(mid=7, sid="s"), LoginExpired(mid=-7, sid="s")))
    assert [(7,)] == list(left)


def test_what_ends_all_logins_voids_all_tokens_before_it() -> None:
    for end in (logged_out(everywhere=True), suspended(), AccountDeactivated(mid=7, sids=())):
        assert {(7,): Logout(2, 2, 1002, 2, ())} == fold(logouts.projection, given(logged_out("a"), end))


def test_a_change_of_role_voids_tokens_and_ends_no_login() -> None:
    log = given(logged_out(everywhere=True), PlatformRoleChanged(mid=7, role="admin"), SuspensionLifted(mid=7))

    assert {(7,): Logout(3, 2, 1002, 1, ())} == fold(logouts.projection, log)


# --- attachments and uploads ---------------------------------------------------------------------------------------------------


def test_a_file_is_there_until_it_is_removed() -> None:
    log = given(attached("a"), attached("b"), AttachmentRemoved(room=R, id="a"), by=8, mid=8)

    row = Attachment(R, 8, "a.txt", "text/plain", 5, "00", None, None, position=2, stored_at_ms=1002)
    assert {("b",): row} == fold(attachments.projection, log)


def test_what_was_stored_today_is_counted_and_removing_gives_nothing_back() -> None:
    log = given(attached("a", 5_000), AttachmentRemoved(room=R, id="a"), attached("b", 6_000))

    assert {(7,): Uploaded(day=0, bytes=11_000)} == fold(uploads.projection, log)


def test_a_small_file_counts_as_what_it_costs_to_keep() -> None:
    log = given(attached("a", 0), attached("b", FILE_BYTES_MIN), attached("c", FILE_BYTES_MIN + 1))

    assert {(7,): Uploaded(day=0, bytes=3 * FILE_BYTES_MIN + 1)} == fold(uploads.projection, log)


def test_another_day_begins_at_zero() -> None:
    first, second = given(attached("a", 5_000), attached("b", 6_000))
    tomorrow = second._replace(time_ms=DAY_MS)

    rows = fold(uploads.projection, [first, tomorrow])
    assert {(7,): Uploaded(day=1, bytes=6_000)} == rows
    assert (0, 6_000, 0) == tuple(rows[7,].on(day) for day in (0, 1, 2))


def test_a_service_has_no_days() -> None:
    assert {} == fold(uploads.projection, given(attached("a"), by=SERVICE_MID))


# --- all together --------------------------------------------------------------------------------------------------------------


def test_a_projection_names_the_types_that_concern_it() -> None:
    """The types are looked at first, so an event of another type would be lost silently."""
    everything = given(
        RoomCreated(room=R), joined(), 7, RoleChanged(room=R, mid=7, role="admin"), MemberMuted(room=R, mid=7, until_ms=1),
        marked(3, 1, 1), left(), MemberRemoved(room=R, mid=8), opened(), RoomsEntered(key="phone", opened=1, rooms=()),
        registered(), registered().model_copy(update={"code": "c"}),
        AccountActivated(mid=7), ProfileChanged(mid=7, name="", avatar="", extra={}),
        PasswordChanged(mid=7, credential="c"), suspended(), SuspensionLifted(mid=7), AccountDeactivated(mid=7, sids=("s",)),
        PlatformRoleChanged(mid=7, role="admin"), logged_in(), logged_out(), LoginExpired(mid=-7, sid="s"),
        DeliveryAcked(key="phone", position=1), closed(9, delivered=1), edited(3), recalled(3),
        About(thread=3, mentions=(7,)),
        RoomChanged(room=R, title="t"), RoomMuted(room=R, until_ms=1),
        attached("a"), AttachmentRemoved(room=R, id="a"),
        MemberBanned(room=R, mid=8), MemberUnbanned(room=R, mid=8), Invited(room=R, mid=8), InvitationWithdrawn(room=R, mid=8),
        InvitationDeclined(room=R, mid=8), JoinRequested(room=R, mid=8), JoinRejected(room=R, mid=8), PersonBlocked(by=7, mid=8),
        PersonUnblocked(by=7, mid=8), RoomDismissed(room=R), VisibilityChosen(mid=7, choice="nobody"),
        *about_messages(),
    )  # fmt: skip
    for projection in PROJECTIONS.values():
        others = [event for event in everything if event.op == 0 or MESSAGE_SENT in projection.types]
        concerned = {event.type for event in others if projection.keys(event)}

        assert concerned == projection.types - {MESSAGE_PUSHED}, projection.name


def test_a_guard_looks_at_the_membership_of_the_sender() -> None:
    inline = InlineProjections()

    draft = Draft(ROOM + R, MESSAGE_SENT, "", 7, guard=MEMBER)
    member: Key = ("members", (R, 7))

    assert member in inline.guard_keys(draft)
    rows: Rows = dict.fromkeys(inline.guard_keys(draft))
    refused = [
        inline.refusal({**rows, member: row}, draft, now_ms=5)
        for row in (None, Member("member", 1, 1, 6), Member("member", 1, 1, 5))
    ]
    assert [None if error is None else error.code for error in refused] == ["no_such_room", "muted", None]
