"""In how many rooms each person is, and in slow mode everybody is told the rest of the time.

`room_counts` is filled from the memberships that there are. Code before this revision does not keep it: where both ran at the same
time, `imcore rebuild room_counts` puts it right.

Of several sends of a member that come too soon in one batch, all but the first were told the whole of the room's time, as if the first
had been sent. The function keeps its arguments: the code before this revision goes on calling it.
"""

from __future__ import annotations

import runpy
from pathlib import Path

from alembic import op
from sqlalchemy import text

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

TABLES = (
    "SELECT position FROM log_head FOR UPDATE",  # nobody appends, so nobody joins or leaves
    """
    CREATE TABLE room_counts (
      mid BIGINT NOT NULL,
      rooms BIGINT NOT NULL,
      CONSTRAINT room_counts_pkey PRIMARY KEY (mid)
    ) WITH (fillfactor = 70)
    """,
    "INSERT INTO room_counts (mid, rooms) SELECT mid, count(*) FROM members GROUP BY mid",
    "CREATE INDEX rooms_dismissed_idx ON rooms (room) WHERE dismissed > 0",
)

# A send before this batch counts first: while that is too near, nothing of the batch is a send. Else it is one of the batch itself.
BEFORE = "WHEN before > 0 THEN gap_ms ELSE gap_ms - greatest(since_ms, 0) END AS fact"
AFTER = "WHEN since_ms < gap_ms THEN gap_ms - greatest(since_ms, 0) ELSE gap_ms END AS fact"


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")  # everybody who appends waits behind this
    for statement in TABLES:
        op.execute(statement)
    _replace(_append().replace(BEFORE, AFTER))


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    _replace(_append())
    op.execute("DROP INDEX rooms_dismissed_idx")
    op.execute("DROP TABLE room_counts")


def _append() -> str:
    append: str = runpy.run_path(str(Path(__file__).with_name("0006_rooms.py")))["APPEND"]
    assert append.count(BEFORE) == 1, "it is the function of 0006, in which one line is another"
    return append


def _replace(append: str) -> None:
    op.execute(text(append.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION").replace(":", "\\:")))
