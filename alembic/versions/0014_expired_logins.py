"""A login whose refresh token is gone has one that has expired, so that the sweep finds it and says that it is over."""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision = "0012"
branch_labels = None
depends_on = None

# The code before this forgot the tokens and left the logins. `hash` is of nothing that can be said.
STATEMENTS = (
    """
    INSERT INTO refresh_tokens (family, hash, mid, sid, told, expires_at)
    SELECT sha256(convert_to(gen_random_uuid()::text, 'UTF8')), '', l.mid, l.sid, '', now() FROM logins l
    WHERE NOT EXISTS (SELECT FROM refresh_tokens r WHERE r.mid = l.mid AND r.sid = l.sid)
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DELETE FROM refresh_tokens WHERE hash = ''")
