"""Rooms have rules, an end, bans, invitations and requests to join; people block each other; and a send is checked against all that.

What restricts a room is in `restrictions`, which has rows of such rooms only. imcore_append looks there once for each room of its batch
and goes the long way if it finds any; the way of all others is as it was, with one more column of the members row that it looks at
anyway. The function keeps its arguments: the code before this revision goes on calling it. `slow_sends` is kept by the function, of
rooms in slow mode only.

The new columns have defaults, so that the code before this revision goes on writing rows. It knows neither owners nor the position of
the last change: after a rolling upgrade `imcore rebuild` of rooms and members makes up for what it did meanwhile.
"""

from __future__ import annotations

import runpy
from pathlib import Path

from alembic import op
from sqlalchemy import text

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TABLES = (
    """
    ALTER TABLE rooms
      ADD COLUMN owners BIGINT[] DEFAULT '{}' NOT NULL,
      ADD COLUMN topic TEXT DEFAULT '' NOT NULL,
      ADD COLUMN approval BOOLEAN DEFAULT false NOT NULL,
      ADD COLUMN writers TEXT DEFAULT 'members' NOT NULL,
      ADD COLUMN slow_mode_s BIGINT DEFAULT '0' NOT NULL,
      ADD COLUMN members_max BIGINT DEFAULT '0' NOT NULL,
      ADD COLUMN muted_until_ms BIGINT DEFAULT '0' NOT NULL,
      ADD COLUMN dismissed BIGINT DEFAULT '0' NOT NULL,
      ADD COLUMN dismissed_by BIGINT DEFAULT '0' NOT NULL
    """,
    "COMMENT ON COLUMN rooms.owners IS 'the mids of its owners'",
    "COMMENT ON COLUMN rooms.approval IS 'who joins a public room must be let in'",
    "COMMENT ON COLUMN rooms.writers IS '''members'', or ''admins'' only'",
    "COMMENT ON COLUMN rooms.slow_mode_s IS 'a member sends once in so long; 0 is no limit'",
    "COMMENT ON COLUMN rooms.members_max IS '0 is no limit'",
    "COMMENT ON COLUMN rooms.muted_until_ms IS 'only admins and owners send until then'",
    "COMMENT ON COLUMN rooms.dismissed IS 'position of the dismissal; 0 while the room is'",
    "CREATE INDEX rooms_directory_idx ON rooms (room) WHERE public AND dismissed = 0",
    """
    UPDATE rooms SET owners = found.owners
    FROM (SELECT room, array_agg(mid ORDER BY since) AS owners FROM members WHERE role = 'owner' GROUP BY room) found
    WHERE rooms.room = found.room
    """,
    """
    CREATE TABLE restrictions (
      room TEXT NOT NULL,
      writers TEXT NOT NULL,
      muted_until_ms BIGINT NOT NULL,
      slow_mode_s BIGINT NOT NULL,
      dismissed BOOLEAN NOT NULL,
      CONSTRAINT restrictions_pkey PRIMARY KEY (room)
    )
    """,
    "COMMENT ON COLUMN restrictions.writers IS '''members'', or ''admins'' only'",
    "COMMENT ON COLUMN restrictions.muted_until_ms IS 'only admins and owners send until then'",
    "COMMENT ON COLUMN restrictions.slow_mode_s IS 'a member sends once in so long; 0 is no limit'",
    "COMMENT ON COLUMN restrictions.dismissed IS 'nothing is appended to its stream any more'",
    """
    ALTER TABLE members
      ADD COLUMN blocked BOOLEAN DEFAULT false NOT NULL,
      ADD COLUMN changed BIGINT DEFAULT '0' NOT NULL
    """,
    "COMMENT ON COLUMN members.blocked IS 'of a direct room: the other takes no messages of this one'",
    "COMMENT ON COLUMN members.changed IS 'position of the last event that changed this line of the list'",
    "UPDATE members SET changed = since",
    "CREATE INDEX members_changed_idx ON members (room, changed)",
    "CREATE INDEX departures_changed_idx ON departures (room, position)",
    """
    CREATE TABLE bans (
      room TEXT NOT NULL,
      mid BIGINT NOT NULL,
      position BIGINT NOT NULL,
      by BIGINT NOT NULL,
      until_ms BIGINT NOT NULL,
      reason TEXT NOT NULL,
      CONSTRAINT bans_pkey PRIMARY KEY (room, mid)
    )
    """,
    "COMMENT ON COLUMN bans.position IS 'of the ban'",
    "COMMENT ON COLUMN bans.by IS 'who did it'",
    "COMMENT ON COLUMN bans.until_ms IS 'milliseconds since 1970; 0 is for ever'",
    """
    CREATE TABLE invitations (
      room TEXT NOT NULL,
      mid BIGINT NOT NULL,
      position BIGINT NOT NULL,
      by BIGINT NOT NULL,
      at_ms BIGINT NOT NULL,
      CONSTRAINT invitations_pkey PRIMARY KEY (room, mid)
    )
    """,
    "CREATE INDEX invitations_mid_idx ON invitations (mid, room)",
    "COMMENT ON COLUMN invitations.position IS 'of the invitation'",
    "COMMENT ON COLUMN invitations.by IS 'who invites'",
    """
    CREATE TABLE join_requests (
      room TEXT NOT NULL,
      mid BIGINT NOT NULL,
      position BIGINT NOT NULL,
      text TEXT NOT NULL,
      at_ms BIGINT NOT NULL,
      CONSTRAINT join_requests_pkey PRIMARY KEY (room, mid)
    )
    """,
    "COMMENT ON COLUMN join_requests.position IS 'of the request'",
    """
    CREATE TABLE blocks (
      by BIGINT NOT NULL,
      mid BIGINT NOT NULL,
      at_ms BIGINT NOT NULL,
      CONSTRAINT blocks_pkey PRIMARY KEY (by, mid)
    )
    """,
    "COMMENT ON COLUMN blocks.by IS 'who blocks'",
    "COMMENT ON COLUMN blocks.mid IS 'who is blocked'",
    """
    CREATE TABLE slow_sends (
      room TEXT NOT NULL,
      mid BIGINT NOT NULL,
      sent_at_ms BIGINT NOT NULL,
      CONSTRAINT slow_sends_pkey PRIMARY KEY (room, mid)
    ) WITH (fillfactor = 70)
    """,
)

