"""What a message says and the words that it is found by: no database."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imcore.events.types import BASE64, JSON, MESSAGE_SENT, ROOM, TEXT, MessageEdited, Recorded
from imcore.projections.words import TEXT_CHARACTERS_MAX, WORD_CHARACTERS_MAX, snippet, sought, text_of, words

R = "group://r"


def message(body: str, *, format_: int = JSON, version: int = 1) -> Recorded:
    return Recorded(1, ROOM + R, 1, 1, MESSAGE_SENT, version, 7, "", None, 1000, format_, 1, body)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Shall we meet? We SHALL.", ["shall", "we", "meet"]),
        ("Straße, ÉCOLE ﬁne", ["strasse", "école", "fine"]),
        ("foo_bar-baz 3.5", ["foo", "bar", "baz", "3", "5"]),
        ("用中文", ["用中", "中文", "文"]),
        ("iPhone手机", ["iphone", "手机", "机"]),
        ("한국어 ひらがな", ["한국", "국어", "어", "ひら", "らが", "がな", "な"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("👍 !? \u200d", []),
        ("", []),
        ("x" * 100, ["x" * WORD_CHARACTERS_MAX]),
    ],
)
def test_the_words_of_a_text(text: str, found: list[str]) -> None:
    assert found == words(text)


@pytest.mark.parametrize(
    ("q", "text", "is_in"),
    [
        ("中文", "我们用中文聊天", True),
        ("中", "我们用中文聊天", True),
        ("天", "我们用中文聊天", True),
        ("用中文聊", "我们用中文聊天", True),
        ("中聊", "我们用中文聊天", False),
        ("中文用", "用中文，不中用。中文用处大", True),
        ("用中文", "用中国字，中文也好", False),
        ("ＭＥＥＴ", "shall we meet", True),
        ("meet sha", "Shall we meet", True),
        ("sha meet", "Shall we meet", False),
        ("meeting", "Shall we meet", False),
        ("o'clock", "nine o'clock", True),
        ("手机 iph", "我的iPhone手机", True),
    ],
)
def test_what_is_asked_for_is_in_a_text_or_not(q: str, text: str, is_in: bool) -> None:
    assert is_in == sought(q).is_in(text)


@given(st.text(max_size=60))
def test_a_text_is_found_by_itself(text: str) -> None:
    assert sought(text).is_in(text)


@given(st.text(alphabet=st.sampled_from("&|!<->:*()'\\\" %_@中文ab\t1"), max_size=40), st.text(max_size=10))
def test_a_query_for_postgres_holds_words_and_nothing_of_its_language(q: str, room: str) -> None:
    query = sought(q).tsquery(rooms=(room,))

    inside = query.replace("''", "").replace("\\\\", "")
    for n, outside in enumerate(inside.split("'")):
        if n % 2 == 0:
            assert set(outside) <= set(" &|:*()"), query


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ("hello", "hello"),
        ({"text": "hello"}, "hello"),
        ({"body": "b", "title": "a", "password": "secret"}, "a\nb"),
        ({"text": {"body": "deep"}}, ""),
        (["hello"], ""),
        (7, ""),
        (None, ""),
    ],
)
def test_what_a_message_says(payload: object, said: str) -> None:
    text = orjson.dumps(payload).decode()

    assert said == text_of(message(text))
    about = f'{{"about":{{"reply_to":3}},"body":{text}}}'
    assert said == text_of(message(about, version=2))
    edited = MessageEdited(room=R, target=1, body=payload)  # type: ignore[arg-type]
    assert said == text_of(message(edited.model_dump_json())._replace(type=edited.type, op=0))


def test_plain_text_says_itself_and_bytes_say_nothing() -> None:
    assert "{hello" == text_of(message("{hello", format_=TEXT))
    assert "" == text_of(message("aGVsbG8=", format_=BASE64))
    assert "" == text_of(message('{"about":{"format":"base64"},"body":"aGVsbG8="}', version=2))
    assert "x" == text_of(message('{"about":{"format":"text"},"body":"x"}', version=2))


def test_of_a_long_text_the_beginning_counts() -> None:
    assert ["ab"] == words("ab" + " " * TEXT_CHARACTERS_MAX + "end")


@pytest.mark.parametrize(
    ("text", "q", "shown"),
    [
        ("a short\n one", "short", "a short one"),
        ("x " * 200 + "needle" + " y" * 200, "needle", "…" + ("x " * 200 + "needle" + " y" * 200)[360:480] + "…"),
        ("我们用中文聊天", "中文", "我们用中文聊天"),
        ("no such word", "other", "no such word"),
        ("İ" * 300 + " needle", "needle", "…" + "İ" * 113 + " needle"),
    ],
)
def test_a_snippet_is_the_part_around_the_first_word(text: str, q: str, shown: str) -> None:
    assert shown == snippet(text, sought(q))
