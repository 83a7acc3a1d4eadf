"""RFC 6455, broken frame by frame, on an address that takes binary frames and on one that takes text."""

from __future__ import annotations

import json

import pytest

from badinput.conftest import Place
from badinput.wire import (
    BINARY,
    CLOSE,
    HEARTBEAT,
    INBOX,
    INVALID_TEXT,
    NORMAL,
    PING,
    PONG,
    PROTOCOL_ERROR,
    SEND,
    SUB1,
    SUB2,
    TEXT,
    TOO_LARGE,
    UNSUPPORTED,
    WS,
    Form,
    Line,
    assert_broken,
    assert_closed,
    connected,
    dialled,
    message,
    packed,
)
from protocol.frames import RSV1, RSV2, RSV3, client_close, client_frame, header, masked

pytestmark = pytest.mark.asyncio(loop_scope="package")
sockets = pytest.mark.parametrize("form", [SUB2, WS], ids=str)

PACKET_BYTES_MAX = 65_536
EMPTY_FRAGMENTS = 100_000
CONTINUATION = 0
KEY = b"\x00\x00\x00\x00"
ALIVE = {TEXT: b'{"op":2}', BINARY: packed(HEARTBEAT, 0)}


def violations(kind: int) -> dict[str, tuple[bytes, int]]:
    """Frames that end a connection whose messages are of this kind, and the close code that says so."""
    other = TEXT + BINARY - kind
    alive = ALIVE[kind]
    begun = client_frame(kind, alive[:3], fin=False)
    return {
        "not masked": (header(0x80 | kind, len(alive), is_masked=False) + alive, PROTOCOL_ERROR),
        "ping not masked": (header(0x80 | PING, 2, is_masked=False) + b"hi", PROTOCOL_ERROR),
        "close not masked": (header(0x80 | CLOSE, 2, is_masked=False) + b"\x03\xe8", PROTOCOL_ERROR),
        "RSV1, as compressed": (client_frame(kind, alive, rsv=RSV1), PROTOCOL_ERROR),
        "RSV2": (client_frame(kind, alive, rsv=RSV2), PROTOCOL_ERROR),
        "RSV3": (client_frame(kind, alive, rsv=RSV3), PROTOCOL_ERROR),
        "all RSV on a ping": (client_frame(PING, b"", rsv=RSV1 | RSV2 | RSV3), PROTOCOL_ERROR),
        "RSV1 on a continuation": (begun + client_frame(CONTINUATION, b"", rsv=RSV1), PROTOCOL_ERROR),
        **{f"opcode {op}": (client_frame(op, alive), PROTOCOL_ERROR) for op in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
        "ping of 126 bytes": (client_frame(PING, bytes(126)), PROTOCOL_ERROR),
        "pong of 126 bytes": (client_frame(PONG, bytes(126)), PROTOCOL_ERROR),
        "close of 126 bytes": (client_close(NORMAL, b"a" * 124), PROTOCOL_ERROR),
        "ping of 2^63 bytes": (header(0x80 | PING, 2**63, form=127), PROTOCOL_ERROR),
        "ping in fragments": (client_frame(PING, b"", fin=False), PROTOCOL_ERROR),
        "close in fragments": (client_frame(CLOSE, b"\x03\xe8", fin=False), PROTOCOL_ERROR),
        "continuation first": (client_frame(CONTINUATION, alive), PROTOCOL_ERROR),
        "continuation after a whole message": (
            client_frame(kind, alive) + client_frame(CONTINUATION, alive),
            PROTOCOL_ERROR,
        ),
        "new message within a message": (begun + client_frame(kind, alive), PROTOCOL_ERROR),
        "new message after an empty fragment": (
            client_frame(kind, b"", fin=False) + client_frame(kind, alive),
            PROTOCOL_ERROR,
        ),
        "new fragments within a message": (begun + client_frame(kind, b"", fin=False), PROTOCOL_ERROR),
        "the other kind": (client_frame(other, ALIVE[other]), UNSUPPORTED),
        "the other kind, empty": (client_frame(other, b""), UNSUPPORTED),
        "a fragment of the other kind": (client_frame(other, b"", fin=False), UNSUPPORTED),
        "the other kind within a message": (begun + client_frame(other, alive), PROTOCOL_ERROR),
        "top bit of 64 set": (header(0x80 | kind, 2**63, form=127), PROTOCOL_ERROR),
        "64 bits of ones": (header(0x80 | kind, 2**64 - 1, form=127), PROTOCOL_ERROR),
        "a length not in its shortest form": (
            header(0x80 | kind, len(alive), form=126) + KEY + alive,
            PROTOCOL_ERROR,
        ),
        "a length of 16 bits in 64": (header(0x80 | kind, 300, form=127), PROTOCOL_ERROR),
        # Only the header comes: it is refused before there is anything to keep.
        "one byte over the limit": (header(0x80 | kind, PACKET_BYTES_MAX + 1), TOO_LARGE),
        "2^63 - 1 bytes": (header(0x80 | kind, 2**63 - 1, form=127), TOO_LARGE),
        "one byte over the limit in fragments": (
            client_frame(kind, b"1" * PACKET_BYTES_MAX, fin=False) + header(CONTINUATION, 1),
            TOO_LARGE,
        ),
        "a close of one byte": (client_frame(CLOSE, b"\x03"), PROTOCOL_ERROR),
        **{
            f"close code {code}": (client_close(code), PROTOCOL_ERROR)
            for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535)
        },
        "close with a reason that is no UTF-8": (client_close(NORMAL, b"\xff"), INVALID_TEXT),
        "close with a surrogate": (client_close(NORMAL, b"\xed\xa0\x80"), INVALID_TEXT),
        "close with half a character": (client_close(NORMAL, "é".encode()[:1]), INVALID_TEXT),
    }


