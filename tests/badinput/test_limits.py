"""How much one client, one address and one person may have: at the limit, above it, and again when something became free."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import pytest

from badinput.conftest import STRICT, Place
from badinput.wire import (
    AUTH,
    CHANGE_ROOM,
    DEADLINE_S,
    FORMS,
    HEARTBEAT,
    HISTORY,
    INBOX,
    JOIN,
    LEAVE,
    PING,
    SEND,
    SUB2,
    TALKATIVE,
    TCP1,
    TCP2,
    TOO_LARGE,
    WS,
    Fate,
    Form,
    Line,
    Packet,
    assert_broken,
    assert_closed,
    claim,
    connected,
    dialled,
    head_of,
    message,
    packed,
    touched,
    upgrade,
)
from protocol.frames import client_frame, header
from waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="package")
forms = pytest.mark.parametrize("form", FORMS, ids=str)
talkative = pytest.mark.parametrize("form", TALKATIVE, ids=str)
both = pytest.mark.parametrize("form", [TCP2, WS], ids=str)

BURST, PER_S = STRICT["inbound_frames_burst"], STRICT["inbound_frames_per_s"]
STRANGERS, DEVICES, ROOMS = (
    STRICT[f"{name}_max"] for name in ("unauthenticated_per_address", "connections_per_user", "rooms_per_session")
)
FLOOD = 60
AT_ONCE_S = 5.0  # on whatever machine; one that says nothing at once says nothing before `auth_timeout_s`, which is twice as long


async def flooded(line: Line, mid: int, packets: list[bytes]) -> tuple[list[Packet], float]:
    """The auth and all of these in one segment: the answers to them, and how many tokens came back meanwhile at the most."""
    began = time.monotonic()
    line.has_version = True
    line.put(line.encoded(AUTH, 1, claim(mid)) + b"".join(packets))
    replies = await line.replies(1 + len(packets))
    return replies[1:], (time.monotonic() - began) * PER_S


# --- packets ---------------------------------------------------------------------------------------------------------


@forms
async def test_a_burst_passes_and_what_is_more_is_refused_and_the_connection_lives(strict: Place, form: Form) -> None:
    """Each packet is answered, in order. Who waits as long as it was told is served again."""
    async with dialled(strict.where, form) as line:
        asked = [line.encoded(HEARTBEAT, seq) for seq in range(FLOOD)]

        replies, back = await flooded(line, strict.new_mid(), asked)

        assert [*range(FLOOD)] == [reply.seq for reply in replies]
        refused = [reply for reply in replies if reply.code]
        assert BURST - 1 <= FLOOD - len(refused) <= BURST + back
        assert {(HEARTBEAT + 1, "rate_limited")} == {(reply.op, reply.code) for reply in refused}
        waits_ms = {reply.json["error"]["retry_after_ms"] for reply in refused}
        assert {True} == {reply.json["error"]["retry"] for reply in refused}
        # Each at its own time, so that they do not all come back together; but for who is heard later by just a place in the line.
        assert len(waits_ms) >= len(refused) - back
        assert 1 <= min(waits_ms) <= max(waits_ms) <= (len(refused) + 1) * 1_000 / PER_S + 1
        await asyncio.sleep(max(waits_ms) / 1_000)  # it was told to
        assert not (await line.ask(HEARTBEAT)).code


@forms
async def test_exactly_a_burst_passes(strict: Place, form: Form) -> None:
    """The auth is one of it."""
    async with dialled(strict.where, form) as line:
        replies, _ = await flooded(line, strict.new_mid(), [line.encoded(HEARTBEAT, seq) for seq in range(BURST - 1)])

        assert [""] * (BURST - 1) == [reply.code for reply in replies]


@both
async def test_a_send_that_is_refused_is_not_stored(strict: Place, form: Form) -> None:
    room = strict.new_room()
    async with dialled(strict.where, form) as line:
        asked = [
            line.encoded(JOIN, 0, {"room": room}),
            *(line.encoded(SEND, n, message(room, n)) for n in range(1, 40)),
        ]
        replies, _ = await flooded(line, strict.new_mid(), asked)
        taken = [reply.seq for reply in sorted(replies, key=lambda reply: reply.seq) if reply.seq and not reply.code]

        async def page() -> Packet | None:
            reply = await line.ask(HISTORY, {"room": room, "after": 1})
            return None if reply.code == "rate_limited" else reply

        history = await eventually(page)

        assert history is not None
        assert taken == [event["body"] for event in history.json["events"]]
        assert 0 < len(taken) < 39


async def test_pings_beyond_the_burst_are_heard_and_not_answered(strict: Place) -> None:
    """Nobody is made to talk by shouting."""
    async with connected(strict.where, WS, strict.new_mid()) as line:
        began = time.monotonic()
        line.put(b"".join(client_frame(PING, b"%d" % n) for n in range(FLOOD)))

        async def heard() -> bool:
            return not (await line.ask(HEARTBEAT)).code

        assert await eventually(heard)
        assert BURST - 1 <= len(line.pongs) <= BURST + (time.monotonic() - began) * PER_S
        answered = [int(payload) for payload in line.pongs]
        assert [*range(BURST - 1)] == answered[: BURST - 1]
        assert sorted(answered) == answered


# --- strangers -------------------------------------------------------------------------------------------------------


async def refused(place: Place, form: Form) -> bool:
    """Is the next connection of this address refused? It is said at once, before anything was asked."""
    began = time.monotonic()
    if form.path is None:
        async with touched(place.where.tcp, form) as line:
            if await _is_kept(line):
                return False
            assert [] == (await assert_closed(line, "too_many_connections")).packets
    else:
        async with touched(place.where.ws, form) as line:
            line.put(upgrade(form.path))
            status = await head_of(line)
            if status == 101:
                return False
            assert 429 == status
    assert time.monotonic() - began < AT_ONCE_S
    return True


async def _is_kept(line: Line) -> bool:
    """Does the server listen? Over TCP nobody says so before the auth."""
    line.put(packed(AUTH, 1, b"{}"))
    async with asyncio.timeout(DEADLINE_S):
        return bool(await line.reader.read(1))


@pytest.mark.parametrize("form", [TCP1, SUB2, WS], ids=str)
async def test_an_address_has_only_so_many_strangers(strict: Place, form: Form) -> None:
    """Those that authenticated do not count, on whatever door they came in; one that leaves makes room."""
    async with AsyncExitStack() as stack:
        lines = [await stack.enter_async_context(dialled(strict.where, one)) for one in FORMS[:STRANGERS]]
        assert await refused(strict, form)
        assert await refused(strict, form), "a refusal takes no place"

        assert not (await lines[0].ask(AUTH, claim(strict.new_mid()))).code
        assert not await refused(strict, form)

        lines.append(await stack.enter_async_context(dialled(strict.where, SUB2)))
        assert await refused(strict, form)
        lines[1].drop(reset=True)

        async def is_free() -> bool:
            return not await refused(strict, form)

        assert await eventually(is_free)


# --- devices of one person -------------------------------------------------------------------------------------------


@forms
async def test_a_person_has_only_so_many_connections(strict: Place, form: Form) -> None:
    """The one above is told so and closed, the others stay; who leaves makes room, and so does who takes over."""
    mid = strict.new_mid()
    async with connected(strict.where, form, mid, key="0"):
        async with connected(strict.where, form, mid, key="1") as second:
            async with dialled(strict.where, form) as line:
                line.say(AUTH, 1, claim(mid, key="2"))
                fate = await assert_closed(line, "too_many_connections")
                told = ["too_many_connections"] if form in TALKATIVE else []
                assert told == [packet.code for packet in fate.packets]
            async with connected(strict.where, form, mid, key="1"):
                await assert_closed(second, "taken_over")

        async def is_taken() -> bool:
            async with dialled(strict.where, TCP2) as line:
                return not (await line.ask(AUTH, claim(mid, key="2"))).code

        assert await eventually(is_taken)


@pytest.mark.parametrize("form", [TCP2, WS], ids=str)
async def test_a_person_that_comes_many_times_at_once_has_only_so_many_connections(strict: Place, form: Form) -> None:
    mid = strict.new_mid()
    async with AsyncExitStack() as stack:
        lines = [await stack.enter_async_context(dialled(strict.where, form)) for _ in range(STRANGERS)]

        replies = await asyncio.gather(*(line.ask(AUTH, claim(mid)) for line in lines))

        assert ["", "", "too_many_connections"] == sorted(reply.code for reply in replies)
        assert DEVICES == [reply.code for reply in replies].count("")


async def test_of_many_with_one_key_one_stays(place: Place) -> None:
    """Whoever came last, and the others are told that they were taken over."""
    mid = place.new_mid()
    async with AsyncExitStack() as stack:
        lines = [await stack.enter_async_context(dialled(place.where, TCP2)) for _ in range(10)]
        for line in lines:
            line.say(AUTH, 1, claim(mid, key="one"))
        async with asyncio.TaskGroup() as tasks:
            alive = {tasks.create_task(line.fate()): line for line in lines}
            fates: list[Fate] = []
            while len(alive) > 1:
                done, _ = await asyncio.wait(alive, return_when=asyncio.FIRST_COMPLETED)
                fates += [task.result() for task in done]
                for task in done:
                    del alive[task]
            for line in alive.values():
                line.drop()

        assert ["taken_over"] * 9 == [fate.packets[-1].json["code"] for fate in fates]


# --- rooms -----------------------------------------------------------------------------------------------------------


@talkative
async def test_a_connection_is_in_so_many_live_rooms(strict: Place, form: Form) -> None:
    """Through the auth, a join, goim's change of rooms; a room with members does not count."""
    live = [f"live://{n}" for n in range(ROOMS + 1)]
    durable = strict.new_room()
    async with connected(strict.where, form, strict.new_mid(), room_id=live[0], rooms=live[1:ROOMS]) as line:
        assert "bad_request" == (await line.ask(JOIN, {"room": live[ROOMS]})).code
        assert not (await line.ask(CHANGE_ROOM, live[ROOMS])).code, "one for another"
        assert not (await line.ask(CHANGE_ROOM, durable)).code
        assert not (await line.ask(SEND, message(None))).code
        assert not (await line.ask(JOIN, {"room": live[0]})).code
        assert "bad_request" == (await line.ask(CHANGE_ROOM, live[ROOMS])).code
    for room_id, rooms in (("", live), (live[0], live[1:]), (durable, live)):
        async with dialled(strict.where, form) as line:
            line.say(AUTH, 1, claim(strict.new_mid(), room_id=room_id, rooms=rooms))
            fate = await assert_closed(line, "unauthenticated")
            assert ["bad_request"] == [packet.code for packet in fate.packets]


