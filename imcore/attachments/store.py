"""The port to where the bytes are: a folder, or anything that speaks S3.

A store keeps bytes under ids. It knows nothing of rooms, names or types, and nothing in it is an attachment before the log says so.

The trap: bytes are a person's, and a store has no rights. Whoever can read its folder or bucket reads everything.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final, NamedTuple, Protocol

PIECE_BYTES: Final = 262_144  # what is read or written at a time
ID_CHARACTERS: Final = 32
_is_id = re.compile(rf"[0-9a-f]{{{ID_CHARACTERS}}}").fullmatch


class Kept(NamedTuple):
    """What lies in a store: an id, and when it was written, in seconds since 1970."""

    id: str
    written_s: float


class Store(Protocol):
    """Keeps bytes under ids: 32 lower-case hexadecimal digits, chosen at random by the caller (`is_id`).

    Every method but `close` raises StoreUnavailable when the store does not work, and may then have done what it was asked for or
    not. All may be called from many tasks at once, and none of them holds up the event loop.
    """

    async def put(self, id_: str, pieces: AsyncIterator[bytes]) -> None:
        """Keep these bytes. When it returns they are durable, and whole: nobody ever reads a part of them under this id.

        What `pieces` raises comes through, and so does a cancellation; nothing is kept then. No more than a part of the bytes (a
        piece, or what S3 takes at a time) is held in memory. An id is put once: again is a mistake of the caller's.
        """

    def get(self, id_: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` up to and without `end`, in pieces; `end` is no further than the end of them.

        Raises KeyError, with the first piece, if they are not there. Closing the iterator lets go of everything.
        """

    async def exists(self, id_: str) -> bool:
        """Are there bytes under this id?"""

    async def delete(self, id_: str) -> None:
        """They are gone when this returns; that they were not there is no error. Who reads them now may read on to their end."""

    async def page(self, after: str, limit: int) -> list[Kept]:
        """The next in order of id, after this one ("" begins), at most `limit`; none, only if there are no more. What is put or deleted
        meanwhile may be there or not. What others keep in the same place is passed over, however much it is."""

    async def tidy(self, before_s: float) -> int:
        """Drop what a `put` left that was killed before this time; how many. Those under way are younger, if the caller waits
        long enough."""

    async def close(self) -> None:
        """Let go of connections and threads; nothing is called after this."""


def is_id(text: str) -> bool:
    """Can this be an id? Only such a text ever becomes part of a path or a key."""
    return _is_id(text) is not None
