"""Who leaves a room and joins it again is muted still: mutes are kept beside the memberships, which end.

`mutes` is filled from the memberships that there are. Code before this revision does not keep it: where both ran at the same time, and
for people who were muted and out of the room by then, `imcore rebuild mutes` makes the rows what the log says.
"""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

TABLES = (
    "SELECT position FROM log_head FOR UPDATE",  # nobody appends, so nobody is muted
    """
    CREATE TABLE mutes (
      room TEXT NOT NULL,
      mid BIGINT NOT NULL,
      until_ms BIGINT NOT NULL,
      CONSTRAINT mutes_pkey PRIMARY KEY (room, mid)
    )
    """,
    "COMMENT ON COLUMN mutes.until_ms IS 'milliseconds since 1970'",
    "INSERT INTO mutes (room, mid, until_ms) SELECT room, mid, muted_until_ms FROM members WHERE muted_until_ms > 0",
)


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")  # everybody who appends waits behind this
    for statement in TABLES:
        op.execute(statement)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("DROP TABLE mutes")
