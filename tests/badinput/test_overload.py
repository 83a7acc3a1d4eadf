"""More than the server can do, or than one client, person or address may have: who comes too much is told when to come back, before
anything was done for it, and nobody else notices."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest

from badinput.conftest import LEAN, NARROW, SLOW_PACED, STRICT, Place
from badinput.wire import (
    AUTH,
    CHANGE_ROOM,
    DISCONNECT,
    EVENT,
    FORMS,
    HEARTBEAT,
    HISTORY,
    INBOX,
    JOIN,
    LEAVE,
    SEND,
    SUB2,
    TCP1,
    TCP2,
    WS,
    Form,
    Line,
    Packet,
    claim,
    connected,
    dialled,
    message,
    new_id,
    touched,
    upgrade,
)
from waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="package")
forms = pytest.mark.parametrize("form", FORMS, ids=str)
CALL: Final = 38
OPERATING: Final = (Path(__file__).parents[2] / "docs" / "operating.md").read_text(encoding="utf-8")
UNDER_WAY, WAITING = NARROW["admissions_under_way_max"], NARROW["admissions_waiting_max"]


async def headers_of(line: Line) -> tuple[int, dict[str, str]]:
    """The status and the headers of an HTTP answer."""
    async with asyncio.timeout(20):
        status = await line.reader.readline()
        headers = {}
        while (text := await line.reader.readline()) not in (b"\r\n", b""):
            name, _, value = text.decode().partition(":")
            headers[name.lower()] = value.strip()
    return int(status.split()[1]), headers


# --- connecting ------------------------------------------------------------------------------------------------------


async def crowd(narrow: Place, stack: AsyncExitStack, form: Form) -> list[Line]:
    """As many as may be opened at a time, as many as may wait for that, and none of them is answered."""
    lines = [await stack.enter_async_context(dialled(narrow.where, form)) for _ in range(UNDER_WAY + WAITING)]
    for line in lines:
        line.say(AUTH, 1, claim(narrow.new_mid()))

    async def are_there() -> bool:
        names = ("comet_admissions_under_way", "comet_admissions_waiting")
        return [UNDER_WAY, WAITING] == [await narrow.counted(name) for name in names]

    assert await eventually(are_there)
    return lines


@forms
async def test_those_who_wait_their_turn_all_come_in(narrow: Place, form: Form) -> None:
    queued = await narrow.counted("comet_admissions_queued_total")
    async with AsyncExitStack() as stack:
        async with narrow.standing_still():
            lines = await crowd(narrow, stack, form)

        replies = [(await line.replies(1))[0] for line in lines]

        assert [(AUTH + 1, "")] * len(lines) == [(reply.op, reply.code) for reply in replies]
        assert queued + WAITING == await narrow.counted("comet_admissions_queued_total")
        assert await eventually(narrow.is_quiet)


@pytest.mark.parametrize("path", ["/sub", "/ws"])
async def test_a_websocket_beyond_that_is_refused_before_the_handshake(narrow: Place, path: str) -> None:
    """With the time to come back: the more are refused, the later, so that they do not come all at once."""
    async with AsyncExitStack() as stack:
        async with narrow.standing_still():
            lines = await crowd(narrow, stack, TCP2)
            refused = await narrow.counted("comet_admissions_refused_total")
            told = []
            for _ in range(8):
                async with touched(narrow.where.ws) as line:
                    line.put(upgrade(path))
                    told.append(await headers_of(line))
            assert refused + 8 == await narrow.counted("comet_admissions_refused_total")

        assert {503} == {status for status, _ in told}
        after_s = [int(headers["retry-after"]) for _, headers in told]
        assert sorted(after_s) == after_s
        assert 1 <= after_s[0] < after_s[-1] <= 60
        assert [""] * len(lines) == [(await line.replies(1))[0].code for line in lines], "who waited was not harmed"


@pytest.mark.parametrize("form", [TCP2, SUB2, WS], ids=str)
async def test_an_auth_beyond_that_is_told_when_to_come_back(narrow: Place, form: Form) -> None:
    """Whoever had come in already. Nothing is in the log of it."""
    mid, key = narrow.new_mid(), "late"
    async with AsyncExitStack() as stack:
        late = await stack.enter_async_context(dialled(narrow.where, form))
        async with narrow.standing_still():
            await crowd(narrow, stack, TCP2)
            late.say(AUTH, 1, claim(mid, key=key))
            refused, told = await late.replies(2)
            assert (AUTH + 1, "try_later", True) == (refused.op, refused.code, refused.json["error"]["retry"])
            assert (DISCONNECT, "try_later", 4503, True) == (
                told.op, told.json["code"], told.json["close"], told.json["retry"],
            )  # fmt: skip
            assert 1_000 <= told.json["delay_ms"] <= 60_000
            assert (None if form.path is None else 4503) == (await late.fate()).close
        assert await eventually(narrow.is_quiet)
        async with connected(narrow.where, TCP2, mid, key="now"):
            assert [] == await narrow.told_of(mid, key)


async def test_version_1_is_closed(narrow: Place) -> None:
    async with AsyncExitStack() as stack:
        async with narrow.standing_still():
            await crowd(narrow, stack, TCP2)
            late = await stack.enter_async_context(dialled(narrow.where, TCP1))
            late.say(AUTH, 1, claim(narrow.new_mid()))
            assert [] == (await late.fate()).packets


async def test_who_leaves_the_line_makes_room(narrow: Place) -> None:
    async with AsyncExitStack() as stack:
        async with narrow.standing_still():
            lines = await crowd(narrow, stack, TCP2)
            lines[-1].drop(reset=True)

            async def has_left() -> bool:
                return await narrow.counted("comet_admissions_waiting") == WAITING - 1

            assert await eventually(has_left)
            another = await stack.enter_async_context(dialled(narrow.where, WS))
            another.say(AUTH, 1, claim(narrow.new_mid()))
        assert "" == (await another.replies(1))[0].code


# --- reading ---------------------------------------------------------------------------------------------------------

NO_INBOX = "LOCK TABLE inbox IN ACCESS EXCLUSIVE MODE"


async def test_only_so_many_requests_read_at_a_time_and_the_others_are_told_at_once(narrow: Place) -> None:
    """Over all connections. Who sends meanwhile does not notice."""
    most, room = NARROW["reads_under_way_max"], narrow.new_room()
    async with AsyncExitStack() as stack:
        lines = [
            await stack.enter_async_context(connected(narrow.where, TCP2, narrow.new_mid(), room_id=room))
            for _ in range(most + 1)
        ]
        assert not (await lines[0].ask(INBOX, {})).code, (
            "the rows have come as far as the log: else only that is waited for"
        )
        async with narrow.standing_still(NO_INBOX):
            for line in lines[:-1]:
                line.say(INBOX, 7, {})

            async def are_under_way() -> bool:
                return await narrow.counted("comet_reads_under_way") == most

            assert await eventually(are_under_way)
            refused = await lines[-1].ask(INBOX, {})
            sent = await lines[-1].ask(SEND, message(room))
        assert ("overloaded", True) == (refused.code, refused.json["error"]["retry"])
        assert 1_000 <= refused.json["error"]["retry_after_ms"] <= 10_000
        assert not sent.code
        for line in lines[:-1]:
            (reply,) = await line.replies(1)
            assert (INBOX + 1, 7) == (reply.op, reply.seq)

        async def none_is() -> bool:
            return await narrow.counted("comet_reads_under_way") == 0

        assert await eventually(none_is)


async def test_only_so_many_requests_over_http_are_under_way_and_operators_are_answered(narrow: Place) -> None:
    inbox = f"GET /v1/inbox?mid={narrow.new_mid()} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    async with AsyncExitStack() as stack:
        lines = [
            await stack.enter_async_context(touched(narrow.where.http)) for _ in range(NARROW["http_requests_max"] + 1)
        ]

        async def are_followed() -> bool:
            """Have the rows come as far as the log? Else only that is waited for."""
            async with touched(narrow.where.http) as line:
                line.put(inbox)
                return (await headers_of(line))[0] == 200

        assert await eventually(are_followed)
        async with narrow.standing_still(NO_INBOX):
            for line in lines[:-1]:
                line.put(inbox)

            async def are_under_way() -> bool:
                return b"imcore_http_requests_under_way 3.0" in await narrow.get("/metrics")

            assert await eventually(are_under_way)
            lines[-1].put(inbox)
            status, headers = await headers_of(lines[-1])
            assert 503 == status
            assert 1 <= int(headers["retry-after"]) <= 10
            assert b'"alive":true' in await narrow.get("/healthz")
        assert {200, 503} >= {(await headers_of(line))[0] for line in lines[:-1]}


# --- sending ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [TCP2, WS], ids=str)
async def test_when_commits_are_slow_sends_are_refused_at_once_and_nothing_that_was_taken_is_lost(
    narrow: Place, form: Form
) -> None:
    """A batch may wait; who comes beyond that is told when to come back, each at another time, and was not stored."""
    room, most, count = narrow.new_room(), NARROW["batch_events_max"], 60
    async with connected(narrow.where, form, narrow.new_mid(), room_id=room) as line:
        async with narrow.standing_still():
            line.say(SEND, 0, message(room, 0))

            async def is_known_to_be_slow() -> bool:
                return await narrow.counted("log_pending_sends_max") == most

            assert await eventually(is_known_to_be_slow)
            for n in range(1, count):
                line.say(SEND, n, message(room, n))
            line.say(HEARTBEAT, count)
            refused: list[Packet] = []
            while (packet := (await line.replies(1))[0]).op != HEARTBEAT + 1:
                refused.append(packet)
        assert {"overloaded"} == {packet.code for packet in refused}
        assert count - 1 - most <= len(refused) < count - 1
        waits_ms = [packet.json["error"]["retry_after_ms"] for packet in refused]
        assert sorted(waits_ms) == waits_ms
        assert 100 <= waits_ms[0] < waits_ms[-1] <= 10_000

        taken = await line.replies(count - len(refused))
        history = (await line.ask(HISTORY, {"room": room, "after": 1, "limit": 100})).json["events"]

        assert {""} == {packet.code for packet in taken}
        assert sorted(packet.seq for packet in taken) == [event["body"] for event in history]
        assert [*range(count)] == sorted(packet.seq for packet in [*taken, *refused])


# --- one address -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [TCP1, WS], ids=str)
async def test_an_address_begins_only_so_many_connections_a_second(paced: Place, form: Form) -> None:
    """The others are refused, not at once, so that who asks again at once does not ask all the time; and then they come in."""
    burst, per_s = SLOW_PACED["handshakes_per_address_burst"], SLOW_PACED["handshakes_per_address_per_s"]
    began = time.monotonic()
    refused = await paced.counted("comet_handshakes_limited_total")

    async def come() -> bool:
        if form.path is None:
            async with touched(paced.where.tcp) as line:
                line.say(AUTH, 1, claim(paced.new_mid()))
                async with asyncio.timeout(20):
                    try:
                        return await line.reader.read(1) != b""
                    except ConnectionError:
                        return False
        async with touched(paced.where.ws) as line:
            line.put(upgrade("/ws"))
            status, headers = await headers_of(line)
            assert status in (101, 429)
            assert status == 101 or int(headers["retry-after"]) >= 1
            return status == 101

    came = await asyncio.gather(*(come() for _ in range(100)))

    assert came.count(True) <= burst + (time.monotonic() - began) * per_s
    assert came.count(False) == await paced.counted("comet_handshakes_limited_total") - refused > 0
    assert await eventually(come)


# --- one person ------------------------------------------------------------------------------------------------------


async def test_a_person_sends_only_so_much_over_all_of_its_connections_and_http(paced: Place) -> None:
    """What is refused is told when to come again, and was not stored."""
    mid, room, burst = paced.new_mid(), paced.new_room(), SLOW_PACED["user_sends_burst"]
    began = time.monotonic()
    async with connected(paced.where, TCP2, mid) as first, connected(paced.where, WS, mid) as second:
        assert not (await first.ask(JOIN, {"room": room})).code
        told: list[Packet] = []
        for n in range(int(burst)):
            told += [await line.ask(SEND, message(room, n)) for line in (first, second)]
        body = b'{"id":"%b","body":1}' % new_id().encode()
        kind, _, name = room.partition("://")
        async with touched(paced.where.http) as line:
            line.put(
                f"POST /v1/rooms/{kind}/{name}/messages HTTP/1.1\r\nHost: x\r\nImcore-Mid: {mid}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            status, headers = await headers_of(line)
        passed = [one for one in told if not one.code]
        refused = [one.json["error"] for one in told if one.code]

        assert burst <= len(passed) <= burst + (time.monotonic() - began) * SLOW_PACED["user_sends_per_s"]
        assert {"rate_limited"} == {one["code"] for one in refused}
        one_s = 1 / SLOW_PACED["user_sends_per_s"]
        assert all(1 <= one["retry_after_ms"] <= one_s * 1_000 + 1 for one in refused)
        assert status in (201, 429)
        assert status == 201 or 1 <= int(headers["retry-after"]) <= one_s
        async with connected(paced.where, TCP2, paced.new_mid()) as other:
            assert not (await other.ask(JOIN, {"room": room})).code
            assert not (await other.ask(SEND, message(room, "mine"))).code, "another person is not held back"


async def answer_of(line: Line, op: int, body: object) -> str:
    """The code of the answer, "" for a good one, when the line was not asked too fast for it."""

    async def answered() -> Packet | None:
        reply = await line.ask(op, body)
        return None if reply.code == "rate_limited" else reply

    reply = await eventually(answered)
    assert reply is not None
    return reply.code


@pytest.mark.parametrize("form", [TCP2, WS], ids=str)
async def test_a_person_joins_only_so_many_rooms(strict: Place, form: Form) -> None:
    """Joining one of them again is no more; leaving one makes room; and an auth that wants too many is refused."""
    mid, rooms = strict.new_mid(), [strict.new_room() for _ in range(STRICT["rooms_per_user_max"] + 1)]
    async with connected(strict.where, form, mid, key=f"k{mid}") as line:
        for room in rooms[:-1]:
            assert not await answer_of(line, JOIN, {"room": room})
        assert "too_many_rooms" == await answer_of(line, JOIN, {"room": rooms[-1]})
        assert "too_many_rooms" == await answer_of(line, CHANGE_ROOM, rooms[-1])
        for verb, args in (
            ("rooms.join", {"room": rooms[-1]}),
            ("rooms.create", {"room": rooms[-1]}),
            ("direct.open", {"mid": strict.new_mid()}),
        ):
            assert "too_many_rooms" == await answer_of(line, CALL, {"verb": verb, "args": args}), verb

        async def is_refused_to_enter() -> bool:
            """Once the rows know of the connection that is to enter."""
            args = {"room": rooms[-1], "key": f"k{mid}"}
            return "too_many_rooms" == await answer_of(line, CALL, {"verb": "rooms.enter", "args": args})

        assert await eventually(is_refused_to_enter)
        assert not await answer_of(line, JOIN, {"room": rooms[0]})
        assert not await answer_of(line, CALL, {"verb": "rooms.join", "args": {"room": rooms[0]}})
    async with dialled(strict.where, form) as other:
        other.say(AUTH, 1, claim(mid, rooms=rooms))
        assert "too_many_rooms" == (await other.replies(1))[0].code
    async with connected(strict.where, form, mid, rooms=rooms[:-1]) as line:
        assert not await answer_of(line, LEAVE, {"room": rooms[0]})
        assert not await answer_of(line, JOIN, {"room": rooms[-1]})


@pytest.mark.parametrize("form", [TCP2, WS], ids=str)
async def test_a_room_that_is_no_more_makes_room_for_another(strict: Place, form: Form) -> None:
    """At every door: for a join, for goim's change of room, and for an auth."""
    most = STRICT["rooms_per_user_max"]
    mid, rooms = strict.new_mid(), [strict.new_room() for _ in range(most + 3)]

    async def dismiss(line: Line, room: str) -> None:
        assert not await answer_of(line, CALL, {"verb": "rooms.dismiss", "args": {"room": room}})

    async with connected(strict.where, form, mid) as line:
        for room in rooms[:most]:
            assert not await answer_of(line, JOIN, {"room": room})
        for gone, op, new in ((rooms[0], JOIN, {"room": rooms[most]}), (rooms[1], CHANGE_ROOM, rooms[most + 1])):
            await dismiss(line, gone)

            async def is_in(op: int = op, new: object = new) -> bool:
                return not await answer_of(line, op, new)

            assert await eventually(is_in)
        await dismiss(line, rooms[2])
    async with connected(strict.where, form, mid, rooms=[rooms[3], rooms[most + 2]]) as line:
        assert "too_many_rooms" == await answer_of(line, JOIN, {"room": strict.new_room()})


