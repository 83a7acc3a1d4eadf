"""Answers are kept under the keys of requests, so that who repeats one gets the first answer."""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

TABLES = (
    """
    CREATE TABLE idempotency (
      mid BIGINT NOT NULL,
      role TEXT NOT NULL,
      key TEXT NOT NULL,
      request BYTEA NOT NULL,
      claim UUID NOT NULL,
      claimed_until TIMESTAMP WITH TIME ZONE NOT NULL,
      expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
      status SMALLINT,
      answer BYTEA,
      CONSTRAINT idempotency_pkey PRIMARY KEY (mid, role, key)
    );
    COMMENT ON COLUMN idempotency.mid IS 'whose key it is; 0 is that of services';
    COMMENT ON COLUMN idempotency.request IS 'digest of the verb and its arguments';
    COMMENT ON COLUMN idempotency.claim IS 'of the request that runs, or ran';
    COMMENT ON COLUMN idempotency.claimed_until IS 'a claim without an answer ends by itself';
    COMMENT ON COLUMN idempotency.status IS 'of the answer; without one it is under way'
    """,
    "CREATE INDEX idempotency_expires_at_idx ON idempotency (expires_at)",
)


def upgrade() -> None:
    for block in TABLES:
        for statement in block.split(";\n"):
            op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE idempotency")
