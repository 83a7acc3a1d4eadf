"""Files for a room: stored, listed, shown, fetched by links that end, removed.

A file belongs to the room that it was stored for, and whoever sees its event's place in the room may see it: members since before it
was stored, all members where the room shows its history, and who stored it, while a member. Everybody else is told that there is no
such attachment, whether there is or not.

The order of storing: the right and the allowance are looked at before a byte is read; the bytes are durable before the event is
appended; and the event is decided under the log's lock, where right and allowance are looked at again. So an event never lacks its
bytes, and somebody who was removed from the room while the file came in has stored nothing.

The trap: when the outcome of the append is unknown, the bytes stay. If there is an event they are needed, and if not they are swept.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Annotated, Final

from pydantic import Field

from imcore import membership, reads
from imcore.attachments import kinds
from imcore.attachments.ranges import wanted
from imcore.errors import (
    BadRequest,
    Forbidden,
    ImcoreError,
    Muted,
    NoSuchAttachment,
    NoSuchRoom,
    StoreUnavailable,
    TooLarge,
    Unavailable,
    UploadTimeout,
    WrongType,
)
from imcore.events.types import SERVICE_MID, AttachmentStored
from imcore.projections import attachments as rows
from imcore.projections import queries
from imcore.protocol.packet import INT64_MAX
from imcore.verbs.acting import decided, refuse_live
from imcore.verbs.means import Means
from imcore.verbs.verb import (
    Answer,
    AnyVerb,
    Args,
    Caller,
    Limit,
    Mid,
    Millis,
    Place,
    Position,
    Room,
    Stream,
    page,
    verb,
)

log = logging.getLogger(__name__)

PAGE_ROWS: Final = 50
Id = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$", examples=["5f2b6c0e9d8a4f1c8e7d6b5a49382716"])]
Name = Annotated[str, Field(min_length=1, max_length=kinds.NAME_BYTES_MAX, examples=["plan.pdf"])]
MediaType = Annotated[str, Field(min_length=3, max_length=kinds.TYPE_CHARACTERS_MAX, examples=["image/png"])]
Seconds = Annotated[int, Field(ge=0, le=2**53, description="seconds since 1970")]


class Attachment(Answer):
    """A file of a room. Whoever writes a message about it puts the `id` into the message's body."""

    id: str
    room: str
    mid: int = Field(description="who stored it; 0 is a service")
    name: str
    media_type: str
    size: int = Field(description="in bytes")
    sha256: str = Field(description="of the bytes, in hexadecimal")
    width: int | None = Field(None, description="in pixels, of pictures that say so")
    height: int | None = None
    position: Position
    stored_at: Millis


class Page(Answer):
    """Files, the newest first. `next` is there if there are more: the `after` of the next page."""

    attachments: list[Attachment]
    next: Position = 0


class Link(Answer):
    """A link that is good until `expires`. `url` begins with /: it goes on from the address of the HTTP API."""

    url: str
    expires: Seconds


class Store(Args):
    """The file itself is the body."""

    room: Room
    name: Name
    media_type: MediaType | None = Field(None, description="instead of the header Content-Type")


class OfRoom(Args):
    room: Room
    after: Position | None = None
    limit: Limit = PAGE_ROWS


class OfId(Args):
    id: Id


class ToLink(Args):
    id: Id
    seconds: Annotated[int, Field(ge=1, le=86_400)] | None = Field(None, description="at most attachment_link_s")
    for_me: bool = Field(False, description="only with a token of the same person, and only while it is a member")


class Fetch(Args):
    id: Id
    expires: Seconds
    mid: Mid | None = None
    signature: Annotated[str, Field(max_length=64)]


