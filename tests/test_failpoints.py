"""Places where a process breaks on purpose: what can be said, and that nothing of it is there when nothing was said."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imcore import failpoints
from imcore.config import load
from imcore.errors import BadConfiguration

PACKAGE = Path(failpoints.__file__).parent


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


def test_nothing_is_armed_unless_somebody_says_so() -> None:
    assert failpoints.armed is None
    assert load().settings.fail == ""


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("after_lunch:exit", "there is no place"),
        ("after_commit", "a failpoint is"),
        ("after_commit:exit:1:2", "a failpoint is"),
        ("after_commit:burn", "is not exit"),
        ("after_commit:sleep", "is not exit"),
        ("after_commit:exit=3", "is not exit"),
        ("after_commit:sleep=-1", "whole number"),
        ("after_commit:sleep=600001", "more than 600000"),
        ("after_commit:exit:0", "whole number"),
        ("after_commit:exit:p=1.1", "from 0 to 1"),
        ("after_commit:exit:p=nan", "from 0 to 1"),
        ("after_commit:exit,after_commit:stop", "named twice"),
        ("before_reply:error", "nothing can fail"),
        ("seed=x,after_commit:exit", "a seed"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_the_start(text: str, wrong: str) -> None:
    with pytest.raises(BadConfiguration, match=wrong):
        load(environ={"IMCORE_FAIL": text})


def test_it_happens_at_the_pass_that_was_named_and_at_no_other() -> None:
    failpoints.arm("after_commit:error:3, before_commit:error")

    told = [_fails("after_commit") for _ in range(5)]

    assert [False, False, True, False, False] == told
    assert [True, False] == [_fails("before_commit") for _ in range(2)]
    assert not _fails("after_publish")


def test_a_probability_is_the_same_sequence_for_the_same_seed() -> None:
    def sequence(text: str) -> list[bool]:
        failpoints.arm(text)
        return [_fails("after_commit") for _ in range(200)]

    first = sequence("seed=7,after_commit:error:p=0.3")

    assert first == sequence("seed=7,after_commit:error:p=0.3")
    assert first != sequence("seed=8,after_commit:error:p=0.3")
    assert 20 < sum(first) < 100
    assert [True] * 200 == sequence("after_commit:error:p=1")
    assert [False] * 200 == sequence("after_commit:error:p=0")


async def test_sleep_holds_up_the_task_or_the_whole_process() -> None:
    failpoints.arm("after_commit:sleep=30:p=1,before_reply:sleep=30:p=1")
    started = time.monotonic()

    await failpoints.arrive("after_commit")
    failpoints.reach("before_reply")

    assert time.monotonic() - started >= 0.06


def test_where_nothing_is_armed_a_place_is_one_comparison() -> None:
    """Each place looks at `armed` first, and all places that are named are there."""
    there: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        lines = path.read_text().splitlines()
        for n, line in enumerate(lines):
            for name in re.findall(r'failpoints\.(?:arrive|reach)\("(\w+)"\)', line):
                there.add(name)
                before = "\n".join(lines[max(0, n - 6) : n])
                assert re.search(r"if failpoints\.armed is not None:|if not failpoints\.watches\(", before), (path, n)
    assert set(failpoints.PLACES) == there


def _fails(name: str) -> bool:
    try:
        failpoints.reach(name)
    except failpoints.InjectedFault:
        return True
    return False
