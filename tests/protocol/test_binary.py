"""goim's binary form: every header field at its edges, and the same packets however the bytes are split."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imcore.errors import BadPacket, ImcoreError, PacketTooLarge
from imcore.protocol.binary import Decoder, decode_frame, encode, encode_batch
from imcore.protocol.packet import PACKET_BYTES_MAX, Op, Packet

INT16_MAX, INT32_MIN, INT32_MAX = 2**15 - 1, -(2**31), 2**31 - 1

packets = st.builds(
    Packet,
    ver=st.integers(-(2**15), INT16_MAX),
    op=st.integers(INT32_MIN, INT32_MAX),
    seq=st.integers(INT32_MIN, INT32_MAX),
    body=st.binary(max_size=300),
)


def head(length: int, header: int = 16, ver: int = 1, op: int = 2, seq: int = 3) -> bytes:
    return struct.pack(">ihhii", length, header, ver, op, seq)


def feed_all(pieces: list[bytes], packet_bytes_max: int = PACKET_BYTES_MAX) -> tuple[list[Packet], ImcoreError | None]:
    decoder = Decoder(packet_bytes_max)
    return [packet for piece in pieces for packet in decoder.feed(piece)], decoder.error


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:stop] for start, stop in pairwise(places)]


# --- goim's bytes ----------------------------------------------------------------------------------------------------

# Written out from goim's sources (api/protocol/protocol.go), not made with our own encoder.
GOIM_FRAMES = [
    (
        "auth",
        (
            "0000005e 0010 0001 00000007 00000001"
            "7b226d6964223a3132332c226b6579223a22222c22726f6f6d5f6964223a226c6976653a2f2f31303030222c"
            "22706c6174666f726d223a22776562222c2261636365707473223a5b313030305d7d"
        ),
        Packet(1, Op.AUTH, 1, b'{"mid":123,"key":"","room_id":"live://1000","platform":"web","accepts":[1000]}'),
    ),
    ("auth reply", "00000010 0010 0001 00000008 00000001", Packet(1, Op.AUTH_REPLY, 1, b"")),
    ("heartbeat", "00000010 0010 0001 00000002 00000002", Packet(1, Op.HEARTBEAT, 2, b"")),
    ("heartbeat reply", "00000014 0010 0001 00000003 00000002 00000005", Packet(1, Op.HEARTBEAT_REPLY, 2, b"\0\0\0\5")),
    ("change room", "0000001b 0010 0001 0000000c 00000003 6c6976653a2f2f31303031", Packet(1, 12, 3, b"live://1001")),
    ("change room reply", "00000010 0010 0001 0000000d 00000003", Packet(1, Op.CHANGE_ROOM_REPLY, 3, b"")),
    ("subscribe", "00000019 0010 0001 0000000e 00000004 313030312c31303032", Packet(1, 14, 4, b"1001,1002")),
    ("unsubscribe", "00000014 0010 0001 00000010 00000005 31303031", Packet(1, 16, 5, b"1001")),
    ("push", "00000012 0010 0001 000003e8 00000000 6869", Packet(1, 1000, 0, b"hi")),
]


@pytest.mark.parametrize(
    ("hex_bytes", "packet"), [frame[1:] for frame in GOIM_FRAMES], ids=[one[0] for one in GOIM_FRAMES]
)
def test_goims_frames_byte_for_byte(hex_bytes: str, packet: Packet) -> None:
    data = bytes.fromhex(hex_bytes)

    assert encode(*packet) == data
    assert Decoder(PACKET_BYTES_MAX).feed(data) == [packet]
    assert decode_frame(data, PACKET_BYTES_MAX) == [packet]


def test_a_batch_in_a_websocket_frame_has_goims_outer_header() -> None:
    inner = [encode(1, 1000, 0, b"hi"), encode(1, 1001, 0, b"ho")]

    batch = encode_batch(inner)

    assert batch == bytes.fromhex(
        "00000034 0010 0001 00000009 00000000"
        "00000012 0010 0001 000003e8 00000000 6869"
        "00000012 0010 0001 000003e9 00000000 686f"
    )
    [outer] = decode_frame(batch, PACKET_BYTES_MAX)
    assert outer.op == Op.BATCH
    assert decode_frame(outer.body, PACKET_BYTES_MAX) == [Packet(1, 1000, 0, b"hi"), Packet(1, 1001, 0, b"ho")]


# --- any split, any packet -------------------------------------------------------------------------------------------


@given(st.lists(packets, max_size=8), st.lists(st.integers(0, 10_000), max_size=20))
def test_any_split_of_the_stream_gives_the_same_packets(sent: list[Packet], cuts: list[int]) -> None:
    data = b"".join(encode(*packet) for packet in sent)

    assert feed_all(split(data, cuts)) == (sent, None)


@given(st.lists(packets, min_size=1, max_size=8))
def test_a_frame_gives_the_packets_it_was_made_of(sent: list[Packet]) -> None:
    assert decode_frame(b"".join(encode(*packet) for packet in sent), PACKET_BYTES_MAX) == sent


def test_one_byte_at_a_time() -> None:
    sent = [Packet(1, 7, 1, b"{}"), Packet(2, 4, -5, b"x" * 40), Packet(1, 2, 0, b"")]
    data = b"".join(encode(*packet) for packet in sent)

    assert feed_all([bytes((octet,)) for octet in data]) == (sent, None)


def test_a_thousand_packets_in_one_segment() -> None:
    sent = [Packet(1, 2, seq, b"") for seq in range(1000)]

    assert feed_all([b"".join(encode(*packet) for packet in sent)]) == (sent, None)


def test_a_packet_cut_at_every_byte_arrives_whole() -> None:
    data = encode(1, 4, 9, b"0123456789")
    for cut in range(len(data) + 1):
        assert feed_all([data[:cut], data[cut:]]) == ([Packet(1, 4, 9, b"0123456789")], None)


def test_the_end_of_a_packet_and_the_start_of_the_next_in_one_piece() -> None:
    data = encode(1, 4, 1, b"abc") + encode(1, 4, 2, b"def")

    assert feed_all([data[:18], data[18:25], data[25:]]) == ([Packet(1, 4, 1, b"abc"), Packet(1, 4, 2, b"def")], None)


# --- header fields at their edges ------------------------------------------------------------------------------------

BAD_HEADERS = [
    *[(f"packet length {length}", head(length), BadPacket) for length in (INT32_MIN, -1, 0, 1, 15)],
    *[(f"header length {header}", head(16, header), BadPacket) for header in (-(2**15), -1, 0, 15, 17, 32, INT16_MAX)],
    ("packet length above the limit", head(PACKET_BYTES_MAX + 1), PacketTooLarge),
    ("the greatest packet length", head(INT32_MAX), PacketTooLarge),
    ("a long packet with a bad header", head(INT32_MAX, 17), BadPacket),
]


@pytest.mark.parametrize(("data", "kind"), [one[1:] for one in BAD_HEADERS], ids=[one[0] for one in BAD_HEADERS])
def test_a_bad_length_ends_the_stream_after_the_packets_before_it(data: bytes, kind: type[ImcoreError]) -> None:
    decoder = Decoder(PACKET_BYTES_MAX)

    got = decoder.feed(encode(1, 4, 7, b"before") + data + encode(1, 4, 8, b"after"))

    assert got == [Packet(1, 4, 7, b"before")]
    assert type(decoder.error) is kind
    assert decoder.feed(encode(1, 4, 9, b"later")) == []
    assert type(decoder.error) is kind
    with pytest.raises(kind):
        decode_frame(data, PACKET_BYTES_MAX)


@pytest.mark.parametrize(("data", "kind"), [one[1:] for one in BAD_HEADERS], ids=[one[0] for one in BAD_HEADERS])
def test_a_bad_length_is_found_however_it_is_split(data: bytes, kind: type[ImcoreError]) -> None:
    for cut in range(len(data) + 1):
        got, error = feed_all([encode(1, 4, 7, b"x"), data[:cut], data[cut:]])
        assert got == [Packet(1, 4, 7, b"x")]
        assert type(error) is kind


@pytest.mark.parametrize("packet_bytes_max", [16, 17, 4112, PACKET_BYTES_MAX])
def test_the_limit_counts_header_and_body(packet_bytes_max: int) -> None:
    below, at, above = (bytes(packet_bytes_max - 16 + more) for more in (-1 if packet_bytes_max > 16 else 0, 0, 1))

    for body in (below, at):
        assert feed_all([encode(1, 4, 0, body)], packet_bytes_max) == ([Packet(1, 4, 0, body)], None)
        assert decode_frame(encode(1, 4, 0, body), packet_bytes_max) == [Packet(1, 4, 0, body)]
    got, error = feed_all([encode(1, 4, 0, above)], packet_bytes_max)
    assert (got, type(error)) == ([], PacketTooLarge)
    with pytest.raises(PacketTooLarge):
        decode_frame(encode(1, 4, 0, above), packet_bytes_max)


@pytest.mark.parametrize("ver", [-(2**15), -1, 0, 1, 2, INT16_MAX])
@pytest.mark.parametrize("op", [INT32_MIN, -1, 0, 6, 19, 37, INT32_MAX])
@pytest.mark.parametrize("seq", [INT32_MIN, -1, 0, INT32_MAX])
def test_version_operation_and_sequence_pass_as_they_are(ver: int, op: int, seq: int) -> None:
    """What they mean is for those behind to judge; a reply needs the sequence even of a bad request."""
    assert feed_all([encode(ver, op, seq, b"x")]) == ([Packet(ver, op, seq, b"x")], None)


def test_a_hostile_header_makes_nothing_be_kept() -> None:
    decoder = Decoder(PACKET_BYTES_MAX)
    for _ in range(100):
        decoder.feed(head(INT32_MAX) + bytes(100_000))

    assert len(decoder._tail) == 0


def test_only_the_unfinished_packet_is_kept() -> None:
    decoder = Decoder(PACKET_BYTES_MAX)

    decoder.feed(encode(1, 4, 0, bytes(60_000)) + encode(1, 4, 1, b"abc")[:18])

    assert len(decoder._tail) == 18


# --- frames ----------------------------------------------------------------------------------------------------------


def test_a_frame_cut_at_any_byte_is_refused() -> None:
    """Nothing is read past the frame, and nothing is waited for."""
    data = encode(1, 4, 1, b"abc") + encode(1, 4, 2, b"defg")
    whole = {19, len(data)}
    for cut in range(len(data)):
        if cut in whole:
            assert len(decode_frame(data[:cut], PACKET_BYTES_MAX)) == 1
        else:
            with pytest.raises(BadPacket):
                decode_frame(data[:cut], PACKET_BYTES_MAX)


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", head(16) + b"\0", head(17), head(100) + b"short", head(16) + head(17)],
    ids=["empty", "one byte", "bytes after", "one byte short", "longer than the frame", "the second is short"],
)
def test_a_frame_must_hold_whole_packets_and_nothing_else(data: bytes) -> None:
    with pytest.raises(BadPacket):
        decode_frame(data, PACKET_BYTES_MAX)


# --- noise -----------------------------------------------------------------------------------------------------------

noise = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda fields, rest: struct.pack(">ihhii", *fields) + rest,
        st.tuples(
            st.one_of(st.integers(0, 64), st.integers(INT32_MIN, INT32_MAX)),
            st.one_of(st.just(16), st.integers(-(2**15), INT16_MAX)),
            st.integers(-(2**15), INT16_MAX),
            st.integers(INT32_MIN, INT32_MAX),
            st.integers(INT32_MIN, INT32_MAX),
        ),
        st.binary(max_size=80),
    ),
)


@settings(max_examples=500)
@given(st.lists(noise, max_size=6), st.lists(st.integers(0, 10_000), max_size=10))
def test_noise_raises_only_our_errors_and_splits_alike(pieces: list[bytes], cuts: list[int]) -> None:
    data = b"".join(pieces)
    whole, error = feed_all([data], 256)
    parts, same = feed_all(split(data, cuts), 256)

    assert whole == parts
    assert type(error) is type(same)
    assert str(error) == str(same)
    assert type(error) in (type(None), BadPacket, PacketTooLarge)
    try:
        framed = decode_frame(data, 256)
    except (BadPacket, PacketTooLarge):
        return
    assert framed == whole
