"""One event as JSON, the same for connections and for HTTP.

    {"position":9,"room":"group://7","seq":3,"mid":5,"key":"","id":"…","time":1764000000000,"type":"message_sent","op":1000,"body":…}

`stream` stands in the place of `room` where the event is not in a room. `id` is there if the client gave one, `op` if it is a message,
and `"base64":true` if the body is base64 of bytes that are no text.

A body in JSON is spliced in as it was stored, never parsed: it was checked at the door. Hot: once for each event and form.
"""

from __future__ import annotations

from typing import Final

import orjson

from imcore.events.types import JSON, ROOM, TEXT, Recorded

_ROOM_BYTES: Final = len(ROOM)
_dumps = orjson.dumps


def envelope(event: Recorded) -> bytes:
    """The event as compact JSON."""
    position, stream, seq, _, type_, _, mid, key, client_id, op, format_, time_ms, body = event
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
