"""What clients may ask for: one definition for HTTP and for connections.

Each module here is one subject and lists its verbs in `VERBS`. `verb` says what a verb is, `means` what it works with.
"""

from __future__ import annotations

from typing import Final

from imcore.verbs import (
    accounts,
    attachments,
    direct,
    members,
    messages,
    pins,
    presence,
    reactions,
    receipts,
    rooms,
    search,
    server,
    sessions,
    signals,
)
from imcore.verbs.verb import AnyVerb

VERBS: Final[tuple[AnyVerb, ...]] = (
    *server.VERBS,
    *accounts.VERBS,
    *rooms.VERBS,
    *members.VERBS,
    *direct.VERBS,
    *sessions.VERBS,
    *messages.VERBS,
    *attachments.VERBS,
    *reactions.VERBS,
    *pins.VERBS,
    *receipts.VERBS,
    *search.VERBS,
    *presence.VERBS,
    *signals.VERBS,
)
