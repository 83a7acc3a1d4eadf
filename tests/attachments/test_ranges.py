"""Ranges and what is known already, at every edge."""

from __future__ import annotations

import pytest

from imcore.attachments.ranges import Part, wanted

TAG = '"ab"'


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("bytes=0-0", Part(206, 0, 1)),
        ("bytes=0-9", Part(206, 0, 10)),
        ("bytes=0-", Part(206, 0, 10)),
        ("bytes=9-", Part(206, 9, 10)),
        ("bytes=9-9", Part(206, 9, 10)),
        ("bytes=5-999999999", Part(206, 5, 10)),
        ("Bytes= 2 - 3 ", Part(206, 2, 4)),
        ("bytes=-1", Part(206, 9, 10)),
        ("bytes=-10", Part(206, 0, 10)),
        ("bytes=-11", Part(206, 0, 10)),
        ("bytes=10-", Part(416, 0, 0)),
        ("bytes=10-10", Part(416, 0, 0)),
        ("bytes=9999999999999999999-", Part(416, 0, 0)),
        ("bytes=-0", Part(416, 0, 0)),
    ],
)
def test_a_range(asked: str, part: Part) -> None:
    assert part == wanted({"Range": asked}, 10, TAG)


@pytest.mark.parametrize(
    "asked",
    ["", "bytes=", "bytes=-", "bytes=a-b", "bytes=3-2", "bytes=1-2,4-5", "items=0-1", "bytes 0-1", "bytes=--1", "bytes=+1-2",
     "bytes=" + "9" * 20 + "-", "bytes=\u0661-\u0662"],
)  # fmt: skip
def test_what_is_no_single_range_gets_everything(asked: str) -> None:
    assert Part(200, 0, 10) == wanted({"Range": asked}, 10, TAG)


def test_of_an_empty_file_there_is_no_range() -> None:
    assert Part(200, 0, 0) == wanted({}, 0, TAG)
    for asked in ("bytes=0-", "bytes=0-0", "bytes=-1"):
        assert Part(416, 0, 0) == wanted({"Range": asked}, 0, TAG)


@pytest.mark.parametrize("known", [TAG, f"W/{TAG}", f'"x", {TAG}', "*", f'"x",W/{TAG} , "y"'])
def test_what_is_known_is_not_sent_again(known: str) -> None:
    assert Part(304, 0, 0) == wanted({"If-None-Match": known}, 10, TAG)
    assert Part(304, 0, 0) == wanted({"If-None-Match": known, "Range": "bytes=0-1"}, 10, TAG)


@pytest.mark.parametrize("known", ['"x"', "ab", "", '"AB"', "W/"])
def test_what_is_not_known_is_sent(known: str) -> None:
    assert Part(200, 0, 10) == wanted({"If-None-Match": known}, 10, TAG)


def test_a_range_of_something_else_gets_everything() -> None:
    assert Part(206, 0, 1) == wanted({"Range": "bytes=0-0", "If-Range": TAG}, 10, TAG)
    for other in ('"x"', f"W/{TAG}", "Thu, 26 Nov 2026 12:00:00 GMT"):
        assert Part(200, 0, 10) == wanted({"Range": "bytes=0-0", "If-Range": other}, 10, TAG)
