"""The files of a room are found by who stored them too: who joined late sees its own of before, without reading those of all others."""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX attachments_room_mid_idx ON attachments (room, mid, position)")


def downgrade() -> None:
    op.execute("DROP INDEX attachments_room_mid_idx")
