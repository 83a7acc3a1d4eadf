"""What is said of a run that is over: faults that bit, recovery, what the programs' loops were given. Each is shown both ways."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from imcore.testkit.aftermath import Given, S, judge_wounds, loop_faults
from imcore.testkit.history import Closed, Entry, Log, Record, Sending
from imcore.testkit.nemesis import Wound, tally

ROOM = "group://r"
DEVICE = "device-7-1"


def log() -> Log:
    """A room in which 7 is from seq 2 on, and says seq 4 from this very device."""
    entries = [
        Entry(1, ROOM, 1, "room_created", 0, "", "", "", 0),
        Entry(2, ROOM, 2, "member_joined", 0, "", "", "", 7),
        *(Entry(n, ROOM, n, "message_sent", 8, "device-8-1", f"id {n}", "h", 0) for n in (3, 5, 6)),
        Entry(4, ROOM, 4, "message_sent", 7, DEVICE, "id 4", "h", 0),
    ]
    entries.sort()
    return Log(entries=entries, head=6, positions=6, heads={ROOM: 6})


def whole() -> list[Given]:
    """Everything that the device's loop must be given, over two lives."""
    return [Given(1, ROOM, 2, 2), Given(1, ROOM, 3, 3), Given(2, ROOM, 5, 5), Given(2, ROOM, 6, 6)]


def test_a_loop_that_was_given_everything_once_is_sound() -> None:
    """Also when its own message came along, as it may after a restart."""
    assert [] == loop_faults(DEVICE, 7, whole(), log())
    with_own = sorted([*whole(), Given(2, ROOM, 4, 4)], key=lambda given: given.seq)
    assert [] == loop_faults(DEVICE, 7, with_own, log())


@pytest.mark.parametrize(
    ("bug", "told"),
    [
        (lambda rows: rows.pop(2), "never given group://r#5"),
        (lambda rows: rows.insert(2, rows[1]._replace(life=2)), "group://r#3 a second time"),
        (lambda rows: rows.insert(1, rows.pop(2)), "group://r#3 after 5"),
        (lambda rows: rows.append(Given(2, ROOM, 7, 7)), "group://r#7 at position 7, which is not in the log"),
        (lambda rows: rows.append(rows.pop()._replace(position=9)), "group://r#6 at position 9"),
    ],
    ids=["lost", "twice", "swapped", "from nowhere", "elsewhere"],
)
def test_what_is_wrong_with_a_loop_is_found(bug: Callable[[list[Given]], object], told: str) -> None:
    rows = whole()
    bug(rows)

    assert any(told in fault for fault in loop_faults(DEVICE, 7, rows, log()))


def send(t: int, n: int, type_: str) -> Record:
    """A step of a send."""
    return Record(t * S, "p", 7, DEVICE, 1, n, type_, "send", Sending(ROOM, f"id {n}"))  # type: ignore[arg-type]


def test_a_fault_bites_when_somebody_notices_it_or_it_sees_its_own_effect() -> None:
    """A connection that ends in its time, an outcome that is unknown; what comes much later is not its doing."""
    noticed = Wound("a", begun_ns=10 * S, healed_ns=12 * S)
    saw = Wound("b", begun_ns=20 * S, healed_ns=21 * S, saw=["killed 1"])
    blunt = Wound("c", begun_ns=30 * S, healed_ns=31 * S)
    failed = Wound("d", begun_ns=50 * S, healed_ns=51 * S, failed="no strace")
    wounds = [noticed, saw, blunt, failed]
    ends = [Record(t * S, "p", 7, DEVICE, 1, 0, "ok", "close", Closed(1006)) for t in (11, 40, 50)]

    judge_wounds(wounds, ends)

    assert [True, True, False, False] == [wound.bitten for wound in wounds]
    assert [(1, 1, 0), (1, 1, 0), (1, 0, 0), (1, 0, 1)] == [
        (one.injected, one.bitten, one.failed) for one in tally(wounds).values()
    ]


def test_recovery_is_from_the_heal_to_the_first_acknowledged_send_that_began_after_it() -> None:
    """One that began before may have been acknowledged by what was not broken."""
    wound = Wound("a", begun_ns=10 * S, healed_ns=12 * S)
    never = Wound("b", begun_ns=30 * S, healed_ns=31 * S)
    records = [send(11, 1, "invoke"), send(13, 1, "ok"), send(12, 2, "invoke"), send(13, 3, "invoke")]
    records += [send(14, 3, "ok"), send(16, 2, "ok"), send(32, 4, "invoke"), send(33, 4, "info")]

    judge_wounds([wound, never], sorted(records))

    assert 2_000 == wound.recovered_ms
    assert never.recovered_ms is None
