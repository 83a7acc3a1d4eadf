"""Accounts, who is logged in, what ended that, and the hashes of their secrets."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TABLES = (
    """
    CREATE TABLE accounts (
      mid BIGINT NOT NULL,
      login TEXT NOT NULL,
      name TEXT NOT NULL,
      avatar TEXT NOT NULL,
      extra TEXT NOT NULL,
      role TEXT NOT NULL,
      state TEXT NOT NULL,
      reason TEXT NOT NULL,
      credential TEXT NOT NULL,
      created BIGINT NOT NULL,
      created_ms BIGINT NOT NULL,
      changed BIGINT NOT NULL,
      CONSTRAINT accounts_pkey PRIMARY KEY (mid)
    );
    CREATE INDEX accounts_state_idx ON accounts (state) WHERE state IN ('suspended', 'deactivated');
    COMMENT ON COLUMN accounts.login IS 'the name that it logs in with';
    COMMENT ON COLUMN accounts.name IS 'the name that others see';
    COMMENT ON COLUMN accounts.avatar IS 'a URL, or empty';
    COMMENT ON COLUMN accounts.extra IS 'what the application keeps with a person: a JSON object';
    COMMENT ON COLUMN accounts.role IS 'user, moderator or admin';
    COMMENT ON COLUMN accounts.state IS 'pending, active, suspended or deactivated';
    COMMENT ON COLUMN accounts.reason IS 'of a suspension';
    COMMENT ON COLUMN accounts.credential IS 'which row of credentials is its password';
    COMMENT ON COLUMN accounts.created IS 'position of its registration';
    COMMENT ON COLUMN accounts.changed IS 'position of the last change'
    """,
    """
    CREATE TABLE handles (
      handle TEXT NOT NULL,
      mid BIGINT NOT NULL,
      CONSTRAINT handles_pkey PRIMARY KEY (handle)
    );
    COMMENT ON COLUMN handles.handle IS 'what two names may not have in common'
    """,
    """
    CREATE TABLE logins (
      mid BIGINT NOT NULL,
      sid TEXT NOT NULL,
      key TEXT NOT NULL,
      platform TEXT NOT NULL,
      address TEXT NOT NULL,
      since BIGINT NOT NULL,
      since_ms BIGINT NOT NULL,
      CONSTRAINT logins_pkey PRIMARY KEY (mid, sid)
    );
    COMMENT ON COLUMN logins.key IS 'the connection key that the device was told';
    COMMENT ON COLUMN logins.since IS 'position of the login; over if it is before logouts.ended'
    """,
    """
    CREATE TABLE logouts (
      mid BIGINT NOT NULL,
      position BIGINT NOT NULL,
      voided BIGINT NOT NULL,
      voided_ms BIGINT NOT NULL,
      ended BIGINT NOT NULL,
      sids TEXT[] NOT NULL,
      CONSTRAINT logouts_pkey PRIMARY KEY (mid)
    );
    CREATE INDEX logouts_position_idx ON logouts (position);
    COMMENT ON COLUMN logouts.position IS 'of the last change';
    COMMENT ON COLUMN logouts.voided IS 'tokens that know less of the log than this are worthless';
    COMMENT ON COLUMN logouts.ended IS 'logins that began before this are over';
    COMMENT ON COLUMN logouts.sids IS 'single logins that ended lately: time in ms, space, sid'
    """,
    """
    CREATE TABLE credentials (
      credential TEXT NOT NULL,
      hash TEXT NOT NULL,
      CONSTRAINT credentials_pkey PRIMARY KEY (credential)
    );
    COMMENT ON COLUMN credentials.hash IS 'Argon2id, with its parameters and salt'
    """,
    """
    CREATE TABLE refresh_tokens (
      family BYTEA NOT NULL,
      hash BYTEA NOT NULL,
      before BYTEA,
      turned_at TIMESTAMP WITH TIME ZONE,
      mid BIGINT NOT NULL,
      sid TEXT NOT NULL,
      told TEXT NOT NULL,
      expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
      CONSTRAINT refresh_tokens_pkey PRIMARY KEY (family)
    );
    CREATE INDEX refresh_tokens_expires_at_idx ON refresh_tokens (expires_at);
    CREATE INDEX refresh_tokens_mid_sid_idx ON refresh_tokens (mid, sid);
    COMMENT ON COLUMN refresh_tokens.before IS 'the hash that the last refresh replaced: good for a moment more';
    COMMENT ON COLUMN refresh_tokens.told IS 'what its tokens say beside who it is: JSON'
    """,
    """
    CREATE TABLE tickets (
      hash BYTEA NOT NULL,
      identity TEXT NOT NULL,
      origin TEXT NOT NULL,
      expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
      CONSTRAINT tickets_pkey PRIMARY KEY (hash)
    );
    CREATE INDEX tickets_expires_at_idx ON tickets (expires_at);
    COMMENT ON COLUMN tickets.identity IS 'whose it is, as its token said: JSON';
    COMMENT ON COLUMN tickets.origin IS 'of the page that may use it'
    """,
    """
    CREATE TABLE invitation_codes (
      hash BYTEA NOT NULL,
      uses INTEGER NOT NULL,
      note TEXT NOT NULL,
      created_by BIGINT NOT NULL,
      expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
      CONSTRAINT invitation_codes_pkey PRIMARY KEY (hash)
    );
    COMMENT ON COLUMN invitation_codes.uses IS 'how many may still register with it'
    """,
    """
    CREATE TABLE activation_codes (
      mid BIGINT NOT NULL,
      hash BYTEA NOT NULL,
      expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
      CONSTRAINT activation_codes_pkey PRIMARY KEY (mid)
    )
    """,
)


def upgrade() -> None:
    for block in TABLES:
        for statement in block.split(";\n"):
            op.execute(statement)


def downgrade() -> None:
    for name in (
        "activation_codes",
        "invitation_codes",
        "tickets",
        "refresh_tokens",
        "credentials",
        "logouts",
        "logins",
        "handles",
        "accounts",
    ):
        op.execute(f"DROP TABLE {name}")