# --- one connection --------------------------------------------------------------------------------------------------

BURST, REFUSED = STRICT["inbound_frames_burst"], STRICT["inbound_refused_max"]


@forms
async def test_who_shouts_is_not_listened_to_until_it_may_speak_again(strict: Place, form: Form) -> None:
    """So what it says next is answered and not refused, though it did not wait."""
    async with connected(strict.where, form, strict.new_mid()) as line:
        line.put(b"".join(line.encoded(HEARTBEAT, seq) for seq in range(BURST + 20)))
        assert [reply for reply in await line.replies(BURST + 20) if reply.code]

        line.put(b"".join(line.encoded(HEARTBEAT, seq) for seq in range(BURST // 2)))

        assert [""] * (BURST // 2) == [reply.code for reply in await line.replies(BURST // 2)]


@forms
async def test_who_goes_on_shouting_is_closed_and_may_come_back(strict: Place, form: Form) -> None:
    mid = strict.new_mid()
    async with connected(strict.where, form, mid) as line:
        await line.push(b"".join(line.encoded(HEARTBEAT, seq) for seq in range(4 * (BURST + REFUSED))))

        answered = [packet for packet in await _told_to_come_back(line) if packet.op == HEARTBEAT + 1]
        assert BURST + REFUSED // 2 <= len(answered) <= BURST + REFUSED + 40
    async with connected(strict.where, form, mid) as again:
        assert not (await again.ask(HEARTBEAT)).code


async def _told_to_come_back(line: Line) -> list[Packet]:
    fate = await line.fate()
    if line.form.ver == 2:
        told = fate.packets.pop().json
        assert ("too_many_packets", True, 4429) == (told["code"], told["retry"], told["close"])
        assert 1_000 <= told["delay_ms"] <= 60_000
    assert fate.close in (None, 4429)
    return fate.packets


@pytest.mark.parametrize("form", [TCP2, WS], ids=str)
async def test_one_packet_less_and_it_stays(strict: Place, form: Form) -> None:
    async with connected(strict.where, form, strict.new_mid()) as line:
        asked = BURST + REFUSED - 2
        line.put(b"".join(line.encoded(HEARTBEAT, seq) for seq in range(asked)))

        assert asked == len(await line.replies(asked))
        assert not (await line.ask(HEARTBEAT)).code


# --- all of them together --------------------------------------------------------------------------------------------

SAID, FILLING, STALLED, IN_FLIGHT = 400, "." * 16_000, 8, 20
RECEIVE_BYTES = 65_536


async def test_those_who_hold_most_give_way_when_all_together_hold_too_much(lean: Place) -> None:
    """Each of them is within its own limit. Whoever reads gets everything meanwhile, and they get it when they are back."""
    room, mids = lean.new_room(), [lean.new_mid() for _ in range(STALLED)]
    closed = await lean.endings("slow_consumer")
    async with AsyncExitStack() as stack:
        speaker = await stack.enter_async_context(connected(lean.where, TCP2, lean.new_mid(), room_id=room))
        reader = await stack.enter_async_context(connected(lean.where, WS, lean.new_mid(), room_id=room))
        for mid in mids:
            line = await stack.enter_async_context(connected(lean.where, TCP2, mid, key="k", room_id=room))
            found: socket.socket = line.writer.get_extra_info("socket")
            found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
            line.writer.transport.pause_reading()  # type: ignore[attr-defined]
        async with asyncio.TaskGroup() as tasks:
            heard = tasks.create_task(_said(reader, SAID))
            for start in range(0, SAID, IN_FLIGHT):
                for n in range(start, start + IN_FLIGHT):
                    speaker.say(SEND, n, message(room, f"{n} {FILLING}"))
                assert [""] * IN_FLIGHT == [reply.code for reply in await speaker.replies(IN_FLIGHT)]
        assert [*range(SAID)] == heard.result()

        async def some_gave_way() -> bool:
            return await lean.endings("slow_consumer") > closed

        assert await eventually(some_gave_way)
        assert await lean.counted("comet_squeezed_total") > 0

        async def is_below() -> bool:
            return await lean.counted("comet_unsent_bytes") <= LEAN["unsent_bytes_process_max"]

        assert await eventually(is_below)
    for mid in mids:
        async with connected(lean.where, TCP2, mid, key="k") as back:
            assert [*range(SAID)] == await _said(back, SAID)


async def _said(line: Line, count: int) -> list[int]:
    """The numbers of the next messages."""
    found: list[int] = []
    while len(found) < count:
        packet = await line.hear()
        if packet.op == EVENT and packet.json["type"] == "message_sent":
            found.append(int(packet.json["body"].split()[0]))
    return found


# --- what operators see ----------------------------------------------------------------------------------------------


async def test_every_metric_of_the_table_of_queues_is_shown(narrow: Place) -> None:
    """Those of the bus only where there are more processes, and counts by code once something was counted."""
    async with connected(narrow.where, TCP2, narrow.new_mid()) as line:
        assert "no_such_room" == (await line.ask(SEND, message("group://nowhere"))).code
    async with AsyncExitStack() as stack, narrow.standing_still():
        await crowd(narrow, stack, TCP2)
        async with touched(narrow.where.ws) as line:
            line.put(upgrade("/ws"))
            assert 503 == (await headers_of(line))[0]
    shown = {line.split("{")[0].split()[0] for line in (await narrow.get("/metrics")).decode().splitlines()}

    wanted = set(re.findall(r"`(imcore_[a-z_]+)`", OPERATING.split("<!-- queues -->")[1].split("<!-- /queues -->")[0]))

    assert len(wanted) > 20
    assert set() == {name for name in wanted - shown if not name.startswith("imcore_bus_")}


async def test_a_method_that_nobody_knows_is_no_label_of_its_own(narrow: Place) -> None:
    """Else a client could make as many as it likes, and each would be kept for ever."""
    for method in ("PROPFIND", "MKCOL", "PURGE"):
        async with touched(narrow.where.http) as line:
            line.put(f"{method} / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            assert 405 == (await headers_of(line))[0]
    text = (await narrow.get("/metrics")).decode()

    assert 'method="other"' in text
    assert "PROPFIND" not in text
