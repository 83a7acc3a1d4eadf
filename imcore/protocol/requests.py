"""Packets to requests: every field checked here, so that nothing behind this door has to ask what it got.

Types are strict: `true` is not 1, 1.0 is not 1, "1" is not 1. In optional fields null is the same as leaving the field
out (goim's Go clients write null for empty lists). Fields that an operation does not know are ignored, never obeyed. An
error names the field and repeats at most 64 characters of the input.

The binary form and the JSON form differ in three operations only: goim's change room, subscribe and unsubscribe have
bodies that are not JSON.

The trap: `Send` is read once per message of every client. It has its own way through the checks, 2 µs in all;
`strict.check_json` decides whatever looks unusual there.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias, cast

import orjson

from imcore.errors import BadPacket, BadRequest, InvalidText, TooLarge, UnknownOperation
from imcore.protocol.packet import (
    ACCEPTS_MAX,
    CURSOR_BYTES_MAX,
    GOIM_BODY_BYTES_MAX,
    IDEMPOTENCY_KEY_CHARS_MAX,
    INT32_MAX,
    INT32_MIN,
    INT64_MAX,
    INT64_MIN,
    KEY_BYTES_MAX,
    MENTIONS_MAX,
    PAGE_ROWS_MAX,
    PLATFORM_BYTES_MAX,
    PUSH_OP_MIN,
    ROOMS_MAX,
    TEXT_BODY_BYTES_MAX,
    TOKEN_BYTES_MAX,
    VERB_BYTES_MAX,
    Op,
    check_room,
    find_control,
    is_idempotency_key,
    shown,
)
from imcore.protocol.strict import check_json, check_keys, looks_plain

Object: TypeAlias = dict[str, object]
Format: TypeAlias = Literal["json", "text", "base64"]

HISTORY_ROWS: Final = 50  # when the request names no limit
MEMBERS_ROWS: Final = 100
PLACES_EXCLUDE: Final = "before, after, around and at exclude each other"
INBOX_ROWS: Final = 100


@dataclass(frozen=True, slots=True)
class Auth:
    """Who connects, from which device, and what it wants to receive."""

    mid: int | None
    key: str
    room: str
    rooms: tuple[str, ...]
    platform: str
    accepts: frozenset[int] | None
    token: str
    cursor: str


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The connection is alive."""


class Extra(NamedTuple):
    """What a message is about beside its body. In `mentions` 0 is everybody in the room."""

    reply_to: int = 0
    thread: int = 0
    mentions: tuple[int, ...] = ()
    format: Format = "json"


class Send(NamedTuple):
    """Store and deliver a message. `room` "" is the room entered; `body` is compact JSON text."""

    room: str
    id: str
    body: str
    op: int
    extra: Extra | None = None


@dataclass(frozen=True, slots=True)
class Ack:
    """Everything up to this position has arrived."""

    position: int


@dataclass(frozen=True, slots=True)
class Join:
    """Become a member of the room."""

    room: str


@dataclass(frozen=True, slots=True)
class Leave:
    """Stop being a member of the room."""

    room: str


