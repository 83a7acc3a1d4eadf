"""Verbs of these tests: one of each form that a verb can have, so that what holds for verbs is shown on all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Annotated, Literal

from pydantic import Field

from imcore.errors import NoSuchRoom, RoomExists, Unavailable
from imcore.permissions import parse
from imcore.verbs import VERBS
from imcore.verbs.call import Verbs
from imcore.verbs.means import Means
from imcore.verbs.server import show
from imcore.verbs.verb import (
    Answer,
    AnyVerb,
    Args,
    Caller,
    Key,
    Limit,
    Line,
    Mid,
    Nothing,
    Other,
    Room,
    Stream,
    verb,
    within,
)

ROWS = """
operations:
  server.show: {anonymous: yes, guest: yes, user: yes, service: yes, moderator: yes, admin: yes}
  probe.echo: {anonymous: nobody, guest: yes, user: yes, service: yes, moderator: yes, admin: yes}
  probe.put: {anonymous: nobody, guest: yes, user: yes, service: yes, moderator: yes, admin: yes}
  probe.count: {anonymous: nobody, guest: no, user: yes, service: yes, moderator: yes, admin: yes}
  probe.dropped: {anonymous: nobody, guest: yes, user: yes, service: yes, moderator: yes, admin: yes}
  probe.drop: {anonymous: nobody, guest: yes, user: yes, service: yes, moderator: yes, admin: yes}
  probe.secret: {anonymous: nobody, guest: yes, user: yes, service: yes, moderator: yes, admin: yes}
  probe.open: {anonymous: yes, guest: yes, user: yes, service: yes, moderator: yes, admin: yes}
  probe.upload: {anonymous: nobody, guest: yes, user: yes, service: yes, moderator: yes, admin: yes}
  probe.download: {anonymous: nobody, guest: yes, user: yes, service: yes, moderator: yes, admin: yes}
  probe.hidden: {anonymous: nobody, guest: hidden, user: hidden, service: no, moderator: no, admin: yes}
"""


class Echo(Args):
    """What to say again."""

    room: Room
    mid: Mid
    names: list[Key] = []
    mids: list[Mid] = Field(default=[], max_length=3)
    loud: bool | None = None
    order: Literal["up", "down"] = "up"
    limit: Limit = 10
    title: Annotated[Line, within(16)] = ""


class Said(Answer):
    """What was asked for."""

    room: str = ""
    mid: int = 0
    names: list[str] = []
    mids: list[int] = []
    loud: bool | None = None
    order: str = "up"
    limit: int = 0
    title: str = ""


@verb("probe.echo", "GET", "/v1/probes/{room}/of/{mid}", answer=Said)
async def echo(caller: Caller, means: Means, args: Echo) -> Said:
    """Say what was asked for.

    Exactly that.
    """
    return Said(**args.model_dump())


@verb("probe.put", "PUT", "/v1/probes/{room}/of/{mid}", answer=Said, status=201)
async def put(caller: Caller, means: Means, args: Echo) -> Said:
    """Say what was asked for, in a body."""
    return Said(**args.model_dump())


class Count(Args):
    """How to count."""

    by: int = Field(default=1, ge=0, le=9)
    refuse: Literal["", "exists", "unavailable", "bug"] = ""
    bytes: int = Field(default=0, ge=0, le=100_000)
    wait: bool = False


class Counted(Answer):
    """How far it is."""

    count: int
    filler: str = ""


class Counter:
    """What the counting verbs of one test have in common."""

    def __init__(self) -> None:
        self.count = 0
        self.tried: list[bool] = []  # of each try: had there been one before of which nobody knows what came of it?
        self.waiting = asyncio.Event()
        self.go_on = asyncio.Event()


counters: dict[int, Counter] = {}  # by the identity of the means


def counter(means: Means) -> Counter:
    return counters.setdefault(id(means), Counter())


@verb("probe.count", "POST", "/v1/count", answer=Counted, statuses=(201,), errors=(RoomExists,))
async def count(caller: Caller, means: Means, args: Count) -> Counted | Other:
    """Count on."""
    here = counter(means)
    here.count += args.by
    here.tried.append(caller.tried_ms is not None)
    if args.wait:
        here.waiting.set()
        await here.go_on.wait()
    match args.refuse:
        case "exists":
            raise RoomExists
        case "unavailable":
            raise Unavailable
        case "bug":
            raise RuntimeError("the secret of the house")
    told = Counted(count=here.count, filler="x" * args.bytes)
    return told if here.count % 2 else Other(201, told)


class Dropped(Args):
    """What to drop."""

    mid: Mid
    quietly: bool = False


@verb("probe.drop", "DELETE", "/v1/drops/{mid}", answer=Said, errors=(NoSuchRoom,))
async def drop(caller: Caller, means: Means, args: Dropped) -> Said:
    """Drop it."""
    return Said(mid=args.mid, loud=not args.quietly)


@verb("probe.dropped", "GET", "/v1/drops/all", answer=Said)
async def dropped(caller: Caller, means: Means, args: Nothing) -> Said:
    """What was dropped: a word where another path has an argument."""
    return Said()


@verb("probe.secret", "POST", "/v1/secrets", answer=Counted, has_secrets=True)
async def secret(caller: Caller, means: Means, args: Nothing) -> Counted:
    """Tell something once."""
    here = counter(means)
    here.count += 1
    return Counted(count=here.count, filler="the secret of the house")


@verb("probe.open", "POST", "/v1/open", answer=Counted, is_open=True)
async def open_(caller: Caller, means: Means, args: Nothing) -> Counted:
    """Count, for anybody."""
    here = counter(means)
    here.count += 1
    return Counted(count=here.count)


class Upload(Args):
    """What is brought."""

    name: Annotated[Line, Field(min_length=1, max_length=64)]


@verb("probe.upload", "POST", "/v1/uploads", answer=Counted, takes="application/octet-stream", doors=("http",))
async def upload(caller: Caller, means: Means, args: Upload) -> Counted:
    """Bring some bytes."""
    assert caller.upload is not None
    size = 0
    async for chunk in caller.upload.chunks:
        size += len(chunk)
    return Counted(count=size)


class Where(Args):
    """Of which room."""

    room: Room


@verb("probe.download", "GET", "/v1/downloads/{room}", answer=Said, gives="application/octet-stream", doors=("http",))
async def download(caller: Caller, means: Means, args: Where) -> Stream:
    """Take some bytes."""

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield b"by"
        yield b"tes"

    return Stream("application/octet-stream", 5, chunks(), "bytes.bin")


@verb("probe.hidden", "POST", "/v1/hidden", answer=Said, doors=("connection",))
async def hidden(caller: Caller, means: Means, args: Nothing) -> Said:
    """Only over connections."""
    return Said()


PROBES: tuple[AnyVerb, ...] = (show, echo, put, count, drop, dropped, secret, open_, upload, download, hidden)


def probes() -> Verbs:
    """All of them, and one of the server's own."""
    assert show in VERBS
    return Verbs(PROBES, parse(ROWS))