@forms
async def test_rooms_asked_for_in_one_segment_are_all_entered(place: Place, form: Form) -> None:
    """Nobody has to wait for one answer before the next request: joins add up, a change of rooms replaces the one before."""
    asked = [
        (JOIN, "live://a"),
        (JOIN, "live://b"),
        (CHANGE_ROOM, "live://c"),
        (LEAVE, "live://a"),
        (CHANGE_ROOM, "live://d"),
    ]
    async with connected(place.where, form, place.new_mid()) as line:
        line.put(
            b"".join(
                line.encoded(op, seq, room if op == CHANGE_ROOM else {"room": room})
                for seq, (op, room) in enumerate(asked)
            )
        )
        assert [""] * len(asked) == [reply.code for reply in await line.replies(len(asked))]

        inside = [name for name in "abcd" if not (await line.ask(SEND, message(f"live://{name}"))).code]

        assert ["b", "d"] == inside


@both
async def test_an_auth_may_join_as_many_rooms_as_it_may_name(place: Place, form: Form) -> None:
    """All of them, and a bad one among them joins none."""
    mid, prefix = place.new_mid(), place.new_room()
    rooms = [f"{prefix}-{number}" for number in range(1_000)]
    async with dialled(place.where, form) as line:
        line.say(AUTH, 1, claim(mid, rooms=[*rooms[:10], "group://a b"]))
        assert ["bad_request"] == [reply.code for reply in await line.replies(1)]
    async with connected(place.where, form, mid, rooms=rooms) as line:
        first = (await line.ask(INBOX, {"limit": 500})).json
        second = (await line.ask(INBOX, {"limit": 500, "after": first["next"]})).json

        assert sorted(rooms) == [one["room"] for one in (*first["rooms"], *second["rooms"])]
        assert "next" not in second


# --- bytes -----------------------------------------------------------------------------------------------------------


@both
async def test_the_sizes_are_those_of_the_settings(strict: Place, form: Form) -> None:
    room, most = strict.new_room(), STRICT["text_body_bytes_max"]
    async with connected(strict.where, form, strict.new_mid(), room_id=room) as line:
        assert not (await line.ask(SEND, message(room, "a" * (most - 2)))).code
        assert "too_large" == (await line.ask(SEND, message(room, "a" * (most - 1)))).code
        if form.is_text:
            line.put(header(0x81, STRICT["packet_bytes_max"] + 1))
            await assert_broken(line, TOO_LARGE)
        else:
            line.put(packed(HEARTBEAT, 1, length=STRICT["packet_bytes_max"] + 1))
            await assert_closed(line, "packet_too_large")


async def test_goims_size_is_that_of_the_settings(strict: Place) -> None:
    most = STRICT["goim_body_bytes_max"]
    async with connected(strict.where, TCP1, strict.new_mid()) as line:
        assert not (await line.ask(HEARTBEAT, bytes(most))).code
        assert "too_large" == (await line.ask(HEARTBEAT, bytes(most + 1))).code