VIOLATIONS = [
    pytest.param(form, frames, close, id=f"{form}: {name}")
    for form, kind in ((SUB2, BINARY), (WS, TEXT))
    for name, (frames, close) in violations(kind).items()
]


@pytest.mark.parametrize(("form", "frames", "close"), VIOLATIONS)
async def test_a_violation_ends_the_connection(place: Place, form: Form, frames: bytes, close: int) -> None:
    """What was asked before it is answered, what comes after it is not."""
    async with connected(place.where, form, place.new_mid()) as line:
        line.put(line.encoded(HEARTBEAT, 1) + frames)
        line.say(HEARTBEAT, 2)
        line.say(HEARTBEAT, 3)

        fate = await assert_broken(line, close)

        assert {1} == {packet.seq for packet in fate.packets} - {0}


@pytest.mark.parametrize(("form", "frames", "close"), VIOLATIONS)
async def test_a_violation_before_the_auth_ends_the_connection(
    place: Place, form: Form, frames: bytes, close: int
) -> None:
    """Unless there was a whole message first: that ends it, not being auth."""
    async with dialled(place.where, form) as line:
        line.put(frames)

        if frames.startswith(client_frame(kind_of(line), ALIVE[kind_of(line)])):
            await assert_closed(line, "bad_order")
        else:
            await assert_broken(line, close)


INVALID_UTF8 = {
    "surrogate": b"\xed\xa0\x80",
    "overlong": b"\xc0\x80",
    "overlong slash": b"\xe0\x80\xaf",
    "beyond Unicode": b"\xf4\x90\x80\x80",
    "F5": b"\xf5\x80\x80\x80",
    "FF": b"\xff",
    "lone continuation": b"\x80",
    "cut off": b"\xe2\x82",
}
invalid_utf8 = pytest.mark.parametrize("octets", INVALID_UTF8.values(), ids=INVALID_UTF8)


@invalid_utf8
async def test_text_that_is_no_utf8_ends_the_connection(place: Place, octets: bytes) -> None:
    async with connected(place.where, WS, place.new_mid()) as line:
        line.put(client_frame(TEXT, b'{"op":2,"a":"%b"}' % octets))

        assert [] == (await assert_broken(line, INVALID_TEXT)).packets


@invalid_utf8
async def test_text_that_is_no_utf8_is_found_in_its_fragment(place: Place, octets: bytes) -> None:
    """The rest of the message never comes, except where only the end shows that a character is cut off."""
    async with connected(place.where, WS, place.new_mid()) as line:
        line.put(client_frame(TEXT, b'{"op":2,"a":"', fin=False) + client_frame(CONTINUATION, octets, fin=False))
        if octets == INVALID_UTF8["cut off"]:
            line.put(client_frame(CONTINUATION, b'"}'))

        assert [] == (await assert_broken(line, INVALID_TEXT)).packets


# --- what is legal ---------------------------------------------------------------------------------------------------


@sockets
@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999])
async def test_a_close_is_answered_with_its_code(place: Place, form: Form, code: int) -> None:
    """What was asked before it is answered too; what comes after it is not looked at."""
    async with connected(place.where, form, place.new_mid()) as line:
        line.put(line.encoded(HEARTBEAT, 1) + client_close(code, "so long, 長い".encode()) + line.encoded(HEARTBEAT, 2))

        fate = await line.fate()

        assert code == fate.close
        assert [1] == [packet.seq for packet in fate.packets]


