"""Accounts: who somebody is, how that is proven, and how it ends.

What happens to an account is an event in the stream of its person, so a logout, a suspension or a role is effective from its position
on, as a removal from a room is. Secrets are not in the log, which is for ever: they are hashes in tables beside it (`keeping`).

    names      what may be a name, and which two are too much alike: pure
    decisions  what may happen to an account: pure
    passwords  hashes, in a few threads with a bounded line
    tokens     access tokens, signed here
    keeping    refresh tokens, tickets, codes, hashes
    revocations  which tokens are worth nothing any more
    webhook    the user's own backend, asked
    doors      all of that together, at a door
    accounts   the verbs' other half
"""

from __future__ import annotations

from imcore.accounts.accounts import Accounts, Granted, Registered, alone, ready_keys

__all__ = ["Accounts", "Granted", "Registered", "alone", "ready_keys"]
