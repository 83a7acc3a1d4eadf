"""Stream names are interned: the log holds a number, this holds what it means.

A name, once given a number, keeps it for ever, so both directions are cached without a way to go stale. The caches are bounded:
when one is full it is replaced by an empty one, which costs queries and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

import asyncpg

from imcore.database import Connection, Pool

OwnConnection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

__all__ = ["Connection", "Names", "OwnConnection", "Pool"]

NAMES_MAX: Final = 500_000

# New names get numbers; the order keeps two processes from waiting for each other.
INTERN = """
WITH missing AS (
  SELECT name FROM unnest($1::text[]) AS n(name)
  WHERE NOT EXISTS (SELECT 1 FROM streams WHERE streams.name = n.name) ORDER BY name)
INSERT INTO streams (name) SELECT name FROM missing ON CONFLICT (name) DO NOTHING
"""
IDS = "SELECT name, id FROM streams WHERE name = ANY($1::text[])"
NAMES = "SELECT name, id FROM streams WHERE id = ANY($1::bigint[])"


class Names:
    """Stream names by number and numbers by name, for one process.

    Whatever was asked for is there when the method returns, and until the caller awaits something else; `ids` and `names`, held
    on to, keep what they have.
    """

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}
        self.names: dict[int, str] = {}

    async def find(self, connection: Connection, names: Iterable[str]) -> None:
        """Learn the numbers of those names that have one."""
        asked = list(names)
        if wanted := [name for name in asked if name not in self.ids]:
            self._learn(await connection.fetch(IDS, wanted))
            # The caches may have been emptied meanwhile, by ourselves or by others, of what was there before.
            missing = {name for name in asked if name not in self.ids}
            if not missing.issubset(wanted):
                self._learn(await connection.fetch(IDS, asked))

    async def intern(self, connection: Connection, names: Iterable[str]) -> None:
        """Learn the numbers of all those names; new ones are given one."""
        asked = list(names)
        await self.find(connection, asked)
        if new := [name for name in asked if name not in self.ids]:
            await connection.execute(INTERN, new)
            await self.find(connection, asked)

    async def resolve(self, connection: Connection, ids: Iterable[int]) -> None:
        """Learn the names of those numbers."""
        asked = list(ids)
        if wanted := [number for number in asked if number not in self.names]:
            self._learn(await connection.fetch(NAMES, wanted))
            if any(number not in self.names for number in asked):
                self._learn(await connection.fetch(NAMES, asked))

    def _learn(self, rows: Iterable[asyncpg.Record]) -> None:
        if len(self.ids) > NAMES_MAX:
            self.ids, self.names = {}, {}  # not cleared: a batch may be at work with the old ones
        for name, number in rows:
            self.ids[name] = number
            self.names[number] = name
