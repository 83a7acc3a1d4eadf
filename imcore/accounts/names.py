"""The names of accounts: what may be one, and which two are too much alike.

A name is brought into one form (NFKC, then casefold, then NFKC), so that ＡＬＩＣＥ, Alice and alice are one. What is left has 3 to 32
characters: letters, digits, and `.`, `_`, `-` between them. All letters are of one script (Japanese, Korean and Chinese mix theirs as
they are written), so that nobody is аlice with a Cyrillic а. Two names of other scripts that look the same, сосо and coco, have one
*handle*, which is what must be free: in it each letter that looks like a Latin one is that, and the signs between are left out.

What is not caught: letters that are alike within one script (rn and m, l and 1). The handle stands in the log, so that a better list
of look-alikes changes nothing for names that exist.
"""

from __future__ import annotations

import unicodedata
from typing import Final

from imcore.errors import BadRequest

CHARACTERS_MIN: Final = 3
CHARACTERS_MAX: Final = 32
BYTES_MAX: Final = 256  # of what is looked at at all
BETWEEN: Final = "._-"
DIGITS: Final = "0123456789"
# As it is written: these scripts come together.
TOGETHER: Final = (
    frozenset(("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA")),
    frozenset(("CJK", "HANGUL")),
    frozenset(("CJK", "BOPOMOFO")),
)
WITHOUT_MARKS: Final = ("LATIN", "GREEK", "CYRILLIC")  # what they need of accents, NFKC has made one with the letter
_ALIKE: Final = str.maketrans(
    "аеорсухіїјѕһԁԛԝвнкмтьпгοανρικυτωςσɡıℓ" + "ґ",
    "aeopcyxiijshdqwbhkmtbnroavpikutwccgil" + "r",
)  # fmt: skip


def login_name(text: str) -> str:
    """The name in its one form. Raises BadRequest, which says what is wrong with it."""
    if len(text.encode(errors="replace")) > BYTES_MAX:
        raise BadRequest(f"a name has up to {CHARACTERS_MAX} characters")
    name = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    if not CHARACTERS_MIN <= len(name) <= CHARACTERS_MAX:
        raise BadRequest(f"a name has {CHARACTERS_MIN} to {CHARACTERS_MAX} characters")
    scripts = {_script(sign) for sign in name} - {""}
    if not scripts:
        raise BadRequest("a name has a letter in it")
    if len(scripts) > 1 and not any(scripts <= together for together in TOGETHER):
        raise BadRequest("the letters of a name are of one script")
    if scripts & set(WITHOUT_MARKS) and any(unicodedata.category(sign)[0] == "M" for sign in name):
        raise BadRequest("a name has no accents that belong to no letter")
    if name[0] in BETWEEN or name[-1] in BETWEEN or unicodedata.category(name[0])[0] == "M":
        raise BadRequest("a name begins and ends with a letter or a digit")
    return name


def handle(name: str) -> str:
    """What two names may not have in common; of a name in its one form."""
    bare = "".join(sign for sign in name if sign not in BETWEEN)
    plain = unicodedata.normalize("NFD", bare.translate(_ALIKE)).translate(_ALIKE)
    return unicodedata.normalize("NFC", plain) if _is_latin(plain) else bare


def _is_latin(text: str) -> bool:
    return all(sign.isascii() or unicodedata.category(sign)[0] == "M" for sign in text)


def _script(sign: str) -> str:
    """The script of a letter, "" of a sign that belongs to all. Raises BadRequest for what has no place in a name."""
    if sign in DIGITS or sign in BETWEEN:
        return ""
    category = unicodedata.category(sign)
    if category not in ("Ll", "Lo", "Lm", "Mn", "Mc"):
        raise BadRequest("a name has letters, digits, and . _ - between them")
    script = unicodedata.name(sign, "").partition(" ")[0]
    if category[0] == "M":
        return "" if script == "COMBINING" else script
    return script
