"""The files of a room are found by who stored them too: who joined late sees its own of before, without reading those of all others.

Beside the service: files are stored while it is built, which takes no lock that their rows wait for. That cannot be in a transaction,
so whoever died in the middle left an index that is not valid, and one that it made whole but did not note: both are made anew.
"""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS attachments_room_mid_idx")
        op.execute("CREATE INDEX CONCURRENTLY attachments_room_mid_idx ON attachments (room, mid, position)")


def downgrade() -> None:
    op.execute("DROP INDEX attachments_room_mid_idx")
