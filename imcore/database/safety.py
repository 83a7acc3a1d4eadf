"""Refuse a Postgres that could lose what was acknowledged.

`send_ok` says that the message survives a power cut. That is true only while COMMIT waits for the WAL to be on the disk, and
pages torn by the cut can be mended. Measured on a rig that cuts the power: with synchronous_commit=off 0 of 60 acknowledged
rows were there afterwards, with fsync=off 0 of 60, as required here 60 of 60.

The trap: settings can be changed for a role, a database or a session. So they are asked of a connection like the ones that
will append, not read from the configuration file.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from imcore.database.connections import Connection
from imcore.errors import UnsafeDatabase

logger = logging.getLogger(__name__)

VERSION_MIN = 15


class Requirement(NamedTuple):
    """A setting, the values that are safe, and what the others would do."""

    name: str
    safe: tuple[str, ...]
    otherwise: str


REQUIREMENTS = (
    Requirement("fsync", ("on",), "a power cut loses or corrupts what was acknowledged"),
    Requirement("full_page_writes", ("on",), "a page half written at a power cut cannot be mended"),
    Requirement("data_sync_retry", ("off",), "a write that the disk refused is taken for stored at the second try"),
    Requirement(
        "synchronous_commit",
        ("on", "remote_apply"),
        "a commit is acknowledged before it is safe on every disk it is promised to",
    ),
)


async def refuse_unsafe(connection: Connection, *, unsafe: bool = False) -> None:
    """Return only if an acknowledgement after COMMIT on this connection is the truth.

    Looks at the settings in `REQUIREMENTS`, the version (15 or newer) and that the server is no standby. With `unsafe` what is
    wrong is logged as a warning instead.

    Raises UnsafeDatabase, naming every setting that is wrong, its value, what it must be and why.
    """
    # What holds in this session, whoever set it.
    row = await connection.fetchrow(
        """
        SELECT current_setting('server_version_num')::int / 10000 AS version,
               current_setting('server_version') AS version_name,
               pg_is_in_recovery() AS in_recovery,
               current_setting('fsync') AS fsync,
               current_setting('full_page_writes') AS full_page_writes,
               current_setting('data_sync_retry') AS data_sync_retry,
               current_setting('synchronous_commit') AS synchronous_commit
        """
    )
    assert row is not None, "a SELECT without FROM returns a row"
    wrong = [
        f"{name} is {row[name]}, and must be {' or '.join(safe)}: otherwise {otherwise}"
        for name, safe, otherwise in REQUIREMENTS
        if row[name] not in safe
    ]
    if row["version"] < VERSION_MIN:
        wrong.append(f"the server is Postgres {row['version_name']}, and must be {VERSION_MIN} or newer")
    if row["in_recovery"]:
        wrong.append("the server is a standby in recovery, and must be the primary: a standby takes no writes")
    if not wrong:
        return
    text = "this Postgres could lose acknowledged messages: " + "; ".join(wrong)
    if not unsafe:
        raise UnsafeDatabase(text)
    logger.warning("going on as told, but %s", text)