@sockets
async def test_a_close_without_a_code_is_answered(place: Place, form: Form) -> None:
    async with connected(place.where, form, place.new_mid()) as line:
        line.put(client_frame(CLOSE) + client_frame(3, b"after the close") + b"\xff" * 100)

        fate = await line.fate()

        assert (0, "") == (fate.close, fate.reason)


@sockets
@pytest.mark.parametrize("payload", [b"", b"hi", bytes(range(125))], ids=["empty", "short", "125 bytes"])
@pytest.mark.parametrize("is_new", [True, False], ids=["before the auth", "after it"])
async def test_a_ping_is_answered_with_what_it_held(place: Place, form: Form, payload: bytes, is_new: bool) -> None:
    async with dialled(place.where, form) if is_new else connected(place.where, form, place.new_mid()) as line:
        line.put(client_frame(PONG, b"nobody asked") + client_frame(PING, payload))

        assert payload == await line.pong()


@sockets
async def test_a_message_may_be_fragmented_with_pings_between(place: Place, form: Form) -> None:
    room = place.new_room()
    async with connected(place.where, form, place.new_mid(), room_id=room) as line:
        payload = unframed(line, SEND, 5, message(room, "in pieces: é 長 😀"))
        pieces = [payload[at : at + 1] for at in range(len(payload))]  # also within a character
        frames = [client_frame(kind_of(line), b"", fin=False)]
        for number, piece in enumerate(pieces):
            frames += [client_frame(PING, b"%d" % number), client_frame(CONTINUATION, piece, fin=False)]
        line.put(b"".join(frames) + client_frame(CONTINUATION))

        (reply,) = await line.replies(1)

        assert (SEND + 1, 5, "") == (reply.op, reply.seq, reply.code)
        assert [b"%d" % number for number in range(len(pieces))] == line.pongs


@sockets
async def test_empty_fragments_cost_nothing(place: Place, form: Form) -> None:
    """A hundred thousand of them, and the message that they are of is still taken."""
    async with connected(place.where, form, place.new_mid()) as line:
        held = place.rss_bytes
        await line.push(
            client_frame(kind_of(line), b"", fin=False) + client_frame(CONTINUATION, b"", fin=False) * EMPTY_FRAGMENTS
        )
        line.put(client_frame(CONTINUATION, unframed(line, HEARTBEAT, 5)))

        (reply,) = await line.replies(1)

        assert (HEARTBEAT + 1, 5) == (reply.op, reply.seq)
        assert place.rss_bytes - held < 8 << 20


@sockets
async def test_the_largest_message_is_taken_whole_and_in_fragments(place: Place, form: Form) -> None:
    async with connected(place.where, form, place.new_mid()) as line:
        assert not (await line.ask(INBOX, {})).code, "the rows have come as far as the log, and are not waited for"
        payload = unframed(line, INBOX, 5, b"{}".ljust(PACKET_BYTES_MAX - len(unframed(line, INBOX, 5, b""))))
        assert PACKET_BYTES_MAX == len(payload)
        line.put(client_frame(kind_of(line), payload))
        line.put(client_frame(kind_of(line), payload[:1], fin=False) + client_frame(CONTINUATION, payload[1:]))

        assert [(33, 5, "")] * 2 == [(one.op, one.seq, one.code) for one in await line.replies(2)]


async def test_a_mask_of_any_bits_is_taken(place: Place) -> None:
    async with connected(place.where, WS, place.new_mid()) as line:
        for key in (b"\0\0\0\0", b"\xff\xff\xff\xff", b'{"op', b"\0\0\0\1"):
            line.put(client_frame(TEXT, json.dumps({"op": HEARTBEAT, "seq": 1}).encode(), key=key))

        assert [1] * 4 == [reply.seq for reply in await line.replies(4)]


@pytest.mark.parametrize("form", [SUB1, SUB2], ids=str)
async def test_an_empty_binary_frame_is_no_packet(place: Place, form: Form) -> None:
    async with connected(place.where, form, place.new_mid()) as line:
        line.put(client_frame(BINARY))

        assert [] == (await assert_closed(line, "bad_packet")).packets


async def test_an_empty_text_frame_is_no_packet(place: Place) -> None:
    async with connected(place.where, WS, place.new_mid()) as line:
        line.put(client_frame(TEXT))

        assert [] == (await assert_closed(line, "bad_packet")).packets


def kind_of(line: Line) -> int:
    """The opcode of this line's messages."""
    return TEXT if line.form.is_text else BINARY


def unframed(line: Line, op: int, seq: int, body: object = None) -> bytes:
    """A packet without its frame."""
    frame = line.encoded(op, seq, body)
    start = {126: 4, 127: 10}.get(frame[1] & 127, 2)
    return masked(frame[start + 4 :], frame[start : start + 4])
