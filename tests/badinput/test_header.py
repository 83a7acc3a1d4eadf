"""goim's header: every field at its edges, every way to cut a packet into pieces."""

from __future__ import annotations

import pytest

from badinput.conftest import Place
from badinput.wire import (
    AUTH,
    BINARY,
    BINARY_FORMS,
    FORMS,
    HEARTBEAT,
    JOIN,
    SEND,
    SUB1,
    SUB2,
    TCP1,
    TCP2,
    TEXT,
    Form,
    Line,
    assert_closed,
    claim,
    connected,
    dialled,
    message,
    packed,
)
from protocol.frames import client_frame

pytestmark = pytest.mark.asyncio(loop_scope="package")
forms = pytest.mark.parametrize("form", FORMS, ids=str)
binary_forms = pytest.mark.parametrize("form", BINARY_FORMS, ids=str)

PACKET_BYTES_MAX = 65_536
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
PIPELINED = 1_000

BAD_HEADERS: dict[str, tuple[dict[str, int], str]] = {
    "length -2^31": ({"length": INT32_MIN}, "bad_packet"),
    "length -1": ({"length": -1}, "bad_packet"),
    "length 0": ({"length": 0}, "bad_packet"),
    "length 15": ({"length": 15}, "bad_packet"),
    "length max + 1": ({"length": PACKET_BYTES_MAX + 1}, "packet_too_large"),
    "length 2^31 - 1": ({"length": INT32_MAX}, "packet_too_large"),
    "header 0": ({"header": 0}, "bad_packet"),
    "header 15": ({"header": 15}, "bad_packet"),
    "header 17": ({"header": 17}, "bad_packet"),
    "header -1": ({"header": -1}, "bad_packet"),
    "header 32767": ({"header": 32_767}, "bad_packet"),
    "version -1": ({"ver": -1}, "bad_packet"),
    "version 0": ({"ver": 0}, "bad_packet"),
    "version 3": ({"ver": 3}, "bad_packet"),
    "version 32767": ({"ver": 32_767}, "bad_packet"),
}
bad_headers = pytest.mark.parametrize(("fields", "code"), BAD_HEADERS.values(), ids=BAD_HEADERS)


def carried(line: Line, data: bytes) -> bytes:
    """The bytes as the form's carrier takes them."""
    return data if line.form.path is None else client_frame(TEXT if line.form.is_text else BINARY, data)


def with_header(op: int, seq: int, fields: dict[str, int], body: bytes = b"") -> bytes:
    """A packet whose header says this."""
    return packed(op, seq, body, ver=fields.get("ver", 1), length=fields.get("length"), header=fields.get("header", 16))


@binary_forms
@bad_headers
async def test_a_bad_header_ends_the_connection(place: Place, form: Form, fields: dict[str, int], code: str) -> None:
    """What was asked before it is answered, what comes after it is not."""
    async with connected(place.where, form, place.new_mid()) as line:
        line.say(HEARTBEAT, 1)
        line.put(carried(line, with_header(HEARTBEAT, 2, {"ver": form.ver, **fields})))
        line.say(HEARTBEAT, 3)

        fate = await assert_closed(line, code)

        assert [(HEARTBEAT + 1, 1)] == [(packet.op, packet.seq) for packet in fate.packets]


@pytest.mark.parametrize("form", [TCP1, SUB1], ids=str)
@bad_headers
async def test_a_bad_header_of_the_auth_ends_the_connection(
    place: Place, form: Form, fields: dict[str, int], code: str
) -> None:
    async with dialled(place.where, form) as line:
        line.put(carried(line, with_header(AUTH, 1, fields, b'{"mid":1}')))

        assert [] == (await assert_closed(line, code)).packets


@pytest.mark.parametrize("form", [SUB1, SUB2], ids=str)
@pytest.mark.parametrize("length", [17, 32, 4_096, PACKET_BYTES_MAX])
async def test_a_packet_that_is_longer_than_its_frame_ends_the_connection(
    place: Place, form: Form, length: int
) -> None:
    """The next frame is never read as its rest."""
    async with connected(place.where, form, place.new_mid()) as line:
        line.put(carried(line, packed(HEARTBEAT, 1, ver=form.ver, length=length)))
        line.put(carried(line, packed(HEARTBEAT, 2, ver=form.ver)))

        assert [] == (await assert_closed(line, "bad_packet")).packets


@binary_forms
async def test_the_smallest_and_the_largest_packet_are_taken(place: Place, form: Form) -> None:
    """A heartbeat of 16 bytes; an inbox whose body is filled with blanks up to the limit."""
    async with connected(place.where, form, place.new_mid()) as line:
        assert not (await line.ask(HEARTBEAT)).code
        assert not (await line.ask(32, b"{}".ljust(PACKET_BYTES_MAX - 16))).code


@binary_forms
async def test_either_version_is_legal_at_any_time(place: Place, form: Form) -> None:
    """The connection keeps that of its auth."""
    async with connected(place.where, form, place.new_mid()) as line:
        line.put(carried(line, packed(HEARTBEAT, 1, ver=3 - form.ver)))

        (reply,) = await line.replies(1)

        assert (HEARTBEAT + 1, 1) == (reply.op, reply.seq)