@verb(
    "attachments.store",
    "POST",
    "/v1/rooms/{room}/attachments",
    answer=Attachment,
    status=201,
    errors=(NoSuchRoom, Forbidden, Muted, TooLarge, WrongType, UploadTimeout, StoreUnavailable),
    doors=("http",),
    takes="application/octet-stream",
)
async def store(caller: Caller, means: Means, args: Store) -> Attachment:
    """Store a file for a room: its bytes are the body, its media type the header Content-Type (or media_type).

    Whoever may send in the room may. When it is answered the bytes are on disk. What the bytes are is looked at: a picture that is none
    is refused, and application/octet-stream is recognized, or what is not declared. A form with the file in it (multipart/form-data) is
    refused. The limits are those of the server: size, types, time, bytes in a day.
    """
    upload = caller.upload
    assert upload is not None, "the door gives what the verb takes"
    refuse_live(means, args.room)
    name = kinds.check_name(args.name)
    await _check_may_store(caller, means, args.room, upload.size or 0)
    id_ = secrets.token_hex(16)
    taken = await means.attachments.uploads.take(
        id_,
        caller.mid,
        upload.chunks,
        declared=upload.media_type if args.media_type is None else args.media_type,
        size=upload.size,
    )
    width, height = taken.extent or (None, None)
    fact = AttachmentStored(
        room=args.room, id=id_, name=name, media_type=taken.media_type, size=taken.size, sha256=taken.sha256,
        width=width, height=height,
    )  # fmt: skip
    try:
        means.accounts.doors.check(caller.identity)  # a file may take minutes
        (event,) = await decided(
            caller,
            means,
            membership.StoreAttachment(
                caller.identity.actor,
                fact,
                bytes_per_day_max=means.settings.attachment_bytes_per_day_max,
                key=caller.key,
            ),
        )
    except Unavailable:
        raise  # it may be in the log
    except ImcoreError:
        with suppress(StoreUnavailable):  # then it is swept
            await means.attachments.store.delete(id_)
        raise
    row = rows.apply((id_,), None, event)
    assert row is not None, "a file that was stored is there"
    return _shown(id_, row)


@verb("attachments.list", "GET", "/v1/rooms/{room}/attachments", answer=Page, errors=(NoSuchRoom,))
async def list_(caller: Caller, means: Means, args: OfRoom) -> Page:
    """The files of a room that one may see, the newest first."""
    since = await _sees_from(caller, means, args.room, "attachments.list")
    before = INT64_MAX if args.after is None else args.after
    found = await queries.attachments_page(means.pool, args.room, before, since, caller.mid, args.limit + 1)
    return page(Page, "attachments", [_shown(id_, row) for id_, row in found], args.limit, "position")


@verb("attachments.show", "GET", "/v1/attachments/{id}/meta", answer=Attachment, errors=(NoSuchAttachment,))
async def show(caller: Caller, means: Means, args: OfId) -> Attachment:
    """What a file is, without its bytes."""
    return _shown(args.id, await _seen(caller, means, args.id, "attachments.show"))


@verb(
    "attachments.link", "POST", "/v1/attachments/{id}/link", answer=Link, errors=(NoSuchAttachment,), has_secrets=True
)
async def link(caller: Caller, means: Means, args: ToLink) -> Link:
    """A link to a file that needs no token, and ends by itself.

    Whoever gets it may fetch the file until then; nobody can take it back, but by removing the file. With for_me it is good only with
    a token of the same person, and only while that is a member of the room.
    """
    row = await _seen(caller, means, args.id, "attachments.link")
    longest_s = int(max(1, means.settings.attachment_link_s))
    seconds = longest_s if args.seconds is None else args.seconds
    if seconds > longest_s:
        raise BadRequest(f"a link is good for {longest_s} seconds at most")
    if args.for_me and caller.mid == SERVICE_MID:
        raise BadRequest("for_me is for people; a service is everybody")
    expires = int(time.time()) + seconds
    log.debug("= a link to an attachment of %s", row.room)
    return Link(
        url=means.attachments.links.path(args.id, expires, caller.mid if args.for_me else None), expires=expires
    )


@verb(
    "attachments.fetch",
    "GET",
    "/v1/attachments/{id}",
    answer=Answer,
    statuses=(206, 304, 416),
    errors=(NoSuchAttachment, Forbidden, StoreUnavailable),
    doors=("http",),
    gives="*/*",
    is_open=True,
)
async def fetch(caller: Caller, means: Means, args: Fetch) -> Stream:
    """The bytes of a file, by a link of attachments.link. The link is the right: a token is needed only where the link names a member.

    One range is answered with 206; ETag and If-None-Match say when nothing is new (304). Only pictures, sound, films and plain text are
    given to be shown; everything else is offered for saving, and no browser runs any of it.
    """
    have = means.attachments
    have.links.check(args.id, args.expires, args.mid, args.signature, time.time())
    row = await queries.attachment(means.pool, args.id)
    if args.mid is not None:
        if caller.mid != args.mid:
            raise Forbidden("this link is for somebody else")
        if row is not None and await queries.member(means.pool, row.room, args.mid) is None:
            raise NoSuchAttachment
    if row is None:
        raise NoSuchAttachment
    etag = f'"{row.sha256}"'
    status, start, end = wanted(caller.headers, row.size, etag)
    headers = {
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",  # it is asked again each time, so that what was removed is gone
        "Content-Disposition": kinds.disposition(row.media_type, row.name),
        # Whatever a browser makes of it: no scripts, no plugins, no origin of ours.
        "Content-Security-Policy": "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; sandbox",
        "Cross-Origin-Resource-Policy": "cross-origin",
        "ETag": etag,
        "X-Content-Type-Options": "nosniff",
    }
    if status == 206:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{row.size}"
    elif status == 416:
        headers["Content-Range"] = f"bytes */{row.size}"
    chunks = have.store.get(args.id, start, end) if start < end else _nothing()
    if start < end:
        chunks = await _begun(chunks, args.id)
    return Stream(kinds.served_as(row.media_type), end - start, chunks, status=status, headers=headers)


