"""The log, its projections and its leases.

`imcore_append` is the one writer. It is a function rather than one statement because each statement inside it takes a new snapshot:
the checks run after the lock on `log_head` was got, so they see every batch that was committed before this one. One CTE would have
checked against the state from before it waited.
"""

from __future__ import annotations

import uuid

from alembic import op
from sqlalchemy import text

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

PARTITION_EVENTS = 5_000_000

# As imcore.tables had them when this revision was made; a test holds the newest revision and imcore.tables together.
TABLES = (
    """
    CREATE TABLE log_head (
      one BOOLEAN DEFAULT true NOT NULL,
      position BIGINT NOT NULL,
      epoch TEXT NOT NULL,
      CONSTRAINT log_head_pkey PRIMARY KEY (one),
      CONSTRAINT log_head_one_check CHECK (one)
    ) WITH (fillfactor = 10);
    COMMENT ON COLUMN log_head.position IS 'last position; its row lock is the order of the log';
    COMMENT ON COLUMN log_head.epoch IS 'changes when the log went back in time'
    """,
    """
    CREATE TABLE streams (
      id BIGINT GENERATED ALWAYS AS IDENTITY,
      name TEXT NOT NULL,
      seq BIGINT DEFAULT '0' NOT NULL,
      position BIGINT DEFAULT '0' NOT NULL,
      messages BIGINT DEFAULT '0' NOT NULL,
      CONSTRAINT streams_pkey PRIMARY KEY (id),
      CONSTRAINT streams_name_key UNIQUE (name)
    ) WITH (fillfactor = 50);
    COMMENT ON COLUMN streams.seq IS 'head of the stream';
    COMMENT ON COLUMN streams.position IS 'position of its last event';
    COMMENT ON COLUMN streams.messages IS 'how many of its events are messages'
    """,
    """
    CREATE TABLE events (
      position BIGINT NOT NULL,
      stream_id BIGINT NOT NULL,
      seq BIGINT NOT NULL,
      messages BIGINT NOT NULL,
      type TEXT NOT NULL,
      version SMALLINT NOT NULL,
      mid BIGINT NOT NULL,
      key TEXT NOT NULL,
      client_id UUID,
      op INTEGER NOT NULL,
      format SMALLINT NOT NULL,
      recorded_at TIMESTAMP WITH TIME ZONE NOT NULL,
      body TEXT NOT NULL,
      CONSTRAINT events_pkey PRIMARY KEY (position)
    ) PARTITION BY RANGE (position);
    CREATE INDEX events_recorded_at_idx ON events USING brin (recorded_at);
    CREATE INDEX events_stream_seq_idx ON events (stream_id, seq);
    COMMENT ON COLUMN events.messages IS 'messages of the stream up to and including this event';
    COMMENT ON COLUMN events.mid IS 'who did it; 0 is the service';
    COMMENT ON COLUMN events.key IS 'the connection that did it, or empty';
    COMMENT ON COLUMN events.client_id IS 'the client''s own id of a message, unique per mid for ever';
    COMMENT ON COLUMN events.op IS 'the goim operation of a message; 0 where the event is not a message';
    COMMENT ON COLUMN events.format IS 'of body: 0 JSON, 1 text, 2 base64 of bytes'
    """,
    """
    CREATE TABLE client_ids (
      mid BIGINT NOT NULL,
      client_id UUID NOT NULL,
      position BIGINT NOT NULL
    );
    CREATE INDEX client_ids_client_id_idx ON client_ids USING hash (client_id)
    """,
    """
    CREATE TABLE checkpoints (
      projection TEXT NOT NULL,
      position BIGINT NOT NULL,
      CONSTRAINT checkpoints_pkey PRIMARY KEY (projection)
    );
    COMMENT ON COLUMN checkpoints.position IS 'rows hold every event up to and including this one'
    """,
    """
    CREATE TABLE quarantine (
      projection TEXT NOT NULL,
      position BIGINT NOT NULL,
      error TEXT NOT NULL,
      at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
      CONSTRAINT quarantine_pkey PRIMARY KEY (projection, position)
    )
    """,
    """
    CREATE TABLE rooms (
      room TEXT NOT NULL,
      created BIGINT NOT NULL,
      creator BIGINT NOT NULL,
      public BOOLEAN NOT NULL,
      history TEXT NOT NULL,
      title TEXT NOT NULL,
      members BIGINT NOT NULL,
      CONSTRAINT rooms_pkey PRIMARY KEY (room)
    );
    COMMENT ON COLUMN rooms.created IS 'position of its first event';
    COMMENT ON COLUMN rooms.public IS 'anybody may join';
    COMMENT ON COLUMN rooms.history IS '''joined'': seen from one''s join on; ''all'': from the beginning'
    """,
    """
    CREATE TABLE members (
      room TEXT NOT NULL,
      mid BIGINT NOT NULL,
      role TEXT NOT NULL,
      since BIGINT NOT NULL,
      since_seq BIGINT NOT NULL,
      muted_until_ms BIGINT NOT NULL,
      CONSTRAINT members_pkey PRIMARY KEY (room, mid)
    );
    CREATE INDEX members_mid_idx ON members (mid, room);
    COMMENT ON COLUMN members.role IS 'owner, admin or member';
    COMMENT ON COLUMN members.since IS 'position of the join';
    COMMENT ON COLUMN members.since_seq IS 'seq of the join in the room';
    COMMENT ON COLUMN members.muted_until_ms IS 'milliseconds since 1970; 0 is not muted'
    """,
    """
    CREATE TABLE sessions (
      mid BIGINT NOT NULL,
      key TEXT NOT NULL,
      opened BIGINT NOT NULL,
      node TEXT NOT NULL,
      platform TEXT NOT NULL,
      address TEXT NOT NULL,
      rooms TEXT[] NOT NULL,
      opened_at_ms BIGINT NOT NULL,
      CONSTRAINT sessions_pkey PRIMARY KEY (mid, key)
    );
    CREATE INDEX sessions_node_idx ON sessions (node);
    COMMENT ON COLUMN sessions.opened IS 'position of its session_opened';
    COMMENT ON COLUMN sessions.rooms IS 'live rooms and the room entered'
    """,
    """
    CREATE TABLE deliveries (
      mid BIGINT NOT NULL,
      key TEXT NOT NULL,
      position BIGINT NOT NULL,
      CONSTRAINT deliveries_pkey PRIMARY KEY (mid, key)
    ) WITH (fillfactor = 70);
    COMMENT ON COLUMN deliveries.position IS 'everything up to here was delivered to this device'
    """,
    """
    CREATE TABLE inbox (
      mid BIGINT NOT NULL,
      room TEXT NOT NULL,
      since_seq BIGINT NOT NULL,
      read_seq BIGINT NOT NULL,
      seen BIGINT NOT NULL,
      sent BIGINT NOT NULL,
      sent_seen BIGINT NOT NULL,
      CONSTRAINT inbox_pkey PRIMARY KEY (mid, room)
    ) WITH (fillfactor = 70);
    COMMENT ON COLUMN inbox.since_seq IS 'seq of the join';
    COMMENT ON COLUMN inbox.read_seq IS 'read mark: never goes back';
    COMMENT ON COLUMN inbox.seen IS 'messages of the room up to the read mark, or the join if later';
    COMMENT ON COLUMN inbox.sent IS 'own messages since the join';
    COMMENT ON COLUMN inbox.sent_seen IS 'own messages since the join up to the read mark'
    """,
    """
    CREATE TABLE nodes (
      node TEXT NOT NULL,
      hostname TEXT NOT NULL,
      address TEXT NOT NULL,
      tcp_port INTEGER NOT NULL,
      ws_port INTEGER NOT NULL,
      wss_port INTEGER NOT NULL,
      region TEXT NOT NULL,
      weight INTEGER NOT NULL,
      connections INTEGER NOT NULL,
      addresses INTEGER NOT NULL,
      started_at TIMESTAMP WITH TIME ZONE NOT NULL,
      lease_until TIMESTAMP WITH TIME ZONE NOT NULL,
      lease_s DOUBLE PRECISION NOT NULL,
      CONSTRAINT nodes_pkey PRIMARY KEY (node)
    );
    COMMENT ON COLUMN nodes.address IS 'host that clients are told';
    COMMENT ON COLUMN nodes.addresses IS 'distinct client addresses'
    """,
)

