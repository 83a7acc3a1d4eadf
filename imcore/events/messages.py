"""What stands in the body of a message, and what is left of it when the message is recalled. Pure.

A plain message is version 1: its body is the client's payload and nothing else. A message *about* something (an answer, part of a
thread, one that names people, one that was said elsewhere first) or whose payload is no JSON is version 2: its body is

    {"about":{"reply_to":3,"thread":1,"mentions":[7,9],"forwarded":{"room":…,"seq":…,"mid":…},"format":"text"},"body":<payload>}

where `about` has only what is there, and the payload stands as it was sent. Both are cut out of the text, never parsed: no key of
`about` is called body, and a quotation mark within a string has a backslash before it, so the first `,"body":` is ours.

The trap: `hidden` makes an event that is in no log. It has version 0 and the format RECALLED, which are none of the log either: its
body says who recalled it, and goes into the envelope as it is.
"""

from __future__ import annotations

import base64
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import orjson

from imcore.events.types import BASE64, JSON, MESSAGE_SENT, TEXT, MessageEdited, Recorded

VERSION_ABOUT: Final = 2  # of message_sent
EVERYBODY_MID: Final = 0  # in `mentions`: all who are in the room
RECALLED: Final = 3  # the format of what `hidden` makes

Format: TypeAlias = Literal["json", "text", "base64"]
FORMATS: Final[dict[str, int]] = {"json": JSON, "text": TEXT, "base64": BASE64}

_START: Final = '{"about":'
_MIDDLE: Final = ',"body":'
_EDITED: Final = MessageEdited.type


class Origin(NamedTuple):
    """Where a forwarded message was said first, and by whom."""

    room: str
    seq: int
    mid: int


class About(NamedTuple):
    """What a message is about, beside what it says. `reply_to` and `thread` are seqs of the room, 0 for none; in `mentions`
    EVERYBODY_MID stands for all."""

    reply_to: int = 0
    thread: int = 0
    mentions: tuple[int, ...] = ()
    forwarded: Origin | None = None
    format: Format = "json"


PLAIN: Final = About()


def stored(about: About, payload: str) -> tuple[int, str]:
    """The version and the body that keep a payload (JSON text) and what it is about."""
    if about == PLAIN:
        return 1, payload
    said: dict[str, object] = {}
    if about.reply_to:
        said["reply_to"] = about.reply_to
    if about.thread:
        said["thread"] = about.thread
    if about.mentions:
        said["mentions"] = "all" if EVERYBODY_MID in about.mentions else list(about.mentions)
    if about.forwarded is not None:
        said["forwarded"] = about.forwarded._asdict()
    if about.format != "json":
        said["format"] = about.format
    return VERSION_ABOUT, f"{_START}{orjson.dumps(said).decode()}{_MIDDLE}{payload}}}"


def has_about(event: Recorded) -> bool:
    """Is it a message that says what it is about?"""
    return event.version == VERSION_ABOUT and event.type == MESSAGE_SENT


def split(body: str) -> tuple[str, str]:
    """What the body of a version 2 is about, and its payload, both as JSON text. Raises ValueError."""
    middle = body.index(_MIDDLE)
    return body[len(_START) : middle], body[middle + len(_MIDDLE) : -1]


def about(event: Recorded) -> About:
    """What a message is about. Raises ValueError for a body that is none."""
    if not has_about(event):
        return PLAIN
    said: dict[str, Any] = orjson.loads(split(event.body)[0])
    mentions = said.get("mentions", ())
    forwarded = said.get("forwarded")
    return About(
        said.get("reply_to", 0),
        said.get("thread", 0),
        (EVERYBODY_MID,) if mentions == "all" else tuple(mentions),
        None if forwarded is None else Origin(forwarded["room"], forwarded["seq"], forwarded["mid"]),
        said.get("format", "json"),
    )


def payload(event: Recorded) -> bytes:
    """What a message says, as its sender gave it."""
    format_, text = written(event)
    return base64.b64decode(text) if format_ == BASE64 else text.encode()


def written(event: Recorded) -> tuple[int, str]:
    """What a message says as the log's columns would have it: its format, and JSON text, text or base64."""
    if not has_about(event):
        return event.format, event.body
    said, body = split(event.body)
    format_ = FORMATS[orjson.loads(said).get("format", "json")] if '"format"' in said else JSON
    return format_, body if format_ == JSON else orjson.loads(body)


def target(event: Recorded) -> int:
    """The seq of the message whose words are in this event: its own, or the one that it edits; 0 if there are none."""
    if event.op:
        return event.seq
    if event.type == _EDITED:
        seq = orjson.loads(event.body).get("target")
        return seq if type(seq) is int else 0
    return 0


def hidden(event: Recorded, by: int, position: int) -> Recorded:
    """The event of a message that was recalled, or an edit of it, as it may be shown from then on: without the words."""
    if not event.op:
        facts = orjson.loads(event.body)
        return event._replace(body=orjson.dumps({**facts, "body": None, "format": "json"}).decode())
    said = about(event)
    left = {name: seq for name, seq in (("reply_to", said.reply_to), ("thread", said.thread)) if seq}
    body = orjson.dumps({"by": by, "position": position}).decode()
    if left:
        body += f',"about":{orjson.dumps(left).decode()}'
    return event._replace(version=0, format=RECALLED, body=body)
