"""Files on their way in: looked at as they come, bounded, and in the store or not at all.

The type is checked on the first bytes, before anything is written; size and time while they come. Nothing waits: who comes when too
many are under way is told so at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from imcore.attachments import kinds
from imcore.attachments.kinds import HEAD_BYTES, Extent
from imcore.attachments.store import Store
from imcore.config import Settings
from imcore.errors import BadRequest, Overloaded, RateLimited, TooLarge, UploadTimeout

RETRY_MS_MAX: Final = 5_000
SNIFFED_BYTES: Final = 64  # enough for every signature


class Taken(NamedTuple):
    """What is in the store now."""

    media_type: str
    size: int
    sha256: str
    extent: Extent | None


class Uploads:
    """The uploads of this process."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        # Each is an HTTP request under way; attachment_uploads_max and attachment_uploads_per_user_max bound them.
        self._by_person: Counter[int] = Counter()
        self.under_way = 0
        self.taken = 0
        self.refused = 0

    async def take(
        self, id_: str, mid: int, chunks: AsyncIterator[bytes], *, declared: str, size: int | None = None
    ) -> Taken:
        """Put these bytes into the store under this id. When it returns they are durable; when it raises nothing is kept.

        Raises TooLarge, WrongType, BadRequest (less than `size`), UploadTimeout, Overloaded, RateLimited (too many of this person's
        at once), StoreUnavailable, and what `chunks` raises.
        """
        plain = kinds.media_type(declared)
        kinds.check_allowed(plain, self._settings.attachment_types)
        if size is not None:
            self._check_size(size)
        with self._place(mid):
            file = _Passing(self, plain)
            try:
                async with asyncio.timeout(self._settings.attachment_upload_s):
                    await self._store.put(id_, file.pieces(chunks, size))
            except TimeoutError:
                raise UploadTimeout from None
        self.taken += 1
        head = bytes(file.head)
        return Taken(file.media_type, file.size, file.digest.hexdigest(), kinds.extent(file.media_type, head))

    def _check_size(self, size: int) -> None:
        if size > self._settings.attachment_bytes_max:
            raise TooLarge(f"a file may have {self._settings.attachment_bytes_max} bytes")

    @contextmanager
    def _place(self, mid: int) -> Iterator[None]:
        settings = self._settings
        if self.under_way >= settings.attachment_uploads_max:
            self.refused += 1
            raise Overloaded(retry_after_ms=random.randrange(1_000, RETRY_MS_MAX))
        if mid and settings.rate_limits and self._by_person[mid] >= settings.attachment_uploads_per_user_max:
            self.refused += 1
            raise RateLimited("too many uploads of this user at once", retry_after_ms=1_000)
        self.under_way += 1
        self._by_person[mid] += 1
        try:
            yield
        finally:
            self.under_way -= 1
            self._by_person[mid] -= 1
            if not self._by_person[mid]:
                del self._by_person[mid]


class _Passing:
    """What is learnt of a file while it passes."""

    def __init__(self, uploads: Uploads, declared: str) -> None:
        self._uploads = uploads
        self._declared = declared
        self.media_type = ""
        self.head = bytearray()
        self.size = 0
        self.digest = hashlib.sha256()

    async def pieces(self, chunks: AsyncIterator[bytes], size: int | None) -> AsyncIterator[bytes]:
        """The same bytes, once it is known that they may pass."""
        held = bytearray()  # until the type is known
        async for chunk in chunks:
            self.size += len(chunk)
            self._uploads._check_size(self.size)
            self.digest.update(chunk)  # 0.1 ms for the 64 KiB that come at once; a turn in a thread would cost as much
            if len(self.head) < HEAD_BYTES:
                self.head += chunk[: HEAD_BYTES - len(self.head)]
            if self.media_type:
                yield chunk
                continue
            held += chunk
            if len(held) >= SNIFFED_BYTES:
                self._recognize()
                yield bytes(held)
        if size is not None and self.size != size:
            raise BadRequest(f"the file was to have {size} bytes, and {self.size} came")
        if not self.media_type:
            self._recognize()
            yield bytes(held)

    def _recognize(self) -> None:
        self.media_type = kinds.recognized(self._declared, bytes(self.head))
        kinds.check_allowed(self.media_type, self._uploads._settings.attachment_types)