REFUSE_CHANGES = """
CREATE FUNCTION imcore_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% on % is refused: the log is append-only', TG_OP, TG_TABLE_NAME
    USING ERRCODE = 'object_not_in_prerequisite_state';
END $$
"""

# Partitions are made beside the log and attached: CREATE TABLE … PARTITION OF would lock out every append while it waits.
MAKE_PARTITIONS = f"""
CREATE FUNCTION imcore_make_partitions(p_upto bigint) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE first bigint; made integer := 0; child text; verb text; is_mine boolean := false;
BEGIN
  LOOP
    -- Where the last partition ends.
    SELECT coalesce(max((regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \\(''?(\\d+)''?\\)'))[1]::bigint), 1) INTO first
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'events'::regclass;
    EXIT WHEN first > p_upto;
    -- One at a time, and then look again. Who has nothing to make, which is nearly always so, waits for nobody.
    IF NOT is_mine THEN
      PERFORM pg_advisory_xact_lock(hashtext('imcore_make_partitions'));
      is_mine := true;
      CONTINUE;
    END IF;
    child := 'events_' || first;
    EXECUTE format('CREATE TABLE %I (LIKE events INCLUDING DEFAULTS INCLUDING INDEXES INCLUDING COMMENTS)', child);
    EXECUTE format('ALTER TABLE %I ADD CONSTRAINT bounds CHECK (position >= %s AND position < %s)',
                   child, first, first + {PARTITION_EVENTS});
    EXECUTE format('ALTER TABLE events ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
                   child, first, first + {PARTITION_EVENTS});
    EXECUTE format('ALTER TABLE %I DROP CONSTRAINT bounds', child);
    FOREACH verb IN ARRAY ARRAY['UPDATE', 'DELETE', 'TRUNCATE'] LOOP
      EXECUTE format('CREATE TRIGGER refuse_%s BEFORE %s ON %I FOR EACH STATEMENT EXECUTE FUNCTION imcore_refuse_change()',
                     lower(verb), verb, child);
    END LOOP;
    made := made + 1;
  END LOOP;
  RETURN made;
END $$
"""

