"""A login whose refresh token is gone has one that has expired, so that the sweep finds it and says that it is over; and the log
counts the uses of invitation codes, by their names.

Code of before sees nothing of `code_uses`: it counts `uses` down, beside it. Going down takes what was used off `uses`, and forgets the
names; so after going up again, `imcore rebuild code_uses` makes the rows what the log says, of codes that have no such name any more.
"""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

# The code before this forgot the tokens and left the logins. `hash` is of nothing that can be said.
STATEMENTS = (
    """
    INSERT INTO refresh_tokens (family, hash, mid, sid, told, expires_at)
    SELECT sha256(convert_to(gen_random_uuid()::text, 'UTF8')), '', l.mid, l.sid, '', now() FROM logins l
    WHERE NOT EXISTS (SELECT FROM refresh_tokens r WHERE r.mid = l.mid AND r.sid = l.sid)
    """,
    """
    CREATE TABLE code_uses (
      code TEXT NOT NULL,
      used INTEGER NOT NULL,
      CONSTRAINT code_uses_pkey PRIMARY KEY (code)
    )
    """,
    "COMMENT ON COLUMN code_uses.code IS 'see invitation_codes.name'",
    "COMMENT ON COLUMN code_uses.used IS 'how many have registered with it'",
    # What is left of a code that is there may be used from here on.
    "ALTER TABLE invitation_codes ADD COLUMN name TEXT DEFAULT gen_random_uuid()::text NOT NULL",
    "COMMENT ON COLUMN invitation_codes.name IS 'what the log knows it by, which is not the code'",
    "COMMENT ON COLUMN invitation_codes.uses IS 'how many may register with it; see code_uses'",
)
BACK = (
    "DELETE FROM refresh_tokens WHERE hash = ''",
    """
    UPDATE invitation_codes i SET uses = greatest(i.uses - u.used, 0) FROM code_uses u WHERE u.code = i.name
    """,
    "ALTER TABLE invitation_codes DROP COLUMN name",
    "COMMENT ON COLUMN invitation_codes.uses IS 'how many may still register with it'",
    "DROP TABLE code_uses",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    for statement in BACK:
        op.execute(statement)
