"""Who reacts to which message with what; and the same counted by message, which is what a page of messages shows.

The trap: the counts cannot see whether somebody reacted so before. They are exact because a decision (reacting.React) appends
reaction_added only where that row is not there and reaction_removed only where it is; it sees both at its place in the log.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from imcore import tables
from imcore.events.types import ReactionAdded, ReactionRemoved, Recorded
from imcore.projections.projection import Key, Projection, types


class Reaction(NamedTuple):
    """That somebody reacts, since when."""

    position: int
    time_ms: int


class ReactionCounts(NamedTuple):
    """The different reactions to a message, in the order in which they came up, and how many react so."""

    reactions: tuple[str, ...]
    counts: tuple[int, ...]


TYPES: Final = types(ReactionAdded, ReactionRemoved)


def keys(recorded: Recorded) -> tuple[Key, ...]:
    match recorded.fact:
        case (
            ReactionAdded(room=room, target=seq, reaction=reaction)
            | ReactionRemoved(room=room, target=seq, reaction=reaction)
        ):
            return ((room, seq, reaction, recorded.mid),)
    return ()


def apply(key: Key, row: Reaction | None, recorded: Recorded) -> Reaction | None:
    match recorded.fact:
        case ReactionAdded():
            return row or Reaction(recorded.position, recorded.time_ms)
        case ReactionRemoved():
            return None
    return row


def counts_keys(recorded: Recorded) -> tuple[Key, ...]:
    match recorded.fact:
        case ReactionAdded(room=room, target=seq) | ReactionRemoved(room=room, target=seq):
            return ((room, seq),)
    return ()


def counts_apply(key: Key, row: ReactionCounts | None, recorded: Recorded) -> ReactionCounts | None:
    counts = {} if row is None else dict(zip(row.reactions, row.counts, strict=True))
    match recorded.fact:
        case ReactionAdded(reaction=reaction):
            counts[reaction] = counts.get(reaction, 0) + 1
        case ReactionRemoved(reaction=reaction) if reaction in counts:
            counts[reaction] -= 1
            if not counts[reaction]:
                del counts[reaction]
    return ReactionCounts(tuple(counts), tuple(counts.values())) if counts else None


projection: Final = Projection("reactions", tables.reactions, Reaction, TYPES, keys, apply)
counts: Final = Projection("reaction_counts", tables.reaction_counts, ReactionCounts, TYPES, counts_keys, counts_apply)
