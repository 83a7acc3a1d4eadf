"""Links end, are for one file, and nobody else makes them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from imcore.attachments.links import KEY_BYTES, Links, load_or_create_key
from imcore.errors import BadConfiguration, Forbidden

KEY = b"k" * 32
ID, OTHER = "0" * 32, "1" * 32
links = Links(KEY)


def signature(of: Links = links, id_: str = ID, expires: int = 100, mid: int | None = None) -> str:
    address = urlsplit(of.path(id_, expires, mid))
    assert f"/v1/attachments/{id_}" == address.path
    query = {name: values[0] for name, values in parse_qs(address.query).items()}
    assert {"expires": str(expires), **({} if mid is None else {"mid": str(mid)})} == {
        name: value for name, value in query.items() if name != "signature"
    }
    return query["signature"]


def test_a_link_is_good_until_its_last_second() -> None:
    links.check(ID, 100, None, signature(), now=99.9)
    for now in (100, 100.1, 1e12):
        with pytest.raises(Forbidden):
            links.check(ID, 100, None, signature(), now=now)


@pytest.mark.parametrize(
    ("id_", "expires", "mid", "signed"),
    [
        (OTHER, 100, None, signature()),
        (ID, 101, None, signature()),
        (ID, 10**15, None, signature()),
        (ID, 100, 7, signature()),
        (ID, 100, None, signature(mid=7)),
        (ID, 100, 8, signature(mid=7)),
        (ID, 100, None, signature(Links(b"x" * 32))),
        (ID, 100, None, signature()[:-1]),
        (ID, 100, None, signature() + "A"),
        (ID, 100, None, ""),
        (ID, 100, None, "é\ud800"),
    ],
)
def test_what_was_changed_is_no_link(id_: str, expires: int, mid: int | None, signed: str) -> None:
    with pytest.raises(Forbidden) as caught:
        links.check(id_, expires, mid, signed, now=0)
    assert signature() not in caught.value.detail


def test_every_letter_of_a_signature_counts() -> None:
    good = signature()
    for n, letter in enumerate(
        good[:-1]
    ):  # the last holds bits that decoding drops; compared as text it counts all the same
        changed = good[:n] + ("A" if letter != "A" else "B") + good[n + 1 :]
        with pytest.raises(Forbidden):
            links.check(ID, 100, None, changed, now=0)


def test_processes_with_one_data_folder_have_one_key(tmp_path: Path) -> None:
    first = load_or_create_key(tmp_path)

    assert KEY_BYTES == len(first)
    assert first == load_or_create_key(tmp_path)
    assert first != load_or_create_key(tmp_path / "another")
    (file,) = (tmp_path / "keys").iterdir()
    assert 0o600 == file.stat().st_mode & 0o777


def test_a_key_that_is_none_stops_the_start(tmp_path: Path) -> None:
    load_or_create_key(tmp_path)
    (file,) = (tmp_path / "keys").iterdir()
    file.write_bytes(b"short")

    with pytest.raises(BadConfiguration):
        load_or_create_key(tmp_path)
