"""The packet, its operations, the limits of the protocol, and the names of rooms.

A packet is a version, an operation, a sequence number that the client chose and the reply repeats, and a body. The
reply to operation n is n + 1. Numbers up to 17 are goim's and never change meaning; 20 to 99 are ours; 1000 and more
belong to those who push.

The trap: `Op` is for reading. Members of an IntEnum are slow to look up (a descriptor each time on Python 3.11), so hot
code compares with module constants.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Final, NamedTuple

from imcore.errors import BadRequest

HEADER_BYTES: Final = 16
PACKET_BYTES_MAX: Final = 65_536  # header and body; the default of the setting
GOIM_BODY_BYTES_MAX: Final = 4_096  # goim's own limit, on goim's requests in version 1
TEXT_BODY_BYTES_MAX: Final = 16_384  # the body of a message, as compact JSON text
DEPTH_MAX: Final = 32  # of a request's JSON: what we store is read by parsers that stop long before orjson's 1,024
ROOM_NAME_BYTES_MAX: Final = 128
ROOM_BYTES_MAX: Final = 160  # type, "://" and name together
ROOMS_MAX: Final = 1_000  # live rooms entered by one auth
ACCEPTS_MAX: Final = 1_024  # operations in one auth, subscribe or unsubscribe
KEY_BYTES_MAX: Final = 128
PLATFORM_BYTES_MAX: Final = 64
TOKEN_BYTES_MAX: Final = 4_096
CURSOR_BYTES_MAX: Final = 256
VERB_BYTES_MAX: Final = 64
IDEMPOTENCY_KEY_CHARS_MAX: Final = 128
PAGE_ROWS_MAX: Final = 500  # events, members or rooms in one reply
MENTIONS_MAX: Final = 100  # people whom one message names
SHOWN_CHARS_MAX: Final = 64  # of the input, in the text of an error
PUSH_OP_MIN: Final = 1_000  # goim's custom: below are operations of the protocol
INT32_MIN: Final = -(2**31)
INT32_MAX: Final = 2**31 - 1
INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1


class Op(IntEnum):
    """What a packet asks or tells. A request's reply is the next number."""

    HANDSHAKE = 0  # goim names it and uses it nowhere
    HANDSHAKE_REPLY = 1
    HEARTBEAT = 2
    HEARTBEAT_REPLY = 3
    SEND = 4
    SEND_REPLY = 5
    DISCONNECT = 6  # server: why the connection ends
    AUTH = 7
    AUTH_REPLY = 8
    BATCH = 9  # server: packets in one WebSocket frame; goim's "raw"
    PROTO_READY = 10  # inside goim only
    PROTO_FINISH = 11
    CHANGE_ROOM = 12
    CHANGE_ROOM_REPLY = 13
    SUBSCRIBE = 14
    SUBSCRIBE_REPLY = 15
    UNSUBSCRIBE = 16
    UNSUBSCRIBE_REPLY = 17
    ERROR = 20  # server: an error, with the sequence of a packet that has no reply operation
    EVENT = 21  # server: an event envelope, in version 2
    JOIN = 22
    JOIN_REPLY = 23
    LEAVE = 24
    LEAVE_REPLY = 25
    HISTORY = 26
    HISTORY_REPLY = 27
    READ = 28
    READ_REPLY = 29
    MEMBERS = 30
    MEMBERS_REPLY = 31
    INBOX = 32
    INBOX_REPLY = 33
    ACK = 34
    ACK_REPLY = 35
    REMOVED = 36  # server: you are no longer in this room
    CALL = 38  # a verb by its name
    CALL_REPLY = 39


class Packet(NamedTuple):
    """One packet of the binary form."""

    ver: int
    op: int
    seq: int
    body: bytes


# No normal form is asked for: rooms are compared byte by byte, and whoever creates them chooses their alphabet.
_UNPRINTED = r"\s\x00-\x1f\x7f-\x9f\ud800-\udfff"
_room = re.compile(rf"[a-z][a-z0-9_]{{0,31}}://[^{_UNPRINTED}]{{1,128}}").fullmatch
_room_type = re.compile(r"[a-z][a-z0-9_]{0,31}").fullmatch
# What a header may hold bare or between quotes: printable ASCII, without quotes and backslashes.
_idempotency_key = re.compile(rf"[\x21\x23-\x5b\x5d-\x7e]{{1,{IDEMPOTENCY_KEY_CHARS_MAX}}}").fullmatch
_unprinted = re.compile(f"[{_UNPRINTED}]").search
# In a set of a regular expression: what could forge a line of a log or of a header, and what is no text.
CONTROLS: Final = r"\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"
find_control: Final = re.compile(f"[{CONTROLS}]").search


def check_room(name: str) -> str:
    """The name itself, if it is `type://name` within the limits.

    Raises BadRequest, which says what is wrong with it.
    """
    if _room(name) and len(name) <= ROOM_BYTES_MAX and (name.isascii() or _fits(name)):
        return name
    raise BadRequest(f"room {shown(name)}: {_room_fault(name)}")


def is_idempotency_key(text: str) -> bool:
    """May an answer be kept under this?"""
    return _idempotency_key(text) is not None


def shown(text: str) -> str:
    """Input as an error may repeat it: quoted, escaped (so that no terminal or log obeys it) and short."""
    quoted = ascii(text[:SHOWN_CHARS_MAX])
    return quoted if len(quoted) <= SHOWN_CHARS_MAX else quoted[: SHOWN_CHARS_MAX - 3] + "..."


def _fits(name: str) -> bool:
    encoded = name.encode()
    return len(encoded) <= ROOM_BYTES_MAX and len(encoded.partition(b"://")[2]) <= ROOM_NAME_BYTES_MAX


def _room_fault(name: str) -> str:
    kind, mark, rest = name.partition("://")
    if not mark:
        return "not of the form type://name"
    if not _room_type(kind):
        return "the type is not a lower-case letter and up to 31 more of a-z, 0-9 and _"
    if not rest:
        return "the name is empty"
    if _unprinted(rest):
        return "the name has white space, a control character or a surrogate in it"
    if len(rest.encode()) > ROOM_NAME_BYTES_MAX:
        return f"the name is longer than {ROOM_NAME_BYTES_MAX} bytes"
    return f"longer than {ROOM_BYTES_MAX} bytes"