# As in 0002, and: guard 2 (the room is not dismissed), and the codes 6 (only admins write), 7 (too soon in slow mode; the fact is how
# many milliseconds to wait), 8 (blocked by the other) and 9 (all are muted).
APPEND = """
CREATE FUNCTION imcore_append(
  p_check boolean,
  p_slot integer[], p_rank integer[], p_said integer[], p_mid bigint[], p_key text[], p_client_id uuid[], p_kind integer[],
  p_body text[], p_expected bigint[],
  p_type text[], p_version smallint[], p_op integer[], p_format smallint[], p_guard smallint[],
  p_streams bigint[], p_rooms text[], p_stream_events integer[], p_stream_last integer[], p_stream_said integer[],
  p_at timestamptz DEFAULT NULL,
  p_fence_least bigint DEFAULT NULL, p_fence_from integer[] DEFAULT NULL, p_fence bigint[] DEFAULT NULL,
  OUT base bigint, OUT at timestamptz, OUT seqs bigint[], OUT messages bigint[],
  OUT refused integer[], OUT codes smallint[], OUT facts bigint[])
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  k integer[];
  opens boolean := 'session_opened' = ANY (p_type);
  overtaken boolean;
  late bigint[];
  restricted integer[];
  slow integer[];
  now_ms bigint;
BEGIN
  -- The head of the log: who holds this row appends next, and everything below sees all that was appended before.
  UPDATE log_head SET position = position + cardinality(p_slot),
    opened = CASE WHEN opens THEN position + cardinality(p_slot) ELSE opened END
  RETURNING position - cardinality(p_slot), opened > p_fence_least INTO base, overtaken;
  at := coalesce(p_at, clock_timestamp());
  now_ms := floor(extract(epoch FROM at) * 1000);

  -- Sessions were opened that not all senders know of: whose key has a newer one? Rare, and then an index lookup an item.
  IF overtaken THEN
    SELECT array_agg(i.n) INTO late
    FROM unnest(p_mid, p_key) WITH ORDINALITY AS i(mid, key, n)
    JOIN generations g ON g.mid = i.mid AND g.key = i.key AND g.opened > p_fence[width_bucket(i.n::integer, p_fence_from)];
  END IF;

  -- Which of the rooms are restricted? Nearly always none of them: one look a room, and not one a message.
  IF p_check AND (1 = ANY (p_guard) OR 2 = ANY (p_guard)) THEN
    SELECT array_agg(r.slot::integer), array_agg(r.slot::integer) FILTER (WHERE x.slow_mode_s > 0) INTO restricted, slow
    FROM unnest(p_rooms) WITH ORDINALITY AS r(room, slot) JOIN restrictions x ON x.room = r.room;
  END IF;

  -- What may not be appended, and why.
  IF restricted IS NOT NULL THEN
    -- A member of a room in slow mode sends once: the first of its items here that nothing else speaks against.
    SELECT array_agg(n ORDER BY n), array_agg(code ORDER BY n), array_agg(fact ORDER BY n) INTO refused, codes, facts
    FROM (
      SELECT n, (CASE WHEN too_soon THEN 7 ELSE code END)::smallint AS code,
        CASE WHEN NOT too_soon THEN fact WHEN before > 0 THEN gap_ms ELSE gap_ms - greatest(since_ms, 0) END AS fact
      FROM (
        SELECT n::integer, code, fact, gap_ms, since_ms, before,
          code IN (0, 4) AND gap_ms > 0 AND (before > 0 OR coalesce(since_ms < gap_ms, false)) AS too_soon
        FROM (
          SELECT judged.*, count(*) FILTER (WHERE code = 0) OVER (
            PARTITION BY slot, mid ORDER BY n ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
          FROM (
            SELECT i.n, i.slot, i.mid,
              CASE WHEN i.n = ANY (late) THEN 5
                   WHEN c.position IS NOT NULL THEN 1
                   WHEN p_guard[i.kind] > 0 AND x.dismissed THEN 2
                   WHEN p_guard[i.kind] = 1 AND m.mid IS NULL THEN 2
                   WHEN p_guard[i.kind] = 1 AND m.muted_until_ms > 0 AND m.muted_until_ms > now_ms THEN 3
                   WHEN p_guard[i.kind] = 1 AND m.blocked THEN 8
                   WHEN p_guard[i.kind] = 1 AND m.role = 'member' AND x.muted_until_ms > now_ms THEN 9
                   WHEN p_guard[i.kind] = 1 AND m.role = 'member' AND x.writers = 'admins' THEN 6
                   WHEN i.expected IS NOT NULL AND s.seq <> i.expected THEN 4 ELSE 0 END AS code,
              coalesce(c.position, s.seq, m.muted_until_ms) AS fact,
              CASE WHEN p_guard[i.kind] = 1 AND m.role = 'member' THEN x.slow_mode_s * 1000 ELSE 0 END AS gap_ms,
              now_ms - l.sent_at_ms AS since_ms
            FROM unnest(p_slot, p_mid, p_client_id, p_kind, p_expected) WITH ORDINALITY
              AS i(slot, mid, client_id, kind, expected, n)
            LEFT JOIN client_ids c ON c.client_id = i.client_id AND c.mid = i.mid
            LEFT JOIN members m ON p_guard[i.kind] = 1 AND m.room = p_rooms[i.slot] AND m.mid = i.mid
            LEFT JOIN streams s ON i.expected IS NOT NULL AND s.id = p_streams[i.slot]
            LEFT JOIN restrictions x ON i.slot = ANY (restricted) AND x.room = p_rooms[i.slot]
            LEFT JOIN slow_sends l ON i.slot = ANY (slow) AND l.room = p_rooms[i.slot] AND l.mid = i.mid) judged) counted) told) verdict
    WHERE code <> 0;
  ELSIF p_check OR late IS NOT NULL THEN
    SELECT array_agg(n::integer ORDER BY n), array_agg(code ORDER BY n), array_agg(fact ORDER BY n) INTO refused, codes, facts
    FROM (
      SELECT i.n,
        (CASE WHEN i.n = ANY (late) THEN 5
              WHEN c.position IS NOT NULL THEN 1
              WHEN p_guard[i.kind] = 1 AND m.mid IS NULL THEN 2
              WHEN p_guard[i.kind] = 1 AND m.muted_until_ms > 0 AND m.muted_until_ms > now_ms THEN 3
              WHEN p_guard[i.kind] = 1 AND m.blocked THEN 8
              WHEN i.expected IS NOT NULL AND s.seq <> i.expected THEN 4 ELSE 0 END)::smallint AS code,
        coalesce(c.position, s.seq, m.muted_until_ms) AS fact
      FROM unnest(p_slot, p_mid, p_client_id, p_kind, p_expected) WITH ORDINALITY
        AS i(slot, mid, client_id, kind, expected, n)
      LEFT JOIN client_ids c ON c.client_id = i.client_id AND c.mid = i.mid
      LEFT JOIN members m ON p_guard[i.kind] = 1 AND m.room = p_rooms[i.slot] AND m.mid = i.mid
      LEFT JOIN streams s ON i.expected IS NOT NULL AND s.id = p_streams[i.slot]) verdict
    WHERE code <> 0;
  END IF;

  IF refused IS NOT NULL THEN
    UPDATE log_head SET position = position - cardinality(refused);
    IF cardinality(refused) = cardinality(p_slot) THEN
      RETURN;
    END IF;
    -- Count places again without the refused; a refused item has place 0.
    SELECT array_agg(CASE WHEN kept THEN place ELSE 0 END ORDER BY n), array_agg(rank ORDER BY n), array_agg(said ORDER BY n)
    INTO k, p_rank, p_said
    FROM (
      SELECT n, kept, (count(*) FILTER (WHERE kept) OVER w)::integer AS place,
        (count(*) FILTER (WHERE kept) OVER s)::integer AS rank,
        (count(*) FILTER (WHERE kept AND p_op[kind] > 0) OVER s)::integer AS said
      FROM (SELECT slot, kind, n, n <> ALL (refused) AS kept FROM unnest(p_slot, p_kind) WITH ORDINALITY AS i(slot, kind, n)) item
      WINDOW w AS (ORDER BY n ROWS UNBOUNDED PRECEDING), s AS (PARTITION BY slot ORDER BY n ROWS UNBOUNDED PRECEDING)) counted;
    SELECT array_agg(events ORDER BY slot), array_agg(last ORDER BY slot), array_agg(said ORDER BY slot)
    INTO p_stream_events, p_stream_last, p_stream_said
    FROM (
      SELECT slot, max(rank) AS events, max(place) AS last, max(said) AS said
      FROM unnest(p_slot, k, p_rank, p_said) AS i(slot, place, rank, said) GROUP BY slot) grown;
  END IF;

  -- The heads of the streams grow, each by what is its own, perhaps nothing; what they were is where each item counts from.
  WITH grown AS (
    UPDATE streams s SET seq = s.seq + g.events, messages = s.messages + g.said,
      position = CASE WHEN g.events > 0 THEN base + g.last ELSE s.position END
    FROM unnest(p_streams, p_stream_events, p_stream_last, p_stream_said) WITH ORDINALITY AS g(id, events, last, said, slot)
    WHERE s.id = g.id
    RETURNING g.slot, s.seq - g.events AS seq, s.messages - g.said AS said)
  SELECT array_agg(seq ORDER BY slot), array_agg(said ORDER BY slot) INTO seqs, messages FROM grown;

  IF refused IS NULL THEN
    INSERT INTO events (position, stream_id, seq, messages, type, version, mid, key, client_id, op, format, recorded_at, body)
    SELECT base + n, p_streams[slot], seqs[slot] + rank, messages[slot] + said,
      p_type[kind], p_version[kind], mid, key, client_id, p_op[kind], p_format[kind], at, body
    FROM unnest(p_slot, p_rank, p_said, p_mid, p_key, p_client_id, p_kind, p_body)
      WITH ORDINALITY AS i(slot, rank, said, mid, key, client_id, kind, body, n);
    IF p_check THEN
      INSERT INTO client_ids (mid, client_id, position)
      SELECT mid, client_id, base + n FROM unnest(p_mid, p_client_id) WITH ORDINALITY AS i(mid, client_id, n)
      WHERE client_id IS NOT NULL;
    END IF;
  ELSE
    INSERT INTO events (position, stream_id, seq, messages, type, version, mid, key, client_id, op, format, recorded_at, body)
    SELECT base + place, p_streams[slot], seqs[slot] + rank, messages[slot] + said,
      p_type[kind], p_version[kind], mid, key, client_id, p_op[kind], p_format[kind], at, body
    FROM unnest(k, p_slot, p_rank, p_said, p_mid, p_key, p_client_id, p_kind, p_body)
      WITH ORDINALITY AS i(place, slot, rank, said, mid, key, client_id, kind, body, n)
    WHERE place > 0 ORDER BY n;
    INSERT INTO client_ids (mid, client_id, position)
    SELECT mid, client_id, base + place FROM unnest(k, p_mid, p_client_id) AS i(place, mid, client_id)
    WHERE client_id IS NOT NULL AND place > 0;
  END IF;

  -- When members sent last, where that matters.
  IF slow IS NOT NULL THEN
    INSERT INTO slow_sends (room, mid, sent_at_ms)
    SELECT DISTINCT p_rooms[slot], mid, now_ms FROM unnest(p_slot, p_mid, p_kind) WITH ORDINALITY AS i(slot, mid, kind, n)
    WHERE slot = ANY (slow) AND p_guard[kind] = 1 AND (refused IS NULL OR n <> ALL (refused))
    ON CONFLICT (room, mid) DO UPDATE SET sent_at_ms = excluded.sent_at_ms;
  END IF;

  -- From here on the newest sessions of their keys are these. (k is NULL where nothing was refused.)
  IF opens THEN
    INSERT INTO generations (mid, key, opened)
    SELECT mid, key, max(base + coalesce(place, n)) FROM unnest(p_mid, p_key, p_kind, k) WITH ORDINALITY AS i(mid, key, kind, place, n)
    WHERE p_type[kind] = 'session_opened' GROUP BY mid, key
    ON CONFLICT (mid, key) DO UPDATE SET opened = excluded.opened;
  END IF;
END $$
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")  # everybody who appends waits behind this
    for statement in TABLES:
        op.execute(text(statement))
    _replace(APPEND)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    _replace(runpy.run_path(str(Path(__file__).with_name("0002_generations.py")))["APPEND"])
    for table in ("slow_sends", "blocks", "join_requests", "invitations", "bans", "restrictions"):
        op.execute(f"DROP TABLE {table}")
    op.execute("DROP INDEX departures_changed_idx")
    op.execute("DROP INDEX members_changed_idx")
    op.execute("ALTER TABLE members DROP COLUMN blocked, DROP COLUMN changed")
    op.execute("DROP INDEX rooms_directory_idx")
    op.execute(
        "ALTER TABLE rooms DROP COLUMN owners, DROP COLUMN topic, DROP COLUMN approval, DROP COLUMN writers, "
        "DROP COLUMN slow_mode_s, DROP COLUMN members_max, DROP COLUMN muted_until_ms, DROP COLUMN dismissed, "
        "DROP COLUMN dismissed_by"
    )


def _replace(append: str) -> None:
    op.execute("DROP FUNCTION imcore_append")
    op.execute(text(append.replace(":", "\\:")))
