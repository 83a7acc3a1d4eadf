"""What a client is told when it sends: places, refusals that are its own, and the same answer to the same question for ever."""

from __future__ import annotations

import json

import pytest

from events.at_work import AtWork, Nothing, Told, appending, connected, message, new_id, stream
from imcore import membership
from imcore.errors import BadRequest, Conflict, Forbidden, IdConflict, ImcoreError, NoSuchRoom, RoomExists
from imcore.events.store import Decision, Draft, Rows, draft
from imcore.events.types import BASE64, JSON, MESSAGE_OP, SERVICE_MID, TEXT, MemberJoined, MemberLeft, Recorded
from imcore.permissions import SERVICE_ACTOR, person

R, S = "group://r", "group://s"
FAR_MS = 2**52


def codes(told: list[Told]) -> list[str]:
    """What became of each, in one word."""
    return [
        one.outcome.code if isinstance(one.outcome, ImcoreError) else "duplicate" if one.duplicate else "ok"
        for one in told
    ]


async def refused(here: AtWork, decision: Decision) -> str:
    with pytest.raises(ImcoreError) as refusal:
        await here.log.decide(decision)
    return refusal.value.code


# --- places ----------------------------------------------------------------------------------------------------------------------


async def test_what_is_told_is_what_is_stored_on_both_roads(here: AtWork) -> None:
    """Live receivers get what was told, late ones what is stored: they must not differ in anything, the time included."""
    await here.join(R, 1)
    await here.tell(message(R), message(R, body='{"ä":"\\u0000 ☃"}'))
    await here.tell_decided(
        message(R), Draft("all:", "message_pushed", "AP8=", SERVICE_MID, op=7, format_=BASE64, key="k")
    )
    await here.log.decide(membership.Mute(R, 1, SERVICE_ACTOR, FAR_MS))

    told = [event for batch in here.batches for event in batch]
    assert await here.whole_log() == told
    assert await here.reader.read(0) == told


async def test_positions_follow_the_order_of_submission(here: AtWork) -> None:
    await here.join(R, 1)
    told = await here.tell(*(message(R, body=str(n)) for n in range(2_500)))
    assert [(n + 2, n + 2, str(n)) for n in range(2_500)] == [
        (one.event.position, one.event.seq, one.event.body) for one in told
    ]


async def test_each_process_is_told_its_own_batches_in_order_once(here: AtWork) -> None:
    await here.join(R, 1)
    await here.tell(*(message(R) for _ in range(30)))
    await here.together(message(R), membership.Join(R, person(2), may_create=False), message(R, 3))
    positions = [event.position for batch in here.batches for event in batch]
    assert list(range(1, 34)) == positions


async def test_several_drafts_are_told_in_their_own_order(here: AtWork) -> None:
    await here.join(R, 1)
    outcomes = await here.log.append([message(R), message(R, 9), message(R)])
    assert [2, "no_such_room", 3] == [one.position if isinstance(one, Recorded) else one.code for one in outcomes]
    assert [] == await here.log.append([])


async def test_one_draft_can_be_waited_for(here: AtWork) -> None:
    await here.join(R, 1)
    assert 2 == (await here.log.appending(message(R))).position
    with pytest.raises(NoSuchRoom):
        await here.log.appending(message(R, 2))


async def test_messages_are_counted_and_other_events_are_not(here: AtWork) -> None:
    await here.join(R, 1)
    (one,), (two,) = await here.tell(message(R)), await here.tell_decided(message(R))
    await here.join(R, 2)
    (three,) = await here.tell(message(R))
    assert [1, 2, 3] == [told.event.messages for told in (one, two, three)]
    assert 2 == (await here.reader.read(3, 1))[0].messages, "the join behind two messages"


# --- the same id again ---------------------------------------------------------------------------------------------------------


async def test_a_retry_gets_the_first_place_and_is_marked(here: AtWork) -> None:
    await here.join(R, 1)
    used = new_id()
    first = await here.say(R, client_id=used)
    await here.say(R)
    for again in (await here.tell(message(R, 1, used)), await here.tell_decided(message(R, 1, used))):
        assert [Told(first.event, duplicate=True)] == again
    assert 3 == (await here.reader.head()).position


