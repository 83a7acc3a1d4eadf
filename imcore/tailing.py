"""`imcore tail`: the log as it grows, for people or as JSON lines.

Reads only what is committed, in order, and misses nothing: the next position is always the last one plus one.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime
from typing import Final

import orjson

from imcore.database import create_pool
from imcore.events.names import Names
from imcore.events.reader import Reader
from imcore.events.types import BASE64, JSON, Recorded

LAST_EVENTS: Final = 10
LOOK_S: Final = 0.2
BODY_SHOWN: Final = 100


def line_for_people(event: Recorded) -> str:
    """Position, time, stream and seq, who, what."""
    at = datetime.fromtimestamp(event.time_ms / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]
    who = "service" if event.mid == 0 else f"mid {event.mid}"
    body = event.body if len(event.body) <= BODY_SHOWN else event.body[:BODY_SHOWN] + "…"
    safe = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in f"{event.stream}#{event.seq}  {who}")
    said = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in body)
    return f"{event.position:>8}  {at}  {event.type:<15} {safe}  {said}"


def line_of_json(event: Recorded) -> str:
    """Every column; the body as it is meant."""
    row = event._asdict()
    row["body"] = orjson.loads(event.body) if event.format == JSON else event.body
    row["format"] = {JSON: "json", BASE64: "base64"}.get(event.format, "text")
    return json.dumps(row, ensure_ascii=False)


async def follow_log(url: str, *, after: int | None, follow: bool, as_json: bool, stream: str | None) -> None:
    """Print the events after a position (the last ten, if none is named), and go on for ever with `follow`."""
    line = line_of_json if as_json else line_for_people
    async with create_pool(url, application_name="imcore tail", connections_max=1) as pool:
        reader = Reader(pool, Names())
        position = max(0, (await reader.head()).position - LAST_EVENTS) if after is None else after
        while True:
            page = await reader.read(position)
            for event in page:
                if stream is None or event.stream == stream:
                    sys.stdout.write(line(event) + "\n")
            if page:
                position = page[-1].position
                sys.stdout.flush()
            elif not follow:
                return
            else:
                await asyncio.sleep(LOOK_S)
