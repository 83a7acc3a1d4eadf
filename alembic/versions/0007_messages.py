"""What becomes of messages: edits and recalls (amendments), whom they name (mentions), threads, and which edits there were.

The rows are folded from events that no older program appends, so they begin empty, and the asynchronous ones with the checkpoint that
the runner gives them.
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TABLES = (
    """
    CREATE TABLE amendments (
      room TEXT NOT NULL,
      seq BIGINT NOT NULL,
      edits BIGINT NOT NULL,
      edited BIGINT NOT NULL,
      edited_ms BIGINT NOT NULL,
      format SMALLINT NOT NULL,
      body TEXT NOT NULL,
      recalled BIGINT NOT NULL,
      recalled_by BIGINT NOT NULL,
      CONSTRAINT amendments_pkey PRIMARY KEY (room, seq)
    );
    COMMENT ON COLUMN amendments.seq IS 'of the message, in the room';
    COMMENT ON COLUMN amendments.edits IS 'how many';
    COMMENT ON COLUMN amendments.edited IS 'position of the last edit, or 0';
    COMMENT ON COLUMN amendments.edited_ms IS 'its time, in milliseconds since 1970';
    COMMENT ON COLUMN amendments.format IS 'of body: 0 JSON, 1 text, 2 base64 of bytes';
    COMMENT ON COLUMN amendments.body IS 'how it reads since the last edit; empty once it is recalled';
    COMMENT ON COLUMN amendments.recalled IS 'position of the recall, or 0';
    COMMENT ON COLUMN amendments.recalled_by IS 'who recalled it';
    CREATE INDEX amendments_recalled_idx ON amendments (room, seq) WHERE recalled > 0
    """,
    """
    CREATE TABLE mentions (
      mid BIGINT NOT NULL,
      room TEXT NOT NULL,
      seq BIGINT NOT NULL,
      position BIGINT NOT NULL,
      by BIGINT NOT NULL,
      CONSTRAINT mentions_pkey PRIMARY KEY (mid, room, seq)
    );
    COMMENT ON COLUMN mentions.mid IS 'who is named; 0 is everybody in the room';
    COMMENT ON COLUMN mentions.by IS 'who sent the message'
    """,
    """
    CREATE TABLE threads (
      room TEXT NOT NULL,
      thread BIGINT NOT NULL,
      seq BIGINT NOT NULL,
      by BIGINT NOT NULL,
      CONSTRAINT threads_pkey PRIMARY KEY (room, thread, seq)
    );
    COMMENT ON COLUMN threads.thread IS 'seq of its first message';
    COMMENT ON COLUMN threads.by IS 'who sent the message'
    """,
    """
    CREATE TABLE edits (
      room TEXT NOT NULL,
      target BIGINT NOT NULL,
      seq BIGINT NOT NULL,
      by BIGINT NOT NULL,
      CONSTRAINT edits_pkey PRIMARY KEY (room, target, seq)
    );
    COMMENT ON COLUMN edits.target IS 'seq of the message';
    COMMENT ON COLUMN edits.seq IS 'of the edit';
    COMMENT ON COLUMN edits.by IS 'who made it'
    """,
)


def upgrade() -> None:
    for block in TABLES:
        for statement in block.split(";\n"):
            op.execute(statement)


def downgrade() -> None:
    for table in ("edits", "threads", "mentions", "amendments"):
        op.execute(f"DROP TABLE {table}")
    op.execute("DELETE FROM checkpoints WHERE projection IN ('mentions', 'threads', 'edits')")
