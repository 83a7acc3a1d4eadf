"""Frames as a client would send them, right and wrong."""

from __future__ import annotations

FIN, RSV1, RSV2, RSV3 = 0x80, 0x40, 0x20, 0x10
KEY = b"\x37\xfa\x21\x3d"  # the key in the examples of RFC 6455, 5.7


def masked(payload: bytes, key: bytes = KEY) -> bytes:
    """The slow way, as the RFC writes it (5.3)."""
    return bytes(octet ^ key[place % 4] for place, octet in enumerate(payload))


def header(first: int, length: int, *, is_masked: bool = True, form: int | None = None) -> bytes:
    """Everything before the masking key; `form` 126 or 127 asks for a longer form of the length than it needs."""
    bit = 0x80 if is_masked else 0
    if form is None:
        form = length if length < 126 else 126 if length < 65_536 else 127
    if form == 127:
        return bytes((first, bit | 127)) + length.to_bytes(8, "big")
    if form == 126:
        return bytes((first, bit | 126)) + length.to_bytes(2, "big")
    return bytes((first, bit | length))


def client_frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, key: bytes = KEY) -> bytes:
    """One frame from a client."""
    return header((FIN if fin else 0) | rsv | opcode, len(payload)) + key + masked(payload, key)


def client_close(code: int, reason: bytes = b"") -> bytes:
    """A close frame from a client."""
    return client_frame(0x8, code.to_bytes(2, "big") + reason)
