"""Who gives way when all connections together hold more unsent bytes than the process may: those who hold most. Pure.

A connection has a limit of its own, but ten thousand of them at their limits are ten gigabytes. So the sum is looked at: often while it
is large, seldom while it is small. Beyond the limit the largest give way, in three steps from look to look, so that a client that was
slow for a moment only waits. First it is written nothing more: it is behind, and reads from the log later. If it takes nothing then, it
is closed and told when to come back. And then it is cut, because what it does not take keeps the memory.

The trap: it must be the largest and not the slowest, nor the last who was written to. Everybody else in a room of a stalled client is
written to as well, and holds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

ENOUGH: Final = 0.75  # of the limit: so far down, so that not every look finds it reached again

K = TypeVar("K")


def giving_way(held: Mapping[K, int], most: int) -> list[K]:
    """Those who must give way, the largest first, so that the others hold no more than most of `most`. Nobody if all fit."""
    left = sum(held.values())
    if left <= most:
        return []
    found: list[K] = []
    for one in sorted(held, key=held.__getitem__, reverse=True):
        if left <= most * ENOUGH:
            break
        left -= held[one]
        found.append(one)
    return found
