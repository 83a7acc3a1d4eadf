"""What a file is: its name, its media type, and how a browser may be given it. Pure.

A declared type is believed only as far as the first bytes agree: where a type has a signature, the bytes must begin with it. What
is not declared (application/octet-stream) is what its bytes say it is, if they say anything.

Nothing that a browser would run is ever shown in its place: only types in `SHOWN` are answered `inline`, everything else, HTML, SVG
and scripts above all, is an `attachment`. With nosniff and a sandbox a browser stays with that.

The trap: a signature proves little. A file may be a good PNG and a good script at once; what keeps it from running is how it is
served, not what was looked at here.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple
from urllib.parse import quote

from imcore.errors import BadRequest, WrongType
from imcore.protocol.packet import CONTROLS

HEAD_BYTES: Final = 65_536  # of a file that are looked at
NAME_BYTES_MAX: Final = 255  # what file systems take
TYPE_CHARACTERS_MAX: Final = 100
UNDECLARED: Final = "application/octet-stream"

# What a browser shows and never runs.
SHOWN: Final = frozenset(
    (
        "image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "image/bmp",
        "audio/mpeg", "audio/ogg", "audio/wav", "audio/flac", "audio/mp4", "audio/webm",
        "video/mp4", "video/webm", "video/ogg", "video/quicktime", "text/plain",
    )
)  # fmt: skip

# What each type's bytes begin with: a regular expression of the first of them.
SIGNATURES: Final = {
    name: re.compile(pattern, re.DOTALL).match
    for name, pattern in {
        "image/png": rb"\x89PNG\r\n\x1a\n",
        "image/jpeg": rb"\xff\xd8\xff",
        "image/gif": rb"GIF8[79]a",
        "image/webp": rb"RIFF.{4}WEBP",
        "image/avif": rb".{4}ftypavi[fs]",
        "image/heic": rb".{4}ftyp(?:hei[cxsm]|hev[cx]|mif1|msf1)",
        "image/bmp": rb"BM.{4}\0\0\0\0",
        "image/tiff": rb"II\*\0|MM\0\*",
        "audio/mpeg": rb"ID3|\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff]",
        "audio/wav": rb"RIFF.{4}WAVE",
        "audio/flac": rb"fLaC",
        "audio/mp4": rb".{4}ftyp",
        "audio/ogg": rb"OggS",
        "audio/webm": rb"\x1a\x45\xdf\xa3",
        "video/mp4": rb".{4}ftyp",
        "video/quicktime": rb".{4}(?:ftyp|moov|mdat|wide|free)",
        "video/webm": rb"\x1a\x45\xdf\xa3",
        "video/ogg": rb"OggS",
        "application/pdf": rb"%PDF-",
        "application/zip": rb"PK(?:\x03\x04|\x05\x06)",
        "application/gzip": rb"\x1f\x8b\x08",
        "application/x-7z-compressed": rb"7z\xbc\xaf\x27\x1c",
    }.items()
}
# What undeclared bytes are taken for, in this order; types that share a signature are told by the first.
_SNIFFED: Final = (
    "image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "image/heic", "image/tiff", "audio/wav", "audio/flac",
    "application/pdf", "application/zip", "application/gzip", "application/x-7z-compressed", "video/mp4",
)  # fmt: skip
# Other names for them.
_ALIASES: Final = {
    "image/jpg": "image/jpeg",
    "audio/mp3": "audio/mpeg",
    "audio/x-wav": "audio/wav",
    "audio/wave": "audio/wav",
    "audio/x-flac": "audio/flac",
    "audio/x-m4a": "audio/mp4",
    "application/x-zip-compressed": "application/zip",
    "application/x-gzip": "application/gzip",
}
_is_type = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*").fullmatch
# Control characters, what turns the direction of writing around (so that "exe.gnp" reads as a picture), lone surrogates.
_hostile = re.compile(rf"[{CONTROLS}\u202a-\u202e\u2066-\u2069]").search
_unquoted = re.compile(r'[^ -~]|["\\%]').sub


def check_name(name: str) -> str:
    """The name of a file, as people see it. It never becomes a path here; it may where somebody saves it.

    Raises BadRequest.
    """
    if not name.strip() or name in (".", ".."):
        raise BadRequest("name is no name of a file")
    if _hostile(name):
        raise BadRequest("name has a character in it that is not shown, or turns the text around")
    if "/" in name or "\\" in name:
        raise BadRequest("name is a path; the name of a file alone is needed")
    if len(name.encode()) > NAME_BYTES_MAX:
        raise BadRequest(f"name is longer than {NAME_BYTES_MAX} bytes")
    return name


def media_type(declared: str) -> str:
    """What a header or an argument declares, in its plain form: lower case, no parameters. Raises BadRequest."""
    plain = declared.partition(";")[0].strip().lower()
    if not plain:
        return UNDECLARED
    if len(plain) > TYPE_CHARACTERS_MAX or not _is_type(plain):
        raise BadRequest("the media type is not of the form type/subtype")
    return _ALIASES.get(plain, plain)


def check_allowed(plain: str, patterns: Sequence[str]) -> None:
    """Is the type among those that are taken here? Raises WrongType."""
    if not {"*/*", plain, f"{plain.partition('/')[0]}/*"}.intersection(patterns):
        raise WrongType(f"{plain} is not taken here")


def recognized(plain: str, head: bytes) -> str:
    """The type of a file that was declared as `plain` and begins with these bytes. Raises WrongType where they disagree."""
    if plain == UNDECLARED:
        return next((name for name in _SNIFFED if SIGNATURES[name](head)), UNDECLARED)
    begins = SIGNATURES.get(plain)
    if begins is not None and not begins(head):
        raise WrongType(f"these bytes are no {plain}")
    return plain


def disposition(plain: str, name: str) -> str:
    """The header Content-Disposition: whether a browser may show it, and under which name it is saved (RFC 6266)."""
    kind = "inline" if plain in SHOWN else "attachment"
    return f"{kind}; filename=\"{_unquoted('_', name)}\"; filename*=UTF-8''{quote(name, safe='')}"


def served_as(plain: str) -> str:
    """The header Content-Type."""
    return f"{plain}; charset=utf-8" if plain.startswith("text/") else plain


# --- pictures ------------------------------------------------------------------------------------------------------------------


class Extent(NamedTuple):
    """How large a picture is, in pixels."""

    width: int
    height: int


def extent(plain: str, head: bytes) -> Extent | None:
    """How large the picture is, if its first bytes say so; None for other files, and where a picture does not say."""
    try:
        match plain:
            case "image/png":
                found = Extent(*struct.unpack_from(">II", head, 16)) if head[12:16] == b"IHDR" else None
            case "image/gif":
                found = Extent(*struct.unpack_from("<HH", head, 6))
            case "image/webp":
                found = _webp(head)
            case "image/jpeg":
                found = _jpeg(head)
            case _:
                return None
    except struct.error:  # it ends too early
        return None
    return found if found is not None and found.width and found.height else None


def _webp(head: bytes) -> Extent | None:
    match head[12:16]:
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", head, 26)
            return Extent(width & 0x3FFF, height & 0x3FFF)
        case b"VP8L":
            (bits,) = struct.unpack_from("<I", head, 21)
            return Extent((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
        case b"VP8X":
            low, high = struct.unpack_from("<HI", head, 24)  # two numbers of three bytes
            return Extent((low | (high & 0xFF) << 16) + 1, (high >> 8 & 0xFFFFFF) + 1)
    return None


def _jpeg(head: bytes) -> Extent | None:
    """Go from segment to segment up to the one that begins the picture."""
    at = 2
    while at + 4 <= len(head):
        mark, kind, length = struct.unpack_from(">BBH", head, at)
        if mark != 0xFF or length < 2:
            return None
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", head, at + 5)
            return Extent(width, height)
        at += 2 + length
    return None
