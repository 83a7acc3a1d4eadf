"""To do what a verb says: the same few steps, whichever door it came in by.

    arguments of the right form? ▸ may this role ask for it at all? ▸ may the token enter this room? ▸ was it answered before, under
    this key? ▸ the verb itself

What depends on the standing in a room the verb asks itself, on the rows.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final, NamedTuple

import orjson
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from imcore.database import DATABASE_ERRORS
from imcore.errors import BadRequest, ImcoreError, NoSuchRoom, Unavailable
from imcore.permissions import Permissions, table
from imcore.protocol.packet import shown
from imcore.verbs import idempotency
from imcore.verbs.means import Means
from imcore.verbs.verb import Answer, AnyVerb, Args, Caller, Other, Stream

FAULTS_MAX: Final = 5  # of one request, in the text of its error
_ENDING: Final = ("no", "hidden", "nobody", "muted")


class Told(NamedTuple):
    """An answer in JSON. `is_again`: it was given before, under the same key, and the verb was not run."""

    status: int
    body: bytes
    is_again: bool = False


class Verbs:
    """All verbs by name, each with its row in the permission table.

    Raises ValueError for a verb that the table does not know, and for two of one name: no process starts with such.
    """

    def __init__(self, verbs: Iterable[AnyVerb], permissions: Permissions | None = None) -> None:
        self.permissions = permissions or table()
        self.by_name: dict[str, AnyVerb] = {}
        known = set(self.permissions.operations)
        for verb in verbs:
            if verb.name in self.by_name:
                raise ValueError(f"there are two verbs {verb.name}")
            if verb.name not in known:
                raise ValueError(f"{verb.name} has no row in the permission table")
            self.by_name[verb.name] = verb

    async def call(
        self, verb: AnyVerb, caller: Caller, means: Means, values: Mapping[str, object], key: str | None = None
    ) -> Told | Stream:
        """Check the arguments and whether this may be asked for; then do it. Raises what is wrong, as an ImcoreError."""
        return await self.told(verb, caller, means, self.checked(verb, caller, values), values, key)

    async def told(
        self, verb: AnyVerb, caller: Caller, means: Means, args: Args, values: Mapping[str, object], key: str | None
    ) -> Told | Stream:
        """The answer to arguments that were checked; `values` are those before that. With a key, where answers of the verb are kept
        under keys: the one that was given under it, or a new one, which is kept. Raises what the verb does, IdempotencyConflict and
        UnderWay."""
        if key is None or caller.identity.role == "anonymous" or not idempotency.keeps(verb):
            return _told(verb, await verb.run(caller, means, args))
        pool, digest = means.pool, idempotency.digest(verb, values)
        claim_s, keep_s = idempotency.claim_s(means.settings), means.settings.idempotency_s
        found = await idempotency.claim(pool, caller.identity, key, digest, uuid.uuid4(), claim_s, keep_s)
        if isinstance(found, idempotency.Kept):
            return Told(found.status, found.body, is_again=True)
        try:
            told = _told(verb, await verb.run(replace(caller, tried_ms=found.tried_ms), means, args))
            assert isinstance(told, Told), "what is no JSON is not kept"
            await idempotency.keep(pool, found, told.status, told.body)
        except (Unavailable, *DATABASE_ERRORS, asyncio.CancelledError):
            await idempotency.let_go(pool, found)
            raise
        except ImcoreError as error:
            # What can be asked again has not settled what came of an earlier try.
            settle = idempotency.let_go if error.retry and found.tried_ms is not None else idempotency.release
            await settle(pool, found)
            raise
        return told

    def checked(self, verb: AnyVerb, caller: Caller, values: Mapping[str, object]) -> Args:
        """The arguments, of somebody who may ask for this. Raises what is wrong, as an ImcoreError."""
        self.admit(verb, caller)
        args = arguments(verb, values)
        room = getattr(args, "room", None)
        if isinstance(room, str) and not caller.identity.may_enter(room):
            raise NoSuchRoom
        return args

    def admit(self, verb: AnyVerb, caller: Caller) -> None:
        """May somebody of this role ask for it at all? Raises Unauthenticated, Forbidden or NoSuchRoom."""
        actor = caller.identity.actor
        verdict = self.permissions.rule(verb.name).by_role.get(actor.role)
        if verdict in _ENDING:
            self.permissions.check(verb.name, actor)


def _told(verb: AnyVerb, answer: Answer | bytes | Stream | Other) -> Told | Stream:
    if isinstance(answer, Stream):
        return answer
    if isinstance(answer, Other):
        return Told(answer.status, encoded(answer.answer))
    return Told(verb.status, encoded(answer))


def arguments(verb: AnyVerb, values: Mapping[str, object]) -> Args:
    """The arguments as the verb's model. Raises BadRequest, which names what is wrong."""
    try:
        args: Args = verb.args.model_validate(values)
    except ValidationError as error:
        raise BadRequest(faults(error)) from None
    return args


def faults(error: ValidationError) -> str:
    """What is wrong with what was given, without repeating it."""
    return "; ".join(_fault(one["loc"], _said(one)) for one in error.errors(include_input=False)[:FAULTS_MAX])


def _said(one: ErrorDetails) -> str:
    """What pydantic says; but of a text that a validator looked at first it says that it has items."""
    known = one.get("ctx", {})
    if one["type"] not in ("too_short", "too_long") or known.get("field_type") != "Value":
        return one["msg"]
    bound, length = (
        ("at least", known["min_length"]) if one["type"] == "too_short" else ("at most", known["max_length"])
    )
    return f"string should have {bound} {length} character{'' if length == 1 else 's'}"


def _fault(place: tuple[int | str, ...], message: str) -> str:
    # The place may be a key of the client's own.
    name = ".".join(str(part) for part in place)
    message = message.removeprefix("Value error, ")
    named = name if name.isascii() and name.isprintable() and len(name) <= 64 else shown(name)
    return f"{named}: {message[0].lower()}{message[1:]}" if named else message


def encoded(answer: Answer | bytes) -> bytes:
    """An answer as JSON: bytes are that already; of a model what was said."""
    return answer if isinstance(answer, bytes) else orjson.dumps(answer.model_dump(exclude_unset=True))
