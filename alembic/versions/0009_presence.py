"""Each person chooses who may see whether it is online, and it is known when it was last heard of.

Last seen begins empty: a rebuild of `seen` fills it from the log.
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

TABLES = (
    """
    CREATE TABLE visibility (
      mid BIGINT NOT NULL,
      choice TEXT NOT NULL,
      CONSTRAINT visibility_pkey PRIMARY KEY (mid)
    );
    COMMENT ON COLUMN visibility.choice IS 'contacts or nobody'
    """,
    """
    CREATE TABLE seen (
      mid BIGINT NOT NULL,
      at_ms BIGINT NOT NULL,
      CONSTRAINT seen_pkey PRIMARY KEY (mid)
    ) WITH (fillfactor = 70);
    COMMENT ON COLUMN seen.at_ms IS 'milliseconds since 1970'
    """,
)


def upgrade() -> None:
    for block in TABLES:
        for statement in block.split(";\n"):
            op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE seen")
    op.execute("DROP TABLE visibility")
    op.execute("DELETE FROM checkpoints WHERE projection = 'seen'")
