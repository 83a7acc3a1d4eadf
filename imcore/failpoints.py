"""Named places where a process can be told to die, stand still, be slow or fail: for tests of what is promised under faults.

`IMCORE_FAIL=after_commit:exit` ends the process, as kill -9 would, in the moment in which a batch is committed and nobody was told.
Several are separated by commas; `name:action:3` acts at the third pass only (the first, if nothing is said), `name:action:p=0.01` at
each pass with this probability, and `seed=7` among them repeats the same choices.

The actions: `exit` (no goodbye, nothing flushed, exit code EXIT_CODE), `stop` (SIGSTOP to itself; SIGCONT lets it go on), `sleep=ms`
and `error` (as if the line to the database had broken there).

Nothing of this costs a server anything: where nothing is armed a place is one comparison with None, and there is no place in what runs
for each send or each delivery. The state of this module is the only one of its kind in the house: a place that had to be handed its
failpoints would be a place that knows of tests.

The trap: a place inside a transaction (`after_update_head`, `before_commit`) exists only if it is watched: drafts are appended by one
statement, and the log makes a transaction of it, with the same locks in the same order, when `watches` says so.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import time
from collections.abc import Mapping
from typing import Final

log = logging.getLogger(__name__)

PLACES: Final[Mapping[str, str]] = {
    "after_update_head": "the batch holds the lock on the head of the log, and nothing of it is written",
    "before_commit": "everything of the batch is written, and not committed",
    "after_commit": "the batch is committed, and its process knows",
    "before_reply": "those of the batch are about to be told",
    "before_publish": "the senders were told, the other processes were not",
    "after_publish": "the other processes were told",
    "before_cursor_commit": "a page of a projection is written, with its checkpoint, and not committed",
    "mid_replay": "a page for a session that is behind was read and not written, or was written and is not the last",
}
WITHOUT_ERROR: Final = frozenset(("before_reply",))  # nothing is asked of anybody there, so nothing can fail
ACTIONS: Final = ("exit", "stop", "sleep", "error")
EXIT_CODE: Final = 86
SLEEP_MS_MAX: Final = 600_000


class InjectedFault(OSError):
    """A failpoint said that the line to the database broke here."""


class Failpoint:
    """What happens at one place, and when."""

    __slots__ = ("action", "at", "chance", "name", "passes", "probability", "sleep_s")

    def __init__(
        self, name: str, action: str, *, sleep_s: float = 0.0, at: int = 1, probability: float | None = None
    ) -> None:
        self.name = name
        self.action = action
        self.sleep_s = sleep_s
        self.at = at
        self.probability = probability
        self.chance = random.Random()
        self.passes = 0

    def is_due(self) -> bool:
        """Count this pass: is it one at which something happens?"""
        self.passes += 1
        if self.probability is not None:
            return self.chance.random() < self.probability
        return self.passes == self.at


armed: dict[str, Failpoint] | None = None


def parse(text: str) -> dict[str, Failpoint]:
    """The failpoints by name. Raises ValueError, which says what is wrong."""
    found: dict[str, Failpoint] = {}
    seed: int | None = None
    for part in filter(None, (one.strip() for one in text.split(","))):
        if part.startswith("seed="):
            seed = _whole(part.removeprefix("seed="), "a seed", 0)
            continue
        name, *rest = part.split(":")
        if name not in PLACES:
            raise ValueError(f"there is no place {name!r}; there are {', '.join(PLACES)}")
        if name in found:
            raise ValueError(f"{name} is named twice")
        if not 1 <= len(rest) <= 2:
            raise ValueError("a failpoint is name:action, name:action:n or name:action:p=probability")
        found[name] = _failpoint(name, *rest)
    for n, one in enumerate(found.values()):
        one.chance = random.Random() if seed is None else random.Random(seed + n)
    return found


def _failpoint(name: str, action: str, when: str = "1") -> Failpoint:
    verb, equals, amount = action.partition("=")
    if verb not in ACTIONS or bool(equals) != (verb == "sleep"):
        raise ValueError(f"{action!r} is not exit, stop, sleep=milliseconds or error")
    if verb == "error" and name in WITHOUT_ERROR:
        raise ValueError(f"nothing can fail at {name}")
    sleep_ms = _whole(amount, "milliseconds", 0) if equals else 0
    if sleep_ms > SLEEP_MS_MAX:
        raise ValueError(f"more than {SLEEP_MS_MAX} milliseconds")
    if when.startswith("p="):
        try:
            probability = float(when.removeprefix("p="))
        except ValueError:
            probability = -1.0
        if not 0 <= probability <= 1:
            raise ValueError("a probability is a number from 0 to 1")
        return Failpoint(name, verb, sleep_s=sleep_ms / 1000, probability=probability)
    return Failpoint(name, verb, sleep_s=sleep_ms / 1000, at=_whole(when, "a pass", 1))


def _whole(text: str, what: str, least: int) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 9 or int(text) < least:
        raise ValueError(f"{what} is a whole number from {least} on, not {text!r}")
    return int(text)


def arm(text: str) -> None:
    """Let these happen in this process from now on; "" disarms it. Raises ValueError."""
    global armed
    armed = parse(text) or None
    if armed is not None:
        log.warning("FAILPOINTS ARE ARMED, this process will break on purpose: %s", text)


def watches(*names: str) -> bool:
    """Is anything armed at one of these places?"""
    return armed is not None and any(name in armed for name in names)


def reach(name: str) -> None:
    """Do what is armed here, in the middle of a call: `sleep` makes the whole process wait. Raises InjectedFault."""
    if armed is not None and (sleep_s := _act(name)):  # no sleep of nothing: under libfaketime that is an error
        time.sleep(sleep_s)


async def arrive(name: str) -> None:
    """The same in a task: `sleep` makes only the task wait. Raises InjectedFault."""
    if armed is not None and (sleep_s := _act(name)):
        await asyncio.sleep(sleep_s)


def _act(name: str) -> float:
    """Exit, stop or fail if it is time; how long to sleep."""
    assert name in PLACES, "a place is drawn in PLACES"
    assert armed is not None, "the caller looks, because that is all that it may cost"
    point = armed.get(name)
    if point is None or not point.is_due():
        return 0.0
    log.warning("failpoint %s: %s at pass %d", name, point.action, point.passes)
    match point.action:
        case "exit":
            os._exit(EXIT_CODE)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "error":
            raise InjectedFault(f"failpoint {name}")
    return point.sleep_s
