"""A lease holds, too, while the database has been up for less than its length.

Nobody could renew while Postgres was away. A lease that ran out meanwhile says nothing of its comet, and to call its sessions offline
until the next renewal was wrong: they were answering heartbeats all the time. A comet that died meanwhile is hidden a lease after the
start.
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

HOLDS = """
CREATE FUNCTION imcore_lease_holds(p_until timestamptz, p_lease_s double precision) RETURNS boolean
LANGUAGE sql STABLE AS $$
  SELECT p_until > now() OR pg_postmaster_start_time() + make_interval(secs => p_lease_s) > now()
$$
"""

ONLINE = """
CREATE OR REPLACE VIEW online AS
SELECT s.mid, s.key, s.platform, s.rooms, s.node, s.address, to_timestamp(s.opened_at_ms / 1000.0) AS opened_at
FROM sessions s JOIN nodes n ON n.node = s.node AND {condition}
"""


def upgrade() -> None:
    op.execute(HOLDS)
    op.execute(ONLINE.format(condition="imcore_lease_holds(n.lease_until, n.lease_s)"))


def downgrade() -> None:
    op.execute(ONLINE.format(condition="n.lease_until > now()"))
    op.execute("DROP FUNCTION imcore_lease_holds")