@forms
@pytest.mark.parametrize(
    "op",
    [INT32_MIN, -1, 0, 1, 3, 5, 6, 8, 9, 10, 11, 13, 15, 18, 19, 20, 21, 23, 35, 36, 99, 999, 1_000, INT32_MAX],
)
async def test_an_operation_that_is_none_for_clients_is_answered_so(place: Place, form: Form, op: int) -> None:
    async with connected(place.where, form, place.new_mid()) as line:
        line.say(op, 7, b"{}")

        (reply,) = await line.replies(1)

        assert (20, 7, "unknown_op") == (reply.op, reply.seq, reply.code)
        assert not (await line.ask(HEARTBEAT)).code, "the connection goes on"


@forms
async def test_any_sequence_number_comes_back_and_may_come_twice(place: Place, form: Form) -> None:
    async with connected(place.where, form, place.new_mid()) as line:
        seqs = [INT32_MIN, -1, 0, 1, 1, 1, INT32_MAX]
        for seq in seqs:
            line.say(HEARTBEAT, seq)

        assert seqs == [reply.seq for reply in await line.replies(len(seqs))]


# --- in pieces -------------------------------------------------------------------------------------------------------


@forms
async def test_a_packet_may_be_split_at_every_byte(place: Place, form: Form) -> None:
    """Somebody else is served between the two halves."""
    room = place.new_room()
    async with connected(place.where, form, place.new_mid(), room_id=room) as line:
        async with connected(place.where, TCP1, place.new_mid()) as other:
            whole = line.encoded(SEND, 5, message(room))
            for place_of_cut in range(1, len(whole)):
                await line.push(whole[:place_of_cut])
                await other.ask(HEARTBEAT)
                line.put(whole[place_of_cut:])
                (reply,) = await line.replies(1)
                assert (SEND + 1, 5, "") == (reply.op, reply.seq, reply.code)


@forms
async def test_bytes_may_come_one_at_a_time(place: Place, form: Form) -> None:
    async with dialled(place.where, form) as line:
        said = line.encoded(AUTH, 1, claim(place.new_mid())) + line.encoded(JOIN, 2, {"room": place.new_room()})
        for octet in said:
            await line.push(bytes((octet,)))

        replies = await line.replies(2)

        assert [(AUTH + 1, 1, ""), (JOIN + 1, 2, "")] == [(one.op, one.seq, one.code) for one in replies]


@forms
async def test_a_thousand_packets_in_one_segment_are_answered_in_order(place: Place, form: Form) -> None:
    async with connected(place.where, form, place.new_mid()) as line:
        line.put(b"".join(line.encoded(HEARTBEAT, seq) for seq in range(PIPELINED)))

        assert [*range(PIPELINED)] == [reply.seq for reply in await line.replies(PIPELINED)]


@pytest.mark.parametrize("form", [SUB1, SUB2], ids=str)
async def test_a_thousand_packets_in_one_frame_are_answered_in_order(place: Place, form: Form) -> None:
    async with connected(place.where, form, place.new_mid()) as line:
        line.put(carried(line, b"".join(packed(HEARTBEAT, seq, ver=form.ver) for seq in range(PIPELINED))))

        assert [*range(PIPELINED)] == [reply.seq for reply in await line.replies(PIPELINED)]


@forms
async def test_a_thousand_sends_in_one_segment_are_stored_in_order(place: Place, form: Form) -> None:
    room = place.new_room()
    async with connected(place.where, form, place.new_mid(), room_id=room) as line:
        line.put(b"".join(line.encoded(SEND, seq, message(None, seq)) for seq in range(PIPELINED)))

        replies = await line.replies(PIPELINED)

        assert [(seq, seq + 2) for seq in range(PIPELINED)] == [(one.seq, one.json["seq"]) for one in replies]


@forms
@pytest.mark.parametrize("is_new", [True, False], ids=["before the auth", "after it"])
async def test_a_client_that_leaves_within_a_packet_leaves_nothing(place: Place, form: Form, is_new: bool) -> None:
    """At each of the bytes of a header and its first byte of body, and with a reset too."""
    opened = dialled(place.where, form) if is_new else connected(place.where, form, place.new_mid())
    async with opened as first:
        packet = first.encoded(JOIN, 1, {"room": "group://never"})
    for end in range(18):
        async with dialled(place.where, form) if is_new else connected(place.where, form, place.new_mid()) as line:
            await line.push(packet[:end])
            line.end()
            assert [] == (await line.fate()).packets
        async with dialled(place.where, form) if is_new else connected(place.where, form, place.new_mid()) as line:
            await line.push(packet[:end])
            line.drop(reset=True)


@pytest.mark.parametrize("form", [SUB1, SUB2], ids=str)
@pytest.mark.parametrize("length", range(16))
async def test_a_frame_with_less_than_a_header_ends_the_connection(place: Place, form: Form, length: int) -> None:
    async with connected(place.where, form, place.new_mid()) as line:
        line.put(carried(line, packed(HEARTBEAT, 1, ver=form.ver)[:length]))

        assert [] == (await assert_closed(line, "bad_packet")).packets


@pytest.mark.parametrize("form", [TCP2, SUB2], ids=str)
async def test_garbage_ends_the_connection(place: Place, form: Form) -> None:
    async with connected(place.where, form, place.new_mid()) as line:
        line.put(carried(line, b"GET / HTTP/1.1\r\nHost: nobody\r\n\r\n"))

        assert [] == (await assert_closed(line, "bad_packet")).packets