# Places in a stream and places in the log grow together, so the one finds the other by halving, and the log does without an index
# over (stream_id, position): that would be a tenth of what an append costs. From the head back, because whoever asks is seldom far
# behind it, and a look goes only into partitions that hold later events.
SEQ_AT = """
CREATE FUNCTION imcore_seq_at(p_stream bigint, p_head bigint, p_position bigint) RETURNS bigint LANGUAGE plpgsql STABLE
SET enable_seqscan = off AS $$
DECLARE
  known bigint := 0;           -- at p_position or before it, or none at all
  later bigint := p_head + 1;  -- after it, or beyond the head
  step bigint := 1;
  probe bigint;
BEGIN
  WHILE later - known > 1 LOOP
    probe := CASE WHEN known = 0 THEN greatest(later - step, 1) ELSE (known + later) / 2 END;
    PERFORM FROM events WHERE stream_id = p_stream AND seq = probe AND position > p_position;
    IF FOUND THEN
      later := probe;
      step := 4 * step;
    ELSE
      known := probe;
    END IF;
  END LOOP;
  RETURN known;
END $$
"""

# codes: 1 this client id was used before, 2 not a member, 3 muted, 4 the stream is not at the expected seq.
# p_slot says which of p_streams an item belongs to and p_kind which type, version, op, format and guard it has (batches are of few
# kinds). p_rank is its place among the items of its stream, p_said its count of messages up to and including itself. They hold when
# nothing is refused, which is nearly always; else they are counted again.
APPEND = """
CREATE FUNCTION imcore_append(
  p_check boolean,
  p_slot integer[], p_rank integer[], p_said integer[], p_mid bigint[], p_key text[], p_client_id uuid[], p_kind integer[],
  p_body text[], p_expected bigint[],
  p_type text[], p_version smallint[], p_op integer[], p_format smallint[], p_guard smallint[],
  p_streams bigint[], p_rooms text[], p_stream_events integer[], p_stream_last integer[], p_stream_said integer[],
  p_at timestamptz DEFAULT NULL,
  OUT base bigint, OUT at timestamptz, OUT seqs bigint[], OUT messages bigint[],
  OUT refused integer[], OUT codes smallint[], OUT facts bigint[])
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  k integer[];
BEGIN
  -- The head of the log: who holds this row appends next, and everything below sees all that was appended before.
  UPDATE log_head SET position = position + cardinality(p_slot) RETURNING position - cardinality(p_slot) INTO base;
  at := coalesce(p_at, clock_timestamp());

  -- What may not be appended, and why.
  IF p_check THEN
    SELECT array_agg(n::integer ORDER BY n), array_agg(code ORDER BY n), array_agg(fact ORDER BY n) INTO refused, codes, facts
    FROM (
      SELECT i.n,
        (CASE WHEN c.position IS NOT NULL THEN 1
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
END $$
"""

