"""Public rooms are found by any part of their titles, and by how their names begin, without looking through all of them.

`imcore_grams` says the parts of a text in lower case that are `fewest` to three characters long; of a shorter text, itself. A text that
contains another has all its parts, so those of titles are an index (pg_trgm would be one, and is not everywhere). What the index
finds is compared once more. Nobody may change the function without making the index anew.

Beside the service, as in 0015: whoever died in the middle left what is made anew.
"""

from __future__ import annotations

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

INDEXES = ("rooms_titles_idx", "rooms_names_idx")
UP = (
    """
    CREATE OR REPLACE FUNCTION imcore_grams(said text, fewest integer) RETURNS text[]
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
    DECLARE lowered text := lower(said);
    BEGIN
      RETURN ARRAY(
        SELECT DISTINCT substr(lowered, n, characters)
        FROM generate_series(least(fewest, length(lowered)), 3) characters,
          generate_series(1, length(lowered) - characters + 1) n);
    END $$
    """,
    """
    CREATE INDEX CONCURRENTLY rooms_titles_idx ON rooms USING gin (imcore_grams(title, 1))
    WHERE public AND dismissed = 0 AND title <> ''
    """,
    """
    CREATE INDEX CONCURRENTLY rooms_names_idx ON rooms (lower(split_part(room, '://', 2)) COLLATE "C")
    WHERE public AND dismissed = 0
    """,
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for index in INDEXES:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {index}")
        for statement in UP:
            op.execute(statement.replace(":", "\\:"))


def downgrade() -> None:
    for index in INDEXES:
        op.execute(f"DROP INDEX {index}")
    op.execute("DROP FUNCTION imcore_grams")
