"""Rows that expire go, in bounded steps: no statement holds many of them, and any number of processes may sweep at once.

A table that is swept has a column `expires_at`; one that may hold many expired rows has an index over it.
"""

from __future__ import annotations

from typing import Final

from imcore.database.connections import Connection, Pool

SWEEP_ROWS_MAX: Final = 1_000  # in one statement

# The oldest first; what another process sweeps at this moment is not waited for.
SWEEP: Final = """
DELETE FROM {table} WHERE ctid = ANY (ARRAY(
  SELECT ctid FROM {table} WHERE expires_at <= now() - make_interval(days => $1) ORDER BY expires_at LIMIT $2
  FOR UPDATE SKIP LOCKED))
"""


async def sweep_expired(source: Connection | Pool, table: str, *, kept_days: int = 0) -> int:
    """Delete the rows of this table that expired, and were kept for `kept_days` beyond it; how many that were. In statements of at most
    SWEEP_ROWS_MAX rows."""
    swept = 0
    while True:
        deleted = int((await source.execute(SWEEP.format(table=table), kept_days, SWEEP_ROWS_MAX)).rpartition(" ")[2])
        swept += deleted
        if deleted < SWEEP_ROWS_MAX:
            return swept
