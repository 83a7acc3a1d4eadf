"""One event as JSON, the same for connections and for HTTP.

    {"position":9,"room":"group://7","seq":3,"mid":5,"key":"","id":"…","time":1764000000000,"type":"message_sent","op":1000,"body":…}

A message that is about something has `"about":{…}` beside its body, one that was edited `"edited":{…}`, and one that was recalled
`"recalled":{…}` and no body.

`stream` stands in the place of `room` where the event is not in a room. `id` is there if the client gave one, `op` if it is a message,
and `"base64":true` if the body is base64 of bytes that are no text.

A body in JSON is spliced in as it was stored, never parsed: it was checked at the door. Hot: once for each event and form.
"""

from __future__ import annotations

from typing import Final

import orjson

from imcore.events import messages
from imcore.events.messages import RECALLED
from imcore.events.types import BASE64, JSON, ROOM, TEXT, Recorded

_ROOM_BYTES: Final = len(ROOM)
_dumps = orjson.dumps


def envelope(event: Recorded) -> bytes:
    """The event as compact JSON."""
    position, stream, seq, _, type_, version, mid, key, client_id, op, format_, time_ms, body = event
    if version != 1 and op:
        return _envelope(event, *_of_message(event))
    if stream.startswith("room:"):
        name, place = b"room", stream[_ROOM_BYTES:]
    else:
        name, place = b"stream", stream
    return b'{"position":%d,"%b":%b,"seq":%d,"mid":%d,"key":%b%b,"time":%d,"type":"%b"%b,"body":%b}' % (
        position,
        name,
        _dumps(place),
        seq,
        mid,
        _dumps(key) if key else b'""',
        b',"id":"%b"' % client_id.encode() if client_id is not None else b"",
        time_ms,
        type_.encode(),
        b',"op":%d' % op if op else b"",
        body.encode() if format_ == JSON else _dumps(body) if format_ == TEXT else b'%b,"base64":true' % _dumps(body),
    )


def edited(event: Recorded, format_: int, body: str, *, position: int, time_ms: int, count: int) -> bytes:
    """A message as it reads since its last edit: what it says now, in the format of a column of the log, and when that was said."""
    said = messages.split(event.body)[0] if messages.has_about(event) else ""
    if '"format"' in said:  # of what it said first
        kept = {name: value for name, value in orjson.loads(said).items() if name != "format"}
        said = _dumps(kept).decode() if kept else ""
    if format_ == TEXT:
        said = f'{said[:-1]},"format":"text"}}' if said else '{"format":"text"}'
    changed = b',"edited":{"position":%d,"time":%d,"count":%d}' % (position, time_ms, count)
    return _envelope(event, said, _shown(format_, body) + changed)


def _of_message(event: Recorded) -> tuple[str, bytes]:
    """What a message of another version than 1, or a recalled one, is about, and its body with what stands behind it."""
    if event.format == RECALLED:
        return "", b'null,"recalled":%b' % event.body.encode()
    if not messages.has_about(event):
        return "", _shown(event.format, event.body)
    said, payload = messages.split(event.body)
    is_bytes = '"format":"base64"' in said and messages.about(event).format == "base64"
    return said, payload.encode() + (b',"base64":true' if is_bytes else b"")


def _shown(format_: int, body: str) -> bytes:
    if format_ == JSON:
        return body.encode()
    return _dumps(body) + (b',"base64":true' if format_ == BASE64 else b"")


def _envelope(event: Recorded, said: str, shown: bytes) -> bytes:
    """The event with this after `"body":`."""
    plain = envelope(event._replace(version=1, format=JSON, body=""))
    about = b'"about":%b,' % said.encode() if said else b""
    return b'%b%b"body":%b}' % (plain[: -len(b'"body":}')], about, shown)
