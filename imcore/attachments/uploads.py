"""Files on their way in: looked at as they come, bounded, and in the store or not at all.

The type is checked on the first bytes, before anything is written; size and time while they come. Nothing waits: who comes when too
many are under way is told so at once.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from imcore.attachments import kinds
from imcore.attachments.kinds import HEAD_BYTES, Extent
from imcore.attachments.store import Store
from imcore.config import Settings
from imcore.errors import BadRequest, TooLarge, UploadTimeout
from imcore.places import Places

SNIFFED_BYTES: Final = 64  # enough for every signature


class Taken(NamedTuple):
    """What is in the store now."""

    media_type: str
    size: int
    sha256: str
    extent: Extent | None


class Uploads(Places[int]):
    """The uploads of this process, by person."""

    def __init__(self, settings: Settings, store: Store) -> None:
        super().__init__("uploads of this user")
        self._settings = settings
        self._store = store
        self.taken = 0

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
        settings = self._settings
        per_user = settings.attachment_uploads_per_user_max if mid and settings.rate_limits else None
        # Each is an HTTP request under way, too.
        with self.hold(mid, settings.attachment_uploads_max, per_user):
            file = _Passing(self, plain)
            try:
                async with asyncio.timeout(settings.attachment_upload_s):
                    await self._store.put(id_, file.pieces(chunks, size))
            except TimeoutError:
                raise UploadTimeout from None
        self.taken += 1
        head = bytes(file.head)
        return Taken(file.media_type, file.size, file.digest.hexdigest(), kinds.extent(file.media_type, head))

    def _check_size(self, size: int) -> None:
        if size > self._settings.attachment_bytes_max:
            raise TooLarge(f"a file may have {self._settings.attachment_bytes_max} bytes")


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
