"""What may come when: one auth, and first; what comes too early waits, what comes too late is not heard."""

from __future__ import annotations

import pytest

from badinput.conftest import Place
from badinput.wire import (
    ACK,
    AUTH,
    CHANGE_ROOM,
    FORMS,
    HEARTBEAT,
    HISTORY,
    INBOX,
    JOIN,
    LEAVE,
    MEMBERS,
    READ,
    SEND,
    SUBSCRIBE,
    TALKATIVE,
    TCP1,
    TCP2,
    WS,
    Form,
    assert_closed,
    claim,
    connected,
    dialled,
    message,
)
from waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="package")
forms = pytest.mark.parametrize("form", FORMS, ids=str)

EARLY_PACKETS_MAX = 64


@forms
@pytest.mark.parametrize(
    ("op", "body"),
    [
        (HEARTBEAT, None),
        (SEND, message("group://a")),
        (CHANGE_ROOM, "live://a"),
        (SUBSCRIBE, [1000]),
        (JOIN, {"room": "group://a"}),
        (HISTORY, {"room": "group://a"}),
        (ACK, {"position": 1}),
        (AUTH + 1, {}),
        (99, {}),
    ],
)
async def test_the_first_packet_must_be_auth(place: Place, form: Form, op: int, body: object) -> None:
    async with dialled(place.where, form) as line:
        line.say(op, 1, body)
        line.put(line.encoded(AUTH, 2, claim(place.new_mid())))

        assert [] == (await assert_closed(line, "bad_order")).packets


@forms
async def test_there_is_only_one_auth(place: Place, form: Form) -> None:
    """What was asked before the second is answered; after it nobody listens."""
    async with connected(place.where, form, place.new_mid()) as line:
        line.say(HEARTBEAT, 1)
        line.say(AUTH, 2, claim(place.new_mid()))
        line.say(HEARTBEAT, 3)

        fate = await assert_closed(line, "bad_order")

        assert [(HEARTBEAT + 1, 1)] == [(one.op, one.seq) for one in fate.packets]


@forms
async def test_a_second_auth_in_the_segment_of_the_first_ends_the_session_once(place: Place, form: Form) -> None:
    """The first was answered. The log says once that this connection opened and once that it closed."""
    mid = place.new_mid()
    async with dialled(place.where, form) as line:
        line.say(AUTH, 1, claim(mid, key="twice"))
        line.say(AUTH, 2, claim(mid, key="twice"))

        fate = await assert_closed(line, "bad_order")

        assert [(AUTH + 1, 1, "")] == [(one.op, one.seq, one.code) for one in fate.packets]
    async with connected(place.where, TCP1, mid):
        pass
    assert ["session_opened", "session_closed"] == await place.told_of(mid, "twice")


@pytest.mark.parametrize("form", TALKATIVE, ids=str)
async def test_a_refused_auth_is_told_why_and_ends_the_connection(place: Place, form: Form) -> None:
    async with dialled(place.where, form) as line:
        line.say(AUTH, 5, {"mid": "seven"})
        line.put(line.encoded(AUTH, 6, claim(place.new_mid())))

        fate = await assert_closed(line, "unauthenticated")

        assert [(AUTH + 1, 5, "bad_request")] == [(one.op, one.seq, one.code) for one in fate.packets]


@pytest.mark.parametrize("form", [form for form in FORMS if form not in TALKATIVE], ids=str)
async def test_a_refused_auth_of_version_1_is_only_closed(place: Place, form: Form) -> None:
    """goim's clients take any packet of operation 8 for a welcome."""
    async with dialled(place.where, form) as line:
        line.say(AUTH, 5, {"mid": "seven"})

        assert [] == (await assert_closed(line, "unauthenticated")).packets


# --- before the auth is answered -------------------------------------------------------------------------------------


@forms
async def test_what_comes_before_the_auth_is_answered_waits_for_it(place: Place, form: Form) -> None:
    """As many as may wait; they are answered after the auth, and in order."""
    room = place.new_room()
    async with dialled(place.where, form) as line:
        early = [(JOIN, {"room": room}), *((SEND, message(room, n)) for n in range(EARLY_PACKETS_MAX - 1))]
        asked = [line.encoded(op, seq, body) for seq, (op, body) in enumerate(early, 2)]
        line.say(AUTH, 1, claim(place.new_mid()))
        line.put(b"".join(asked))

        replies = await line.replies(1 + EARLY_PACKETS_MAX)

        assert [AUTH + 1, JOIN + 1] + [SEND + 1] * (EARLY_PACKETS_MAX - 1) == [one.op for one in replies]
        assert [*range(1, EARLY_PACKETS_MAX + 2)] == [one.seq for one in replies]
        assert [""] * (EARLY_PACKETS_MAX + 1) == [one.code for one in replies]


@forms
async def test_too_many_packets_before_the_auth_is_answered_end_the_connection(place: Place, form: Form) -> None:
    async with dialled(place.where, form) as line:
        heartbeats = [line.encoded(HEARTBEAT, seq) for seq in range(EARLY_PACKETS_MAX + 1)]
        line.has_version = True
        line.put(line.encoded(AUTH, 1, claim(place.new_mid())) + b"".join(heartbeats))

        assert [] == (await assert_closed(line, "bad_order")).packets


@forms
async def test_a_client_that_leaves_before_the_auth_is_answered_has_a_session_that_ended(
    place: Place, form: Form
) -> None:
    mid = place.new_mid()
    async with dialled(place.where, form) as line:
        await line.push(line.encoded(AUTH, 1, claim(mid, key="brief")))
        line.drop(reset=True)
    async with connected(place.where, TCP1, mid):
        pass

    async def has_ended() -> bool:
        return await place.told_of(mid, "brief") in ([], ["session_opened", "session_closed"])

    assert await eventually(has_ended)


# --- after the end ---------------------------------------------------------------------------------------------------


@forms
async def test_after_the_end_nothing_is_heard(place: Place, form: Form) -> None:
    """Not even an auth, and not a send that would have been legal before."""
    room = place.new_room()
    async with connected(place.where, form, place.new_mid(), room_id=room) as line:
        line.say(AUTH, 1, claim(1))
        await assert_closed(line, "bad_order")
        await line.push(line.encoded(SEND, 2, message(room)) * 100)
    async with connected(place.where, TCP2, place.new_mid(), room_id=room) as other:
        page = (await other.ask(HISTORY, {"room": room, "after": 0})).json

    assert ["member_joined"] == [event["type"] for event in page["events"]]


@pytest.mark.parametrize("form", [TCP2, WS], ids=str)
@pytest.mark.parametrize(
    ("op", "body"),
    [
        (LEAVE, {"room": "group://left"}),
        (SEND, message("group://left")),
        (HISTORY, {"room": "group://left"}),
        (READ, {"room": "group://left", "seq": 1}),
        (MEMBERS, {"room": "group://left"}),
    ],
)
async def test_a_room_that_one_left_is_no_room_any_more(place: Place, form: Form, op: int, body: object) -> None:
    async with connected(place.where, form, place.new_mid()) as line:
        assert not (await line.ask(JOIN, {"room": "group://left"})).code
        assert not (await line.ask(LEAVE, {"room": "group://left"})).code

        assert "no_such_room" == (await line.ask(op, body)).code
        assert [] == (await line.ask(INBOX, {})).json["rooms"]