@pytest.mark.parametrize("road", ["drafts", "decisions"])
async def test_a_retry_in_the_same_batch_gets_the_first_place(here: AtWork, road: str) -> None:
    """Two with one id submitted at once: the second waits for the next batch, and its neighbours keep their order."""
    await here.join(R, 1)
    tell = here.tell if road == "drafts" else here.tell_decided
    used = new_id()
    told = await tell(message(R, 1, used), message(R), message(R, 1, used), message(R))
    assert ["ok", "ok", "duplicate", "ok"] == codes(told)
    assert [(2, 2), (3, 3), (2, 2), (4, 4)] == [one.place for one in told]


async def test_a_retry_through_another_process_gets_the_first_place(here: AtWork) -> None:
    await here.join(R, 1)
    used = new_id()
    first = await here.say(R, client_id=used)
    async with appending(here.url) as elsewhere:
        assert Told(first.event, duplicate=True) == await elsewhere.say(R, client_id=used)


async def test_two_processes_with_one_id_at_once_append_it_once(here: AtWork) -> None:
    await here.join(R, 1)
    async with appending(here.url) as elsewhere:
        for _ in range(30):
            used = new_id()
            one = here.log.appending(message(R, 1, used))
            two = elsewhere.log.appending(message(R, 1, used))
            assert await one == await two
    assert 31 == (await here.reader.head()).position


@pytest.mark.parametrize("road", ["drafts", "decisions"])
@pytest.mark.parametrize("change", ["body", "op", "room", "format"])
async def test_a_used_id_with_another_message_is_refused(here: AtWork, road: str, change: str) -> None:
    await here.join(R, 1)
    await here.join(S, 1)
    used = new_id()
    await here.say(R, client_id=used)
    other = message(
        S if change == "room" else R,
        1,
        used,
        body='"other"' if change == "body" else '"hello"',
        op=MESSAGE_OP + (change == "op"),
    )
    other.format = TEXT if change == "format" else JSON
    tell = here.tell if road == "drafts" else here.tell_decided

    told = await tell(message(R), other, message(R))

    assert ["ok", "id_conflict", "ok"] == codes(told)
    assert not told[1].duplicate
    assert [(4, 3), (5, 4)] == [told[0].place, told[2].place]


@pytest.mark.parametrize("road", ["drafts", "decisions"])
async def test_a_used_id_tells_nothing_of_a_room_that_is_not_there(here: AtWork, road: str) -> None:
    await here.join(R, 1)
    used = new_id()
    await here.say(R, client_id=used)
    tell = here.tell if road == "drafts" else here.tell_decided
    assert ["no_such_room"] == codes(await tell(message("group://nowhere", 1, used)))


async def test_ids_are_each_senders_own(here: AtWork) -> None:
    await here.join(R, 1, 2)
    used = new_id()
    told = await here.tell(message(R, 1, used), message(R, 2, used, body='"mine"'))
    assert ["ok", "ok"] == codes(told)
    assert ["duplicate", "duplicate"] == codes(await here.tell(message(R, 1, used), message(R, 2, used, body='"mine"')))


async def test_a_retry_is_answered_after_leaving_and_while_muted(here: AtWork) -> None:
    """What was acknowledged stays acknowledged, whatever the sender may do today."""
    await here.join(R, 1, 2)
    left, muted = new_id(), new_id()
    await here.tell(message(R, 1, left), message(R, 2, muted))
    await here.log.decide(membership.RemoveMember(R, 1, SERVICE_ACTOR))
    await here.log.decide(membership.Mute(R, 2, SERVICE_ACTOR, FAR_MS))
    for tell in (here.tell, here.tell_decided):
        assert ["duplicate", "duplicate"] == codes(await tell(message(R, 1, left), message(R, 2, muted)))
        assert ["no_such_room", "muted"] == codes(await tell(message(R, 1), message(R, 2)))


async def test_a_retry_is_answered_though_the_seq_it_expected_is_gone(here: AtWork) -> None:
    await here.join(R, 1)
    used = new_id()
    first = await here.say(R, client_id=used, expected=1)
    for tell in (here.tell, here.tell_decided):
        assert [Told(first.event, duplicate=True)] == await tell(message(R, 1, used, expected=1))


