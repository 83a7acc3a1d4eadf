"""State from events: who is in a room, who is online, what was delivered, what is unread.

A projection is a table whose rows are a fold over the log. `keys` says which rows an event concerns and `apply` what becomes of
a row; both are pure, and the same two run live, in a rebuild, in an audit and in tests. So every row here can be thrown away.

`INLINE` projections are folded in the append's own transaction, because a send is checked against them there. `ASYNCHRONOUS`
ones follow behind the log, rows and checkpoint in one transaction (see runner); `LEISURELY` ones the same, with a runner of
their own that rests between pages, so that nobody waits for them. A module that defines a projection holds its
row, its keys and its apply, and nothing else.
"""

from __future__ import annotations

from typing import Final

from imcore.projections import (
    accounts,
    amendments,
    attachments,
    bans,
    blocks,
    code_uses,
    deliveries,
    departures,
    edits,
    handles,
    inbox,
    invitations,
    join_requests,
    logins,
    logouts,
    members,
    mentions,
    mutes,
    pins,
    reactions,
    receipts,
    restrictions,
    room_counts,
    rooms,
    search,
    seen,
    sessions,
    threads,
    uploads,
    visibility,
)
from imcore.projections.projection import AnyProjection

INLINE: Final[tuple[AnyProjection, ...]] = (
    rooms.projection,
    restrictions.projection,
    members.projection,
    room_counts.projection,
    departures.projection,
    mutes.projection,
    bans.projection,
    invitations.projection,
    join_requests.projection,
    blocks.projection,
    attachments.projection,
    uploads.projection,
    amendments.projection,
    reactions.projection,
    reactions.counts,
    pins.projection,
    pins.count,
    visibility.projection,
    accounts.projection,
    handles.projection,
    code_uses.projection,
    logins.projection,
    logouts.projection,
)
ASYNCHRONOUS: Final[tuple[AnyProjection, ...]] = (
    sessions.projection,
    seen.projection,
    deliveries.projection,
    inbox.projection,
    mentions.projection,
    threads.projection,
    edits.projection,
    receipts.projection,
)
LEISURELY: Final[tuple[AnyProjection, ...]] = (search.projection,)
PROJECTIONS: Final = {projection.name: projection for projection in (*INLINE, *ASYNCHRONOUS, *LEISURELY)}
