"""What a client of each codec reads from the bytes that a server writes."""

from __future__ import annotations

import struct
from typing import NamedTuple

import orjson

from imcore.comet.encode import JSON_WS, V1_TCP, V1_WS, V2_TCP, V2_WS
from imcore.protocol import binary, text
from imcore.protocol.packet import Op, Packet

CODECS = (V1_TCP, V1_WS, V2_TCP, V2_WS, JSON_WS)
BYTES_MAX = 1 << 24


class Frame(NamedTuple):
    """One WebSocket message of the server."""

    opcode: int
    payload: bytes


def frames(data: bytes) -> list[Frame]:
    """The frames of a server: whole, unmasked, in the shortest form."""
    found: list[Frame] = []
    at = 0
    while at < len(data):
        first, length = data[at], data[at + 1]
        assert first & 0xF0 == 0x80, "one whole message without extensions"
        at += 2
        if length == 126:
            (length,) = struct.unpack_from(">H", data, at)
            assert length > 125
            at += 2
        elif length == 127:
            (length,) = struct.unpack_from(">Q", data, at)
            assert length > 65_535
            at += 8
        assert length <= len(data) - at, "the frame is not cut off"
        found.append(Frame(first & 0xF, data[at : at + length]))
        at += length
    return found


def packets(codec: int, data: bytes) -> list[Packet]:
    """The packets inside, in order, with batches opened. The body of a JSON packet is written as JSON again."""
    if codec in (V1_TCP, V2_TCP):
        decoder = binary.Decoder(BYTES_MAX)
        found = decoder.feed(data)
        assert decoder.error is None
        assert len(data) == sum(16 + len(one.body) for one in found), "packets stand back to back"
        return found
    return [packet for frame in frames(data) for packet in inside(codec, frame)]


def inside(codec: int, frame: Frame) -> list[Packet]:
    """The packets of one frame."""
    if codec == JSON_WS:
        assert frame.opcode == 1, "JSON is text"
        op, seq, body = text.decode(frame.payload)
        several = body if op == Op.BATCH else [{"op": op, "seq": seq, "body": body}]
        assert isinstance(several, list)
        return [Packet(2, one["op"], one["seq"], orjson.dumps(one["body"])) for one in several]
    assert frame.opcode == 2, "packets are binary"
    (packet,) = binary.decode_frame(frame.payload, BYTES_MAX)
    return binary.decode_frame(packet.body, BYTES_MAX) if packet.op == Op.BATCH else [packet]


def positions(codec: int, data: bytes) -> list[int]:
    """The positions of the events inside. In version 1, which shows none, the body of a message must be its position."""
    if codec in (V1_TCP, V1_WS):
        return [int(packet.body) for packet in packets(codec, data)]
    found = packets(codec, data)
    assert all(packet.op == Op.EVENT for packet in found)
    return [position_of(packet) for packet in found]


def position_of(packet: Packet) -> int:
    """Of the event in a packet of version 2."""
    position = orjson.loads(packet.body)["position"]
    assert type(position) is int
    return position
