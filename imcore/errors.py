"""One family of errors, and one table of what a client may be told.

A class has a `code` for machines, `retry` (would the same request succeed later, unchanged?), a `status` for HTTP and a `close`
code for a connection that ends because of it (None: the connection goes on and the error is a reply). The first line of the
docstring is the sentence a person reads. `TABLE` lists them all; docs/protocol.md prints it and a test holds the two together.

The trap: an error is not always a failure. `Unavailable` leaves the outcome unknown: the request may have been committed, and
the only right answer to it is to ask again with the same id.
"""

from __future__ import annotations

from typing import ClassVar


class ImcoreError(Exception):
    """Something went wrong inside the server."""

    code: ClassVar[str] = "internal"
    retry: ClassVar[bool] = True
    status: ClassVar[int] = 500
    close: ClassVar[int | None] = 1011

    def __init__(self, detail: str = "", *, retry_after_ms: int | None = None) -> None:
        self.detail = detail or self.text()
        self.retry_after_ms = retry_after_ms
        super().__init__(self.detail)

    @classmethod
    def text(cls) -> str:
        """The sentence for people: the first line of the class's docstring."""
        return (cls.__doc__ or "").strip().splitlines()[0]

    def facts(self) -> dict[str, object]:
        """What a client is told: code, text, retry, and when to retry if that is known."""
        told: dict[str, object] = {"code": self.code, "text": self.detail, "retry": self.retry}
        if self.retry_after_ms is not None:
            told["retry_after_ms"] = self.retry_after_ms
        return told


# --- the request is wrong: the same request will always be refused -----------------------------------------------------------


class BadRequest(ImcoreError):
    """The request is not of the form that its operation takes."""

    code, retry, status, close = "bad_request", False, 400, None


class InvalidText(ImcoreError):
    """Text must be valid UTF-8 without U+0000."""

    code, retry, status, close = "invalid_text", False, 400, None


class TooLarge(ImcoreError):
    """The body is larger than the limit for it."""

    code, retry, status, close = "too_large", False, 413, None


class UnknownOperation(ImcoreError):
    """There is no such operation for clients."""

    code, retry, status, close = "unknown_op", False, 400, None


class IdConflict(ImcoreError):
    """This id was used before, for another message."""

    code, retry, status, close = "id_conflict", False, 409, None


class IdempotencyConflict(ImcoreError):
    """This idempotency key was used before, for another request."""

    code, retry, status, close = "idempotency_conflict", False, 422, None


class NotAllowed(ImcoreError):
    """The method is not allowed on this resource."""

    code, retry, status, close = "not_allowed", False, 405, None


# --- who asks may not ------------------------------------------------------------------------------------------------------


class Unauthenticated(ImcoreError):
    """The token is missing, wrong or expired."""

    code, retry, status, close = "unauthenticated", False, 401, 4401


class AuthTimeout(ImcoreError):
    """The connection did not authenticate in time."""

    code, retry, status, close = "auth_timeout", True, 401, 4402


class Forbidden(ImcoreError):
    """This is not allowed to you."""

    code, retry, status, close = "forbidden", False, 403, None


class Muted(ImcoreError):
    """You are muted in this room."""

    code, retry, status, close = "muted", False, 403, None


class NoSuchRoom(ImcoreError):
    """No such room, or you are not in it."""

    code, retry, status, close = "no_such_room", False, 404, None


class NoSuchMessage(ImcoreError):
    """No such message, or it was recalled."""

    code, retry, status, close = "no_such_message", False, 404, None


class NoSuchAttachment(ImcoreError):
    """No such attachment, or it is not for you."""

    code, retry, status, close = "no_such_attachment", False, 404, None


class WrongType(ImcoreError):
    """Files of this type are not taken here, or the bytes are of another type than is said."""

    code, retry, status, close = "wrong_type", False, 415, None


class RoomExists(ImcoreError):
    """There is a room of this name already."""

    code, retry, status, close = "room_exists", False, 409, None


class TooManyRooms(ImcoreError):
    """Somebody would be in more rooms than a person may."""

    code, retry, status, close = "too_many_rooms", False, 409, None


class NoSuchAccount(ImcoreError):
    """There is no such account."""

    code, retry, status, close = "no_such_account", False, 404, None


class NameTaken(ImcoreError):
    """This name, or one that looks like it, belongs to somebody."""

    code, retry, status, close = "name_taken", False, 409, None


