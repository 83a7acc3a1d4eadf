"""A session is online until its comet is declared dead, and not until its lease has run out.

Nobody can renew a lease while the database is away. In the moments between its return and the first renewals everybody would be called
offline, who answered heartbeats all the time. The reaper watches leases on a clock of its own, and decides.
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ONLINE = """
CREATE OR REPLACE VIEW online AS
SELECT s.mid, s.key, s.platform, s.rooms, s.node, s.address, to_timestamp(s.opened_at_ms / 1000.0) AS opened_at
FROM sessions s JOIN nodes n ON n.node = s.node{condition}
"""


def upgrade() -> None:
    op.execute(ONLINE.format(condition=""))


def downgrade() -> None:
    op.execute(ONLINE.format(condition=" AND n.lease_until > now()"))
