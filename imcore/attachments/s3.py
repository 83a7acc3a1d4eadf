"""Attachments in a bucket of anything that speaks S3 (AWS, MinIO, Garage, Ceph, SeaweedFS).

Over aiobotocore, which is botocore over aiohttp: its signatures, retries, regions, styles of addressing and ways to find credentials
are those that every S3-compatible store is tested against, and the aio-libs organization keeps it in step. (miniopy-async knows one
store's ways and has one author; signing by hand with botocore's signer needs the same dependency, and leaves the retries and the
errors to us.) It is an extra, `imcore[s3]`, imported only when a bucket is configured.

A signature covers the bytes, so they are sent in parts that are held in memory: one part (`PART_BYTES`) an upload. What fits into one
part is one PUT; more is a multipart upload, which is aborted when it does not come to its end, and swept when nobody was left to
abort it.

The trap: most stores bill unfinished uploads. `tidy` aborts them; a lifecycle rule on the bucket does so too, for when imcore is off.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from imcore.attachments.store import ID_CHARACTERS, PIECE_BYTES, Kept, is_id
from imcore.errors import BadConfiguration, StoreUnavailable

if TYPE_CHECKING:
    from imcore.config import Settings

log = logging.getLogger(__name__)

PART_BYTES: Final = 5 * 2**20  # the least that S3 takes for a part that is not the last
CONNECTIONS_MAX: Final = 64
CONNECT_S, READ_S = 5.0, 30.0
ABORT_S: Final = 10.0
# Who waits for a store that stands still is told so: three tries of READ_S are longer than anybody waits. A request that carries a part
# has longer, since 5 MiB take a minute over a line that is slow for a store, and so has one that puts them together, which is work.
ANSWER_S, CARRY_S, COMPLETE_S = 10.0, 60.0, 120.0
START_S: Final = 5.0  # a start waits no longer for a store that does not answer
ABSENT: Final = frozenset(("NoSuchKey", "404", "NotFound"))
GONE: Final = frozenset(("NoSuchUpload", "404", "NotFound"))
HEXADECIMAL: Final = "0123456789abcdef"


class Bucket:
    """A `Store` in a bucket, under `prefix`; see there for what it promises. `opened` makes one."""

    def __init__(self, client: Any, bucket: str, prefix: str, stack: AsyncExitStack) -> None:
        self._client = client  # botocore makes its classes at run time: there is no type to name
        self._bucket = bucket
        self._prefix = prefix
        self._stack = stack

    @classmethod
    async def opened(cls, settings: Settings) -> Bucket:
        """A store in the bucket of these settings. Raises BadConfiguration when it says that there is none, or that we may not.

        A store that does not answer at all is no reason not to start: messages need none.
        """
        try:
            from aiobotocore.config import AioConfig
            from aiobotocore.session import get_session
        except ModuleNotFoundError:
            raise BadConfiguration("s3_bucket is set, and that needs: pip install 'imcore[s3]'") from None
        assert settings.s3_bucket is not None, "whoever calls this has looked"
        config = AioConfig(
            connect_timeout=CONNECT_S,
            read_timeout=READ_S,
            max_pool_connections=CONNECTIONS_MAX,
            retries={"mode": "standard", "max_attempts": 3},
            s3={"addressing_style": settings.s3_addressing},
            # Newer botocore adds checksums that not every store knows; signatures cover the bytes, and TLS the answers.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(
                get_session().create_client(
                    "s3",
                    endpoint_url=settings.s3_endpoint,
                    region_name=settings.s3_region,
                    aws_access_key_id=settings.s3_access_key,
                    aws_secret_access_key=settings.s3_secret_key,
                    config=config,
                )
            )
            bucket = cls(client, settings.s3_bucket, settings.s3_prefix, stack.pop_all())
        try:
            async with asyncio.timeout(START_S):
                await bucket._check()
        except (StoreUnavailable, TimeoutError) as error:
            log.warning("the store of attachments does not answer yet: %s", error)
        except BaseException:
            await bucket.close()
            raise
        return bucket

    async def _check(self) -> None:
        from botocore.exceptions import ClientError

        try:
            async with _working():
                await self._client.head_bucket(Bucket=self._bucket)
        except ClientError as error:
            raise BadConfiguration(f"the bucket {self._bucket} cannot be used: {_code(error)}") from None

    async def put(self, id_: str, pieces: AsyncIterator[bytes]) -> None:
        """See Store."""
        key = self._key(id_)
        parts = _parts(pieces)
        first = await anext(parts, b"")
        if len(first) < PART_BYTES:
            async with _working(CARRY_S, strict=True):
                await self._client.put_object(Bucket=self._bucket, Key=key, Body=first)
            return
        async with _working(strict=True):
            begun = await self._client.create_multipart_upload(Bucket=self._bucket, Key=key)
        upload = {"Bucket": self._bucket, "Key": key, "UploadId": begun["UploadId"]}
        done: list[dict[str, object]] = []
        try:
            part = first
            while part:
                async with _working(CARRY_S, strict=True):
                    answer = await self._client.upload_part(**upload, PartNumber=len(done) + 1, Body=part)
                done.append({"PartNumber": len(done) + 1, "ETag": answer["ETag"]})
                part = await anext(parts, b"")
            async with _working(COMPLETE_S, strict=True):
                await self._client.complete_multipart_upload(**upload, MultipartUpload={"Parts": done})
        except BaseException:
            # A cancellation too. What cannot be aborted now is swept later.
            with suppress(StoreUnavailable, TimeoutError):
                async with asyncio.timeout(ABORT_S):
                    await asyncio.shield(self._abort(upload))
            raise

    async def get(self, id_: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """See Store."""
        from botocore.exceptions import ClientError

        if start >= end:
            if not await self.exists(id_):
                raise KeyError(id_)
            return
        try:
            async with _working():
                answer = await self._client.get_object(
                    Bucket=self._bucket, Key=self._key(id_), Range=f"bytes={start}-{end - 1}"
                )
        except ClientError as error:
            if _code(error) in ABSENT:
                raise KeyError(id_) from None
            raise StoreUnavailable(f"the store of attachments says {_code(error)}") from error
        left = end - start
        async with answer["Body"] as body:
            while left > 0:
                async with _working(READ_S):
                    piece: bytes = await body.read(min(PIECE_BYTES, left))
                if not piece:
                    raise StoreUnavailable("the store of attachments gave less than it has")
                left -= len(piece)
                yield piece

    async def exists(self, id_: str) -> bool:
        """See Store."""
        from botocore.exceptions import ClientError

        try:
            async with _working():
                await self._client.head_object(Bucket=self._bucket, Key=self._key(id_))
        except ClientError as error:
            if _code(error) in ABSENT:
                return False
            raise StoreUnavailable(f"the store of attachments says {_code(error)}") from error
        return True

    async def delete(self, id_: str) -> None:
        """See Store."""
        async with _working(strict=True):
            await self._client.delete_object(Bucket=self._bucket, Key=self._key(id_))

    async def page(self, after: str, limit: int) -> list[Kept]:
        """See Store."""
        asked: dict[str, object] = {"Bucket": self._bucket, "Prefix": self._prefix, "MaxKeys": min(limit, 1_000)}
        begins: str | None = after
        while begins is not None:
            if begins:
                asked["StartAfter"] = self._prefix + begins
            async with _working(strict=True):
                answer = await self._client.list_objects_v2(**asked)
            found = [
                Kept(one["Key"].removeprefix(self._prefix), one["LastModified"].timestamp())
                for one in answer.get("Contents", ())
            ]
            ours = [one for one in found if is_id(one.id)]
            if ours or not found or not answer.get("IsTruncated"):
                return ours
            begins = beyond(found[-1].id)  # all of them somebody else's
        return []

    async def tidy(self, before_s: float) -> int:
        """See Store."""
        asked: dict[str, object] = {"Bucket": self._bucket, "Prefix": self._prefix}
        markers: tuple[str, str] = ("", "")  # the key, and the upload of it, after which a page begins
        dropped = 0
        while True:
            async with _working(strict=True):
                answer = await self._client.list_multipart_uploads(**asked)
            for one in answer.get("Uploads", ()):
                if one["Initiated"].timestamp() < before_s and is_id(one["Key"].removeprefix(self._prefix)):
                    await self._abort({"Bucket": self._bucket, "Key": one["Key"], "UploadId": one["UploadId"]})
                    dropped += 1
            next_ = (answer.get("NextKeyMarker", ""), answer.get("NextUploadIdMarker", ""))
            if not answer.get("IsTruncated") or next_ in (markers, ("", "")):  # where it begins anew there is no end
                return dropped
            markers = next_
            asked["KeyMarker"] = markers[0]
            if markers[1]:
                asked["UploadIdMarker"] = markers[1]

    async def close(self) -> None:
        """See Store."""
        await self._stack.aclose()

    def _key(self, id_: str) -> str:
        assert is_id(id_), "callers check what clients say before it becomes a key"
        return self._prefix + id_

    async def _abort(self, upload: dict[str, Any]) -> None:
        from botocore.exceptions import ClientError

        try:
            async with _working():
                await self._client.abort_multipart_upload(**upload)
        except ClientError as error:
            if _code(error) not in GONE:
                raise StoreUnavailable(f"the store of attachments says {_code(error)}") from error


@asynccontextmanager
async def _working(within_s: float | None = None, *, strict: bool = False) -> AsyncIterator[None]:
    """What goes wrong on the way becomes StoreUnavailable; with `strict` what the store itself says does too.

    So does what is not done within so long (`ANSWER_S`), all of botocore's tries included. That is for one request, or for one piece of
    an answer: a file takes as many of them as it has parts."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        async with asyncio.timeout(ANSWER_S if within_s is None else within_s):
            yield
    except (BotoCoreError, aiohttp.ClientError, TimeoutError, OSError) as error:
        raise StoreUnavailable(f"the store of attachments does not answer: {type(error).__name__}") from error
    except ClientError as error:
        if not strict:
            raise
        raise StoreUnavailable(f"the store of attachments says {_code(error)}") from error


def beyond(name: str) -> str | None:
    """After which text to go on looking for ids, come to this one that is none; None if no id can follow.

    It is `name` or comes after it, and no id lies between the two, nor is it one. Whole folders of others are passed at once: after
    `2026/01/a.jpg` comes 20260, because nothing that begins with `2026/` is an id.
    """
    head = name[: len(name) - len(name.lstrip(HEXADECIMAL))]
    if head == name or len(head) >= ID_CHARACTERS - 1:  # what follows may be a whole id
        return name
    if name[len(head)] < "0":
        return head + "0"
    if name[len(head)] < "a":
        return head + "a"
    left = head.rstrip("f")
    return left[:-1] + HEXADECIMAL[HEXADECIMAL.index(left[-1]) + 1] if left else None


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", "nothing"))


async def _parts(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in parts of exactly `PART_BYTES`, but for the last."""
    gathered = bytearray()
    async for piece in pieces:
        gathered += piece
        while len(gathered) >= PART_BYTES:
            yield bytes(gathered[:PART_BYTES])
            del gathered[:PART_BYTES]
    if gathered:
        yield bytes(gathered)
