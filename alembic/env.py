"""What Alembic runs for every command: the tables of imcore, on the connection that it is given.

The server hands its own connection over (imcore/database/migrations.py), with the lock held. From the command line name a
database instead: `alembic -x url=postgresql://… revision --autogenerate -m "…" --rev-id 0002`.
"""

from __future__ import annotations

import asyncio
from functools import partial

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from imcore.database import connect
from imcore.tables import metadata


def migrate(connection: Connection) -> None:
    # A transaction for each revision: what is done stays done, and a lock is held for one of them only.
    context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


async def migrate_at(url: str) -> None:
    engine = create_async_engine("postgresql+asyncpg://", async_creator=partial(connect, url))
    async with engine.connect() as connection:
        await connection.run_sync(migrate)
    await engine.dispose()


given = context.config.attributes.get("connection")
if given is not None:
    migrate(given)
else:
    asyncio.run(migrate_at(context.get_x_argument(as_dictionary=True)["url"]))
