"""It is known where a log is at home, which epochs went before, and who left which room."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TABLES = (
    """
    ALTER TABLE log_head ADD COLUMN line TEXT;
    COMMENT ON COLUMN log_head.line IS 'system identifier and timeline of the Postgres that it is on'
    """,
    """
    CREATE TABLE former_epochs (
      epoch TEXT NOT NULL,
      upto BIGINT NOT NULL,
      ended_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
      CONSTRAINT former_epochs_pkey PRIMARY KEY (epoch)
    );
    COMMENT ON COLUMN former_epochs.upto IS 'its positions are good up to here'
    """,
    """
    CREATE TABLE departures (
      mid BIGINT NOT NULL,
      room TEXT NOT NULL,
      position BIGINT NOT NULL,
      by BIGINT NOT NULL,
      removed BOOLEAN NOT NULL,
      CONSTRAINT departures_pkey PRIMARY KEY (mid, room)
    );
    COMMENT ON COLUMN departures.position IS 'of the leaving or the removal';
    COMMENT ON COLUMN departures.by IS 'who did it';
    COMMENT ON COLUMN departures.removed IS 'somebody else did it'
    """,
)


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")  # every append waits for who waits for log_head
    for block in TABLES:
        for statement in block.split(";\n"):
            op.execute(statement)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    op.execute("DROP TABLE departures")
    op.execute("DROP TABLE former_epochs")
    op.execute("ALTER TABLE log_head DROP COLUMN line")