# What an operator asks first: the log with names, messages as JSON, heads, lag.
VIEWS = (
    """
    CREATE VIEW event_log AS
    SELECT e.position, s.name AS stream, e.seq, e.type, e.version, e.mid, e.key, e.client_id, e.op, e.format, e.recorded_at, e.body
    FROM events e JOIN streams s ON s.id = e.stream_id
    """,
    """
    CREATE VIEW room_messages AS
    SELECT e.position, substr(s.name, 6) AS room, e.seq, e.mid, e.client_id, e.op, e.recorded_at, e.format, e.body
    FROM events e JOIN streams s ON s.id = e.stream_id WHERE e.op > 0 AND s.name LIKE 'room:%'
    """,
    """
    CREATE VIEW projection_lag AS
    SELECT c.projection, c.position, h.position - c.position AS events_behind FROM checkpoints c CROSS JOIN log_head h
    """,
    """
    CREATE VIEW online AS
    SELECT s.mid, s.key, s.platform, s.rooms, s.node, s.address, to_timestamp(s.opened_at_ms / 1000.0) AS opened_at
    FROM sessions s JOIN nodes n ON n.node = s.node AND n.lease_until > now()
    """,
)


def upgrade() -> None:
    for block in TABLES:
        for statement in block.split(";\n"):
            op.execute(text(statement.replace(":", "\\:")))
    for statement in (REFUSE_CHANGES, MAKE_PARTITIONS, SEQ_AT, APPEND, *VIEWS):
        op.execute(text(statement.replace(":", "\\:")))
    for table in ("events", "client_ids"):
        for verb in ("UPDATE", "DELETE", "TRUNCATE"):
            op.execute(
                f"CREATE TRIGGER refuse_{verb.lower()} BEFORE {verb} ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION imcore_refuse_change()"
            )
    op.execute(
        text("INSERT INTO log_head (position, epoch) VALUES (0, :epoch)").bindparams(epoch=uuid.uuid4().hex[:12])
    )
    op.execute("SELECT imcore_make_partitions(1)")


def downgrade() -> None:
    for view in ("online", "projection_lag", "room_messages", "event_log"):
        op.execute(f"DROP VIEW {view}")
    for table in (
        "nodes", "quarantine", "inbox", "deliveries", "sessions", "members", "rooms", "checkpoints", "client_ids", "events",
        "streams", "log_head",
    ):  # fmt: skip
        op.execute(f"DROP TABLE {table}")
    for function in ("imcore_append", "imcore_seq_at", "imcore_make_partitions", "imcore_refuse_change"):
        op.execute(f"DROP FUNCTION {function}")
