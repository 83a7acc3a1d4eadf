"""What a verb is: one definition for HTTP and for connections, for the checks, the documentation and the client.

A verb has a name (`rooms.kick`), a place in the HTTP interface, a model of its arguments, a model of its answer, and a function that
does it. HTTP takes the arguments from path, query or JSON body; a connection sends `{"verb": name, "args": {…}}` with operation 38.
Both check them with the same model, and what the function answers or raises is told in the same words.

The name is the operation in the permission table too, and a verb without a row there is refused when the process starts.

The trap: the types are strict (true is no 1, "1" is no 1), and a field that nobody knows is refused. What an answer holds is not
checked again: a model that says less than its verb answers is found by the tests only.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final, Generic, Literal, Protocol, TypeAlias, TypeVar, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from imcore.auth import Identity
from imcore.errors import BadRequest, ImcoreError
from imcore.events.store import UNFENCED
from imcore.protocol.packet import (
    INT64_MAX,
    INT64_MIN,
    KEY_BYTES_MAX,
    PAGE_ROWS_MAX,
    ROOM_BYTES_MAX,
    check_room,
    find_control,
)

if TYPE_CHECKING:
    from imcore.verbs.means import Means

Door = Literal["http", "connection"]
BOTH: Final[tuple[Door, ...]] = ("http", "connection")


# --- arguments and answers -----------------------------------------------------------------------------------------------------


class Args(BaseModel):
    """The arguments of a verb: strict, and no others than these."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class Answer(BaseModel):
    """What a verb answers. Built where that is convenient; a verb may answer JSON bytes of this shape instead."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Nothing(Args):
    """No arguments."""


class Empty(Answer):
    """Done; there is nothing more to say."""


PageT = TypeVar("PageT", bound=Answer)


def page(answer: type[PageT], listed: str, found: Sequence[Answer], limit: int, by: str) -> PageT:
    """The first `limit` of what was found, in the field `listed`. There is a `next`, the `by` of the last of them, only if more was
    found: so one more than `limit` is to be looked for."""
    shown = found[:limit]
    told: dict[str, object] = {listed: shown}
    if len(found) > limit:
        told["next"] = getattr(shown[-1], by)
    return answer(**told)


class Place(Answer):
    """Where in the log it happened: `position` in the whole log, `seq` in its conversation. `duplicate`: it had happened before;
    `unchanged`: it was so already, and nothing was stored."""

    position: int = 0
    seq: int = 0
    duplicate: bool = False
    unchanged: bool = False


def _room(text: str) -> str:
    try:
        return check_room(text)
    except BadRequest as error:
        raise ValueError(error.detail) from None


def _no_controls(text: str) -> str:
    if find_control(text):
        raise ValueError("has a control character in it")
    return text


def _as_shown(text: str) -> str:
    if any("\u202a" <= sign <= "\u202e" or "\u2066" <= sign <= "\u2069" for sign in _no_controls(text)):
        raise ValueError("has a character in it that turns the text around")
    return text


class Checked(AfterValidator):
    """A check of ours that the schema of an argument tells of too, as far as a schema can: `said` are words of JSON Schema."""

    said: Mapping[str, object]

    def __init__(self, check: Callable[[str], str], said: Mapping[str, object]) -> None:
        super().__init__(check)
        object.__setattr__(self, "said", said)

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**self.said, **handler(core)}


def within(bytes_max: int) -> AfterValidator:
    """Text of up to so many bytes of UTF-8. A schema counts characters, so it says a little less."""

    def check(text: str) -> str:
        if len(text.encode(errors="replace")) > bytes_max:
            raise ValueError(f"longer than {bytes_max} bytes")
        return text

    return Checked(check, {"maxLength": bytes_max})


# As JSON Schema writes them, in the regular expressions of JavaScript; the checks themselves are check_room, _no_controls and
# _as_shown.
TYPE_SCHEMA: Final = "^[a-z][a-z0-9_]{0,31}$"
NAME_SCHEMA: Final = r"^[^\s\u0000-\u001f\u007f-\u009f]{1,128}$"
ROOM_SCHEMA: Final = r"^[a-z][a-z0-9_]{0,31}://[^\s\u0000-\u001f\u007f-\u009f]{1,128}$"
NO_CONTROLS: Final = Checked(_no_controls, {"pattern": r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$"})

AS_SHOWN: Final = Checked(_as_shown, {"pattern": r"^[^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]*$"})

# Each is its own word in the OpenAPI document. A person's id is never 0, which is the service; guests have negative ones.
Room = Annotated[
    str, Field(max_length=ROOM_BYTES_MAX, examples=["group://7"]), Checked(_room, {"pattern": ROOM_SCHEMA})
]
Mid = Annotated[int, Field(ge=INT64_MIN, le=INT64_MAX, examples=[7])]
Seq = Annotated[int, Field(ge=1, le=INT64_MAX)]
Position = Annotated[int, Field(ge=0, le=INT64_MAX)]
Millis = Annotated[int, Field(ge=0, le=INT64_MAX, description="milliseconds since 1970")]
Limit = Annotated[int, Field(ge=1, le=PAGE_ROWS_MAX)]
Key = Annotated[str, Field(min_length=1, max_length=KEY_BYTES_MAX), NO_CONTROLS, within(KEY_BYTES_MAX)]
Uuid = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")]
Line = Annotated[str, NO_CONTROLS]  # of text for people; with Field(max_length=…) or within(…)
Label = Annotated[
    str, AS_SHOWN
]  # the same, where others see it amid text of their own: it turns nothing of that around


# --- who asks ------------------------------------------------------------------------------------------------------------------


class LiveConnection(Protocol):
    """The connection that a verb came over, for the few verbs that change it."""

    key: str

    async def watch(self, mids: Sequence[int], *, sees_all: bool) -> list[tuple[int, tuple[str, ...]]]:
        """Be told from now on when one of these people comes or goes; the platforms of each as they are now."""

    def unwatch(self, mids: Sequence[int] | None) -> None:
        """Be told of these people no more; of nobody, for None."""

    def online(self, room: str) -> int | None:
        """How many sessions are in this live room; None if this connection is not."""

    async def renew(self, token: str) -> float | None:
        """Go on with a fresh token of the same login; until when. Raises Unauthenticated, Unavailable."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A body that is no JSON, as it arrives."""

    media_type: str
    size: int | None  # in bytes, as its header says, or None if it does not
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer that is no JSON. `chunks` is closed by whoever writes it down, read to its end or not. With a `name` it is offered for
    saving; `headers` are others than Content-Type and Content-Length, and go before what would be said by itself."""

    media_type: str
    size: int  # in bytes
    chunks: AsyncGenerator[bytes, None]
    name: str = ""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and over what.

    `key` and `fence` are those of the connection ("" and UNFENCED over HTTP): what is appended in its name carries them. `address` is
    the client's. `origin` is that of the page that asks, or "". `headers` are those of an HTTP request (by name in any case), for
    the few verbs whose answer is part of HTTP: ranges, what is known already. `tried_ms`: the very same was asked before under the same
    idempotency key, not before then, and nobody knows what came of it.
    """

    identity: Identity
    key: str = ""
    fence: int = UNFENCED
    address: str = ""
    origin: str = ""
    connection: LiveConnection | None = field(default=None, repr=False)
    upload: Upload | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    tried_ms: int | None = None

    @property
    def mid(self) -> int:
        """The member id; 0 is a service."""
        return self.identity.mid


