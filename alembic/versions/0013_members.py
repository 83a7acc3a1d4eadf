"""In slow mode everybody is told the rest of the time.

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

# A send before this batch counts first: while that is too near, nothing of the batch is a send. Else it is one of the batch itself.
BEFORE = "WHEN before > 0 THEN gap_ms ELSE gap_ms - greatest(since_ms, 0) END AS fact"
AFTER = "WHEN since_ms < gap_ms THEN gap_ms - greatest(since_ms, 0) ELSE gap_ms END AS fact"


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")  # everybody who appends waits behind this
    _replace(_append().replace(BEFORE, AFTER))


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    _replace(_append())


def _append() -> str:
    append: str = runpy.run_path(str(Path(__file__).with_name("0006_rooms.py")))["APPEND"]
    assert append.count(BEFORE) == 1, "it is the function of 0006, in which one line is another"
    return append


def _replace(append: str) -> None:
    op.execute(text(append.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION").replace(":", "\\:")))
