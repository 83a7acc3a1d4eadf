"""What a message says, and the words that it is found by: pure, and the same for what is stored and for what is asked.

The text of a message is its payload, if that is a string or plain text. If it is a JSON object it is the texts under `TEXT_KEYS`, in
that order; nothing else of it is looked at. Bytes say nothing. Of a long text the first `TEXT_CHARACTERS_MAX` count.

Words are compared in NFKC and folded case. Scripts that are written with spaces give their words, cut at `WORD_CHARACTERS_MAX`.
Chinese, Japanese, Korean, Thai and others without spaces give every two neighbouring characters, and the last one: 我们用中文聊天 is
found by 中文, and a single 中 is the beginning of a pair. Of more than two characters each pair is looked for, and afterwards whether
they stand together (`Sought.is_in`).

Postgres is not asked what a word is: its parser hangs on the locale of the database, and pg_trgm is not everywhere.

The trap: a change here changes what rows should hold. It needs `imcore rebuild search`, and until then finds less.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Final, NamedTuple

import orjson

from imcore.events.types import BASE64, TEXT, MessageEdited, Recorded

TEXT_KEYS: Final = ("title", "text", "body", "content", "caption", "name")
TEXT_CHARACTERS_MAX: Final = 4_096
WORD_CHARACTERS_MAX: Final = 64
SNIPPET_CHARACTERS: Final = 120
VERSION_ABOUT: Final = 2  # of message_sent: the payload stands beside what the message is about

# Thai, Lao, Burmese, Khmer; Hangul; kana, bopomofo, han and what stands around them.
_UNSPACED: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3021-\u302f\u3031-\u318f\u31a0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff"
)
# Marks belong to the letter before them; Python's \w leaves them out.
_MARKS: Final = "".join(chr(code) for code in range(0x300, 0xFE30) if unicodedata.category(chr(code))[0] == "M")
_ascii_words: Final = re.compile("[a-z0-9]+").findall
_words: Final = re.compile(f"[^\\W_](?:[^\\W_]|[{_MARKS}])*").findall
_runs: Final = re.compile(f"[{_UNSPACED}]+|[^{_UNSPACED}]+").findall
_is_unspaced: Final = re.compile(f"[{_UNSPACED}]").match


class Sought(NamedTuple):
    """What was asked for: words that must be there, words that may go on (`beginnings`), and runs of characters without spaces."""

    words: tuple[str, ...]
    beginnings: tuple[str, ...]
    runs: tuple[str, ...]

    def tsquery(self, *, rooms: tuple[str, ...] = ()) -> str:
        """For Postgres: all of it, and in one of these rooms if any are named."""
        parts = [_quoted(word) for word in self.words] + [f"{_quoted(word)}:*" for word in self.beginnings]
        if rooms:
            parts.append(f"({' | '.join(_quoted(f'@{room}') for room in rooms)})")
        return " & ".join(parts)

    def is_in(self, text: str) -> bool:
        """Does the text say that?"""
        said = set(words(text))
        return (
            said.issuperset(self.words)
            and all(any(word.startswith(beginning) for word in said) for beginning in self.beginnings)
            and (not self.runs or all(run in folded(text) for run in self.runs))
        )


def folded(text: str) -> str:
    """The form that words are compared in, of the part of the text that counts."""
    text = text[:TEXT_CHARACTERS_MAX]
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def words(text: str) -> list[str]:
    """The words of a text, each once, in order. Hot: for every message."""
    if text.isascii():
        return [word[:WORD_CHARACTERS_MAX] for word in dict.fromkeys(_ascii_words(folded(text)))]
    found: dict[str, None] = {}
    for run in _split(folded(text)):
        if _is_unspaced(run):
            found.update(dict.fromkeys(run[n : n + 2] for n in range(len(run))))
        else:
            found[run[:WORD_CHARACTERS_MAX]] = None
    return list(found)


def sought(text: str) -> Sought:
    """What somebody looks for who writes this. The last word may be the beginning of one. Empty if there is no word in it."""
    exact: dict[str, None] = {}
    beginnings: dict[str, None] = {}
    runs: list[str] = []
    found = list(_split(folded(text)))
    for n, run in enumerate(found, 1):
        if not _is_unspaced(run):
            (exact if n < len(found) else beginnings)[run[:WORD_CHARACTERS_MAX]] = None
        elif len(run) == 1:
            beginnings[run] = None
        else:
            exact.update(dict.fromkeys(run[m : m + 2] for m in range(len(run) - 1)))
            if len(run) > 2:
                runs.append(run)
    return Sought(tuple(exact), tuple(beginnings), tuple(runs))


def text_of(recorded: Recorded) -> str:
    """What a message says, or what it says since an edit: "" for bytes, and for JSON without a text."""
    if recorded.op == 0:
        fact = recorded.fact
        assert isinstance(fact, MessageEdited), "no other event than a message and its edit has a text"
        return "" if fact.format == "base64" else _said(fact.body)
    if recorded.format == TEXT:
        return recorded.body
    if recorded.format == BASE64:
        return ""
    payload = orjson.loads(recorded.body)
    if recorded.version >= VERSION_ABOUT:  # {"about": {…, "format": …}, "body": payload}
        if payload["about"].get("format") == "base64":
            return ""
        payload = payload["body"]
    return _said(payload)


def snippet(text: str, what: Sought) -> str:
    """The part of the text around the first of the words that is in it, in one line; … where something is left out."""
    line = " ".join(text[:TEXT_CHARACTERS_MAX].split())
    lowered = line.lower()
    if len(lowered) != len(line):  # a few letters grow when they are folded, and places would not be the same
        lowered = "".join(sign.lower()[0] for sign in line)
    at = min(
        (found for one in (*what.runs, *what.words, *what.beginnings) if (found := lowered.find(one)) >= 0), default=0
    )
    first = max(0, min(at - SNIPPET_CHARACTERS // 3, len(line) - SNIPPET_CHARACTERS))
    cut = line[first : first + SNIPPET_CHARACTERS]
    return f"{'…' * (first > 0)}{cut}{'…' * (first + SNIPPET_CHARACTERS < len(line))}"


def _said(payload: object) -> str:
    if isinstance(payload, str):
        return payload
    if isinstance(payload, dict):
        return "\n".join(value for key in TEXT_KEYS if isinstance(value := payload.get(key), str))
    return ""


def _split(text: str) -> Iterator[str]:
    """Words, and runs of characters that are written without spaces."""
    for word in _words(text):
        if word.isascii():
            yield word
        else:
            yield from _runs(word)


def _quoted(word: str) -> str:
    return "'" + word.replace("\\", "\\\\").replace("'", "''") + "'"
