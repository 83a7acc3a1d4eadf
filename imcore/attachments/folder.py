"""Attachments in a folder: `<root>/<first two digits>/<id>`.

A file is written beside (`.<id>.<random>` in the same shard), flushed to disk, linked to its name, and the shard is flushed: under
its name it is there whole or not at all, after a loss of power too. Ids are hexadecimal, so no path leads out of the folder, and files
are made readable by nobody else.

Files have no asynchronous interface, so this is the one place that works in threads: a few of them (`THREADS`), each for one piece of
one file at a time. More who want something wait in line; they are bounded by the uploads and requests under way.

The trap: several machines need one folder (NFS or the like) that flushes and links as a local one does, or S3.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final, TypeVar

from imcore.attachments.store import PIECE_BYTES, Kept, is_id
from imcore.errors import BadConfiguration, StoreUnavailable
from imcore.flushing import flush_folder

THREADS: Final = 4
SHARDS: Final = tuple(f"{number:02x}" for number in range(256))

T = TypeVar("T")


class Folder:
    """A `Store` in a folder; see there for what it promises. The folder is made when it is needed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        # Its line is bounded by who may ask: each upload and each answer has one piece of work here at a time.
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="attachments")

    async def check(self) -> None:
        """Can it be written to? Raises BadConfiguration."""
        try:
            await self._work(_probe, self._root)
        except StoreUnavailable as error:
            raise BadConfiguration(f"{self._root}: {error.detail}") from None

    async def put(self, id_: str, pieces: AsyncIterator[bytes]) -> None:
        """See Store."""
        path = self._path(id_)
        file = _File(path.with_name(f".{id_}.{secrets.token_hex(8)}"))
        try:
            await self._work(file.create)
            async for piece in _gathered(pieces):
                await self._work(file.write, piece)
            await self._work(file.settle, path)
        finally:
            await self._work(file.discard)

    async def get(self, id_: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """See Store."""
        file = _File(self._path(id_))
        try:
            await self._work(file.open)
            while start < end:
                piece = await self._work(file.read, min(PIECE_BYTES, end - start), start)
                if not piece:
                    raise StoreUnavailable("the file is shorter than it was")
                start += len(piece)
                yield piece
        except FileNotFoundError:
            raise KeyError(id_) from None
        finally:
            file.close()  # of a file that was only read: nothing waits for a disk

    async def exists(self, id_: str) -> bool:
        """See Store."""
        return await self._work(self._path(id_).exists)

    async def delete(self, id_: str) -> None:
        """See Store."""
        await self._work(_delete, self._path(id_))

    async def page(self, after: str, limit: int) -> list[Kept]:
        """See Store."""
        return await self._work(self._page, after, limit)

    async def tidy(self, before_s: float) -> int:
        """See Store."""
        return await self._work(self._tidy, before_s)

    async def close(self) -> None:
        """See Store."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _path(self, id_: str) -> Path:
        assert is_id(id_), "callers check what clients say before it becomes a path"
        return self._root / id_[:2] / id_

    async def _work(self, function: Callable[..., T], *arguments: object) -> T:
        """In a thread of ours; what the disk refuses becomes StoreUnavailable.

        A thread is not stopped by a cancellation. So that nothing runs beside the cleaning up, it comes when the thread is done.
        """
        future = asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            while not future.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([future])
            if not future.cancelled():
                future.exception()  # nobody hears of it any more
            raise
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreUnavailable(f"the folder of attachments does not work: {error.strerror}") from error

    def _page(self, after: str, limit: int) -> list[Kept]:
        found: list[Kept] = []
        for shard in SHARDS:
            if shard < after[:2]:
                continue
            for name in sorted(name for name in self._names(shard) if is_id(name) and name > after):
                with suppress(FileNotFoundError):
                    found.append(Kept(name, (self._root / shard / name).stat().st_mtime))
                if len(found) == limit:
                    return found
        return found

    def _tidy(self, before_s: float) -> int:
        dropped = 0
        for shard in SHARDS:
            for name in self._names(shard):
                path = self._root / shard / name
                if name.startswith("."):
                    with suppress(FileNotFoundError):
                        if path.stat().st_mtime < before_s:
                            path.unlink()
                            dropped += 1
        return dropped

    def _names(self, shard: str) -> Iterator[str]:
        with suppress(FileNotFoundError), os.scandir(self._root / shard) as entries:
            yield from (entry.name for entry in entries)


async def _gathered(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in larger pieces: a turn in a thread costs more than copying what fits into it."""
    gathered = bytearray()
    async for piece in pieces:
        gathered += piece
        if len(gathered) >= PIECE_BYTES:
            yield bytes(gathered)
            gathered.clear()
    if gathered:
        yield bytes(gathered)


class _File:
    """One file that is written or read, a piece at a time; each method is called in a thread, one after the other."""

    __slots__ = ("_descriptor", "_path")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def create(self) -> None:
        shard = self._path.parent
        if not shard.exists():
            shard.mkdir(parents=True, mode=0o700, exist_ok=True)
            flush_folder(shard.parent)
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)

    def write(self, piece: bytes) -> None:
        view = memoryview(piece)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def settle(self, path: Path) -> None:
        os.fsync(self._descriptor)
        os.link(self._path, path)
        flush_folder(path.parent)

    def discard(self) -> None:
        """Away with what was written beside, whether it was linked to its name or not."""
        if self._descriptor >= 0:
            self.close()
            self._path.unlink(missing_ok=True)

    def open(self) -> None:
        self._descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW)

    def read(self, size: int, at: int) -> bytes:
        return os.pread(self._descriptor, size, at)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _probe(root: Path) -> None:
    root.mkdir(parents=True, mode=0o700, exist_ok=True)
    with TemporaryFile(dir=root):
        pass


def _delete(path: Path) -> None:
    try:
        path.unlink()
    except FileNotFoundError:
        return
    flush_folder(path.parent)
