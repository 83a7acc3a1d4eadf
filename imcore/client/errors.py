"""What can go wrong for a program that uses the client: one family, which mirrors imcore.errors code by code.

- `Refused`: the server said no to one request. Nothing was done, and the connection goes on. What the server says may succeed
  later (`retry`) the client has asked again by itself, so what a program sees will not get better by asking again.
- `ConnectionClosed`: the client has stopped for good and will not come back by itself; `code` says why. A connection that merely
  breaks is no error: the client comes back.
- `SendTimeout`: the caller's own deadline is over. The outcome is unknown: send again with the same `id`.
- `CallTimeout`: the same of a verb. `Unavailable`, of the family of `Refused`, says of a verb that its outcome is unknown too.

The trap: catching `Refused` around a whole loop hides which request it was; catch it around the request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final


class ClientError(Exception):
    """Something went wrong in a client, or was refused to it.

    `code` is for programs, `text` for people; `retry` says whether the same can succeed later, `retry_after_ms` when, if that is known.
    """

    code: str = "client_error"
    retry: bool = False

    def __init__(
        self, text: str = "", *, code: str | None = None, retry: bool | None = None, retry_after_ms: int | None = None
    ) -> None:
        self.text = text or _sentence(type(self))
        if code is not None:
            self.code = code
        if retry is not None:
            self.retry = retry
        self.retry_after_ms = retry_after_ms
        super().__init__(self.text if self.code in self.text else f"{self.text} ({self.code})")


class Refused(ClientError):
    """The server refused the request."""

    code = "refused"


class ConnectionClosed(ClientError):
    """The client is closed and does not come back by itself."""

    code = "closed"
    close: int | None = None  # the close code, if the server gave one


class SendTimeout(ClientError):
    """The outcome of the send is not known in time: send again with the same id."""

    code, retry = "send_timeout", True

    def __init__(self, id: str, timeout_s: float) -> None:
        self.id = id
        super().__init__(f"no outcome within {timeout_s:g} s; it may have been stored: send again with the id {id}")


class CallTimeout(ClientError):
    """The outcome of the call is not known in time."""

    code, retry = "call_timeout", True

    def __init__(self, verb: str, timeout_s: float) -> None:
        self.verb = verb
        super().__init__(f"no answer to {verb} within {timeout_s:g} s; it may have been carried out")


class ForeignCursor(ClientError):
    """The cursor store belongs to another person."""

    code = "foreign_cursor"


# --- a request is refused ----------------------------------------------------------------------------------------------------


class BadRequest(Refused):
    """The request is not of the form that its operation takes."""

    code = "bad_request"


class InvalidText(Refused):
    """Text must be valid UTF-8 without U+0000."""

    code = "invalid_text"


class UnknownOperation(Refused):
    """There is no such operation for clients."""

    code = "unknown_op"


class Forbidden(Refused):
    """This is not allowed to you."""

    code = "forbidden"


class Muted(Refused):
    """You are muted in this room."""

    code = "muted"


class NoSuchRoom(Refused):
    """No such room, or you are not in it."""

    code = "no_such_room"


class NoSuchMessage(Refused):
    """No such message, or it was recalled."""

    code = "no_such_message"


class NoSuchAttachment(Refused):
    """No such attachment, or it is not for you."""

    code = "no_such_attachment"


class WrongType(Refused):
    """Files of this type are not taken here, or the bytes are of another type than is said."""

    code = "wrong_type"


class NotAllowed(Refused):
    """The method is not allowed on this resource."""

    code = "not_allowed"


class Conflict(Refused):
    """Another writer appended to this stream first."""

    code, retry = "conflict", True


class IdConflict(Refused):
    """This id was used before, for another message."""

    code = "id_conflict"


class IdempotencyConflict(Refused):
    """This idempotency key was used before, for another request."""

    code = "idempotency_conflict"


class UnderWay(Refused):
    """A request with this idempotency key is still under way; ask again for its answer."""

    code, retry = "under_way", True


class RoomExists(Refused):
    """There is a room of this name already."""

    code = "room_exists"


class TooManyRooms(Refused):
    """Somebody would be in more rooms than a person may."""

    code = "too_many_rooms"


class NoSuchAccount(Refused):
    """There is no such account."""

    code = "no_such_account"


class NameTaken(Refused):
    """This name, or one that looks like it, belongs to somebody."""

    code = "name_taken"


class WrongLogin(Refused):
    """The name or the password is not right."""

    code = "wrong_login"


class WrongCode(Refused):
    """The code is wrong, used up or expired."""

    code = "wrong_code"


class AccountInactive(Refused):
    """The account cannot be used: it waits to be activated, is suspended, or was given up."""

    code = "account_inactive"


class TooLarge(Refused):
    """The body is larger than the limit for it."""

    code = "too_large"


class RateLimited(Refused):
    """Too many requests; wait before the next."""

    code, retry = "rate_limited", True


class SlowMode(Refused):
    """The room is in slow mode; wait before the next message."""

    code, retry = "slow_mode", True


class Overloaded(Refused):
    """The server has more to do than it can; nothing was stored."""

    code, retry = "overloaded", True


class UploadTimeout(Refused):
    """The file did not arrive in time; nothing was stored."""

    code, retry = "upload_timeout", True


class StoreUnavailable(Refused):
    """The store of attachments does not work at the moment; try again later."""

    code, retry = "store_unavailable", True


class Unavailable(Refused):
    """The outcome is unknown: ask again with the same id."""

    code, retry = "unavailable", True


# --- the connection ends -----------------------------------------------------------------------------------------------------


class BadConfiguration(ConnectionClosed):
    """A setting is unknown or has an impossible value."""

    code, close = "bad_configuration", 1011


class Internal(ConnectionClosed):
    """Something went wrong inside the server."""

    code, close, retry = "internal", 1011, True


class UnsafeDatabase(ConnectionClosed):
    """Postgres is set up so that an acknowledged message could be lost."""

    code, close = "unsafe_database", 1011


class DatabaseUnavailable(ConnectionClosed):
    """Postgres cannot be reached."""

    code, close, retry = "database_unavailable", 1011, True


class GoingAway(ConnectionClosed):
    """The server stops or moves its clients; connect again after the delay."""

    code, close, retry = "going_away", 4001, True


class SlowConsumer(ConnectionClosed):
    """The connection took nothing for too long; come back and catch up."""

    code, close, retry = "slow_consumer", 4008, True


class BadPacket(ConnectionClosed):
    """The bytes are not packets of this protocol."""

    code, close = "bad_packet", 4400


class Unauthenticated(ConnectionClosed):
    """The token is missing, wrong or expired."""

    code, close = "unauthenticated", 4401


class AuthTimeout(ConnectionClosed):
    """The connection did not authenticate in time."""

    code, close, retry = "auth_timeout", 4402, True


class BadOrder(ConnectionClosed):
    """The first packet must be auth, and there is only one."""

    code, close = "bad_order", 4403


class HeartbeatTimeout(ConnectionClosed):
    """No heartbeat arrived in time."""

    code, close, retry = "heartbeat_timeout", 4408, True


class TakenOver(ConnectionClosed):
    """Another connection with the same key took over."""

    code, close = "taken_over", 4409


class Displaced(ConnectionClosed):
    """A newer connection of the same user took the place of this one."""

    code, close = "displaced", 4410


class PacketTooLarge(ConnectionClosed):
    """The packet is larger than the limit."""

    code, close = "packet_too_large", 4413


class TooManyConnections(ConnectionClosed):
    """Too many connections from this address or user."""

    code, close, retry = "too_many_connections", 4429, True


class TooManyPackets(ConnectionClosed):
    """The connection went on sending more than it may; connect again after the delay."""

    code, close, retry = "too_many_packets", 4429, True


class TryLater(ConnectionClosed):
    """The server cannot take the connection now; connect again after a while."""

    code, close, retry = "try_later", 4503, True


KINDS: Final[Mapping[str, type[ClientError]]] = {
    kind.code: kind for family in (Refused, ConnectionClosed) for kind in family.__subclasses__()
}

# Coming back would end the same way. The server says so itself (operation 6); the code is for when that was lost.
FINAL_CLOSES: Final[Mapping[int, str]] = {
    1002: "protocol_error",
    1003: "unsupported",
    1007: "invalid_text",
    1009: "packet_too_large",
} | {
    kind.close: kind.code
    for kind in ConnectionClosed.__subclasses__()
    if kind.close is not None and kind.close > 1011 and not kind.retry
}

FINAL_WORDS: Final[Mapping[int, str]] = {
    1002: "the server says that this is no WebSocket as it should be",
    1003: "the server takes no JSON at this address; where it does, the path is /ws",
    1007: "the server says that this is not UTF-8",
    1009: "the server takes no packet of this size",
}


def from_facts(facts: Mapping[str, object], kind: type[ClientError] = Refused) -> ClientError:
    """The error that the server told of. A code that is not known here keeps its text, and becomes `kind`."""
    code, text, retry, after = (facts.get(name) for name in ("code", "text", "retry", "retry_after_ms"))
    code = code if isinstance(code, str) else "unknown"
    return KINDS.get(code, kind)(
        text if isinstance(text, str) else "",
        code=code,
        retry=retry is True,
        retry_after_ms=after if type(after) is int else None,
    )


def refused(facts: Mapping[str, object]) -> ClientError:
    """The error in an answer. `internal` ends a connection elsewhere; here it is one request that failed, and nobody knows how far it
    had come."""
    if facts.get("code") != Internal.code:
        return from_facts(facts)
    text = facts.get("text")
    return Refused(text if isinstance(text, str) else "", code=Internal.code)


def closed(code: str, text: str = "", close: int | None = None) -> ConnectionClosed:
    """The end of a client, by the code that the server gave."""
    kind = KINDS.get(code, ConnectionClosed)
    error = (kind if issubclass(kind, ConnectionClosed) else ConnectionClosed)(text, code=code)
    if close is not None:
        error.close = close
    return error


def _sentence(kind: type[ClientError]) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]
