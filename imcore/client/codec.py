"""The two forms that a client speaks, as it sees them: a request to bytes, bytes to packets. Pure.

Both give a packet as operation, sequence and body, where the body is what its JSON says, so that nothing above this door knows which
form it is. JSON: one text frame is one packet. Binary, version 2: packets back to back, bodies are JSON but for the heartbeat.

The trap: a batch (operation 9) is opened here, in both forms. Over TCP there is none; in the JSON form nearly everything comes in one.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, Protocol

import orjson

from imcore.errors import BadPacket
from imcore.protocol import binary, text
from imcore.protocol.packet import Op

REPLY_BYTES_MAX: Final = 1 << 24  # of one packet of the server: a page of history is 1 MiB and one event

_BATCH: Final = int(Op.BATCH)
_HEARTBEAT: Final = int(Op.HEARTBEAT)
_HEARTBEAT_REPLY: Final = int(Op.HEARTBEAT_REPLY)
_loads = orjson.loads


class Told(NamedTuple):
    """A packet of the server, whatever its form was."""

    op: int
    seq: int
    body: Any


class Codec(Protocol):
    """One connection's form. A new connection has a new codec: it keeps the tail of an unfinished packet."""

    is_text: bool

    def encode(self, op: int, seq: int, body: bytes) -> bytes:
        """A request; `body` is JSON text."""

    def decode(self, data: bytes) -> list[Told]:
        """The packets that `data` completes, in order. Raises ImcoreError for what is no packet."""


class JsonCodec:
    """One text frame is one packet, or a batch of them."""

    is_text = True

    def encode(self, op: int, seq: int, body: bytes) -> bytes:
        """A request as a text frame."""
        return text.encode(op, seq, body)

    def decode(self, data: bytes) -> list[Told]:
        """The packets of one frame."""
        op, seq, body = text.decode(data)
        if op != _BATCH:
            return [Told(op, seq, body)]
        if not isinstance(body, list):
            raise BadPacket("a batch that is no list")
        try:
            return [Told(one["op"], one.get("seq", 0), one.get("body")) for one in body]
        except (TypeError, KeyError, AttributeError):
            raise BadPacket("a batch with something else than packets in it") from None


class BinaryCodec:
    """goim's header, version 2."""

    is_text = False

    def __init__(self) -> None:
        self._decoder = binary.Decoder(REPLY_BYTES_MAX)

    def encode(self, op: int, seq: int, body: bytes) -> bytes:
        """A request as a packet."""
        return binary.encode(2, op, seq, b"" if op == _HEARTBEAT else body)

    def decode(self, data: bytes) -> list[Told]:
        """The packets that this completes."""
        told: list[Told] = []
        for _, op, seq, body in self._decoder.feed(data):
            if op == _BATCH:
                told += [_opened(*inner[1:]) for inner in binary.decode_frame(body, REPLY_BYTES_MAX)]
            else:
                told.append(_opened(op, seq, body))
        if self._decoder.error is not None and not told:
            raise self._decoder.error
        return told


def _opened(op: int, seq: int, body: bytes) -> Told:
    if op == _HEARTBEAT_REPLY and len(body) == 4:
        return Told(op, seq, {"online": int.from_bytes(body, "big", signed=True)})
    try:
        return Told(op, seq, _loads(body) if body else None)
    except orjson.JSONDecodeError as error:
        raise BadPacket(f"not JSON: {error}") from None