class WrongLogin(ImcoreError):
    """The name or the password is not right."""

    code, retry, status, close = "wrong_login", False, 401, None


class WrongCode(ImcoreError):
    """The code is wrong, used up or expired."""

    code, retry, status, close = "wrong_code", False, 403, None


class AccountInactive(ImcoreError):
    """The account cannot be used: it waits to be activated, is suspended, or was given up."""

    code, retry, status, close = "account_inactive", False, 403, None


# --- not now ---------------------------------------------------------------------------------------------------------------


class Conflict(ImcoreError):
    """Another writer appended to this stream first."""

    code, retry, status, close = "conflict", True, 409, None

    def __init__(self, stream: str, expected: int, actual: int) -> None:
        self.stream, self.expected, self.actual = stream, expected, actual
        super().__init__(f"{stream} is at {actual}, not {expected}")


class UnderWay(ImcoreError):
    """A request with this idempotency key is still under way; ask again for its answer."""

    code, retry, status, close = "under_way", True, 409, None


class RateLimited(ImcoreError):
    """Too many requests; wait before the next."""

    code, retry, status, close = "rate_limited", True, 429, None


class SlowMode(ImcoreError):
    """The room is in slow mode; wait before the next message."""

    code, retry, status, close = "slow_mode", True, 429, None


class Overloaded(ImcoreError):
    """The server has more to do than it can; nothing was stored."""

    code, retry, status, close = "overloaded", True, 503, None


class UploadTimeout(ImcoreError):
    """The file did not arrive in time; nothing was stored."""

    code, retry, status, close = "upload_timeout", True, 408, None


class StoreUnavailable(ImcoreError):
    """The store of attachments does not work at the moment; try again later."""

    code, retry, status, close = "store_unavailable", True, 503, None


class Unavailable(ImcoreError):
    """The outcome is unknown: ask again with the same id."""

    code, retry, status, close = "unavailable", True, 503, None


# --- the connection ends ---------------------------------------------------------------------------------------------------


class GoingAway(ImcoreError):
    """The server stops or moves its clients; connect again after the delay."""

    code, retry, status, close = "going_away", True, 503, 4001


class TryLater(ImcoreError):
    """The server cannot take the connection now; connect again after a while."""

    code, retry, status, close = "try_later", True, 503, 4503


class SlowConsumer(ImcoreError):
    """The connection took nothing for too long; come back and catch up."""

    code, retry, status, close = "slow_consumer", True, 503, 4008


class BadPacket(ImcoreError):
    """The bytes are not packets of this protocol."""

    code, retry, status, close = "bad_packet", False, 400, 4400


class BadOrder(ImcoreError):
    """The first packet must be auth, and there is only one."""

    code, retry, status, close = "bad_order", False, 400, 4403


class HeartbeatTimeout(ImcoreError):
    """No heartbeat arrived in time."""

    code, retry, status, close = "heartbeat_timeout", True, 408, 4408


class TakenOver(ImcoreError):
    """Another connection with the same key took over."""

    code, retry, status, close = "taken_over", False, 409, 4409


class Displaced(ImcoreError):
    """A newer connection of the same user took the place of this one."""

    code, retry, status, close = "displaced", False, 409, 4410


class PacketTooLarge(ImcoreError):
    """The packet is larger than the limit."""

    code, retry, status, close = "packet_too_large", False, 413, 4413


class TooManyConnections(ImcoreError):
    """Too many connections from this address or user."""

    code, retry, status, close = "too_many_connections", True, 429, 4429


class TooManyPackets(ImcoreError):
    """The connection went on sending more than it may; connect again after the delay."""

    code, retry, status, close = "too_many_packets", True, 429, 4429


# --- the server cannot start -------------------------------------------------------------------------------------------------


class UnsafeDatabase(ImcoreError):
    """Postgres is set up so that an acknowledged message could be lost."""

    code, retry = "unsafe_database", False


class DatabaseUnavailable(ImcoreError):
    """Postgres cannot be reached."""

    code, retry, status = "database_unavailable", True, 503


class BadConfiguration(ImcoreError):
    """A setting is unknown or has an impossible value."""

    code, retry = "bad_configuration", False


def _family(of: type[ImcoreError]) -> list[type[ImcoreError]]:
    return [of, *(kin for child in of.__subclasses__() for kin in _family(child))]


TABLE: tuple[type[ImcoreError], ...] = tuple(_family(ImcoreError))
assert len({kind.code for kind in TABLE}) == len(TABLE), "a code names one error"
