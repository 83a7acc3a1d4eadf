"""The JSON form: one WebSocket text frame is one packet, `{"op":4,"seq":7,"body":…}`.

It speaks version 2 only, so it names no version. `seq` may be left out (0), and so may `body` (null). A batch from the
server is a packet of operation 9 whose body is a list of packets. The body is written by the caller as JSON text, so
that an event is encoded once for every connection.

The trap: `decode` says only that the frame is a packet. What the JSON inside may not hold is checked by
`requests.from_value`.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from imcore.errors import BadPacket

_loads = orjson.loads


def decode(data: bytes) -> tuple[int, int, object]:
    """Operation, sequence and body of one frame. Raises BadPacket for anything that is not a packet."""
    try:
        value = _loads(data)
    except orjson.JSONDecodeError as error:
        raise BadPacket(f"not JSON: {error}") from None
    if type(value) is not dict:
        raise BadPacket("the frame is not a JSON object")
    get = value.get
    op, seq = get("op"), get("seq", 0)
    if type(op) is not int or not -0x80000000 <= op <= 0x7FFFFFFF:
        raise BadPacket("op is missing" if "op" not in value else "op is not an integer of 32 bits")
    if type(seq) is not int or not -0x80000000 <= seq <= 0x7FFFFFFF:
        raise BadPacket("seq is not an integer of 32 bits")
    return op, seq, get("body")


def encode(op: int, seq: int, body_json: bytes) -> bytes:
    """One packet, around a body that is JSON text already."""
    return b'{"op":%d,"seq":%d,"body":%b}' % (op, seq, body_json)


def encode_batch(packets: Sequence[bytes]) -> bytes:
    """Encoded packets as one packet of operation 9."""
    return b'{"op":9,"seq":0,"body":[' + b",".join(packets) + b"]}"
