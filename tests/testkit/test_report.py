"""A run written down says what was done, what was wrong and how sure that is; and a run that proves nothing says so."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import orjson
import pytest

from imcore.testkit.checkers import ALL, Bounds, check, check_run, predicate, timeline
from imcore.testkit.checkers.liveness import percentile
from imcore.testkit.history import Fault, Log, Record, Writer, merge
from testkit.planted import BOUNDS, PLANTED, Case, sound
from testkit.worlds import SECOND, World


def with_fault(name: str) -> int:
    """A seed whose run has this fault, and a few sends."""
    seeds = (seed for seed in range(1000) if len(Case(seed).acked()) > 5)
    return next(seed for seed in seeds if any(window.fault.name == name for window in sound(seed).run.windows))


def test_a_run_is_read_from_files_as_it_was_written(tmp_path: Path) -> None:
    """And the checks say the same of it."""
    world = World(3)
    log = world.log()
    writers = {process: Writer(tmp_path / f"{process}.jsonl") for process in {record.p for record in world.records}}
    for record in world.records:
        writers[record.p](record)
    for write in writers.values():
        write.close()
    history = merge(tmp_path.glob("*.jsonl"))

    assert world.records == history
    assert check(world.records, log).results == check(history, log).results


def test_a_sound_run_is_held() -> None:
    report = check_run(sound(with_fault("kill comet")).run, BOUNDS)

    assert ("held", "") == (report.verdict, report.void)
    assert list(ALL) == [result.name for result in report.results]
    assert report.acked_sends > 0
    assert report.operations["send"]["invoke"] >= report.acked_sends
    assert 0 < report.send_ms["p50"] <= report.send_ms["p99"] <= report.send_ms["max"]


@pytest.mark.parametrize(("sends", "verdict"), [(0, "held"), (1, "unknown")])
def test_a_run_with_too_few_acknowledged_sends_is_unknown(sends: int, verdict: str) -> None:
    """At the limit it says something, below it nothing."""
    run = sound(0).run
    acked = check_run(run, BOUNDS).acked_sends

    report = check_run(run, Bounds(ok_sends_min=acked + sends))

    assert verdict == report.verdict
    assert ("fewer than" in report.void) == (verdict == "unknown")
    assert "unknown" == check(sound(0).records, sound(0).log).verdict, "a thousand, by default"


def test_a_fault_that_nobody_noticed_makes_the_run_unknown() -> None:
    """The nemesis may have missed. A fault that nobody should notice is none of these."""
    world = World(1)
    t = world.records[-1].t + 60 * SECOND
    for bites, verdict, void in ((True, "unknown", "nobody noticed: blunt"), (False, "held", "")):
        fault = Fault("blunt", bites=bites)
        window = [
            Record(t, "nemesis", 0, "", 0, 900, "invoke", "nemesis", fault),
            Record(t + SECOND, "nemesis", 0, "", 0, 900, "ok", "nemesis", fault),
        ]
        report = check([*world.records, *window], world.log(), BOUNDS)
        assert (verdict, void) == (report.verdict, report.void)


def test_a_violation_is_one_however_small_the_run() -> None:
    case = Case(0)
    assert PLANTED["hole_in_the_log"][0](case)
    results = case.results(Bounds())

    assert ["P4"] == [result.name for result in results if result.violated]
    assert "violated" == next(result for result in results if result.name == "P4").verdict


def test_ten_violations_are_told_and_all_are_counted() -> None:
    case = Case(0)
    for _ in range(25):
        case.append("live://x", "message_sent", 1, id_="one")
    (result,) = [result for result in case.results() if result.name == "P3"]

    assert (24, 10) == (result.violated, len(result.violations))
    assert "one id is stored twice: first=Entry(" in str(result.violations[0])


def test_what_was_not_there_to_be_looked_at_is_unknown() -> None:
    result = predicate("P18", [], Log())

    assert ("unknown", "there was nothing to look at") == (result.verdict, result.void)
    assert "no drain was recorded" == predicate("P6", [], Log()).void


def test_the_text_has_everything_that_a_person_asks() -> None:
    seed = with_fault("kill comet")
    text = check_run(sound(seed).run, BOUNDS).text()

    assert text.startswith("HELD\n")
    assert re.search(r"0 lost in \d+ acknowledged sends: less than 0\.\d+ of them, at 95 %", text)
    assert re.search(r"^send +\d+ +\d+ +\d+ +\d+$", text, re.MULTILINE)
    assert re.search(r"^kill comet +1 +1 ", text, re.MULTILINE)
    for name in ALL:
        assert re.search(rf"^{name} +(held|unknown) ", text, re.MULTILINE)
    broken = Case(seed)
    assert PLANTED["from_nowhere"][0](broken)
    report = check(broken.records, Log("e1", broken.entries, broken.head, broken.positions, broken.heads), BOUNDS)
    assert report.text().startswith("VIOLATED\n")
    assert "! nobody sent what is stored: entry=" in report.text()


def test_nothing_in_n_is_less_than_three_in_n() -> None:
    report = check_run(sound(with_fault("bus")).run, BOUNDS)

    assert report.bound == 3 / report.acked_sends
    assert "lost in" not in check([], Log()).text(), "nothing in nothing says nothing"


def test_the_json_is_the_report() -> None:
    case = Case(0)
    assert PLANTED["from_nowhere"][0](case)
    report = check(case.records, Log("e1", case.entries, case.head, case.positions, case.heads), BOUNDS)
    told = orjson.loads(report.json())

    assert ("violated", report.acked_sends) == (told["verdict"], told["acked_sends"])
    by_name = {result["name"]: result for result in told["results"]}
    assert ALL.keys() == by_name.keys()
    assert ("violated", "nobody sent what is stored") == (
        by_name["P2"]["verdict"],
        by_name["P2"]["violations"][0]["says"],
    )


def test_the_picture_shows_operations_latencies_and_faults() -> None:
    seed = with_fault("kill comet")
    svg = timeline(sound(seed).records, sound(seed).log)
    root = ElementTree.fromstring(svg)
    name = "{http://www.w3.org/2000/svg}"

    bands = [rect for rect in root.iter(f"{name}rect") if rect.get("class") == "fault"]
    assert ["kill comet 1"] == [band.get("data-fault") for band in bands]
    assert len(list(root.iter(f"{name}polyline"))) + len(list(root.iter(f"{name}circle"))) >= 3
    words = "".join(root.itertext())
    for said in ("acknowledged", "unknown", "delivered", "99 % within", "drained"):
        assert said in words


def test_names_in_the_picture_are_escaped() -> None:
    fault = Fault('<b> & "c"', "x")
    records = [
        Record(1, "n", 0, "", 0, 1, "invoke", "nemesis", fault),
        Record(2, "n", 0, "", 0, 1, "ok", "nemesis", fault),
    ]

    root = ElementTree.fromstring(timeline(records, Log()))
    assert any(rect.get("data-fault") == '<b> & "c" x' for rect in root.iter())


def test_an_empty_run_can_be_drawn_and_judged() -> None:
    assert "unknown" == check([], Log()).verdict
    ElementTree.fromstring(timeline([], Log()))


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.5, 5), (0.9, 9), (0.91, 10), (0.99, 10), (1.0, 10)])
def test_a_percentile_is_a_value_that_there_was(share: float, value: float) -> None:
    assert value == percentile([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], share)
    assert 0 == percentile([], share)
