"""Idempotency keys: a request that is repeated under the same key gets the first answer, and happens once.

Over HTTP it is the header `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header), over a connection the `idempotency_key` of
a call. A key belongs to whoever asks, over whatever: to a member id, or to services together. It is *claimed* before the verb runs, and
the verb's good answer is kept under it for `idempotency_s`:

    the same request, answered      the first answer again, marked as such (Idempotency-Replayed: true, "replayed": true)
    the same request, under way     UnderWay, with the time to wait
    another request                 IdempotencyConflict
    the verb refused, or the answer is too large to keep
                                    the key is free again: asking once more is asking anew
    nobody knows what came of it    the same request runs again, at once, and knows that it did before (`tried_ms`)

Nobody knows when the log says `Unavailable`, when the database fails, and when the process stops in the middle of it. One that dies
leaves a claim that ends by itself (`claim_s`); then the verb runs again. That is no harm: what a verb has already done it finds done (a
message by its id, a membership, a mark, a room that was made by that try), and says so. So the key saves a client from having to know
which verb does that in which words, and is not what the safety of the log rests on.

The trap: these rows hold answers, so an answer with a secret in it must never come here (`Verb.has_secrets`), nor one to nobody in
particular, who would share keys with everybody. Nor one that was given for what the verb did to a connection, or that is worthless a
moment later. The table is no projection, and a rebuild does not bring it back.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, NamedTuple
from uuid import UUID

import orjson

from imcore.auth import Identity
from imcore.config import Settings
from imcore.database import DATABASE_ERRORS, heed_cancellation, sweep_expired
from imcore.errors import BadRequest, IdempotencyConflict, Overloaded, UnderWay
from imcore.events.names import Pool
from imcore.protocol.packet import IDEMPOTENCY_KEY_CHARS_MAX, is_idempotency_key, shown
from imcore.verbs.verb import AnyVerb

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotency-Replayed"
ANSWER_BYTES_MAX: Final = 65_536
LET_GO_S: Final = 1.0  # for a statement while the process stops
RETRY_MS: Final = 500  # after which it is worth asking again for an answer that is under way
TRIES_MAX: Final = 3  # a row that is there when it is claimed may be gone when it is read
SWEEP_S: Final = 60.0
_METHODS: Final = ("POST", "PUT", "PATCH", "DELETE")

# A row that is there stands in the way, unless it has expired, or is the unfinished claim of this very request. That keeps its first
# time to expire, which says when it was tried first (wrong by as much as the setting has changed since).
CLAIM: Final = """
INSERT INTO idempotency AS held (mid, role, key, request, claim, claimed_until, expires_at)
VALUES ($1, $2, $3, $4, $5, now() + make_interval(secs => $6), now() + make_interval(secs => $7))
ON CONFLICT (mid, role, key) DO UPDATE
SET request = excluded.request, claim = excluded.claim, claimed_until = excluded.claimed_until,
  expires_at = CASE WHEN held.expires_at <= now() THEN excluded.expires_at ELSE held.expires_at END, status = NULL, answer = NULL
WHERE held.expires_at <= now() OR (held.status IS NULL AND held.claimed_until <= now() AND held.request = excluded.request)
RETURNING CASE WHEN expires_at <> now() + make_interval(secs => $7)
  THEN floor(extract(epoch FROM expires_at - make_interval(secs => $7)) * 1000)::bigint - 1 END
