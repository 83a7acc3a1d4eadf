"""Files are attached to rooms: what each is, and how much each person has stored today."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE attachments (
      id TEXT NOT NULL,
      room TEXT NOT NULL,
      mid BIGINT NOT NULL,
      name TEXT NOT NULL,
      media_type TEXT NOT NULL,
      size BIGINT NOT NULL,
      sha256 TEXT NOT NULL,
      width BIGINT,
      height BIGINT,
      position BIGINT NOT NULL,
      stored_at_ms BIGINT NOT NULL,
      CONSTRAINT attachments_pkey PRIMARY KEY (id)
    )
    """,
    "CREATE INDEX attachments_room_idx ON attachments (room, position)",
    "COMMENT ON COLUMN attachments.mid IS 'who stored it'",
    "COMMENT ON COLUMN attachments.size IS 'bytes'",
    "COMMENT ON COLUMN attachments.width IS 'pixels, of a picture that says so'",
    "COMMENT ON COLUMN attachments.position IS 'of its event'",
    """
    CREATE TABLE uploads (
      mid BIGINT NOT NULL,
      day BIGINT NOT NULL,
      bytes BIGINT NOT NULL,
      CONSTRAINT uploads_pkey PRIMARY KEY (mid)
    ) WITH (fillfactor = 70)
    """,
    "COMMENT ON COLUMN uploads.day IS 'days since 1970, UTC'",
    "COMMENT ON COLUMN uploads.bytes IS 'stored on that day, removed or not'",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE uploads")
    op.execute("DROP TABLE attachments")
