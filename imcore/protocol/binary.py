"""goim's binary form: a 16-byte big-endian header, then the body.

Bytes in, packets out. A decoder keeps only the tail of an unfinished packet, so any split of the input gives the same
packets. Length is checked before anything is kept: a hostile header must cost nothing.

The trap: a bad header does not undo what came before it. `Decoder.feed` returns the good packets and leaves the fault
in `error`; the caller handles the packets first, then looks.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from imcore.errors import BadPacket, ImcoreError, PacketTooLarge
from imcore.protocol.packet import HEADER_BYTES, Packet

HEADER = struct.Struct(">ihhii")  # packet length, header length, version, operation, sequence
assert HEADER.size == HEADER_BYTES

_unpack = HEADER.unpack_from
_pack = HEADER.pack
_new = tuple.__new__  # Packet(...) goes through a Python function: 219 ns against 102


class Decoder:
    """A stream of bytes to packets; after `error` is set, nothing more comes out."""

    __slots__ = ("_max", "_need", "_tail", "error")

    def __init__(self, packet_bytes_max: int) -> None:
        self.error: ImcoreError | None = None
        self._max = packet_bytes_max
        self._tail = bytearray()  # bounded by packet_bytes_max: a longer packet is refused by its header
        self._need = 0  # bytes that the tail must reach before it is worth looking at again

    def feed(self, data: bytes) -> list[Packet]:
        """The packets that `data` completes, in order. A bad header sets `error`: BadPacket or PacketTooLarge."""
        if self._tail:
            self._tail += data
            if len(self._tail) < self._need:
                return []
            data = bytes(self._tail)
            self._tail.clear()
        packets: list[Packet] = []
        if self.error is not None:
            return packets
        at, end, need = 0, len(data), HEADER_BYTES
        while end - at >= HEADER_BYTES:
            length, header, ver, op, seq = _unpack(data, at)
            if header != HEADER_BYTES or not HEADER_BYTES <= length <= self._max:
                self.error = _fault(length, header, self._max)
                return packets
            stop = at + length
            if stop > end:
                need = length
                break
            packets.append(_new(Packet, (ver, op, seq, data[at + HEADER_BYTES : stop])))
            at = stop
        if at < end:
            self._tail += data[at:]
            self._need = need
        return packets


def decode_frame(data: bytes, packet_bytes_max: int) -> list[Packet]:
    """The packets of one WebSocket message, which must hold one or more of them, whole, and nothing else.

    Raises BadPacket or PacketTooLarge.
    """
    packets: list[Packet] = []
    at, end = 0, len(data)
    while True:
        if end - at < HEADER_BYTES:
            raise BadPacket(f"{end - at} bytes of the frame are left, where a header of {HEADER_BYTES} belongs")
        length, header, ver, op, seq = _unpack(data, at)
        if header != HEADER_BYTES or not HEADER_BYTES <= length <= packet_bytes_max:
            raise _fault(length, header, packet_bytes_max)
        stop = at + length
        if stop > end:
            raise BadPacket(f"the packet length is {length}, and {end - at} bytes of the frame are left")
        packets.append(_new(Packet, (ver, op, seq, data[at + HEADER_BYTES : stop])))
        if stop == end:
            return packets
        at = stop


def encode(ver: int, op: int, seq: int, body: bytes) -> bytes:
    """One packet."""
    return _pack(HEADER_BYTES + len(body), HEADER_BYTES, ver, op, seq) + body


def encode_batch(packets: Sequence[bytes]) -> bytes:
    """Encoded packets as one of operation 9, as goim puts them into one WebSocket message (TCP has no outer header)."""
    body = b"".join(packets)
    return _pack(HEADER_BYTES + len(body), HEADER_BYTES, 1, 9, 0) + body


def _fault(length: int, header: int, packet_bytes_max: int) -> ImcoreError:
    if header != HEADER_BYTES:
        return BadPacket(f"the header length is {header}, not {HEADER_BYTES}")
    if length < HEADER_BYTES:
        return BadPacket(f"the packet length is {length}, less than the header's {HEADER_BYTES}")
    return PacketTooLarge(f"the packet length is {length}, and {packet_bytes_max} is the limit")