"""
HELD: Final = "SELECT request, status, answer FROM idempotency WHERE mid = $1 AND role = $2 AND key = $3"
# Only its own claim: a verb that took too long finds another request's there.
KEEP: Final = "UPDATE idempotency SET status = $5, answer = $6 WHERE mid = $1 AND role = $2 AND key = $3 AND claim = $4"
RELEASE: Final = "DELETE FROM idempotency WHERE mid = $1 AND role = $2 AND key = $3 AND claim = $4"
LET_GO: Final = """
UPDATE idempotency SET claimed_until = now() WHERE mid = $1 AND role = $2 AND key = $3 AND claim = $4 AND status IS NULL
"""

logger = logging.getLogger(__name__)


class Kept(NamedTuple):
    """An answer that was given before."""

    status: int
    body: bytes


class Claimed(NamedTuple):
    """A key that is this request's until it is kept, released or let go. `tried_ms`: not before then it ran first, and nobody knows
    what came of it."""

    mid: int
    role: str
    key: str
    claim: UUID
    tried_ms: int | None = None


def keeps(verb: AnyVerb) -> bool:
    """Are answers of this verb kept under keys? Not those of reads, uploads or downloads, to strangers, or with secrets in them; of
    signals; and of what is done to the very connection that asks."""
    if verb.method not in _METHODS or "http" not in verb.doors:
        return False
    return not (verb.takes or verb.gives or verb.is_open or verb.has_secrets or verb.is_passing)


def key_of(headers: list[str]) -> str | None:
    """The key that these header lines name, quoted as the draft has it or bare; None without one. Raises BadRequest."""
    if not headers:
        return None
    if len(headers) > 1:
        raise BadRequest(f"the header {HEADER} is there twice")
    key = headers[0].strip()
    if len(key) > 2 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if not is_idempotency_key(key):
        raise BadRequest(
            f"{HEADER} is {shown(headers[0])}, not 1 to {IDEMPOTENCY_KEY_CHARS_MAX} printable characters of ASCII"
        )
    return key


def digest(verb: AnyVerb, values: Mapping[str, object]) -> bytes:
    """What makes two requests the same: the verb, and the arguments as they were given, in whatever order."""
    return hashlib.sha256(verb.name.encode() + b"\n" + orjson.dumps(values, option=orjson.OPT_SORT_KEYS)).digest()


def claim_s(settings: Settings) -> float:
    """After so long a claim ends by itself: as long as the log may take to say what came of a decision, in the line, without a
    connection and at work. Beside who takes longer (a verb may ask the log twice, or a backend before it) the same request may run."""
    return settings.send_wait_max_s + 1.5 * settings.append_timeout_s


async def claim(
    pool: Pool, who: Identity, key: str, request: bytes, token: UUID, claim_s: float, keep_s: float
) -> Claimed | Kept:
    """The key, for this request to run under for `claim_s`, or the answer that was kept under it.

    Raises IdempotencyConflict when another request has it, and UnderWay while the same one is being answered.
    """
    claimed = Claimed(who.mid, who.role, key, token)
    for _ in range(TRIES_MAX):
        mine = await pool.fetchrow(CLAIM, *claimed[:3], request, token, claim_s, keep_s)
        if mine is not None:
            return claimed._replace(tried_ms=mine[0])
        held = await pool.fetchrow(HELD, *claimed[:3])
        if held is None:
            continue
        if held["request"] != request:
            raise IdempotencyConflict
        if held["status"] is None:
            raise UnderWay(retry_after_ms=RETRY_MS)
        return Kept(held["status"], held["answer"])
    raise UnderWay(retry_after_ms=RETRY_MS)


async def keep(pool: Pool, claimed: Claimed, status: int, body: bytes) -> None:
    """Keep the answer; one that is too large frees the key. What cannot be written is not: the claim ends by itself."""
    if len(body) > ANSWER_BYTES_MAX:
        await _write(pool, RELEASE, claimed)
    else:
        await _write(pool, KEEP, claimed, status, body)


async def release(pool: Pool, claimed: Claimed) -> None:
    """Free the key, because the verb refused. If that cannot be written, the claim ends by itself."""
    await _write(pool, RELEASE, claimed)


async def let_go(pool: Pool, claimed: Claimed) -> None:
    """End the claim, because nobody knows what came of the verb: the same request may have the key at once, and no other. For whom is
    cancelled too: it takes LET_GO_S at the longest. If that cannot be written, the claim ends by itself."""
    writing = asyncio.ensure_future(_write(pool, LET_GO, claimed))
    with suppress(TimeoutError):
        async with asyncio.timeout(LET_GO_S):
            await asyncio.shield(writing)
    writing.cancel()


async def _write(pool: Pool, statement: str, claimed: Claimed, *rest: object) -> None:
    try:
        await pool.execute(statement, *claimed[:4], *rest)
    except DATABASE_ERRORS as error:
        heed_cancellation()
        logger.warning("what became of an idempotency key cannot be written: %s", error)


async def sweep_for_ever(pool: Pool) -> None:
    """Sweep every SWEEP_S. Any number may; one is enough. Ends when cancelled."""
    while True:
        try:
            await sweep_expired(pool, "idempotency")
        except (*DATABASE_ERRORS, Overloaded) as error:
            heed_cancellation()
            logger.warning("expired idempotency keys cannot be swept: %s", error)
        await asyncio.sleep(SWEEP_S)