# --- verbs -----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Other:
    """An answer with another status than the verb's usual one (of its `statuses`)."""

    status: int
    answer: Answer | bytes


A = TypeVar("A", bound=Args)
R = TypeVar("R", bound=Answer)
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


@dataclass(frozen=True, slots=True)
class Verb(Generic[A, R]):
    """One thing that a client may ask for.

    In `path`, `{room}` stands for a room's type and name as two segments; any other name in braces is the argument of that name. The
    other arguments are the query of a GET or DELETE, and the JSON body of the other methods. `status` is that of a good
    answer; `statuses` are those that `Other` may say instead. `errors` are those that it raises beside the ones that any verb may
    (bad arguments, who asks, too often, overload). `takes` is the media type of a body that is no JSON, `gives` that of such an answer.
    `has_secrets`: what it answers is told once and kept nowhere (tokens, codes), or what it is asked is (passwords, of which a digest
    would be one more thing to guess from), so idempotency keys have no effect on it; nor on what `is_passing`, told to who is
    connected and worthless a moment later.
    """

    name: str
    method: Method
    path: str
    args: type[A]
    answer: type[R]
    run: Callable[[Caller, Means, A], Awaitable[R | bytes | Stream | Other]]
    status: int = 200
    statuses: tuple[int, ...] = ()
    errors: tuple[type[ImcoreError], ...] = ()
    doors: tuple[Door, ...] = BOTH
    takes: str = ""
    gives: str = ""
    is_open: bool = False  # for whoever has no token too: registering, logging in
    has_secrets: bool = False
    is_passing: bool = False

    @property
    def summary(self) -> str:
        """The first line of what the function promises."""
        return (self.run.__doc__ or "").strip().splitlines()[0]

    @property
    def description(self) -> str:
        """All of what the function promises."""
        return " ".join((self.run.__doc__ or "").split())


AnyVerb: TypeAlias = Verb[Any, Any]  # the arguments of one never meet another's


def verb(
    name: str,
    method: Method,
    path: str,
    *,
    answer: type[R],
    status: int = 200,
    statuses: Sequence[int] = (),
    errors: Sequence[type[ImcoreError]] = (),
    doors: tuple[Door, ...] = BOTH,
    takes: str = "",
    gives: str = "",
    is_open: bool = False,
    has_secrets: bool = False,
    is_passing: bool = False,
) -> Callable[[Callable[[Caller, Means, A], Awaitable[R | bytes | Stream | Other]]], Verb[A, R]]:
    """Make a verb of a function; the model of the arguments is that of its third parameter."""

    def make(run: Callable[[Caller, Means, A], Awaitable[R | bytes | Stream | Other]]) -> Verb[A, R]:
        # The annotation is a name in the function's own module (from __future__ import annotations).
        named = list(run.__annotations__.values())[2]
        args = run.__globals__[named] if isinstance(named, str) else named
        assert isinstance(args, type), f"the third parameter of {name} is no model"
        assert issubclass(args, Args), f"the third parameter of {name} is no model of Args"
        return Verb(
            name,
            method,
            path,
            cast(type[A], args),  # what the annotation says, and mypy knows from the function's type
            answer,
            run,
            status,
            tuple(statuses),
            tuple(errors),
            doors,
            takes,
            gives,
            is_open,
            has_secrets,
            is_passing,
        )

    return make
