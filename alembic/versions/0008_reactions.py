"""Messages have reactions and readers, rooms have pins, and messages are found by their words."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

TABLES = (
    """
    CREATE TABLE reactions (
      room TEXT NOT NULL,
      seq BIGINT NOT NULL,
      reaction TEXT NOT NULL,
      mid BIGINT NOT NULL,
      position BIGINT NOT NULL,
      time_ms BIGINT NOT NULL,
      CONSTRAINT reactions_pkey PRIMARY KEY (room, seq, reaction, mid)
    );
    CREATE INDEX reactions_room_seq_position_idx ON reactions (room, seq, position);
    COMMENT ON COLUMN reactions.seq IS 'of the message';
    COMMENT ON COLUMN reactions.position IS 'of the event: those of a message are paged by it'
    """,
    """
    CREATE TABLE reaction_counts (
      room TEXT NOT NULL,
      seq BIGINT NOT NULL,
      reactions TEXT[] NOT NULL,
      counts BIGINT[] NOT NULL,
      CONSTRAINT reaction_counts_pkey PRIMARY KEY (room, seq)
    ) WITH (fillfactor = 70);
    COMMENT ON COLUMN reaction_counts.seq IS 'of the message';
    COMMENT ON COLUMN reaction_counts.counts IS 'of each of reactions; never 0'
    """,
    """
    CREATE TABLE pins (
      room TEXT NOT NULL,
      seq BIGINT NOT NULL,
      position BIGINT NOT NULL,
      by BIGINT NOT NULL,
      time_ms BIGINT NOT NULL,
      CONSTRAINT pins_pkey PRIMARY KEY (room, seq)
    );
    COMMENT ON COLUMN pins.seq IS 'of the message';
    COMMENT ON COLUMN pins.position IS 'of the pinning'
    """,
    """
    CREATE TABLE pin_counts (
      room TEXT NOT NULL,
      pins BIGINT NOT NULL,
      CONSTRAINT pin_counts_pkey PRIMARY KEY (room)
    )
    """,
    """
    CREATE TABLE receipts (
      room TEXT NOT NULL,
      mid BIGINT NOT NULL,
      since_seq BIGINT NOT NULL,
      read_seq BIGINT NOT NULL,
      time_ms BIGINT NOT NULL,
      CONSTRAINT receipts_pkey PRIMARY KEY (room, mid)
    ) WITH (fillfactor = 70);
    COMMENT ON COLUMN receipts.since_seq IS 'seq of the join';
    COMMENT ON COLUMN receipts.read_seq IS 'read mark; since_seq: nothing was marked since the join';
    COMMENT ON COLUMN receipts.time_ms IS 'when the mark was made'
    """,
    """
    CREATE TABLE search (
      room TEXT NOT NULL,
      seq BIGINT NOT NULL,
      mid BIGINT NOT NULL,
      time_ms BIGINT NOT NULL,
      position BIGINT NOT NULL,
      text_at BIGINT NOT NULL,
      words TEXT[] NOT NULL,
      CONSTRAINT search_pkey PRIMARY KEY (room, seq)
    );
    CREATE INDEX search_position_idx ON search (position);
    CREATE INDEX search_words_idx ON search USING gin (array_to_tsvector(array_append(words, '@' || room)));
    COMMENT ON COLUMN search.mid IS 'who sent it';
    COMMENT ON COLUMN search.time_ms IS 'when it was sent';
    COMMENT ON COLUMN search.text_at IS 'position of the event with its newest text';
    COMMENT ON COLUMN search.words IS 'see projections.words'
    """,
)


def upgrade() -> None:
    for block in TABLES:
        for statement in block.split(";\n"):
            op.execute(statement)


def downgrade() -> None:
    for table in ("search", "receipts", "pin_counts", "pins", "reaction_counts", "reactions"):
        op.execute(f"DROP TABLE {table}")
    # Else the tables that come with the next upgrade would be empty, and taken for as far as those of before.
    op.execute("DELETE FROM checkpoints WHERE projection IN ('receipts', 'search')")
