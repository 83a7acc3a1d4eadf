"""Idempotency keys: a request that is repeated under the same key gets the first answer, and happens once.

Over HTTP it is the header `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header), over a connection the `idempotency_key` of
a call. A key belongs to whoever asks, over whatever: to a member id, or to services together. It is *claimed* before the verb runs, and
the verb's good answer is kept under it for `idempotency_s`:

    the same request, answered      the first answer again, marked as such (Idempotency-Replayed: true, "replayed": true)
    the same request, under way     UnderWay, with the time to wait
    another request                 IdempotencyConflict
    the verb refused, or the answer is too large to keep
                                    the key is free again: asking once more is asking anew

A process that dies between claim and answer leaves a claim that ends by itself after `CLAIM_S`; then the verb runs again. That is no
harm: what a verb has already done it finds done (a message by its id, a membership, a mark), and says so. So the key saves a client
from having to know which verb does that in which words, and is not what the safety of the log rests on.

The trap: these rows hold answers, so an answer with a secret in it must never come here (`Verb.has_secrets`), nor one to nobody in
particular, who would share keys with everybody. Nor one that was given for what the verb did to a connection, or that is worthless a
moment later. The table is no projection, and a rebuild does not bring it back.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from typing import Final, NamedTuple
from uuid import UUID

import orjson

from imcore.auth import Identity
from imcore.database import DATABASE_ERRORS, heed_cancellation
from imcore.errors import BadRequest, IdempotencyConflict, Overloaded, UnderWay
from imcore.events.names import Pool
from imcore.protocol.packet import IDEMPOTENCY_KEY_CHARS_MAX, is_idempotency_key, shown
from imcore.verbs.verb import AnyVerb

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotency-Replayed"
ANSWER_BYTES_MAX: Final = 65_536
CLAIM_S: Final = (
    60.0  # longer than any verb takes: each waits for the log and the database, which have deadlines of seconds
)
RETRY_MS: Final = 500  # after which it is worth asking again for an answer that is under way
TRIES_MAX: Final = 3  # a row that is there when it is claimed may be gone when it is read
SWEEP_S: Final = 60.0
SWEEP_ROWS_MAX: Final = 1_000  # in one statement
_METHODS: Final = ("POST", "PUT", "PATCH", "DELETE")

# A row that is there stands in the way, unless it has expired, or is the unfinished claim of this very request.
CLAIM: Final = """
INSERT INTO idempotency AS held (mid, role, key, request, claim, claimed_until, expires_at)
VALUES ($1, $2, $3, $4, $5, now() + make_interval(secs => $6), now() + make_interval(secs => $7))
ON CONFLICT (mid, role, key) DO UPDATE
SET request = excluded.request, claim = excluded.claim, claimed_until = excluded.claimed_until, expires_at = excluded.expires_at,
  status = NULL, answer = NULL
WHERE held.expires_at <= now() OR (held.status IS NULL AND held.claimed_until <= now() AND held.request = excluded.request)
RETURNING claim
"""
HELD: Final = "SELECT request, status, answer FROM idempotency WHERE mid = $1 AND role = $2 AND key = $3"
# Only its own claim: a verb that took too long finds another request's there.
KEEP: Final = "UPDATE idempotency SET status = $5, answer = $6 WHERE mid = $1 AND role = $2 AND key = $3 AND claim = $4"
RELEASE: Final = "DELETE FROM idempotency WHERE mid = $1 AND role = $2 AND key = $3 AND claim = $4"
# The oldest first; what another process sweeps at this moment is not waited for.
SWEEP: Final = """
DELETE FROM idempotency WHERE ctid = ANY (ARRAY(
  SELECT ctid FROM idempotency WHERE expires_at <= now() ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED))
"""

logger = logging.getLogger(__name__)


class Kept(NamedTuple):
    """An answer that was given before."""

    status: int
    body: bytes


class Claimed(NamedTuple):
    """A key that is this request's until it is kept or released."""

    mid: int
    role: str
    key: str
    claim: UUID


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


async def claim(pool: Pool, who: Identity, key: str, request: bytes, token: UUID, keep_s: float) -> Claimed | Kept:
    """The key, for this request to run under, or the answer that was kept under it.

    Raises IdempotencyConflict when another request has it, and UnderWay while the same one is being answered.
    """
    claimed = Claimed(who.mid, who.role, key, token)
    for _ in range(TRIES_MAX):
        if await pool.fetchval(CLAIM, *claimed[:3], request, token, CLAIM_S, keep_s) is not None:
            return claimed
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
    try:
        if len(body) > ANSWER_BYTES_MAX:
            await pool.execute(RELEASE, *claimed)
        else:
            await pool.execute(KEEP, *claimed, status, body)
    except DATABASE_ERRORS as error:
        heed_cancellation()
        logger.warning("an answer cannot be kept under its idempotency key: %s", error)


async def release(pool: Pool, claimed: Claimed) -> None:
    """Free the key, because the verb refused. If that cannot be written, the claim ends by itself."""
    try:
        await pool.execute(RELEASE, *claimed)
    except DATABASE_ERRORS as error:
        heed_cancellation()
        logger.warning("an idempotency key cannot be freed: %s", error)


async def sweep(pool: Pool) -> int:
    """Delete what has expired; how many that were. In statements of at most SWEEP_ROWS_MAX rows."""
    swept = 0
    while True:
        deleted = int((await pool.execute(SWEEP, SWEEP_ROWS_MAX)).rpartition(" ")[2])
        swept += deleted
        if deleted < SWEEP_ROWS_MAX:
            return swept


async def sweep_for_ever(pool: Pool) -> None:
    """Sweep every SWEEP_S. Any number may; one is enough. Ends when cancelled."""
    while True:
        try:
            await sweep(pool)
        except (*DATABASE_ERRORS, Overloaded) as error:
            heed_cancellation()
            logger.warning("expired idempotency keys cannot be swept: %s", error)
        await asyncio.sleep(SWEEP_S)
