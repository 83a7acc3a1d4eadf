"""A name is one, however it is written, and no two look the same."""

from __future__ import annotations

import pytest

from imcore.accounts.names import handle, login_name
from imcore.errors import BadRequest


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("alice", "alice"), ("ALICE", "alice"), ("ＡＬＩＣＥ", "alice"), ("Straße", "strasse"), ("a1.b_c-2", "a1.b_c-2"),
        ("ﬁona", "fiona"),
        ("Ａｌｉｃｅ９", "alice9"), ("José", "josé"), ("Jose\u0301", "josé"), ("Ольга", "ольга"), ("Ἀλέξανδρος", "ἀλέξανδροσ"),
        ("たなかさん", "たなかさん"), ("田中タロウ", "田中タロウ"), ("张伟伟", "张伟伟"), ("김철수", "김철수"),
        ("محمد", "محمد"), ("राम्या", "राम्या"),
    ],
)  # fmt: skip
def test_a_name_has_one_form(given: str, name: str) -> None:
    assert name == login_name(given)
    assert name == login_name(name)


@pytest.mark.parametrize(
    "given",
    [
        "", "al", "a" * 33, "a" * 1000, "123", "...", ".alice", "alice-", "al ice", "al\0ice", "alice\n", "al/ice", "../../x", "a'; --",
        "al\u202eice", "al\u200bice", "al\u00adice", "аlice", "alicе", "aliceω", "al😀ice", "a\u0335\u0335\u0335bc", "\ud800abc",
        "ali\u0301ce\u0335",
        "٣٣٣", "abc٣", "İstanbul", "㎏㎏㎏.", "{{7*7}}", "%00abc",
    ],
)  # fmt: skip
def test_what_cannot_be_a_name_is_refused(given: str) -> None:
    with pytest.raises(BadRequest):
        login_name(given)


@pytest.mark.parametrize(
    ("one", "other"),
    [("coca", "соса"), ("paypa", "раура"), ("co.ca", "coca"), ("scope", "ѕсоре"), ("a-b-c", "abc"), ("koko", "κοκο")],
)
def test_names_that_look_the_same_have_one_handle(one: str, other: str) -> None:
    assert handle(login_name(one)) == handle(login_name(other))


def test_other_names_have_handles_of_their_own() -> None:
    names = ["alice", "alicé", "bob", "ольга", "дмитрий", "たなか", "田中田", "a1b", "ab1"]

    assert len({handle(login_name(name)) for name in names}) == len(names)
