"""Passwords as Argon2id hashes, made and compared in a few threads, with a line that is bounded.

A hash is made to be slow: with the defaults (19 MiB, 2 passes, 1 lane; the least that OWASP names) 20 to 30 ms of one core, so that two
threads do 60 and more a second. It runs beside the loop, not in it, and at low priority, so that messages do not wait for logins. Who
would stand too far back in the line is told at once when to come back. No reconnect ever comes here: a token is verified in 0.1 ms.

The trap: an unknown name must take as long as a known one, or names can be tried out. So it is compared with a hash of nobody's.
"""

from __future__ import annotations

import asyncio
import os
import threading
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from imcore.config import Settings
from imcore.errors import BadRequest, Overloaded
from imcore.paces import Line

CHARACTERS_MIN: Final = 8
BYTES_MAX: Final = 512
NICENESS: Final = 5
FIRST_GUESS_S: Final = 0.03  # of one hash, before one was made
WEIGHT: Final = 0.1  # of the newest, in the average

T = TypeVar("T")


def check_password(password: str) -> str:
    """The password in its one form (NFKC), if it can be one. Raises BadRequest."""
    password = unicodedata.normalize("NFKC", password)
    if len(password) < CHARACTERS_MIN:
        raise BadRequest(f"a password has at least {CHARACTERS_MIN} characters")
    if len(password.encode(errors="replace")) > BYTES_MAX:
        raise BadRequest(f"a password has at most {BYTES_MAX} bytes")
    return password


class Passwords:
    """Makes hashes and compares with them. `close` waits for those under way.

    At most `password_threads` at a time and `password_queue_max` in line; beyond that Overloaded, at once.
    """

    def __init__(self, settings: Settings) -> None:
        self._hasher = PasswordHasher(
            time_cost=settings.password_passes,
            memory_cost=max(settings.password_memory_kib, 8 * settings.password_lanes),
            parallelism=settings.password_lanes,
        )
        self._threads = settings.password_threads
        self._queue_max = settings.password_queue_max
        self._pool = ThreadPoolExecutor(self._threads, "passwords", _step_back)
        self._refused = Line()
        self._each_s = FIRST_GUESS_S
        self._nobodys = ""
        self.under_way = 0  # in a thread or in line; at most password_threads + password_queue_max
        self.refused = 0
        self.made = 0

    def check_room(self) -> None:
        """Is there room in the line? To be asked before the database is: who will be refused must cost nothing. Raises Overloaded."""
        if self.under_way >= self._threads + self._queue_max:
            self.refused += 1
            per_s = self._threads / self._each_s
            wait_s = self.under_way / per_s + self._refused.join(asyncio.get_running_loop().time(), per_s)
            raise Overloaded("too many are logging in", retry_after_ms=int(wait_s * 1000) + 1)

    @property
    def is_busy(self) -> bool:
        """Would the next one have to wait?"""
        return self.under_way >= self._threads

    async def hash(self, password: str) -> str:
        """A hash of it, with a salt of its own. Raises Overloaded."""
        return await self._run(lambda: self._hasher.hash(password))

    async def is_right(self, hash_: str | None, password: str) -> bool:
        """Is this the password? None is the hash of nobody: false, and no sooner than else. Raises Overloaded."""
        return await self._run(lambda: self._compare(hash_, password))

    def is_outdated(self, hash_: str) -> bool:
        """Was it made with other parameters than those of today?"""
        return self._hasher.check_needs_rehash(hash_)

    def close(self) -> None:
        """Take nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _compare(self, hash_: str | None, password: str) -> bool:
        if hash_ is None:
            if not self._nobodys:
                self._nobodys = self._hasher.hash(os.urandom(16))
            hash_ = self._nobodys
        try:
            return self._hasher.verify(hash_, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        self.check_room()
        self.under_way += 1
        try:
            began = threading.Event()
            started = 0.0

            def timed() -> T:
                nonlocal started
                started = loop.time()
                began.set()
                return work()

            result = await loop.run_in_executor(self._pool, timed)
            self.made += 1
            self._each_s += (loop.time() - started - self._each_s) * WEIGHT
            return result
        finally:
            self.under_way -= 1


def _step_back() -> None:
    """This thread waits for those that carry messages. (In Linux a thread has a priority of its own.)"""
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
