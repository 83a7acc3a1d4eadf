"""The generation fence: what an older session of a key still has on its way is refused.

`generations` holds the position of the newest session_opened of each key, and `log_head.opened` a position after which no session was
opened. A sender says up to where it has read the log without finding a newer session of its key (p_fence, in runs that begin at
p_fence_from, because consecutive items have the same; p_fence_least is the least of them). While that is not before `log_head.opened`
there is nothing to look up, so the fence costs a comparison a batch.

Sessions that were opened before this revision are not in `generations`: whoever sends a fence began to read the log after it.

The function keeps its old arguments in their old order, so the code before this revision goes on calling it, without a fence.
"""

from __future__ import annotations

import runpy
from pathlib import Path

from alembic import op
from sqlalchemy import text

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

GENERATIONS = (
    """
    CREATE TABLE generations (
      mid BIGINT NOT NULL,
      key TEXT NOT NULL,
      opened BIGINT NOT NULL,
      CONSTRAINT generations_pkey PRIMARY KEY (mid, key)
    ) WITH (fillfactor = 70)
    """,
    "COMMENT ON COLUMN generations.opened IS 'position of its newest session_opened'",
    "ALTER TABLE log_head ADD COLUMN opened BIGINT DEFAULT '0' NOT NULL",
    "COMMENT ON COLUMN log_head.opened IS 'no session was opened after this position'",
)

# As in 0001, and: code 5, a newer session of the same key was opened.
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
BEGIN
  -- The head of the log: who holds this row appends next, and everything below sees all that was appended before.
  UPDATE log_head SET position = position + cardinality(p_slot),
    opened = CASE WHEN opens THEN position + cardinality(p_slot) ELSE opened END
  RETURNING position - cardinality(p_slot), opened > p_fence_least INTO base, overtaken;
  at := coalesce(p_at, clock_timestamp());

  -- Sessions were opened that not all senders know of: whose key has a newer one? Rare, and then an index lookup an item.
  IF overtaken THEN
    SELECT array_agg(i.n) INTO late
    FROM unnest(p_mid, p_key) WITH ORDINALITY AS i(mid, key, n)
    JOIN generations g ON g.mid = i.mid AND g.key = i.key AND g.opened > p_fence[width_bucket(i.n::integer, p_fence_from)];
  END IF;

  -- What may not be appended, and why.
  IF p_check OR late IS NOT NULL THEN
    SELECT array_agg(n::integer ORDER BY n), array_agg(code ORDER BY n), array_agg(fact ORDER BY n) INTO refused, codes, facts
    FROM (
      SELECT i.n,
        (CASE WHEN i.n = ANY (late) THEN 5
              WHEN c.position IS NOT NULL THEN 1
              WHEN p_guard[i.kind] = 1 AND m.mid IS NULL THEN 2
              WHEN p_guard[i.kind] = 1 AND m.muted_until_ms > 0 AND m.muted_until_ms > extract(epoch FROM at) * 1000 THEN 3
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
    for statement in GENERATIONS:
        op.execute(text(statement))
    _replace(APPEND)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    _replace(runpy.run_path(str(Path(__file__).with_name("0001_log.py")))["APPEND"])
    op.execute("ALTER TABLE log_head DROP COLUMN opened")
    op.execute("DROP TABLE generations")


def _replace(append: str) -> None:
    op.execute("DROP FUNCTION imcore_append")
    op.execute(text(append.replace(":", "\\:")))
