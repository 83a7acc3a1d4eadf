"""Q1 to Q7: what must happen in time. Bounds are the run's; every figure is reported whether it is kept or not.

Time is what the clients saw. So a busy machine is slow here too, and a bound that is missed says where to look, not who is to blame.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final

from imcore.testkit.checkers.findings import Bounds, Tally
from imcore.testkit.checkers.run import NEVER, SECOND, Run, Send, Visit, Window, outcome_of
from imcore.testkit.history import DRAIN, DRAINED, Presence

Check = Callable[[Run, Bounds, Tally], None]
MS: Final = 1_000_000


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of them does not exceed; they are sorted."""
    return values[min(len(values) - 1, max(0, -int(-len(values) * share // 1) - 1))] if values else 0.0


def sends_recover(run: Run, bounds: Bounds, tally: Tally) -> None:
    """Q1. After a fault is healed, and no other begins, a send is soon acknowledged; after the last one in every room."""
    late = int(bounds.recovery_s * SECOND)
    times = recovery_times(run, bounds)
    for window, recovery in times:
        tally.checked += 1
        if recovery > late:
            tally.found("sends did not recover", fault=window.fault, after_s=recovery / SECOND)
    if times:
        tally.figures["recovery_max_s"] = max(recovery for _, recovery in times) / SECOND
    healed = max((window.ended for window in run.windows), default=NEVER)
    if healed == NEVER:
        tally.void = "" if tally.checked else "no fault was healed"
        return
    rooms: defaultdict[str, list[list[Send]]] = defaultdict(list)
    for tries in run.sends.values():
        rooms[tries[0].asked.room].append(tries)
    for room, sends in rooms.items():
        took = _recovery(run, sends, healed, late)
        tally.checked += took is not None
        if took is not None and took > late:
            tally.found("a room did not recover", room=room, healed=healed, after_s=took / SECOND)
    end = healed + late
    tried = [one for tries in run.attempts.values() for one in tries if healed <= one.asked_at < end < run.ended]
    tally.checked += bool(tried)
    if tried and min(one.opened_at for one in tried) > end:
        tally.found("nobody could connect", healed=healed, tries=len(tried))


def recovery_times(run: Run, bounds: Bounds) -> list[tuple[Window, int]]:
    """For each fault that was healed: how long until the first acknowledged send, in ns; NEVER if none came.

    Only where somebody waited for one, no other fault was on when it was healed, and none came in between.
    """
    late = int(bounds.recovery_s * SECOND)
    sends = list(run.sends.values())
    found: list[tuple[Window, int]] = []
    for window in run.windows:
        healed = window.ended
        if healed == NEVER or any(other.began <= healed < other.ended for other in run.windows):
            continue
        undisturbed = min((other.began for other in run.windows if other.began > healed), default=NEVER)
        recovery = _recovery(run, sends, healed, late)
        if recovery is not None and (undisturbed > healed + late or healed + recovery < undisturbed):
            found.append((window, recovery))
    return found


def _recovery(run: Run, sends: Sequence[list[Send]], healed: int, late: int) -> int | None:
    """From the healing to the first acknowledged send. None where nothing says that there should have been one in time: a client may
    have left, or given up."""
    end = healed + late
    tries = [one for each in sends for one in each if one.ended >= healed]
    first = min((one.ended for one in tries if one.outcome == "ok"), default=NEVER)
    if first <= end:
        return first - healed
    if run.ended > end and any(_is_waited_for(run, each, healed, end) for each in sends):
        return NEVER if first == NEVER else first - healed
    return None


def _is_waited_for(run: Run, tries: Sequence[Send], healed: int, end: int) -> bool:
    """Did somebody who was there wait for this send at the end of the time, or try it again on the same connection?"""
    there = {one.visit for one in tries if one.outcome == "info" and healed <= one.ended and one.began <= end}
    return any(
        (one.began <= end < min(one.ended, run.lasted[one.visit[0]])) or (one.began > end and one.visit in there)
        for one in tries
    )


def everybody_catches_up(run: Run, bounds: Bounds, tally: Tally) -> None:
    """Q2. After the load, and the last fault, it takes only so long until everybody has everything (P6 says whether they have)."""
    if DRAIN not in run.phases or DRAINED not in run.phases:
        tally.void = "no drain was recorded"
        return
    tally.checked = 1
    took = (run.phases[DRAINED] - run.phases[DRAIN]) / SECOND
    tally.figures["drain_s"] = took
    if took > bounds.drain_s:
        tally.found("the drain took too long", drain_s=took, bound_s=bounds.drain_s)


def delivery_is_fast(run: Run, bounds: Bounds, tally: Tally) -> None:
    """Q3. Without faults, from the acknowledgement to the delivery."""
    settle = int(bounds.recovery_s * SECOND)
    waits = delivery_times(run, lambda first, last: run.is_calm(first - settle, last))
    tally.checked = len(waits)
    if waits:
        p99, p999 = percentile(waits, 0.99), percentile(waits, 0.999)
        tally.figures.update(p50_ms=percentile(waits, 0.5), p99_ms=p99, p999_ms=p999)
        if p99 > bounds.delivery_p99_ms:
            tally.found("delivery is slow", p99_ms=p99, bound_ms=bounds.delivery_p99_ms)
        if p999 > bounds.delivery_p999_ms:
            tally.found("delivery is slow at times", p999_ms=p999, bound_ms=bounds.delivery_p999_ms)


def delivery_is_degraded_at_most(run: Run, bounds: Bounds, tally: Tally) -> None:
    """Q4. Under the faults that only slow delivery, sends are acknowledged all the same."""
    windows = [window for window in run.windows if window.fault.name in bounds.degraded]
    if not windows:
        tally.void = "there was no such fault"
        return
    waits = delivery_times(run, lambda first, _: any(w.began <= first < w.ended for w in windows))
    tally.checked = len(waits)
    if waits:
        tally.figures["p99_ms"] = percentile(waits, 0.99)
        if tally.figures["p99_ms"] > bounds.degraded_p99_ms:
            tally.found("delivery is slower than it may be", **tally.figures, bound_ms=bounds.degraded_p99_ms)
    for (mid, id_), tries in run.sends.items():
        inside = any(w.began <= one.began < w.ended and one.outcome != "fail" for w in windows for one in tries)
        alone = all(w in windows or w.ended < tries[0].began or w.began > tries[-1].ended for w in run.windows)
        if inside and alone:
            tally.checked += 1
            if outcome_of(tries) == "info":
                tally.found("a send had no outcome", mid=mid, id=id_)


def delivery_times(run: Run, wanted: Callable[[int, int], bool]) -> list[float]:
    """From the acknowledgement of a send to each of its deliveries to who was connected then, in ms, sorted."""
    told: dict[tuple[int, str], int] = {}
    for key, tries in run.sends.items():
        acks = [one.ended for one in tries if one.outcome == "ok"]
        if acks and len(tries) == 1:
            told[key] = acks[0]
    waits = []
    for visit in run.visits.values():
        for t, event in visit.delivered:
            acked = told.get((event.mid, event.id))
            if acked is not None and visit.opened_at < acked and wanted(min(acked, t), t):
                waits.append(max(0, t - acked) / MS)
    waits.sort()
    return waits


def presence_settles(run: Run, bounds: Bounds, tally: Tally) -> None:
    """Q5. Who has been away for long enough is shown offline, and nobody stays as a ghost."""
    for operation, _, sight in run.answered("presence", Presence):
        asked = operation.asked.t
        left = [_gone(visit, bounds) for visit in run.attempts[sight.mid] if visit.asked_at < operation.told_at]
        if left and max(left) < asked:
            tally.checked += 1
            if sight.online:
                tally.found("a ghost was shown online", seen=sight, at=asked, gone_since=max(left))


def nobody_is_offline_falsely(run: Run, bounds: Bounds, tally: Tally) -> None:
    """Q6. Who is connected, and is answered before and after, is shown online in between."""
    grace, settle = int(bounds.online_s * SECOND), int(bounds.recovery_s * SECOND)
    severed = [window for window in run.windows if window.fault.name in bounds.severing]
    for operation, _, sight in run.answered("presence", Presence):
        asked, answered = operation.asked.t, operation.told_at
        lives = run.people.get(sight.mid, ())
        if any(window.began <= answered and asked <= window.ended + settle for window in severed):
            continue
        if any(
            visit.opened_at + grace <= asked and min(visit.heard_at, visit.closed_at) >= answered for visit in lives
        ):
            tally.checked += 1
            if not sight.online:
                tally.found("who is connected was shown offline", seen=sight, asked=asked, answered=answered)


def sends_are_served(run: Run, bounds: Bounds, tally: Tally) -> None:
    """Q7. What share of sends was acknowledged, for each fault; all of them where the fault is said to be harmless."""
    shares: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for (mid, id_), tries in run.sends.items():
        outcome = outcome_of(tries)
        for window in run.windows:
            if any(window.began <= one.began < window.ended and one.outcome != "fail" for one in tries):
                tally.checked += 1
                share = shares[window.fault.name]
                share[0] += outcome == "ok"
                share[1] += 1
                if window.fault.harmless and outcome != "ok":
                    tally.found(
                        "a send was not acknowledged under a harmless fault", fault=window.fault, mid=mid, id=id_
                    )
    tally.figures.update((f"served_{name}", ok / total) for name, (ok, total) in shares.items())
    if not run.windows:
        tally.void = "there was no fault"


def _gone(visit: Visit, bounds: Bounds) -> int:
    """From when on this connection must not be seen any more."""
    if visit.closed is None:
        return NEVER
    is_clean = visit.closed.by_client and visit.closed.code == 1000
    return visit.closed_at + int((bounds.offline_clean_s if is_clean else bounds.offline_s) * SECOND)


def send_times(run: Run) -> list[float]:
    """From asking to the acknowledgement, of each try, in ms, sorted."""
    tries: list[Send] = [one for tries in run.sends.values() for one in tries if one.outcome == "ok"]
    return sorted((one.ended - one.began) / MS for one in tries)


PREDICATES: Final[dict[str, Check]] = {
    "Q1": sends_recover,
    "Q2": everybody_catches_up,
    "Q3": delivery_is_fast,
    "Q4": delivery_is_degraded_at_most,
    "Q5": presence_settles,
    "Q6": nobody_is_offline_falsely,
    "Q7": sends_are_served,
}