@dataclass(frozen=True, slots=True)
class ChangeRoom:
    """Enter this live room instead of the one entered; "" only leaves."""

    room: str


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Accept pushes of these operations too."""

    ops: frozenset[int]


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """No longer accept pushes of these operations."""

    ops: frozenset[int]


@dataclass(frozen=True, slots=True)
class History:
    """A page of a room: before a seq, after a seq, around one, around a time, or the newest."""

    room: str
    before: int | None
    after: int | None
    limit: int
    around: int | None = None
    at: int | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """The person has read the room up to this seq."""

    room: str
    seq: int


@dataclass(frozen=True, slots=True)
class Members:
    """A page of the members of a room, by mid."""

    room: str
    after: int | None
    limit: int


@dataclass(frozen=True, slots=True)
class Inbox:
    """A page of the rooms that the person is a member of, by name."""

    after: str
    limit: int


@dataclass(frozen=True, slots=True)
class Call:
    """A verb and its arguments, which the verb checks itself; and the key under which it is to happen once, if there is one."""

    verb: str
    args: Object
    idempotency_key: str | None = None


Request: TypeAlias = (
    Auth
    | Heartbeat
    | Send
    | Ack
    | Join
    | Leave
    | ChangeRoom
    | Subscribe
    | Unsubscribe
    | History
    | Read
    | Members
    | Inbox
    | Call
)


def from_packet(
    op: int,
    body: bytes,
    ver: int,
    text_body_bytes_max: int = TEXT_BODY_BYTES_MAX,
    goim_body_bytes_max: int = GOIM_BODY_BYTES_MAX,
) -> Request:
    """The request in a packet of the binary form.

    Raises UnknownOperation, BadRequest, InvalidText or TooLarge, and BadPacket for a version that does not exist.
    """
    if op == _SEND and (ver == 1 or ver == 2):
        return _send(_parse(body), body, False, text_body_bytes_max)
    if ver != 1 and ver != 2:
        raise BadPacket(f"the version is {ver}, not 1 or 2")
    if ver == 1 and op in _GOIM_OPS and len(body) > goim_body_bytes_max:
        raise TooLarge(f"the body is {len(body)} bytes long, and {goim_body_bytes_max} is the limit for operation {op}")
    if op in _BINARY_FORMS:
        return _BINARY_FORMS[op](body)
    read = _reader(op)
    value = _parse(body)
    check_json(body, value)
    return read(_object(value))


def from_value(op: int, value: object, raw: bytes, text_body_bytes_max: int = TEXT_BODY_BYTES_MAX) -> Request:
    """The request in a packet of the JSON form: `value` is its body as `text.decode` gave it, `raw` the whole frame.

    Raises UnknownOperation, BadRequest, InvalidText or TooLarge.
    """
    if op == _SEND:
        return _send(value, raw, True, text_body_bytes_max)
    if op == _HEARTBEAT:
        return Heartbeat()
    if op in _JSON_FORMS:
        check_json(raw, value, in_frame=True)
        return _JSON_FORMS[op](value)
    read = _reader(op)
    check_json(raw, value, in_frame=True)
    return read(_object(value))


# --- send: hot -------------------------------------------------------------------------------------------------------

_SEND: Final = int(Op.SEND)
_HEARTBEAT: Final = int(Op.HEARTBEAT)
# The packet around a send as nearly everyone writes it: with three keys, of which only the body's is still to come.
_FRAME_STARTS: Final = (b'{"op":4,"seq":', b'{"op": 4, "seq": ')
_FRAME_MARKS: Final = 6
_HEX = bytes.maketrans(b"123456789abcdefABCDEF", b"0" * 21)
_UUID = b"00000000-0000-0000-0000-000000000000"  # any of them, after _HEX: a third of the time of a regular expression
_loads = orjson.loads
_dumps = orjson.dumps
_new = tuple.__new__
_NO_EXTRA: Final = Extra()


def _send(value: object, raw: bytes, in_frame: bool, text_body_bytes_max: int) -> Send:
    if type(value) is not dict:
        raise _not_an_object(value)
    get = value.get
    room, id, op, body = get("room"), get("id"), get("op"), get("body")
    plain = looks_plain(raw)
    if not plain:
        check_json(raw, value, in_frame=in_frame)
    keys = len(value)
    marks = 2 * keys + 2  # quotation marks that belong to the keys and the id
    if type(id) is not str:
        raise _wrong("id", id, "a UUID")
    if id.encode().translate(_HEX) != _UUID:
        raise BadRequest(f"id {shown(id)} is not a UUID of 36 characters")
    if room is None:
        room = ""
    elif type(room) is not str:
        raise _wrong("room", room, "a string")
    else:
        keys -= 1
        marks += 2
        if room:
            check_room(room)
    if op is None:
        op = PUSH_OP_MIN
        keys += 1
    elif type(op) is not int or not 1000 <= op <= 0x7FFFFFFF:
        raise _wrong("op", op, f"an integer from {PUSH_OP_MIN} to {INT32_MAX}")
    if body is None and "body" not in value:
        raise BadRequest("body is missing")
    text = _dumps(body)
    if len(text) > text_body_bytes_max:
        raise TooLarge(f"body is {len(text)} bytes long, and {text_body_bytes_max} is the limit")
    if plain:  # what came has as many marks as what orjson kept, or a key was there twice (strict)
        marks += text.count(b'"')
        if raw.count(b'"') != (marks + _FRAME_MARKS if in_frame and raw.startswith(_FRAME_STARTS) else marks):
            check_keys(raw)
    return _new(Send, (room, id.lower(), text.decode(), op, None if keys == 3 else _extra(value, body)))


def _extra(fields: Object, body: object) -> Extra | None:
    """What else a message may have; keys that nobody knows are ignored. None if it is a plain one."""
    reply_to, thread, format_ = fields.get("reply_to"), fields.get("thread"), fields.get("format")
    extra = Extra(
        0 if reply_to is None else _integer(fields, "reply_to", 1, INT64_MAX),
        0 if thread is None else _integer(fields, "thread", 1, INT64_MAX),
        mentioned(fields.get("mentions")),
        "json" if format_ is None else check_format(format_, body),
    )
    return None if extra == _NO_EXTRA else extra


def mentioned(value: object) -> tuple[int, ...]:
    """Whom a message names: mids, each once, in order; (0,) for "all". Raises BadRequest."""
    if value is None:
        return ()
    if value == "all":
        return (0,)
    if type(value) is not list:
        raise _wrong("mentions", value, 'a list of mids, or "all"')
    if len(value) > MENTIONS_MAX:
        raise BadRequest(f"mentions has {len(value)} people, and {MENTIONS_MAX} is the limit")
    for mid in value:
        if type(mid) is not int or not INT64_MIN <= mid <= INT64_MAX or mid == 0:
            raise _wrong("a mid in mentions", mid, "the mid of a person")
    return tuple(dict.fromkeys(value))


def check_format(format_: object, body: object) -> Format:
    """The format, if it is one and the body is of it. Raises BadRequest."""
    if format_ == "json":
        return "json"
    if format_ != "text" and format_ != "base64":
        raise BadRequest('format is none of "json", "text" and "base64"')
    if type(body) is not str:
        raise _wrong("body", body, f"a string, as its format is {format_}")
    if format_ == "base64":
        try:
            is_canonical = b64encode(b64decode(body, validate=True)).decode() == body
        except ValueError:
            is_canonical = False
        if not is_canonical:
            raise BadRequest("body is not base64")
    return "text" if format_ == "text" else "base64"


# --- the other requests ----------------------------------------------------------------------------------------------


def _auth(fields: Object) -> Auth:
    mid = fields.get("mid")
    accepts = fields.get("accepts")
    return Auth(
        mid=None if mid is None else _integer(fields, "mid", INT64_MIN, INT64_MAX),
        key=_string(fields, "key", KEY_BYTES_MAX),
        room=_room_or_none(fields, "room_id"),
        rooms=_rooms(fields),
        platform=_string(fields, "platform", PLATFORM_BYTES_MAX),
        accepts=None if accepts is None else _ops(accepts, "accepts"),
        token=_string(fields, "token", TOKEN_BYTES_MAX),
        cursor=_string(fields, "cursor", CURSOR_BYTES_MAX),
    )


def _history(fields: Object) -> History:
    before, after, around, at = (fields.get(name) for name in ("before", "after", "around", "at"))
    if [before, after, around, at].count(None) < 3:
        raise BadRequest(PLACES_EXCLUDE)
    return History(
        room=_room(fields),
        before=None if before is None else _integer(fields, "before", 1, INT64_MAX),
        after=None if after is None else _integer(fields, "after", 0, INT64_MAX),
        limit=_limit(fields, HISTORY_ROWS),
        around=None if around is None else _integer(fields, "around", 1, INT64_MAX),
        at=None if at is None else _integer(fields, "at", 0, INT64_MAX),
    )


def _members(fields: Object) -> Members:
    after = fields.get("after")
    return Members(
        room=_room(fields),
        after=None if after is None else _integer(fields, "after", INT64_MIN, INT64_MAX),
        limit=_limit(fields, MEMBERS_ROWS),
    )


def _call(fields: Object) -> Call:
    verb, args = fields.get("verb"), fields.get("args")
    if type(verb) is not str:
        raise _wrong("verb", verb, "a string")
    if len(verb.encode()) > VERB_BYTES_MAX:
        raise BadRequest(f"verb is longer than {VERB_BYTES_MAX} bytes")
    if args is None:
        args = {}
    if type(args) is not dict:
        raise _wrong("args", args, "an object")
    return Call(verb, args, _idempotency_key(fields.get("idempotency_key")))


def _idempotency_key(value: object) -> str | None:
    if value is None:
        return None
    if type(value) is not str:
        raise _wrong("idempotency_key", value, "a string")
    if not is_idempotency_key(value):
        raise BadRequest(f"idempotency_key is not 1 to {IDEMPOTENCY_KEY_CHARS_MAX} printable characters of ASCII")
    return value


def _change_room(value: object) -> ChangeRoom:
    if type(value) is not str:
        raise _wrong("the body", value, "a room as a string")
    return ChangeRoom(check_room(value) if value else "")


def _utf8(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise InvalidText from None


_numbers = re.compile(rb"(?:-?[0-9]{1,10}(?:,-?[0-9]{1,10})*+)?").fullmatch


def _numbers_joined(body: bytes) -> frozenset[int]:
    if not _numbers(body):
        raise BadRequest("the body is not of numbers joined by commas")
    return _ops([int(number) for number in body.split(b",")] if body else [], "the body")


_GOIM_OPS: Final = frozenset({Op.HEARTBEAT, Op.AUTH, Op.CHANGE_ROOM, Op.SUBSCRIBE, Op.UNSUBSCRIBE})

# goim's requests whose body is not JSON; the same in both versions.
_BINARY_FORMS: Final[dict[int, Callable[[bytes], Request]]] = {
    Op.HEARTBEAT: lambda body: Heartbeat(),
    Op.CHANGE_ROOM: lambda body: _change_room(_utf8(body)),
    Op.SUBSCRIBE: lambda body: Subscribe(_numbers_joined(body)),
    Op.UNSUBSCRIBE: lambda body: Unsubscribe(_numbers_joined(body)),
}

# The same requests where every body is JSON.
_JSON_FORMS: Final[dict[int, Callable[[object], Request]]] = {
    Op.CHANGE_ROOM: _change_room,
    Op.SUBSCRIBE: lambda value: Subscribe(_ops(value, "the body")),
    Op.UNSUBSCRIBE: lambda value: Unsubscribe(_ops(value, "the body")),
}

# Requests whose body is a JSON object in either form.
_READERS: Final[dict[int, Callable[[Object], Request]]] = {
    Op.AUTH: _auth,
    Op.JOIN: lambda fields: Join(_room(fields)),
    Op.LEAVE: lambda fields: Leave(_room(fields)),
    Op.HISTORY: _history,
    Op.READ: lambda fields: Read(_room(fields), _integer(fields, "seq", 0, INT64_MAX)),
    Op.MEMBERS: _members,
    Op.INBOX: lambda fields: Inbox(_room_or_none(fields, "after"), _limit(fields, INBOX_ROWS)),
    Op.CALL: _call,
    Op.ACK: lambda fields: Ack(_integer(fields, "position", 0, INT64_MAX)),
}


def _reader(op: int) -> Callable[[Object], Request]:
    read = _READERS.get(op)
    if read is None:
        raise UnknownOperation(f"operation {op} is not one for clients")
    return read


# --- fields ----------------------------------------------------------------------------------------------------------

_KINDS: Final = {
    type(None): "null",
    bool: "a boolean",
    int: "an integer",
    float: "a fraction",
    str: "a string",
    list: "a list",
    dict: "an object",
}


def _parse(body: bytes) -> object:
    try:
        return cast(object, _loads(body))
    except orjson.JSONDecodeError as error:
        _utf8(body)
        raise BadRequest(f"the body is not JSON: {error}") from None


def _object(value: object) -> Object:
    if type(value) is not dict:
        raise _not_an_object(value)
    return value


def _not_an_object(value: object) -> BadRequest:
    return BadRequest(f"the body is {_KINDS[type(value)]}, not an object")


def _wrong(name: str, value: object, wanted: str) -> BadRequest:
    if value is None:
        return BadRequest(f"{name} is missing")
    if type(value) is int:
        return BadRequest(f"{name} is {value}, not {wanted}")
    return BadRequest(f"{name} is {_KINDS[type(value)]}, not {wanted}")


def _integer(fields: Object, name: str, low: int, high: int) -> int:
    value = fields.get(name)
    if type(value) is not int or not low <= value <= high:
        raise _wrong(name, value, f"an integer from {low} to {high}")
    return value


def _limit(fields: Object, rows: int) -> int:
    return rows if fields.get("limit") is None else _integer(fields, "limit", 1, PAGE_ROWS_MAX)


def _string(fields: Object, name: str, bytes_max: int) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if type(value) is not str:
        raise _wrong(name, value, "a string")
    if len(value.encode()) > bytes_max:
        raise BadRequest(f"{name} is longer than {bytes_max} bytes")
    if find_control(value):
        raise BadRequest(f"{name} has a control character in it")
    return value


def _room(fields: Object) -> str:
    value = fields.get("room")
    if type(value) is not str:
        raise _wrong("room", value, "a string")
    return check_room(value)


def _room_or_none(fields: Object, name: str) -> str:
    value = fields.get(name)
    if value is None or value == "":
        return ""
    if type(value) is not str:
        raise _wrong(name, value, "a string")
    try:
        return check_room(value)
    except BadRequest as error:
        raise BadRequest(f"{name}: {error.detail}") from None


def _rooms(fields: Object) -> tuple[str, ...]:
    value = fields.get("rooms")
    if value is None:
        return ()
    if type(value) is not list:
        raise _wrong("rooms", value, "a list")
    if len(value) > ROOMS_MAX:
        raise BadRequest(f"rooms has {len(value)} names, and {ROOMS_MAX} is the limit")
    for room in value:
        if type(room) is not str:
            raise _wrong("a name in rooms", room, "a string")
        check_room(room)
    return tuple(dict.fromkeys(value))


def _ops(value: object, name: str) -> frozenset[int]:
    if type(value) is not list:
        raise _wrong(name, value, "a list of numbers")
    if len(value) > ACCEPTS_MAX:
        raise BadRequest(f"{name} has {len(value)} numbers, and {ACCEPTS_MAX} is the limit")
    for op in value:
        if type(op) is not int or not INT32_MIN <= op <= INT32_MAX:
            raise _wrong(f"a number in {name}", op, f"an integer from {INT32_MIN} to {INT32_MAX}")
    return frozenset(value)
