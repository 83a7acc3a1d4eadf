"""The user's own backend, asked over HTTP: who is this (mode webhook), and may he do that? And told of codes that it is to mail.

A question is a POST of a JSON object with `act`; 200 is yes, with who it is, and 401, 403 or 404 is no. Everything else is no answer:
another status, what is no JSON of the form below, nothing within the deadline. Then it hangs on `auth_webhook_fails`; but who is here
already and wants to stay (`renew`) is never believed, since that would make more of it than it was let in as. There is no second try,
and only so many questions at a time: whoever waits for a slow backend holds a place.

The trap: all who are refused because it is down were refused at the same time. Each is told a time of its own to come back.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import aiohttp
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from imcore.auth import Claim, Identity, believe, names_rooms
from imcore.config import Settings
from imcore.errors import Forbidden, TryLater, Unauthenticated, Unavailable
from imcore.places import retry_ms
from imcore.protocol.packet import INT64_MAX, INT64_MIN

log = logging.getLogger(__name__)

ANSWER_BYTES_MAX: Final = 65_536
RETRY_MS_MAX: Final = 3_000  # until who could not be asked about may come again
ROOMS_MAX: Final = 1_000
NO: Final = (401, 403, 404)


class Yes(BaseModel):
    """What a backend answers when it is asked who somebody is. Other fields are its own."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, hide_input_in_errors=True)
    mid: int | None = Field(None, ge=INT64_MIN, le=INT64_MAX)
    service: bool = False
    rooms: list[str] | None = Field(None, max_length=ROOMS_MAX)
    ops: list[int] | None = Field(None, max_length=ROOMS_MAX)
    expires_in_s: float | None = Field(None, gt=0, le=31_536_000, allow_inf_nan=False)


class _NoAnswer(Exception):
    """It is not known what the backend would have said."""


class Webhook:
    """Asks. `close` lets its connections go."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None
        self.under_way = 0  # at most auth_webhook_under_way_max
        self.asked = 0
        self.failed = 0

    async def identify(self, claim: Claim, *, act: str, address: str, origin: str, now: float) -> Identity:
        """Who this is. Raises Unauthenticated, and TryLater when nobody answers (and that means no, as it always does for renew)."""
        question: dict[str, object] = {
            "act": act,
            "token": claim.token,
            "mid": claim.mid,
            "key": claim.key,
            "room_id": claim.room,
            "accepts": None if claim.accepts is None else sorted(claim.accepts),
            "address": address,
            "origin": origin,
        }
        try:
            found = await self._ask(question)
            if found is None:
                raise Unauthenticated("the backend of this service does not know you")
            return _identity(found, now)
        except _NoAnswer:
            self.failed += 1
            if self._settings.auth_webhook_fails == "open" and act != "renew":
                return believe(claim)
            raise TryLater("it cannot be asked who you are", retry_after_ms=retry_ms(RETRY_MS_MAX)) from None

    async def allow(self, act: str, mid: int, room: str, key: str, *, by: int = 0) -> None:
        """May this person do that (join, send) in this room, or be brought in by another one? Raises Forbidden, and Unavailable when
        nobody answers."""
        question: dict[str, object] = {"act": act, "mid": mid, "room": room, "key": key}
        try:
            if await self._ask(question | {"by": by} if by else question) is None:
                raise Forbidden
        except _NoAnswer:
            self.failed += 1
            if self._settings.auth_webhook_fails == "closed":
                raise Unavailable("it cannot be asked whether you may", retry_after_ms=retry_ms(RETRY_MS_MAX)) from None

    async def tell(self, url: str, news: dict[str, object]) -> None:
        """Tell a backend something, once. Raises Unavailable when it does not take it."""
        try:
            async with asyncio.timeout(self._settings.auth_webhook_s):
                async with self._open().post(url, json=news, allow_redirects=False) as response:
                    if response.status < 300:
                        return
                    said = f"status {response.status}"
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            said = type(error).__name__
        log.warning("a webhook did not take what it was told: %s", said)
        raise Unavailable("the code cannot be sent now", retry_after_ms=retry_ms(RETRY_MS_MAX))

    async def close(self) -> None:
        """Ask nothing more."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=self._settings.auth_webhook_under_way_max)
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),  # a cookie would tell of one person in the question about the next
                json_serialize=lambda value: orjson.dumps(value).decode(),
            )
        return self._session

    async def _ask(self, question: dict[str, object]) -> Yes | None:
        """The answer; None is no."""
        settings = self._settings
        assert settings.auth_webhook_url is not None, "the settings have checked it"
        if self.under_way >= settings.auth_webhook_under_way_max:
            raise TryLater("too many ask at the same time", retry_after_ms=retry_ms(RETRY_MS_MAX))
        self.under_way += 1
        self.asked += 1
        try:
            async with asyncio.timeout(settings.auth_webhook_s):
                url = settings.auth_webhook_url
                async with self._open().post(url, json=question, allow_redirects=False) as response:
                    if response.status in NO:
                        return None
                    if response.status != 200:
                        raise _NoAnswer(f"status {response.status}")
                    body = await _whole(response.content)
            return Yes.model_validate_json(body or b"{}")
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, ValidationError, _NoAnswer) as error:
            log.warning("the webhook gave no answer: %s", type(error).__name__)
            raise _NoAnswer from None
        finally:
            self.under_way -= 1


async def _whole(content: aiohttp.StreamReader) -> bytes:
    """All of an answer, in however many pieces it comes. Raises _NoAnswer for one that is too long."""
    body = bytearray()
    async for piece in content.iter_any():
        body += piece
        if len(body) > ANSWER_BYTES_MAX:
            raise _NoAnswer("too long")
    return bytes(body)


def _identity(found: Yes, now: float) -> Identity:
    expires_at = None if found.expires_in_s is None else now + found.expires_in_s
    if found.service:
        return Identity(0, role="service", expires_at=expires_at, as_of=0, issued_at=now)
    if not found.mid:
        raise _NoAnswer
    if found.rooms is not None and not all(names_rooms(room) for room in found.rooms):
        raise _NoAnswer
    return Identity(
        found.mid,
        rooms=None if found.rooms is None else frozenset(found.rooms),
        ops=None if found.ops is None else frozenset(found.ops),
        role="user" if found.mid > 0 else "guest",
        expires_at=expires_at,
        as_of=0,
        issued_at=now,
    )
