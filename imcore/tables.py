"""Every table on one page; all that Alembic imports.

Four families. The log: `log_head`, `streams`, `events`, `client_ids`, `generations`, `slow_sends`; written by `imcore_append` and
nothing else, and the database refuses UPDATE, DELETE and TRUNCATE on events. Projections: `rooms`, `restrictions`, `members`,
`room_counts`, `departures`, `mutes`, `bans`, `invitations`, `join_requests`, `blocks`, `attachments`, `uploads`, `amendments`,
`reactions`, `reaction_counts`, `pins`, `pin_counts`, `visibility`, `accounts`, `handles`, `code_uses`, `logins` and `logouts`
(inline: in the append's transaction), `sessions`, `seen`, `deliveries`, `inbox`, `mentions`, `threads`, `edits` and `receipts`
(asynchronous), `search` (the same, at a pace of its own), `checkpoints` that says how far each of these has come, and
`quarantine` that names the events which one went past; all of them can be thrown away and folded again from the log. Leases:
`nodes`, the running comets; not derived from the log, and worthless after a restart. Secrets: `credentials`, `refresh_tokens`,
`tickets`, `invitation_codes`, `activation_codes`; kept as hashes, and out of the log, which is for ever.

The trap: `events` is partitioned by position, and a unique index on a partitioned table would have to hold the partition key.
So (stream_id, seq) and client ids are unique because every append holds the one row of `log_head`, not because an index says
so.
"""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    }
)

# --- the log ---------------------------------------------------------------------------------------------------------------

log_head = Table(
    "log_head",
    metadata,
    Column("one", Boolean, server_default=text("true"), primary_key=True),
    Column("position", BigInteger, nullable=False, comment="last position; its row lock is the order of the log"),
    Column("epoch", Text, nullable=False, comment="changes when the log went back in time"),
    Column(
        "opened", BigInteger, nullable=False, server_default="0", comment="no session was opened after this position"
    ),
    Column("line", Text, nullable=True, comment="system identifier and timeline of the Postgres that it is on"),
    CheckConstraint("one", name="one"),
    postgresql_with={"fillfactor": "10"},  # updated on every append: room for HOT updates in its page
)

