"""What is folded about messages, event by event: reactions, pins, receipts, and the words they are found by. No database."""

from __future__ import annotations

from imcore.events.types import (
    Fact,
    MessageEdited,
    MessagePinned,
    MessageRecalled,
    MessageUnpinned,
    ReactionAdded,
    ReactionRemoved,
)
from imcore.projections import pins, reactions, receipts, search
from imcore.projections.pins import PinCount, Pinned
from imcore.projections.projection import fold
from imcore.projections.reactions import Reaction, ReactionCounts
from imcore.projections.receipts import Receipt
from imcore.projections.search import Searched
from projections.test_folds import R, given, joined, left, marked

UP, HEART = "👍", "❤️"


def reacted(reaction: str = UP, target: int = 1) -> Fact:
    return ReactionAdded(room=R, target=target, reaction=reaction)


def unreacted(reaction: str = UP, target: int = 1) -> Fact:
    return ReactionRemoved(room=R, target=target, reaction=reaction)


def test_a_reaction_is_there_from_its_adding_to_its_removal() -> None:
    assert {(R, 1, UP, 7): Reaction(2, 1002)} == fold(reactions.projection, given(7, reacted()))
    assert {} == fold(reactions.projection, given(7, reacted(), unreacted()))
    assert {} == fold(reactions.projection, given(7, unreacted()))


def test_reactions_are_counted_in_the_order_in_which_they_came_up() -> None:
    log = given(7, reacted(HEART), reacted(UP), by=7) + given(0, 0, 0, reacted(UP), reacted(HEART), by=8)[3:]

    assert {(R, 1): ReactionCounts((HEART, UP), (2, 2))} == fold(reactions.counts, log)
    assert len(fold(reactions.projection, log)) == 4


def test_a_reaction_that_nobody_has_any_more_is_no_row() -> None:
    log = given(7, reacted(HEART), reacted(UP), unreacted(HEART))

    assert {(R, 1): ReactionCounts((UP,), (1,))} == fold(reactions.counts, log)
    assert {} == fold(reactions.counts, [*log, *given(7, 7, 7, 7, unreacted(UP))[-1:]])


def test_pins_are_there_and_counted_until_they_are_taken_off() -> None:
    log = given(
        7, 7, MessagePinned(room=R, target=1), MessagePinned(room=R, target=2), MessageUnpinned(room=R, target=1)
    )

    assert {(R, 2): Pinned(4, 7, 1004)} == fold(pins.projection, log)
    assert {(R,): PinCount(1)} == fold(pins.count, log)
    assert {} == fold(pins.count, [*log, *given(7, 7, 7, 7, 7, MessageUnpinned(room=R, target=2))[-1:]])


def test_a_receipt_follows_the_mark_forward_and_ends_with_the_membership() -> None:
    assert {(R, 7): Receipt(1, 1, 1001)} == fold(receipts.projection, given(joined()))
    read = given(joined(), 8, 8, marked(3, 2, 0), marked(2, 1, 0), joined())
    assert {(R, 7): Receipt(1, 3, 1004)} == fold(receipts.projection, read)
    assert {} == fold(receipts.projection, [*read, *given(7, 7, 7, 7, 7, 7, left())[-1:]])
    assert {} == fold(receipts.projection, given(marked(3, 2, 0)))


def test_every_message_has_its_words_and_reads_as_it_was_edited_last() -> None:
    edited = MessageEdited(room=R, target=1, body={"text": "Good morning"})
    log = given(7, 0, edited)
    log[0] = log[0]._replace(body='"Hello there"')
    log[1] = log[1]._replace(body="[1]")

    assert {
        (R, 1): Searched(7, 1001, 1, 1, ("hello", "there")),
        (R, 2): Searched(0, 1002, 2, 2, ()),
    } == fold(search.projection, log[:2])
    assert fold(search.projection, log)[R, 1] == Searched(7, 1001, 1, 3, ("good", "morning"))


def test_a_recalled_message_is_found_no_more_whatever_is_edited_after() -> None:
    recalled, edited = MessageRecalled(room=R, target=1, author=7), MessageEdited(room=R, target=1, body="back")
    log = given(7, recalled, edited)
    log[0] = log[0]._replace(body='"Hello"')

    assert {} == fold(search.projection, log)
