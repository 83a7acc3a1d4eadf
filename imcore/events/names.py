"""Stream names are interned: the log holds a number, this holds what it means.

A name, once given a number, keeps it for ever, so both directions are cached without a way to go stale. The caches are bounded:
when one is full it is emptied, which costs queries and nothing else.
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
    """Stream names by number and numbers by name, for one process."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}
        self.names: dict[int, str] = {}

    async def find(self, connection: Connection, names: Iterable[str]) -> None:
        """Learn the numbers of those names that have one."""
        if wanted := [name for name in names if name not in self.ids]:
            self._learn(await connection.fetch(IDS, wanted))

    async def intern(self, connection: Connection, names: Iterable[str]) -> None:
        """Learn the numbers of all those names; new ones are given one."""
        if wanted := [name for name in names if name not in self.ids]:
            await self.find(connection, wanted)
            if new := [name for name in wanted if name not in self.ids]:
                await connection.execute(INTERN, new)
                await self.find(connection, new)

    async def resolve(self, connection: Connection, ids: Iterable[int]) -> None:
        """Learn the names of those numbers."""
        if wanted := [number for number in ids if number not in self.names]:
            self._learn(await connection.fetch(NAMES, wanted))

    def _learn(self, rows: Iterable[asyncpg.Record]) -> None:
        if len(self.ids) > NAMES_MAX:
            self.ids.clear()
            self.names.clear()
        for name, number in rows:
            self.ids[name] = number
            self.names[number] = name
