"""An account remembers whether it was ever activated, so that the end of a suspension does not do it."""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE accounts ADD COLUMN activated BOOLEAN DEFAULT true NOT NULL",
    "COMMENT ON COLUMN accounts.activated IS 'it was active once; else the end of a suspension leaves it pending'",
    # As the log says it, and a rebuild would.
    """
    UPDATE accounts SET activated = false, state = CASE state WHEN 'active' THEN 'pending' ELSE state END
    WHERE mid IN (
      SELECT (body::jsonb->>'mid')::bigint FROM event_log
      WHERE type = 'account_registered' AND CASE type WHEN 'account_registered' THEN body::jsonb->>'active' = 'false' END
      EXCEPT SELECT (body::jsonb->>'mid')::bigint FROM event_log WHERE type = 'account_activated'
    )
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    op.execute("ALTER TABLE accounts DROP COLUMN activated")
