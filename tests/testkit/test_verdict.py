"""When a run is held, violated or unknown, and what its report says of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from imcore.testkit.chaos import Options, Played
from imcore.testkit.checkers import Bounds, predicate
from imcore.testkit.checkers.run import SECOND
from imcore.testkit.cluster import Happened
from imcore.testkit.growth import JUDGED_S, Growth
from imcore.testkit.history import Acking, Entry, Fault, Log, Opened, Presence, Record, Sending
from imcore.testkit.nemesis import Wound
from imcore.testkit.verdict import Verdict, judge

ROOM = "group://r"
S = SECOND


def played(
    folder: Path, *, wound: Wound | None = None, left_out: dict[str, str] | None = None, log: Log | None = None
) -> Played:
    """A run in which one message was acknowledged, while a comet was killed."""
    entry = Entry(1, ROOM, 1, "message_sent", 7, "phone", "id", "h", 0)
    asked = Sending(ROOM, "id", "h")
    records = [
        Record(1 * S, "p", 7, "phone", 1, 1, "invoke", "send", asked),
        Record(2 * S, "p", 7, "phone", 1, 1, "ok", "send", asked._replace(position=1, seq=1)),
    ]
    return Played(
        Options(folder=folder, seed=5, script=("kill comet",), ok_sends_min=1),
        records,
        log or Log(entries=[entry], head=1, positions=1, heads={ROOM: 1}, live_types=("group",)),
        [wound or Wound("kill comet", "comet-1", 1 * S, 3 * S, saw=["killed 1"])],
        [Happened(2 * S, "ended", "comet-1", {"code": -9, "pid": 1})],
        left_out or {},
        [],
        0,
        4 * S,
    )


def verdict(folder: Path, **more: object) -> Verdict:
    return judge(played(folder, **more))  # type: ignore[arg-type]


def test_a_run_in_which_everything_held_and_everything_bit_is_held(tmp_path: Path) -> None:
    said = verdict(tmp_path)

    assert "held" == said.word, said.text()
    told = json.loads((tmp_path / "report.json").read_bytes())
    assert ("held", 5, {"comet-1": {"-9": 1}}) == (told["verdict"], told["seed"], told["ended"])
    assert {"injected": 1, "bitten": 1, "failed": 0} == told["faults"]["kill comet"]
    assert '--seed 5 --rate 60 --people 8 --fault "kill comet"' in (tmp_path / "report.txt").read_text()


def test_the_bounds_of_time_by_which_it_is_judged_are_told_with_those_that_are_promised(tmp_path: Path) -> None:
    said = verdict(tmp_path).text()
    assert "        delivery_p99_ms 2,000 (200)\n" in said
    assert "        revoked_s 5 (1)\n" in said
    for name in ("offline_s", "ok_sends_min", "severing"):  # these are as promised, or no bounds of time
        assert f"  {name} " not in said


def test_slopes_that_nobody_judges_are_told_as_such(tmp_path: Path) -> None:
    def with_growth_over(seconds: float) -> str:
        return replace(verdict(tmp_path), growths=[Growth("comet-1", 1, "tasks", seconds, 9, 9, 100, False)]).text()

    assert "No slope is judged: over less than 30 minutes" in with_growth_over(JUDGED_S - 1)
    assert "No slope is judged" not in with_growth_over(JUDGED_S)


def test_a_fault_without_effect_leaves_everything_unknown(tmp_path: Path) -> None:
    said = verdict(tmp_path, wound=Wound("kill comet", "comet-1", 30 * S, 31 * S))

    assert "unknown" == said.word
    assert ["without effect: kill comet"] == said.void


def test_what_could_not_be_inflicted_is_told_and_in_ci_the_run_does_not_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    said = verdict(tmp_path, left_out={"clock jump": "libfaketime is not installed"})
    assert "held" == said.word
    assert "LEFT OUT: clock jump: libfaketime is not installed" in said.text()

    monkeypatch.setenv("CI", "true")
    assert "unknown" == said.word
    assert ["not possible here: clock jump"] == said.void


def test_a_violation_is_one_whatever_else_is_unknown(tmp_path: Path) -> None:
    said = verdict(tmp_path, wound=Wound("kill comet", failed="no"), log=Log())

    assert "violated" == said.word
    assert any(one.startswith("P1") for one in said.violations)


def test_an_error_in_the_log_of_a_server_is_a_violation(tmp_path: Path) -> None:
    """But for those that say what was done to it."""
    lines = ["2026-11-26 10:00:00,1 error   imcore.nodes: a comet did not renew its lease and is declared dead"]
    (tmp_path / "comet-1.log").write_text("\n".join(lines))
    assert "held" == verdict(tmp_path).word

    lines.append("2026-11-26 10:00:00,2 error   imcore.comet.server: internal error")
    (tmp_path / "comet-1.log").write_text("\n".join(lines))
    assert "violated" == verdict(tmp_path).word


@pytest.mark.parametrize(("severing", "violated"), [(frozenset(), 1), (frozenset({"stop comet"}), 0)])
def test_who_is_called_offline_while_their_server_seems_dead_is_not_lied_about(
    severing: frozenset[str], violated: int
) -> None:
    """The check of Q6 leaves out the time of such faults, and only that."""
    stop = Fault("stop comet", "comet-1")
    records = [
        Record(1 * S, "p", 7, "phone", 1, 0, "invoke", "connect", Opened()),
        Record(2 * S, "p", 7, "phone", 1, 0, "ok", "connect", Opened(recovered=True)),
        Record(20 * S, "nemesis", 0, "", 0, 1, "invoke", "nemesis", stop),
        Record(25 * S, "p", 8, "phone", 1, 1, "invoke", "presence", Presence()),
        Record(26 * S, "p", 8, "phone", 1, 1, "ok", "presence", Presence(7, online=False)),
        Record(30 * S, "nemesis", 0, "", 0, 1, "ok", "nemesis", stop),
        Record(70 * S, "p", 8, "phone", 1, 2, "invoke", "presence", Presence()),
        Record(71 * S, "p", 8, "phone", 1, 2, "ok", "presence", Presence(7, online=True)),
        Record(80 * S, "p", 7, "phone", 1, 3, "invoke", "ack", Acking(1)),
        Record(81 * S, "p", 7, "phone", 1, 3, "ok", "ack", Acking(1)),
    ]

    result = predicate("Q6", records, Log(), Bounds(severing=severing))

    assert (1 + violated, violated) == (result.checked, result.violated)