# Epochs that ended in a failover: everything up to there is in the log of today too.
former_epochs = Table(
    "former_epochs",
    metadata,
    Column("epoch", Text, primary_key=True),
    Column("upto", BigInteger, nullable=False, comment="its positions are good up to here"),
    Column("ended_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
)

streams = Table(
    "streams",
    metadata,
    Column("id", BigInteger, Identity(always=True)),
    Column("name", Text, nullable=False),
    Column("seq", BigInteger, nullable=False, server_default="0", comment="head of the stream"),
    Column("position", BigInteger, nullable=False, server_default="0", comment="position of its last event"),
    Column("messages", BigInteger, nullable=False, server_default="0", comment="how many of its events are messages"),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("name"),
    postgresql_with={"fillfactor": "50"},
)

events = Table(
    "events",
    metadata,
    Column("position", BigInteger, nullable=False, autoincrement=False),
    Column("stream_id", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("messages", BigInteger, nullable=False, comment="messages of the stream up to and including this event"),
    Column("type", Text, nullable=False),
    Column("version", SmallInteger, nullable=False),
    Column("mid", BigInteger, nullable=False, comment="who did it; 0 is the service"),
    Column("key", Text, nullable=False, comment="the connection that did it, or empty"),
    Column("client_id", Uuid, nullable=True, comment="the client's own id of a message, unique per mid for ever"),
    Column(
        "op", Integer, nullable=False, comment="the goim operation of a message; 0 where the event is not a message"
    ),
    Column("format", SmallInteger, nullable=False, comment="of body: 0 JSON, 1 text, 2 base64 of bytes"),
    Column("recorded_at", DateTime(timezone=True), nullable=False),
    Column("body", Text, nullable=False),
    PrimaryKeyConstraint("position"),
    Index("events_stream_seq_idx", "stream_id", "seq"),
    Index("events_recorded_at_idx", "recorded_at", postgresql_using="brin"),
    postgresql_partition_by="RANGE (position)",
)

# A hash index costs half of a btree over random ids (measured: 59,000 events/s against 47,000).
client_ids = Table(
    "client_ids",
    metadata,
    Column("mid", BigInteger, nullable=False),
    Column("client_id", Uuid, nullable=False),
    Column("position", BigInteger, nullable=False),
    Index("client_ids_client_id_idx", "client_id", postgresql_using="hash"),
)

# Which session of a key is the newest: what an older one still has on its way is refused.
generations = Table(
    "generations",
    metadata,
    Column("mid", BigInteger, nullable=False),
    Column("key", Text, nullable=False),
    Column("opened", BigInteger, nullable=False, comment="position of its newest session_opened"),
    PrimaryKeyConstraint("mid", "key"),
    postgresql_with={"fillfactor": "70"},  # changed with every connect, in no index: room for HOT updates
)

# When each member last sent to a room in slow mode. No projection: imcore_append keeps it, of such rooms only, and the log can tell.
slow_sends = Table(
    "slow_sends",
    metadata,
    Column("room", Text, nullable=False),
    Column("mid", BigInteger, nullable=False),
    Column("sent_at_ms", BigInteger, nullable=False),
    PrimaryKeyConstraint("room", "mid"),
    postgresql_with={"fillfactor": "70"},
)

# --- projections -------------------------------------------------------------------------------------------------------------

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("projection", Text, primary_key=True),
    Column("position", BigInteger, nullable=False, comment="rows hold every event up to and including this one"),
)

# Events that a projection could not fold and went past; a rebuild of the projection tries them again.
quarantine = Table(
    "quarantine",
    metadata,
    Column("projection", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("error", Text, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    PrimaryKeyConstraint("projection", "position"),
)

rooms = Table(
    "rooms",
    metadata,
    Column("room", Text, primary_key=True),
    Column("created", BigInteger, nullable=False, comment="position of its first event"),
    Column("creator", BigInteger, nullable=False),
    Column("public", Boolean, nullable=False, comment="anybody may join"),
    Column("history", Text, nullable=False, comment="'joined': seen from one's join on; 'all': from the beginning"),
    Column("title", Text, nullable=False),
    Column("members", BigInteger, nullable=False),
    Column("owners", ARRAY(BigInteger), nullable=False, server_default="{}", comment="the mids of its owners"),
    Column("topic", Text, nullable=False, server_default=""),
    Column(
        "approval",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="who joins a public room must be let in",
    ),
    Column("writers", Text, nullable=False, server_default="members", comment="'members', or 'admins' only"),
    Column(
        "slow_mode_s",
        BigInteger,
        nullable=False,
        server_default="0",
        comment="a member sends once in so long; 0 is no limit",
    ),
    Column("members_max", BigInteger, nullable=False, server_default="0", comment="0 is no limit"),
    Column(
        "muted_until_ms",
        BigInteger,
        nullable=False,
        server_default="0",
        comment="only admins and owners send until then",
    ),
    Column(
        "dismissed",
        BigInteger,
        nullable=False,
        server_default="0",
        comment="position of the dismissal; 0 while the room is",
    ),
    Column("dismissed_by", BigInteger, nullable=False, server_default="0"),
    Index("rooms_directory_idx", "room", postgresql_where=text("public AND dismissed = 0")),
    Index("rooms_dismissed_idx", "room", postgresql_where=text("dismissed > 0")),
)

# What keeps members of a room from sending, in the few rooms that restrict it: a send looks here, once a room of its batch.
restrictions = Table(
    "restrictions",
    metadata,
    Column("room", Text, primary_key=True),
    Column("writers", Text, nullable=False, comment="'members', or 'admins' only"),
    Column("muted_until_ms", BigInteger, nullable=False, comment="only admins and owners send until then"),
    Column("slow_mode_s", BigInteger, nullable=False, comment="a member sends once in so long; 0 is no limit"),
    Column("dismissed", Boolean, nullable=False, comment="nothing is appended to its stream any more"),
)

members = Table(
    "members",
    metadata,
    Column("room", Text, nullable=False),
    Column("mid", BigInteger, nullable=False),
    Column("role", Text, nullable=False, comment="owner, admin or member"),
    Column("since", BigInteger, nullable=False, comment="position of the join"),
    Column("since_seq", BigInteger, nullable=False, comment="seq of the join in the room"),
    Column("muted_until_ms", BigInteger, nullable=False, comment="milliseconds since 1970; 0 is not muted"),
    Column(
        "blocked",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="of a direct room: the other takes no messages of this one",
    ),
    Column(
        "changed",
        BigInteger,
        nullable=False,
        server_default="0",
        comment="position of the last event that changed this line of the list",
    ),
    PrimaryKeyConstraint("room", "mid"),
    Index("members_mid_idx", "mid", "room"),
    Index("members_changed_idx", "room", "changed"),
)

# In how many rooms each person is, those that were dismissed too.
room_counts = Table(
    "room_counts",
    metadata,
    Column("mid", BigInteger, autoincrement=False, primary_key=True),
    Column("rooms", BigInteger, nullable=False),
    postgresql_with={"fillfactor": "70"},
)

# Who is no longer in a room: what is told to a device that was away when it happened.
departures = Table(
    "departures",
    metadata,
    Column("mid", BigInteger, nullable=False),
    Column("room", Text, nullable=False),
    Column("position", BigInteger, nullable=False, comment="of the leaving or the removal"),
    Column("by", BigInteger, nullable=False, comment="who did it"),
    Column("removed", Boolean, nullable=False, comment="somebody else did it"),
    PrimaryKeyConstraint("mid", "room"),
    Index("departures_changed_idx", "room", "position"),
)

# Until when somebody may not send to a room, in it or not. A mute that is over is a row still, until it is ended or given anew.
mutes = Table(
    "mutes",
    metadata,
    Column("room", Text, nullable=False),
    Column("mid", BigInteger, nullable=False),
    Column("until_ms", BigInteger, nullable=False, comment="milliseconds since 1970"),
    PrimaryKeyConstraint("room", "mid"),
)

# Who may not come in. A ban that is over is a row still, until somebody joins or lifts it.
bans = Table(
    "bans",
    metadata,
    Column("room", Text, nullable=False),
    Column("mid", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False, comment="of the ban"),
    Column("by", BigInteger, nullable=False, comment="who did it"),
    Column("until_ms", BigInteger, nullable=False, comment="milliseconds since 1970; 0 is for ever"),
    Column("reason", Text, nullable=False),
    PrimaryKeyConstraint("room", "mid"),
)

invitations = Table(
    "invitations",
    metadata,
    Column("room", Text, nullable=False),
    Column("mid", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False, comment="of the invitation"),
    Column("by", BigInteger, nullable=False, comment="who invites"),
    Column("at_ms", BigInteger, nullable=False),
    PrimaryKeyConstraint("room", "mid"),
    Index("invitations_mid_idx", "mid", "room"),
)

join_requests = Table(
    "join_requests",
    metadata,
    Column("room", Text, nullable=False),
    Column("mid", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False, comment="of the request"),
    Column("text", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    PrimaryKeyConstraint("room", "mid"),
)

# Whose direct messages a person does not take.
blocks = Table(
    "blocks",
    metadata,
    Column("by", BigInteger, nullable=False, comment="who blocks"),
    Column("mid", BigInteger, nullable=False, comment="who is blocked"),
    Column("at_ms", BigInteger, nullable=False),
    PrimaryKeyConstraint("by", "mid"),
)

# Who may see whether a person is online. Of those who let everybody see them there is no row.
visibility = Table(
    "visibility",
    metadata,
    Column("mid", BigInteger, autoincrement=False, primary_key=True),
    Column("choice", Text, nullable=False, comment="contacts or nobody"),
)

attachments = Table(
    "attachments",
    metadata,
    Column("id", Text, primary_key=True),
    Column("room", Text, nullable=False),
    Column("mid", BigInteger, nullable=False, comment="who stored it"),
    Column("name", Text, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("size", BigInteger, nullable=False, comment="bytes"),
    Column("sha256", Text, nullable=False),
    Column("width", BigInteger, nullable=True, comment="pixels, of a picture that says so"),
    Column("height", BigInteger, nullable=True),
    Column("position", BigInteger, nullable=False, comment="of its event"),
    Column("stored_at_ms", BigInteger, nullable=False),
    Index("attachments_room_idx", "room", "position"),
    Index("attachments_room_mid_idx", "room", "mid", "position"),
)

# What each person has stored today: the limit of a day is held against it.
uploads = Table(
    "uploads",
    metadata,
    Column("mid", BigInteger, nullable=False),
    Column("day", BigInteger, nullable=False, comment="days since 1970, UTC"),
    Column("bytes", BigInteger, nullable=False, comment="stored on that day, removed or not"),
    PrimaryKeyConstraint("mid"),
    postgresql_with={"fillfactor": "70"},
)

sessions = Table(
    "sessions",
    metadata,
    Column("mid", BigInteger, nullable=False),
    Column("key", Text, nullable=False),
    Column("opened", BigInteger, nullable=False, comment="position of its session_opened"),
    Column("node", Text, nullable=False),
    Column("platform", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("rooms", ARRAY(Text), nullable=False, comment="live rooms and the room entered"),
    Column("opened_at_ms", BigInteger, nullable=False),
    PrimaryKeyConstraint("mid", "key"),
    Index("sessions_node_idx", "node"),
)

# When each person was last heard of, kept after the last session is closed. Guests have none: they do not come back.
seen = Table(
    "seen",
    metadata,
    Column("mid", BigInteger, autoincrement=False, primary_key=True),
    Column("at_ms", BigInteger, nullable=False, comment="milliseconds since 1970"),
    postgresql_with={"fillfactor": "70"},  # changed again and again, in no index: room for HOT updates
)

# What each device has received, kept after its session is closed: where the next one goes on.
deliveries = Table(
    "deliveries",
    metadata,
    Column("mid", BigInteger, nullable=False),
    Column("key", Text, nullable=False),
    Column("position", BigInteger, nullable=False, comment="everything up to here was delivered to this device"),
    PrimaryKeyConstraint("mid", "key"),
    postgresql_with={"fillfactor": "70"},  # changed again and again, in no index: room for HOT updates
)

# unread = (messages of the room - seen) - (sent - sent_seen): one row read, no counting.
inbox = Table(
    "inbox",
    metadata,
    Column("mid", BigInteger, nullable=False),
    Column("room", Text, nullable=False),
    Column("since_seq", BigInteger, nullable=False, comment="seq of the join"),
    Column("read_seq", BigInteger, nullable=False, comment="read mark: never goes back"),
    Column(
        "seen", BigInteger, nullable=False, comment="messages of the room up to the read mark, or the join if later"
    ),
    Column("sent", BigInteger, nullable=False, comment="own messages since the join"),
    Column("sent_seen", BigInteger, nullable=False, comment="own messages since the join up to the read mark"),
    PrimaryKeyConstraint("mid", "room"),
    postgresql_with={"fillfactor": "70"},
)

# A message that is not as it was sent. Inline: an edit of what was recalled is refused.
amendments = Table(
    "amendments",
    metadata,
    Column("room", Text, nullable=False),
    Column("seq", BigInteger, nullable=False, comment="of the message, in the room"),
    Column("edits", BigInteger, nullable=False, comment="how many"),
    Column("edited", BigInteger, nullable=False, comment="position of the last edit, or 0"),
    Column("edited_ms", BigInteger, nullable=False, comment="its time, in milliseconds since 1970"),
    Column("format", SmallInteger, nullable=False, comment="of body: 0 JSON, 1 text, 2 base64 of bytes"),
    Column("body", Text, nullable=False, comment="how it reads since the last edit; empty once it is recalled"),
    Column("recalled", BigInteger, nullable=False, comment="position of the recall, or 0"),
    Column("recalled_by", BigInteger, nullable=False, comment="who recalled it"),
    PrimaryKeyConstraint("room", "seq"),
    Index("amendments_recalled_idx", "room", "seq", postgresql_where=text("recalled > 0")),
)

mentions = Table(
    "mentions",
    metadata,
    Column("mid", BigInteger, nullable=False, comment="who is named; 0 is everybody in the room"),
    Column("room", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("by", BigInteger, nullable=False, comment="who sent the message"),
    PrimaryKeyConstraint("mid", "room", "seq"),
)

threads = Table(
    "threads",
    metadata,
    Column("room", Text, nullable=False),
    Column("thread", BigInteger, nullable=False, comment="seq of its first message"),
    Column("seq", BigInteger, nullable=False),
    Column("by", BigInteger, nullable=False, comment="who sent the message"),
    PrimaryKeyConstraint("room", "thread", "seq"),
)

edits = Table(
    "edits",
    metadata,
    Column("room", Text, nullable=False),
    Column("target", BigInteger, nullable=False, comment="seq of the message"),
    Column("seq", BigInteger, nullable=False, comment="of the edit"),
    Column("by", BigInteger, nullable=False, comment="who made it"),
    PrimaryKeyConstraint("room", "target", "seq"),
)

# Who reacts to which message with what.
reactions = Table(
    "reactions",
    metadata,
    Column("room", Text, nullable=False),
    Column("seq", BigInteger, nullable=False, comment="of the message"),
    Column("reaction", Text, nullable=False),
    Column("mid", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False, comment="of the event: those of a message are paged by it"),
    Column("time_ms", BigInteger, nullable=False),
    PrimaryKeyConstraint("room", "seq", "reaction", "mid"),
    Index("reactions_room_seq_position_idx", "room", "seq", "position"),
)

# The same by message, in the order in which each came up: what a page of messages shows, and what bounds them.
reaction_counts = Table(
    "reaction_counts",
    metadata,
    Column("room", Text, nullable=False),
    Column("seq", BigInteger, nullable=False, comment="of the message"),
    Column("reactions", ARRAY(Text), nullable=False),
    Column("counts", ARRAY(BigInteger), nullable=False, comment="of each of reactions; never 0"),
    PrimaryKeyConstraint("room", "seq"),
    postgresql_with={"fillfactor": "70"},
)

pins = Table(
    "pins",
    metadata,
    Column("room", Text, nullable=False),
    Column("seq", BigInteger, nullable=False, comment="of the message"),
    Column("position", BigInteger, nullable=False, comment="of the pinning"),
    Column("by", BigInteger, nullable=False),
    Column("time_ms", BigInteger, nullable=False),
    PrimaryKeyConstraint("room", "seq"),
)

pin_counts = Table(
    "pin_counts",
    metadata,
    Column("room", Text, primary_key=True),
    Column("pins", BigInteger, nullable=False),
)

# How far each member has read, by room: who has read this message?
receipts = Table(
    "receipts",
    metadata,
    Column("room", Text, nullable=False),
    Column("mid", BigInteger, nullable=False),
    Column("since_seq", BigInteger, nullable=False, comment="seq of the join"),
    Column("read_seq", BigInteger, nullable=False, comment="read mark; since_seq: nothing was marked since the join"),
    Column("time_ms", BigInteger, nullable=False, comment="when the mark was made"),
    PrimaryKeyConstraint("room", "mid"),
    postgresql_with={"fillfactor": "70"},  # changed again and again, in no index: room for HOT updates
)

# What messages are found by. The room is looked for together with the words, so that what is frequent elsewhere costs nothing.
search = Table(
    "search",
    metadata,
    Column("room", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("mid", BigInteger, nullable=False, comment="who sent it"),
    Column("time_ms", BigInteger, nullable=False, comment="when it was sent"),
    Column("position", BigInteger, nullable=False),
    Column("text_at", BigInteger, nullable=False, comment="position of the event with its newest text"),
    Column("words", ARRAY(Text), nullable=False, comment="see projections.words"),
    PrimaryKeyConstraint("room", "seq"),
    Index("search_position_idx", "position"),
    Index("search_words_idx", text("array_to_tsvector(array_append(words, '@' || room))"), postgresql_using="gin"),
)

accounts = Table(
    "accounts",
    metadata,
    Column("mid", BigInteger, primary_key=True, autoincrement=False),
    Column("login", Text, nullable=False, comment="the name that it logs in with"),
    Column("name", Text, nullable=False, comment="the name that others see"),
    Column("avatar", Text, nullable=False, comment="a URL, or empty"),
    Column("extra", Text, nullable=False, comment="what the application keeps with a person: a JSON object"),
    Column("role", Text, nullable=False, comment="user, moderator or admin"),
    Column("state", Text, nullable=False, comment="pending, active, suspended or deactivated"),
    Column("reason", Text, nullable=False, comment="of a suspension"),
    Column("credential", Text, nullable=False, comment="which row of credentials is its password"),
    Column("created", BigInteger, nullable=False, comment="position of its registration"),
    Column("created_ms", BigInteger, nullable=False),
    Column("changed", BigInteger, nullable=False, comment="position of the last change"),
    Column(
        "activated",
        Boolean,
        nullable=False,
        server_default=text("true"),
        comment="it was active once; else the end of a suspension leaves it pending",
    ),
    Index("accounts_state_idx", "state", postgresql_where=text("state IN ('suspended', 'deactivated')")),
)

handles = Table(
    "handles",
    metadata,
    Column("handle", Text, primary_key=True, comment="what two names may not have in common"),
    Column("mid", BigInteger, nullable=False),
)

code_uses = Table(
    "code_uses",
    metadata,
    Column("code", Text, primary_key=True, comment="see invitation_codes.name"),
    Column("used", Integer, nullable=False, comment="how many have registered with it"),
)

logins = Table(
    "logins",
    metadata,
    Column("mid", BigInteger, nullable=False),
    Column("sid", Text, nullable=False),
    Column("key", Text, nullable=False, comment="the connection key that the device was told"),
    Column("platform", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("since", BigInteger, nullable=False, comment="position of the login; over if it is before logouts.ended"),
    Column("since_ms", BigInteger, nullable=False),
    PrimaryKeyConstraint("mid", "sid"),
)

# What ended the tokens of a person; every process follows it by position.
logouts = Table(
    "logouts",
    metadata,
    Column("mid", BigInteger, primary_key=True, autoincrement=False),
    Column("position", BigInteger, nullable=False, comment="of the last change"),
    Column("voided", BigInteger, nullable=False, comment="tokens that know less of the log than this are worthless"),
    Column("voided_ms", BigInteger, nullable=False),
    Column("ended", BigInteger, nullable=False, comment="logins that began before this are over"),
    Column("sids", ARRAY(Text), nullable=False, comment="single logins that ended lately: time in ms, space, sid"),
    Index("logouts_position_idx", "position"),
)

# --- secrets: as hashes, and out of the log ------------------------------------------------------------------------------------

credentials = Table(
    "credentials",
    metadata,
    Column("credential", Text, primary_key=True),
    Column("hash", Text, nullable=False, comment="Argon2id, with its parameters and salt"),
)

# One row a login. `family` is the half of a token that stays, `hash` the half that each refresh changes.
refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    Column("family", LargeBinary, primary_key=True),
    Column("hash", LargeBinary, nullable=False),
    Column("before", LargeBinary, comment="the hash that the last refresh replaced: good for a moment more"),
    Column("turned_at", DateTime(timezone=True)),
    Column("mid", BigInteger, nullable=False),
    Column("sid", Text, nullable=False),
    Column("told", Text, nullable=False, comment="what its tokens say beside who it is: JSON"),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Index("refresh_tokens_mid_sid_idx", "mid", "sid"),
    Index("refresh_tokens_expires_at_idx", "expires_at"),
)

tickets = Table(
    "tickets",
    metadata,
    Column("hash", LargeBinary, primary_key=True),
    Column("identity", Text, nullable=False, comment="whose it is, as its token said: JSON"),
    Column("origin", Text, nullable=False, comment="of the page that may use it"),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Index("tickets_expires_at_idx", "expires_at"),
)

invitation_codes = Table(
    "invitation_codes",
    metadata,
    Column("hash", LargeBinary, primary_key=True),
    Column(
        "name",
        Text,
        nullable=False,
        server_default=text("(gen_random_uuid())::text"),
        comment="what the log knows it by, which is not the code",
    ),
    Column("uses", Integer, nullable=False, comment="how many may register with it; see code_uses"),
    Column("note", Text, nullable=False),
    Column("created_by", BigInteger, nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
)

activation_codes = Table(
    "activation_codes",
    metadata,
    Column("mid", BigInteger, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary, nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
)

# --- leases ------------------------------------------------------------------------------------------------------------------

nodes = Table(
    "nodes",
    metadata,
    Column("node", Text, primary_key=True),
    Column("hostname", Text, nullable=False),
    Column("address", Text, nullable=False, comment="host that clients are told"),
    Column("tcp_port", Integer, nullable=False),
    Column("ws_port", Integer, nullable=False),
    Column("wss_port", Integer, nullable=False),
    Column("region", Text, nullable=False),
    Column("weight", Integer, nullable=False),
    Column("connections", Integer, nullable=False),
    Column("addresses", Integer, nullable=False, comment="distinct client addresses"),
    Column("started_at", DateTime(timezone=True), nullable=False),
    Column("lease_until", DateTime(timezone=True), nullable=False),
    Column("lease_s", Double, nullable=False),
)

# --- requests ----------------------------------------------------------------------------------------------------------------

# No projection: answers that were given, kept for a day for whoever asks the same again (see imcore/verbs/idempotency.py).
idempotency = Table(
    "idempotency",
    metadata,
    Column("mid", BigInteger, nullable=False, comment="whose key it is; 0 is that of services"),
    Column("role", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("request", LargeBinary, nullable=False, comment="digest of the verb and its arguments"),
    Column("claim", Uuid, nullable=False, comment="of the request that runs, or ran"),
    Column(
        "claimed_until",
        DateTime(timezone=True),
        nullable=False,
        comment="a claim without an answer ends by itself",
    ),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("status", SmallInteger, nullable=True, comment="of the answer; without one it is under way"),
    Column("answer", LargeBinary, nullable=True),
    PrimaryKeyConstraint("mid", "role", "key"),
    Index("idempotency_expires_at_idx", "expires_at"),
)
