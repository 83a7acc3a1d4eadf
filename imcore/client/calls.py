"""How a verb is called, whatever carries it there: what the written `verbs` and the two carriers, a connection and HTTP, agree on.

A verb is named, and has arguments and an answer that are JSON. `verbs` gives each its method and its types; a carrier (`Client`,
`Http`) gives the answer, or raises. What is no JSON (the body of an upload, a download) goes over HTTP only.

The trap: a call whose connection breaks before the answer may have been carried out. It is asked again by itself where twice is as
good as once (`may_repeat` says where), and where the server keeps its answer under a key (`takes_key`), so that it happens once.
"""

from __future__ import annotations

import math
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, TypeVar

import orjson

IDEMPOTENT: Final = frozenset({"GET", "PUT", "DELETE"})  # RFC 9110, 9.2.2: twice is as good as once
NOTHING_DONE: Final = frozenset({"rate_limited", "overloaded"})  # codes of errors that say so, and to come later

Token: TypeAlias = str | Callable[[], Awaitable[str]]  # a signed token, or what gives one whenever it is needed
Content: TypeAlias = bytes | AsyncIterable[bytes]
T = TypeVar("T")
P = TypeVar("P", bound="Paged")


class Paged(Protocol):
    """A page: `next` is the `after` of the page after it, if there is one."""

    @property
    def next(self) -> Any:
        """Where to go on."""


class Verb(NamedTuple):
    """One thing that may be asked for, as imcore.verbs defines it. `{room}` in the path is a room's type and name, as two segments."""

    name: str
    method: str = "POST"
    path: str = ""
    doors: tuple[str, ...] = ("http", "connection")
    has_id: bool = False  # an argument `id`, a UUID of the caller's, makes it happen once
    is_open: bool = False  # for whoever has no token too
    has_secrets: bool = False  # its answer is told once and kept nowhere
    is_passing: bool = False  # worthless a moment later, and kept nowhere
    takes: str = ""  # the media type of a body that is no JSON
    gives: str = ""  # and of such an answer
    says: str = ""  # the argument that names the room in which it sends a message of the caller's

    def may_repeat(self, args: Mapping[str, object]) -> bool:
        """Is asking twice as good as once? Not where the answer is told once: the first may be the only one that anybody would get,
        and what it did, such as ending the login that asks, stands in the way of the second."""
        if self.has_secrets and self.method != "GET":
            return False
        return self.method in IDEMPOTENT or (self.has_id and args.get("id") is not None)

    @property
    def takes_key(self) -> bool:
        """Does the server keep the answer under an idempotency key? Not for strangers, not of secrets or signals, not of what is done
        to the very connection, and of JSON only."""
        if self.method == "GET" or "http" not in self.doors:
            return False
        return not (self.is_open or self.has_secrets or self.is_passing or self.takes or self.gives)


class Download(ABC):
    """A body that is no JSON, as it comes: `async for chunk in …`, or `await ….read()`."""

    media_type: str
    size: int | None
    name: str  # as the server proposes it for a file; not to be used as a path

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[bytes]:
        """The chunks, once."""

    @abstractmethod
    async def read(self) -> bytes:
        """All of it."""


class Calls(ABC):
    """What carries calls."""

    @abstractmethod
    async def perform(self, verb: Verb, args: dict[str, object], *, retry: bool = False) -> Any:
        """The answer's JSON. `retry`: ask again too where that may do it twice. Raises ClientError."""

    @abstractmethod
    async def upload(self, verb: Verb, args: dict[str, object], content: Content, media_type: str) -> Any:
        """The answer to a verb whose body is no JSON. Raises ClientError."""

    @abstractmethod
    def download(self, verb: Verb, args: dict[str, object]) -> AbstractAsyncContextManager[Download]:
        """The answer of a verb that is no JSON, as it comes. Raises ClientError."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The verbs of one subject, over one carrier."""

    _calls: Calls


async def pages(ask: Callable[..., Awaitable[P]], *args: Any, **named: Any) -> AsyncIterator[P]:
    """Page after page of what a verb lists: `async for page in pages(im.rooms.members, "group://r", limit=500)`."""
    while True:
        page = await ask(*args, **named)
        yield page
        if not page.next:
            return
        named["after"] = page.next


def maybe(of: Callable[[Any], T], told: Any) -> T | None:
    """None stays None."""
    return None if told is None else of(told)


async def ask_for(token: Token | None) -> str | None:
    """The token to use now. Raises TypeError for what is none, and for a function that is not async."""
    told: object = token() if callable(token) else token
    if isinstance(told, Awaitable):
        told = await told
    elif callable(token):
        raise TypeError(f"token is called, so it must be an async function; it gave {type(told).__name__}")
    if told is None and token is None:
        return None
    if not isinstance(told, str):
        raise TypeError(f"a token is a str, and this is {type(told).__name__}")
    return told


def to_json(value: object) -> bytes:
    """JSON text. Raises TypeError for what is no JSON: NaN and the infinities too, which would arrive as null."""
    text = orjson.dumps(value)
    if b"null" in text and not _is_finite(value):
        raise TypeError("Type is not JSON serializable: float that is not finite")
    return text


def _is_finite(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_finite, value))
    if is_dataclass(value):
        return all(_is_finite(getattr(value, one.name)) for one in fields(value))
    return _is_finite(value.value) if isinstance(value, Enum) else True


def refuse(token: object) -> None:
    """Tell what gives tokens that the last one was refused: by its method `refused`, if it has one."""
    refused = getattr(token, "refused", None)
    if callable(refused):
        refused()


def new_id() -> str:
    """An id for something that is to happen once."""
    return str(uuid.uuid4())


def given(args: dict[str, object], left_out: Mapping[str, object]) -> dict[str, object]:
    """The arguments without those that were left out, which the server knows better."""
    return {name: value for name, value in args.items() if name not in left_out or value != left_out[name]}
