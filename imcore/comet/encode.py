"""Events to bytes: each event once per form, each run of events once per codec, the same bytes to every connection.

A codec is a form (goim's version 1, version 2, JSON) on a carrier (TCP, WebSocket). On TCP packets stand back to back; on a
WebSocket a run is one frame: the packet itself, or a batch (operation 9) with the packets inside. Server frames are not masked, so
the same bytes serve every WebSocket too.

Version 1 receives messages only, under the operation that the sender gave, with the body as it was sent, and of what was recalled
nothing. Version 2 and JSON receive every event, as an envelope.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Final

from imcore.envelope import envelope
from imcore.events import messages
from imcore.events.messages import RECALLED
from imcore.events.types import BASE64, Recorded
from imcore.protocol import binary, text, websocket
from imcore.protocol.packet import Op

V1_TCP, V1_WS, V2_TCP, V2_WS, JSON_WS = range(5)
FORM_V1, FORM_V2, FORM_JSON = range(3)
FORM_OF: Final = (FORM_V1, FORM_V1, FORM_V2, FORM_V2, FORM_JSON)

FRAME_BYTES_MAX: Final = 32 * 1024  # a longer run is several frames: small clients read a frame into one buffer
EVENT: Final = int(Op.EVENT)
TEXT_FRAME, BINARY_FRAME = 1, 2


def payload(event: Recorded) -> bytes:
    """The body of a plain message as its sender gave it."""
    return base64.b64decode(event.body) if event.format == BASE64 else event.body.encode()


def packet(event: Recorded, form: int) -> bytes:
    """One event as a packet of the form; b"" if that form does not show it."""
    if form == FORM_V1:
        if event.version != 1 and event.op:
            return b"" if event.format == RECALLED else binary.encode(1, event.op, 0, messages.payload(event))
        return binary.encode(1, event.op, 0, payload(event)) if event.op else b""
    if form == FORM_V2:
        return binary.encode(2, EVENT, 0, envelope(event))
    return text.encode(EVENT, 0, envelope(event))


def wire(packets: Sequence[bytes], codec: int) -> bytes:
    """Packets of the codec's form as the bytes that its carrier takes; b"" for none."""
    if not packets:
        return b""
    if codec in (V1_TCP, V2_TCP):
        return b"".join(packets)
    if len(packets) == 1:
        return _frame(packets, codec)
    frames: list[bytes] = []
    start = size = 0
    for n, one in enumerate(packets):
        if size and size + len(one) > FRAME_BYTES_MAX:
            frames.append(_frame(packets[start:n], codec))
            start, size = n, 0
        size += len(one)
    frames.append(_frame(packets[start:], codec))
    return frames[0] if len(frames) == 1 else b"".join(frames)


def _frame(packets: Sequence[bytes], codec: int) -> bytes:
    if codec == JSON_WS:
        return websocket.frame(TEXT_FRAME, packets[0] if len(packets) == 1 else text.encode_batch(packets))
    return websocket.frame(BINARY_FRAME, packets[0] if len(packets) == 1 else binary.encode_batch(packets))


def reply(codec: int, op: int, seq: int, body: bytes) -> bytes:
    """One packet to one connection: a reply, or a notice."""
    if codec == JSON_WS:
        return websocket.frame(TEXT_FRAME, text.encode(op, seq, body or b"null"))
    one = binary.encode(1 if codec < V2_TCP else 2, op, seq, body)
    return one if codec in (V1_TCP, V2_TCP) else websocket.frame(BINARY_FRAME, one)


class Run:
    """Consecutive events for one audience, encoded as asked for and never twice."""

    __slots__ = ("_packets", "_wires", "events", "keys", "ops")

    def __init__(self, events: list[Recorded]) -> None:
        self.events = events
        self.ops = frozenset(event.op for event in events if event.op)
        self.keys = {event.key for event in events}
        self._packets: list[list[bytes] | None] = [None, None, None]
        self._wires: dict[object, bytes] = {}

    def all(self, codec: int) -> bytes:
        """Everything that the codec shows."""
        found = self._wires.get(codec)
        if found is None:
            found = self._wires[codec] = wire([one for one in self._form(FORM_OF[codec]) if one], codec)
        return found

    def accepted(self, codec: int, ops: frozenset[int]) -> bytes:
        """Only messages of these operations, and whatever is no message."""
        wanted = self.ops & ops
        if wanted == self.ops:
            return self.all(codec)
        found = self._wires.get((codec, wanted))
        if found is None:
            found = self._wires[codec, wanted] = self.some(
                codec, [event.op == 0 or event.op in wanted for event in self.events]
            )
        return found

    def some(self, codec: int, chosen: list[bool]) -> bytes:
        """Only the chosen events."""
        packets = self._form(FORM_OF[codec])
        return wire([one for one, is_chosen in zip(packets, chosen, strict=True) if is_chosen and one], codec)

    def _form(self, form: int) -> list[bytes]:
        packets = self._packets[form]
        if packets is None:
            packets = self._packets[form] = [packet(event, form) for event in self.events]
        return packets
