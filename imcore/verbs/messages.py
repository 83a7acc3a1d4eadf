"""Messages: sent, read, edited, recalled, passed on, and who is named in them.

Sending is answered when the message is stored, and it is stored once: the same id again gets the first answer, marked as a duplicate.
What is read is read as it is now.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import Field

from imcore import commands, reads
from imcore.amending import EditMessage, RecallMessage, Target
from imcore.errors import (
    BadRequest,
    Forbidden,
    IdConflict,
    ImcoreError,
    Muted,
    NoSuchMessage,
    NoSuchRoom,
    RateLimited,
    SlowMode,
    TooLarge,
)
from imcore.events import messages
from imcore.events.messages import VERSION_ABOUT, About, Format, Origin
from imcore.events.store import Draft, Log, Outcome
from imcore.events.types import BASE64, JSON, ROOM, SERVICE_MID, Recorded
from imcore.permissions import Actor
from imcore.projections import queries
from imcore.protocol.packet import INT32_MAX, INT64_MAX, MENTIONS_MAX, PUSH_OP_MIN
from imcore.protocol.requests import HISTORY_ROWS, PLACES_EXCLUDE, check_format, mentioned
from imcore.roles import PRIVILEGED
from imcore.verbs.acting import changed, decided
from imcore.verbs.means import Means
from imcore.verbs.reactions import Counted
from imcore.verbs.verb import (
    Answer,
    AnyVerb,
    Args,
    Caller,
    Limit,
    Mid,
    Millis,
    Other,
    Place,
    Position,
    Room,
    Seq,
    Uuid,
    verb,
)

THREAD_ROWS: Final = 50
EDITS_ROWS: Final = 50
MENTIONS_ROWS: Final = 50

PushOp = Annotated[int, Field(ge=PUSH_OP_MIN, le=INT32_MAX, description="under which clients of version 1 get it")]
Form = Annotated[
    Literal["json", "text", "base64"],
    Field(description="text and base64: the body is a string that means text or bytes"),
]


# --- what is answered ----------------------------------------------------------------------------------------------------------


class ForwardedFrom(Answer):
    """Where a message was said first, and by whom."""

    room: Room
    seq: Seq
    mid: Mid


class AboutWhat(Answer):
    """What a message is about: the message that it answers, the first of its thread, whom it names, where it was said first."""

    reply_to: Seq | None = None
    thread: Seq | None = None
    mentions: list[Mid] | Literal["all"] | None = None
    forwarded: ForwardedFrom | None = None
    format: Literal["text", "base64"] | None = None


class Edited(Answer):
    """Of an edited message: position and time of the last edit, and how many there were."""

    position: Position
    time: Millis
    count: int


class Recalled(Answer):
    """Of a recalled message: who recalled it, and the position of that."""

    by: Mid
    position: Position


class Envelope(Answer):
    """Something that happened, at its place in the log; a message as it reads now."""

    position: Position
    room: str | None = None
    stream: str | None = None
    seq: Annotated[int, Field(ge=0, le=INT64_MAX)]
    mid: Mid
    key: str
    id: str | None = None
    time: Millis
    type: str
    op: int | None = None
    about: AboutWhat | None = None
    body: Any
    base64: bool | None = None
    edited: Edited | None = None
    recalled: Recalled | None = None
    reactions: list[Counted] | None = None


class Events(Answer):
    """Events of a room in order of seq. `head` is its last; `more` and `more_after` say that there are others beyond the page."""

    room: Room
    events: list[Envelope]
    head: Position
    more: bool
    more_after: bool = False


class Thread(Answer):
    """Messages of a thread in order; with `next`, ask again with `after=next`."""

    room: Room
    thread: Seq
    events: list[Envelope]
    next: int | None = None


class Edits(Answer):
    """A message as it was sent, and its edits in order; with `next`, ask again with `after=next`."""

    message: Envelope
    edits: list[Envelope]
    next: int | None = None


class Mentions(Answer):
    """Messages that name somebody, newest first; with `next`, ask again with `after=next`."""

    mentions: list[Envelope]
    next: int | None = None


# --- sending -------------------------------------------------------------------------------------------------------------------


class NewMessage(Args):
    """A message. `body` is any JSON; a service may say whose it is."""

    room: Room
    id: Uuid
    body: object
    op: PushOp = PUSH_OP_MIN
    mid: Mid | None = None
    reply_to: Seq | None = None
    thread: Seq | None = None
    mentions: Annotated[list[Mid], Field(max_length=MENTIONS_MAX)] | Literal["all"] | None = None
    format: Form = "json"


@verb(
    "messages.send",
    "POST",
    "/v1/rooms/{room}/messages",
    answer=Place,
    status=201,
    statuses=(200,),
    errors=(NoSuchRoom, NoSuchMessage, Forbidden, Muted, SlowMode, IdConflict, TooLarge),
)
async def send(caller: Caller, means: Means, args: NewMessage) -> Place | Other:
    """Store a message in the room and deliver it.

    As whoever asks, or for a service as the member that it names, or in its own name. It may answer a message that its sender sees
    (`reply_to`) and be part of a thread (`thread`: the seq of its first message, which its sender need not see); it may name people
    of the room, or "all". The same `id` again, for the same message, is answered with its first place.
    """
    who = caller.identity
    if args.mid is not None and not who.service and args.mid != who.mid:
        raise Forbidden("a person sends for nobody else")
    mid = who.mid if args.mid is None else args.mid
    check_format(args.format, args.body)
    about = About(args.reply_to or 0, args.thread or 0, mentioned(args.mentions), None, args.format)
    _check_op(caller, args.op)
    text = _text(means, args.body)
    _pace(caller, means, mid)
    sender = Actor(mid, "service" if mid == SERVICE_MID else "user")
    await reads.check_about(means.reads, args.room, sender, about, client_id=args.id.lower())
    return await _append(caller, means, mid, args.room, args.id, text, args.op, about)


class Forwarding(Args):
    """Which message goes where, under which id there."""

    room: Room
    seq: Seq
    to: Room
    id: Uuid
    op: PushOp | None = None


@verb(
    "messages.forward",
    "POST",
    "/v1/rooms/{room}/messages/{seq}/forward",
    answer=Place,
    status=201,
    statuses=(200,),
    errors=(NoSuchRoom, NoSuchMessage, Forbidden, Muted, SlowMode, IdConflict),
)
async def forward(caller: Caller, means: Means, args: Forwarding) -> Place | Other:
    """Say in another room what was said in this one.

    The words are copied as they read now, and `about.forwarded` says from where. It takes to see the one and to be able to send in the
    other. Whom the message named it does not name again.
    """
    who = caller.identity
    if not who.may_enter(args.to):
        raise NoSuchRoom
    original, now = await reads.message_and_amendment(means.reads, args.room, args.seq, who.actor, "messages.forward")
    origin = Origin(args.room, args.seq, original.mid)
    first = await queries.used(means.pool, who.mid, args.id.lower())
    if first is not None:  # the words may have changed since; the message is the same
        if first.stream == ROOM + args.to and first.version == VERSION_ABOUT and _origin(first.body) == origin:
            return Other(200, Place(position=first.position, seq=first.seq, duplicate=True))
        raise IdConflict
    format_, words = messages.written(original)
    if now is not None:
        if now.recalled:
            raise NoSuchMessage
        if now.edits:
            format_, words = now.format, now.body
    op = original.op if args.op is None else args.op
    _check_op(caller, op)
    _pace(caller, means, who.mid)
    name: Format = "json" if format_ == JSON else "base64" if format_ == BASE64 else "text"
    text = words if format_ == JSON else orjson.dumps(words).decode()
    return await _append(caller, means, who.mid, args.to, args.id, text, op, About(forwarded=origin, format=name))


def _origin(body: str) -> Origin | None:
    forwarded = orjson.loads(messages.split(body)[0]).get("forwarded")
    return None if forwarded is None else Origin(forwarded["room"], forwarded["seq"], forwarded["mid"])


def _check_op(caller: Caller, op: int) -> None:
    ops = caller.identity.ops
    if ops is not None and op not in ops:
        raise Forbidden(f"operation {op} is not allowed to you")


def _text(means: Means, body: object) -> str:
    text = orjson.dumps(body)
    bytes_max = means.settings.text_body_bytes_max
    if len(text) > bytes_max:
        raise TooLarge(f"body is {len(text)} bytes long, and {bytes_max} is the limit")
    return text.decode()


def _pace(caller: Caller, means: Means, mid: int) -> None:
    """A person may write so often, whatever it writes. Services are not held back."""
    if means.settings.rate_limits and not caller.identity.service:
        wait_s = means.sends.take(mid, asyncio.get_running_loop().time())
        if wait_s:
            raise RateLimited("too many messages of this user", retry_after_ms=int(wait_s * 1000) + 1)


async def _append(
    caller: Caller, means: Means, mid: int, room: str, client_id: str, text: str, op: int, about: About
) -> Place | Other:
    await means.accounts.doors.allow("send", caller.identity, room, caller.key)
    is_live = means.is_live(room)
    if mid == SERVICE_MID and not is_live and await queries.room(means.pool, room) is None:
        raise NoSuchRoom  # a room that is there stays, so nothing can come between
    draft = commands.send(
        room,
        mid,
        client_id.lower(),
        text,
        op=op,
        is_member=mid != SERVICE_MID and not is_live,
        key=caller.key,
        fence=caller.fence,
    )
    stored, is_duplicate = await _stored(means.log, commands.about(draft, about))
    if is_duplicate:
        return Other(200, Place(position=stored.position, seq=stored.seq, duplicate=True))
    return Place(position=stored.position, seq=stored.seq)


async def _stored(log: Log, draft: Draft) -> tuple[Recorded, bool]:
    """Where the message is, and whether it was there before."""
    future: asyncio.Future[tuple[Recorded, bool]] = asyncio.get_running_loop().create_future()

    def done(draft: Draft, outcome: Outcome, duplicate: bool) -> None:
        if future.done():
            return
        if isinstance(outcome, ImcoreError):
            future.set_exception(outcome)
        else:
            future.set_result((outcome, duplicate))

    draft.done = done
    log.submit(draft)
    return await future


# --- reading -------------------------------------------------------------------------------------------------------------------


class PageOfEvents(Args):
    """Which events of the room."""

    room: Room
    before: Seq | None = None
    after: Position | None = None
    around: Seq | None = None
    at: Millis | None = Field(default=None, description="a time: around the first event of this time or later")
    limit: Limit = HISTORY_ROWS


@verb("messages.history", "GET", "/v1/rooms/{room}/messages", answer=Events, errors=(NoSuchRoom,))
async def history(caller: Caller, means: Means, args: PageOfEvents) -> bytes:
    """A page of what happened in the room, in order of seq.

    The last events before a seq, the first after one, those around one or around a time, or the newest; messages as they read now. What
    was said before one joined is there only in rooms that show it.
    """
    if [args.before, args.after, args.around, args.at].count(None) < 3:
        raise BadRequest(PLACES_EXCLUDE)
    return await reads.history(
        means.reads,
        args.room,
        caller.identity.actor,
        before=args.before,
        after=args.after,
        around=args.around,
        at=args.at,
        limit=args.limit,
    )


class OneMessage(Args):
    """Which message."""

    room: Room
    seq: Seq


@verb("messages.show", "GET", "/v1/rooms/{room}/messages/{seq}", answer=Envelope, errors=(NoSuchRoom, NoSuchMessage))
async def show(caller: Caller, means: Means, args: OneMessage) -> bytes:
    """One message, as it reads now."""
    return await reads.show(means.reads, args.room, args.seq, caller.identity.actor)


class PageOfThread(Args):
    """Which thread, by the seq of its first message, and which part of it."""

    room: Room
    seq: Seq
    after: Position = 0
    limit: Limit = THREAD_ROWS


@verb(
    "messages.thread",
    "GET",
    "/v1/rooms/{room}/messages/{seq}/thread",
    answer=Thread,
    errors=(NoSuchRoom, NoSuchMessage),
)
async def thread(caller: Caller, means: Means, args: PageOfThread) -> bytes:
    """A page of the messages of a thread, in order of seq, as they read now; without the first, which began it."""
    who = caller.identity.actor
    return await reads.thread(means.reads, args.room, args.seq, who, after=args.after, limit=args.limit)


class PageOfEdits(Args):
    """Which message, and which of its edits."""

    room: Room
    seq: Seq
    after: Position = 0
    limit: Limit = EDITS_ROWS


@verb(
    "messages.edits", "GET", "/v1/rooms/{room}/messages/{seq}/edits", answer=Edits, errors=(NoSuchRoom, NoSuchMessage)
)
async def edits(caller: Caller, means: Means, args: PageOfEdits) -> bytes:
    """A message as it was sent, and a page of its edits in order. Of one that was recalled nobody is told the words."""
    who = caller.identity.actor
    return await reads.edits(means.reads, args.room, args.seq, who, after=args.after, limit=args.limit)


class PageOfMentions(Args):
    """Which mentions; a service says whose."""

    unread: bool = False
    after: Position | None = None
    limit: Limit = MENTIONS_ROWS
    mid: Mid | None = None


@verb("mentions.list", "GET", "/v1/mentions", answer=Mentions, errors=(Forbidden,))
async def list_mentions(caller: Caller, means: Means, args: PageOfMentions) -> bytes:
    """A page of the messages that name one, or all of a room that one is in, newest first.

    Without one's own, those that were recalled, and those from before one joined; with `unread`, only those after the read marks.
    """
    who = caller.identity
    if who.service and args.mid is None:
        raise BadRequest("mid is missing: a service says for whom")
    if not who.service and args.mid not in (None, who.mid):
        raise Forbidden("a person acts for nobody else")
    mid = who.mid if args.mid is None else args.mid
    return await reads.mentions(means.reads, mid, unread=args.unread, after=args.after, limit=args.limit)


# --- amending ------------------------------------------------------------------------------------------------------------------


class NewWords(Args):
    """What the message says from now on."""

    room: Room
    seq: Seq
    body: object
    format: Form = "json"


@verb(
    "messages.edit",
    "PUT",
    "/v1/rooms/{room}/messages/{seq}",
    answer=Place,
    errors=(NoSuchRoom, NoSuchMessage, Forbidden, Muted, TooLarge),
)
async def edit(caller: Caller, means: Means, args: NewWords) -> Place:
    """Let one's own message read otherwise.

    From here on it is read so, and everybody in the room is told; what it said before stays in its history. Whom it names does not
    change. The same words again change nothing (`unchanged`). The server may set a time for it (`edit_within_s`).
    """
    check_format(args.format, args.body)
    _text(means, args.body)
    _pace(caller, means, caller.mid)
    target = await _target(caller, means, args.room, args.seq)
    await means.accounts.doors.allow("send", caller.identity, args.room, caller.key)
    who, within_s = caller.identity.actor, means.settings.edit_within_s
    editing = EditMessage(target, who, within_s, args.body, args.format, key=caller.key)
    return changed(await decided(caller, means, editing))


@verb(
    "messages.recall",
    "DELETE",
    "/v1/rooms/{room}/messages/{seq}",
    answer=Place,
    errors=(NoSuchRoom, NoSuchMessage, Forbidden),
)
async def recall(caller: Caller, means: Means, args: OneMessage) -> Place:
    """Take a message back: from here on nobody is told what it said.

    Its place stays, without words. One's own within a time (`recall_within_s`); admins and the owner of the room those of whoever is
    below them, at any time; moderators and admins of the server any, which is audited. A second time changes nothing (`unchanged`).
    """
    target = await _target(caller, means, args.room, args.seq)
    who, within_s = caller.identity.actor, means.settings.recall_within_s
    made = await decided(caller, means, RecallMessage(target, who, within_s, key=caller.key))
    return changed(made[:1])  # the recall; it may end a pin too


async def _target(caller: Caller, means: Means, room: str, seq: int) -> Target:
    who = caller.identity.actor
    # To look at what one is about to recall by privilege is not one more act to be audited: the recall is.
    sees = Actor(who.mid, "service") if who.role in PRIVILEGED else who
    sent = await reads.message(means.reads, room, seq, sees)
    return Target(room, seq, sent.mid, sent.time_ms, *messages.written(sent), means.is_live(room))


VERBS: Final[tuple[AnyVerb, ...]] = (
    send,
    history,
    show,
    edit,
    recall,
    thread,
    edits,
    forward,
    list_mentions,
)