@verb("attachments.remove", "DELETE", "/v1/attachments/{id}", answer=Place, errors=(NoSuchAttachment, Forbidden))
async def remove(caller: Caller, means: Means, args: OfId) -> Place:
    """Remove a file: one's own, one of somebody below in the room, or as a moderator any. Its bytes go, and links to it lead nowhere.

    That it was stored and removed stays in the log.
    """
    row = await queries.attachment(means.pool, args.id)
    if row is None or not caller.identity.may_enter(row.room):
        raise NoSuchAttachment
    decision = membership.RemoveAttachment(args.id, row.room, row.mid, caller.identity.actor, key=caller.key)
    try:
        (event,) = await decided(caller, means, decision)
    except NoSuchRoom:
        raise NoSuchAttachment from None
    try:
        await means.attachments.store.delete(args.id)
    except StoreUnavailable as error:
        log.warning("the bytes of a removed attachment are still there, and will be swept: %s", error.detail)
    return Place(position=event.position, seq=event.seq)


async def _check_may_store(caller: Caller, means: Means, room: str, size: int) -> None:
    """What the decision asks again. Here it spares those who are refused the sending, and us the bytes."""
    now_ms = time.time_ns() // 1_000_000
    await reads.check(means.reads, "attachments.store", room, caller.identity.actor)
    await means.accounts.doors.allow("send", caller.identity, room, caller.key)
    if caller.mid != SERVICE_MID:
        uploaded = await queries.uploaded(means.pool, caller.mid)
        membership.check_allowance(uploaded, size, means.settings.attachment_bytes_per_day_max, now_ms)


async def _seen(caller: Caller, means: Means, id_: str, operation: str) -> rows.Attachment:
    """The file, if whoever asks may see it. Raises NoSuchAttachment, in every case in which it may not."""
    row = await queries.attachment(means.pool, id_)
    if row is None or not caller.identity.may_enter(row.room):
        raise NoSuchAttachment
    try:
        since = await _sees_from(caller, means, row.room, operation)
    except NoSuchRoom:
        raise NoSuchAttachment from None
    if row.position <= since and row.mid != caller.mid:
        raise NoSuchAttachment
    return row


async def _sees_from(caller: Caller, means: Means, room: str, operation: str) -> int:
    """After which position whoever asks sees what happened in the room. Raises NoSuchRoom."""
    found = await reads.check(means.reads, operation, room, caller.identity.actor)
    member = found.member
    return 0 if member is None or found.room.history == "all" else member.since


def _shown(id_: str, row: rows.Attachment) -> Attachment:
    shown = Attachment(
        id=id_, room=row.room, mid=row.mid, name=row.name, media_type=row.media_type, size=row.size, sha256=row.sha256,
        position=row.position, stored_at=row.stored_at_ms,
    )  # fmt: skip
    if row.width is None:
        return shown
    return shown.model_copy(update={"width": row.width, "height": row.height})


async def _begun(chunks: AsyncGenerator[bytes, None], id_: str) -> AsyncGenerator[bytes, None]:
    """The same, with the first piece in hand: that the bytes are not there is found out before the answer begins."""
    try:
        first = await anext(chunks)
    except KeyError:
        log.error("the bytes of the attachment %s are not in the store", id_)
        raise NoSuchAttachment("the bytes of this attachment are lost") from None

    async def all_of_them() -> AsyncGenerator[bytes, None]:
        try:
            yield first
            async for piece in chunks:
                yield piece
        finally:
            await chunks.aclose()

    return all_of_them()


async def _nothing() -> AsyncGenerator[bytes, None]:
    nothing: tuple[bytes, ...] = ()
    for piece in nothing:
        yield piece


VERBS: Final[tuple[AnyVerb, ...]] = (store, list_, show, link, fetch, remove)
