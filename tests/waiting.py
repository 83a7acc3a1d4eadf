"""Wait for a fact, never for a time: a test that sleeps is slow on a good day and wrong on a bad one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(ask: Callable[[], Awaitable[T]], seconds: float = 60) -> T:
    """Ask again and again until the answer is true, and return it.

    Raises AssertionError with the last answer, or the error that asking ended with, when the time is up.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            answer = await ask()
        except Exception:
            if time.monotonic() >= deadline:
                raise
        else:
            if answer:
                return answer
            assert time.monotonic() < deadline, f"still {answer!r} after {seconds} s"
        await asyncio.sleep(0.01)
