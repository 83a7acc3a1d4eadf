"""Postgres as imcore needs it: found or started, safe to acknowledge from, with today's tables, and a pool to it.

Five ideas, a module each. `connections` opens connections, `safety` refuses a server that could lose what was acknowledged, and
`expiry` deletes rows that have expired; these are offered here. `embedded` runs the Postgres that comes in a wheel, and `migrations`
brings the tables up to date; they are imported by name, because what they import (psutil, Alembic) costs 0.2 s and not every process
needs it.

A database is named by a URL everywhere: `postgresql://user@host:5432/name`, or, over a Unix socket,
`postgresql://user@/name?host=/folder/of/the/socket`.
"""

from __future__ import annotations

from imcore.database.connections import (
    DATABASE_ERRORS,
    Connection,
    Opened,
    Pool,
    connect,
    count_statements,
    create_pool,
    heed_cancellation,
    place,
)
from imcore.database.expiry import sweep_expired
from imcore.database.safety import refuse_unsafe

__all__ = [
    "DATABASE_ERRORS",
    "Connection",
    "Opened",
    "Pool",
    "connect",
    "count_statements",
    "create_pool",
    "heed_cancellation",
    "place",
    "refuse_unsafe",
    "sweep_expired",
]