async def test_an_id_whose_message_is_no_longer_kept_is_still_used(here: AtWork) -> None:
    """Retention drops partitions and leaves the ids: such a retry cannot be answered, and must not be appended again."""
    await here.join(R, 1)
    used = new_id()
    async with connected(here.url) as connection:
        await connection.execute("INSERT INTO client_ids (mid, client_id, position) VALUES (1, $1, 0)", used)
        for tell in (here.tell, here.tell_decided):
            (told,) = await tell(message(R, 1, used))
            assert isinstance(told.outcome, IdConflict)
            assert "no longer kept" in told.outcome.detail
        await connection.execute("DROP TRIGGER refuse_delete ON client_ids")
        await connection.execute("DELETE FROM client_ids")


# --- refusals inside a batch -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("road", ["drafts", "decisions"])
async def test_of_a_batch_of_200_each_is_told_its_own(here: AtWork, road: str) -> None:
    """Non-members, muted, retries, wrong seqs, rooms that are not there: their neighbours stand side by side as if they were alone."""
    await here.join(R, 1, 2)
    await here.join(S, 1)
    await here.log.decide(membership.Mute(R, 2, SERVICE_ACTOR, FAR_MS))
    used = [new_id() for _ in range(20)]
    firsts = await here.tell(*(message(R, 1, one) for one in used))
    head = (await here.reader.head()).position
    drafts: list[Draft] = []
    expected: list[str] = []
    for n in range(200):
        match n % 10:
            case 0:
                drafts.append(message(R, 3))
                expected.append("no_such_room")
            case 2:
                drafts.append(message(R, 2))
                expected.append("muted")
            case 4:
                drafts.append(message(R, 1, used[n // 10]))
                expected.append("duplicate")
            case 5:
                # A stream of its own, so that it shares the batch with all the others.
                drafts.append(message(f"live://{n}", is_member=False, expected=n))
                expected.append("conflict")
            case 6:
                drafts.append(message(f"live://{n}", is_member=False, expected=0))
                expected.append("ok")
            case 7:
                drafts.append(message(S, 1, op=MESSAGE_OP))
                expected.append("ok")
            case 8:
                drafts.append(message("group://nowhere"))
                expected.append("no_such_room")
            case _:
                drafts.append(message(R, 1))
                expected.append("ok")
    batches = here.log.batches

    told = await (here.tell if road == "drafts" else here.tell_decided)(*drafts)

    assert batches + 1 == here.log.batches, "it was one batch"
    assert expected == codes(told)
    assert firsts == [Told(one.event, duplicate=False) for one in told if one.duplicate]
    accepted = [one.event for one in told if not one.duplicate and isinstance(one.outcome, Recorded)]
    assert list(range(head + 1, head + 1 + len(accepted))) == [event.position for event in accepted]
    assert [24 + n for n in range(60)] == [event.seq for event in accepted if event.stream == stream(R)]
    assert [2 + n for n in range(20)] == [event.seq for event in accepted if event.stream == stream(S)]
    conflicts = [(one.outcome.expected, one.outcome.actual) for one in told if isinstance(one.outcome, Conflict)]
    assert [(n, 0) for n in range(5, 200, 10)] == conflicts


@pytest.mark.parametrize("road", ["drafts", "decisions"])
async def test_a_batch_of_which_nothing_is_left_appends_nothing(here: AtWork, road: str) -> None:
    await here.join(R, 1)
    tell = here.tell if road == "drafts" else here.tell_decided
    assert ["no_such_room"] * 3 == codes(await tell(message(R, 7), message(R, 8), message("group://nowhere")))
    assert 1 == (await here.reader.head()).position
    assert ["ok"] == codes(await tell(message(R)))


async def test_a_refused_draft_makes_no_stream_of_a_room(here: AtWork) -> None:
    """Else everybody could fill the table of streams."""
    await here.say("group://nowhere")
    assert await here.refused_names() == []


async def test_a_mute_ends_when_its_time_is_over(here: AtWork) -> None:
    await here.join(R, 1)
    for until_ms, code in ((FAR_MS, "muted"), (1, "ok"), (FAR_MS, "muted"), (0, "ok")):
        await here.log.decide(membership.Mute(R, 1, SERVICE_ACTOR, until_ms))
        assert [code] == codes(await here.tell(message(R)))
        assert [code] == codes(await here.tell_decided(message(R)))


# --- expected seqs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_member", [True, False])
@pytest.mark.parametrize("road", ["drafts", "decisions"])
async def test_a_wrong_expected_seq_says_the_right_one(here: AtWork, road: str, is_member: bool) -> None:
    await here.join(R, 1)
    tell = here.tell if road == "drafts" else here.tell_decided
    for wrong in (0, 2, 7):
        (told,) = await tell(message(R, expected=wrong, is_member=is_member))
        assert isinstance(told.outcome, Conflict)
        assert (stream(R), wrong, 1) == (told.outcome.stream, told.outcome.expected, told.outcome.actual)
    assert ["ok"] == codes(await tell(message(R, expected=1, is_member=is_member)))


@pytest.mark.parametrize("road", ["drafts", "decisions"])
async def test_expected_seqs_of_one_stream_submitted_at_once_count_on(here: AtWork, road: str) -> None:
    """They cannot be judged beside each other; each gets a batch of its own, in order."""
    await here.join(R, 1)
    tell = here.tell if road == "drafts" else here.tell_decided
    told = await tell(message(R), message(R, expected=2), message(R, expected=3), message(R, expected=3), message(R))
    assert ["ok", "ok", "ok", "conflict", "ok"] == codes(told)
    assert [2, 3, 4, 5] == [one.event.seq for one in told if isinstance(one.outcome, Recorded)]


async def test_an_expected_seq_behind_a_decision_sees_what_it_did(here: AtWork) -> None:
    told = await here.together(
        membership.Join(R, person(1), may_create=True), message(R, expected=0), message(R, expected=1)
    )
    assert ["conflict", "ok"] == codes(told[1:])  # type: ignore[arg-type]


# --- decisions -------------------------------------------------------------------------------------------------------------------


async def test_join_and_send_in_one_batch_passes(here: AtWork) -> None:
    joined, told = await here.together(membership.Join(R, person(1), may_create=True), message(R))
    assert isinstance(joined, list)
    assert isinstance(told, Told)
    assert [(1, 1), (2, 2)] == [(joined[0].position, joined[0].seq), told.place]
    assert 1 == here.log.batches


async def test_send_before_the_join_of_its_batch_is_refused(here: AtWork) -> None:
    told, _ = await here.together(message(R), membership.Join(R, person(1), may_create=True))
    assert ["no_such_room"] == codes([told])  # type: ignore[list-item]
    assert 1 == here.log.batches


@pytest.mark.parametrize("verb", ["leave", "removal"])
async def test_nobody_sends_behind_their_leave_in_one_batch(here: AtWork, verb: str) -> None:
    await here.join(R, 1)
    decision = membership.Leave(R, person(1)) if verb == "leave" else membership.RemoveMember(R, 1, SERVICE_ACTOR)
    before, _, after = await here.together(message(R), decision, message(R))
    assert ["ok", "no_such_room"] == codes([before, after])  # type: ignore[list-item]
    assert 3 == (await here.reader.head()).position


async def test_a_mute_holds_from_its_place_in_the_batch(here: AtWork) -> None:
    await here.join(R, 1)
    before, _, after = await here.together(message(R), membership.Mute(R, 1, SERVICE_ACTOR, FAR_MS), message(R))
    assert ["ok", "muted"] == codes([before, after])  # type: ignore[list-item]


async def test_of_two_joins_the_second_changes_nothing(here: AtWork) -> None:
    first, again = membership.Join(R, person(1), may_create=True), membership.Join(R, person(1), may_create=True)
    one, two = await here.together(first, again)
    assert isinstance(one, list)
    assert [] == two
    assert first.existing is None
    assert again.existing is not None
    assert (1, 1, "owner") == (again.existing.since, again.existing.since_seq, again.existing.role)


async def test_a_room_is_created_once(here: AtWork) -> None:
    one, two = await here.together(
        membership.CreateRoom(R, person(1), members=[2, 1]), membership.CreateRoom(R, person(3))
    )
    assert isinstance(one, list)
    assert ["room_created", "member_joined", "member_joined"] == [event.type for event in one]
    assert isinstance(two, RoomExists)
    assert "room_exists" == await refused(here, membership.CreateRoom(R, person(3)))


async def test_whoever_loses_the_race_to_create_gets_room_exists(here: AtWork) -> None:
    async with appending(here.url) as elsewhere:
        for n in range(20):
            one, two = (
                here.together(membership.CreateRoom(f"group://{n}", person(1))),
                elsewhere.together(membership.CreateRoom(f"group://{n}", person(2))),
            )
            answers = [*(await one), *(await two)]
            assert 1 == sum(isinstance(answer, RoomExists) for answer in answers)


async def test_a_refused_decision_leaves_its_neighbours(here: AtWork) -> None:
    await here.join(R, 1, 2)
    outcomes = await here.together(
        membership.SetRole(R, 1, person(2), "member"),
        message(R, 2),
        membership.Leave(R, person(9)),
        membership.RemoveMember(R, 2, person(1)),
        message(R, 1),
    )
    assert [Forbidden, NoSuchRoom] == [type(outcomes[0]), type(outcomes[2])]
    assert ["ok", "ok"] == codes([outcomes[1], outcomes[4]])  # type: ignore[list-item]
    assert [3, 4, 5] == [event.position for event in here.batches[-1]]


async def test_rank_is_taken_at_the_place_in_the_batch(here: AtWork) -> None:
    """Member 2 becomes an admin, removes 3, and is an admin no more: each in the light of what was before it."""
    await here.join(R, 1, 2, 3, 4)
    outcomes = await here.together(
        membership.RemoveMember(R, 3, person(2)),
        membership.SetRole(R, 2, person(1), "admin"),
        membership.RemoveMember(R, 3, person(2)),
        membership.RemoveMember(R, 3, person(2)),
        membership.SetRole(R, 2, person(1), "member"),
        membership.RemoveMember(R, 4, person(2)),
    )
    kinds = [type(one).__name__ if isinstance(one, ImcoreError) else len(one) for one in outcomes]
    assert ["Forbidden", 1, 1, BadRequest.__name__, 1, "Forbidden"] == kinds


async def test_a_stream_that_only_a_decision_may_not_make_is_no_room(here: AtWork) -> None:
    assert "no_such_room" == await refused(here, membership.Join(R, person(1), may_create=False))
    assert "no_such_room" == await refused(here, membership.Leave(R, person(1)))
    assert "no_such_room" == await refused(here, membership.Mute(R, 1, SERVICE_ACTOR, 0))
    assert [] == await here.refused_names()


class ManyFacts(Decision):
    """Facts for two streams, a join and a leave among them."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(
            [membership.room_key(R), *membership.join_keys(R, 1), *membership.join_keys(R, 2)],
            ["user:1", stream(R)],
            creates=True,
        )

    def decide(self, rows: Rows) -> list[Draft]:
        return [
            draft(stream(R), MemberJoined(room=R, mid=1), 1),
            Draft("user:1", "message_pushed", "{}", SERVICE_MID, op=MESSAGE_OP),
            draft(stream(R), MemberJoined(room=R, mid=2), 2),
            draft(stream(R), MemberLeft(room=R, mid=1), 1),
        ]


async def test_a_decision_is_told_all_its_places(here: AtWork) -> None:
    events = await here.log.decide(ManyFacts())
    assert [(1, stream(R), 1), (2, "user:1", 1), (3, stream(R), 2), (4, stream(R), 3)] == [
        (event.position, event.stream, event.seq) for event in events
    ]


async def test_a_batch_of_decisions_that_do_nothing_appends_nothing(here: AtWork) -> None:
    assert [[], []] == await here.together(Nothing(), Nothing())
    assert [] == here.batches


@pytest.mark.parametrize("road", ["drafts", "decisions"])
async def test_a_body_is_kept_to_the_sign(here: AtWork, road: str) -> None:
    """Alone and beside others, whatever batches travel as."""
    tell = here.tell if road == "drafts" else here.tell_decided
    bodies = [
        "",
        " ",
        "NULL",
        '"\\u0000"',
        "\x1f",
        "a\x1fb\x1f",
        "{}",
        '{"a" : 1}',
        '{"a,b\\"}',
        "1e131071",
        json.dumps("☃\U0001f600 \x7f"),
        "☃\U0001f600\n\r\t\x01\x7f\ufeff\uffff",
        '"' + "x" * 100_000 + '"',
        "[" * 32 + "]" * 32,
    ]
    for batch in (bodies, bodies[:2], bodies[3:5], [""], ["", ""], ["\x1f"], ["\x1f", ""]):
        head = (await here.reader.head()).position
        drafts = [
            Draft("user:1", "message_pushed", body, SERVICE_MID, key=body[:9], op=MESSAGE_OP, format_=TEXT)
            for body in batch
        ]
        told = await tell(*drafts)
        assert batch == [one.event.body for one in told]
        assert [one.event for one in told] == await here.reader.read(head)
