"""What a file is: names, types, signatures, and how it is served."""

from __future__ import annotations

import struct

import pytest

from imcore.attachments.kinds import (
    NAME_BYTES_MAX,
    SHOWN,
    SIGNATURES,
    Extent,
    check_allowed,
    check_name,
    disposition,
    extent,
    media_type,
    recognized,
    served_as,
)
from imcore.errors import BadRequest, WrongType

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 640, 480) + b"\x08\x02\0\0\0"
GIF = b"GIF89a" + struct.pack("<HH", 320, 200)
JPEG = (
    b"\xff\xd8\xff\xe0" + struct.pack(">H", 16) + b"JFIF" + bytes(10)
    + b"\xff\xc4" + struct.pack(">H", 4) + bytes(2)
    + b"\xff\xc2" + struct.pack(">HBHH", 17, 8, 768, 1024)
)  # fmt: skip
WEBP = b"RIFF\0\0\0\0WEBP"
LOSSY = WEBP + b"VP8 " + bytes(10) + struct.pack("<HH", 550 | 0x4000, 368)
LOSSLESS = WEBP + b"VP8L" + bytes(5) + struct.pack("<I", 399 | 300 << 14)
EXTENDED = WEBP + b"VP8X" + bytes(8) + (69_999).to_bytes(3, "little") + (1_000).to_bytes(3, "little")


@pytest.mark.parametrize(
    "name", ["a", "plan.pdf", "Übersicht (2).xlsx", "写真.png", "ملف.txt", "..a", "a" * 255, ".hidden"]
)
def test_names_of_files_are_taken_as_they_are(name: str) -> None:
    assert name == check_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "", " ", ".", "..", "../a", "a/b", "..\\a", "/etc/passwd", "a\0b", "a\r\nSet-Cookie: b", "a\x7f", "a\x85", "a\u2028b",
        "photo\u202egnp.exe", "a\u2066b", "a" * 256, "ä" * 128, "a\ud800",
    ],
)  # fmt: skip
def test_hostile_names_are_refused(name: str) -> None:
    with pytest.raises(BadRequest):
        check_name(name)


def test_the_limit_of_a_name_is_in_bytes() -> None:
    assert NAME_BYTES_MAX == len(check_name("ä" * 127 + "a").encode())


def test_types_have_one_form() -> None:
    assert "image/png" == media_type("Image/PNG; charset=x")
    assert "image/jpeg" == media_type("image/jpg")
    assert "application/octet-stream" == media_type("")
    for wrong in ("png", "image/", "/png", "image/p ng", "image/png\r\nX: y", "a/b/c", "*/*", "é/é", "a/" + "b" * 99):
        with pytest.raises(BadRequest):
            media_type(wrong)


def test_a_type_is_allowed_by_its_name_its_kind_or_all() -> None:
    for patterns in (["image/png"], ["text/plain", "image/*"], ["*/*"]):
        check_allowed("image/png", patterns)
    for patterns in ([], ["image/jpeg"], ["text/*"], ["image"]):
        with pytest.raises(WrongType):
            check_allowed("image/png", patterns)


@pytest.mark.parametrize("declared", [name for name in SIGNATURES if name != "image/png"])
def test_bytes_that_are_something_else_are_refused(declared: str) -> None:
    with pytest.raises(WrongType):
        recognized(declared, PNG)
    with pytest.raises(WrongType):
        recognized(declared, b"")


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (PNG, "image/png"), (GIF, "image/gif"), (JPEG, "image/jpeg"), (LOSSY, "image/webp"), (b"%PDF-1.7", "application/pdf"),
        (b"PK\x03\x04", "application/zip"), (b"\0\0\0\x18ftypmp42", "video/mp4"), (b"\0\0\0\x18ftypavif", "image/avif"),
        (b"<html><script>", "application/octet-stream"), (b"", "application/octet-stream"), (b"GIF", "application/octet-stream"),
    ],
)  # fmt: skip
def test_what_is_not_declared_is_recognized(head: bytes, found: str) -> None:
    assert found == recognized("application/octet-stream", head)
    assert found == recognized(found, head)


def test_types_without_a_signature_are_believed() -> None:
    assert "text/plain" == recognized("text/plain", PNG)
    assert "application/x-anything" == recognized("application/x-anything", b"")


@pytest.mark.parametrize(
    "active",
    ["text/html", "image/svg+xml", "application/xhtml+xml", "text/xml", "text/javascript", "application/javascript", "application/pdf",
     "text/css", "application/octet-stream", "application/x-shockwave-flash", "multipart/x-mixed-replace"],
)  # fmt: skip
def test_what_a_browser_could_run_is_only_saved(active: str) -> None:
    assert active not in SHOWN
    assert disposition(active, "a").startswith("attachment; ")


def test_the_name_is_safe_in_a_header() -> None:
    assert "inline; filename=\"a.png\"; filename*=UTF-8''a.png" == disposition("image/png", "a.png")
    nasty = disposition("image/png", 'a"; filename=evil.exe; x="\\%41é写\r\n')
    assert nasty.isascii()
    assert nasty.isprintable()
    assert 3 == nasty.count('"') - nasty.count("x=_") or 2 == nasty.count('"')
    assert "%0D%0A" in nasty


def test_text_is_served_as_utf8() -> None:
    assert ("text/plain; charset=utf-8", "image/png") == (served_as("text/plain"), served_as("image/png"))


@pytest.mark.parametrize(
    ("kind", "head", "size"),
    [
        ("image/png", PNG, Extent(640, 480)),
        ("image/gif", GIF, Extent(320, 200)),
        ("image/jpeg", JPEG, Extent(1024, 768)),
        ("image/webp", LOSSY, Extent(550, 368)),
        ("image/webp", LOSSLESS, Extent(400, 301)),
        ("image/webp", EXTENDED, Extent(70_000, 1_001)),
    ],
)
def test_pictures_say_how_large_they_are(kind: str, head: bytes, size: Extent) -> None:
    assert size == extent(kind, head)
    assert size == extent(kind, head + bytes(100))
    for cut in range(len(head)):
        assert extent(kind, head[:cut]) is None or cut > 20, (
            "a picture that ends too early says nothing, and nothing breaks"
        )


def test_what_does_not_say_so_has_no_size() -> None:
    assert None is extent("image/jpeg", b"\xff\xd8\xff\xe0\0\0" + bytes(100)), (
        "a segment without length would go on for ever"
    )
    assert None is extent("image/png", PNG.replace(struct.pack(">I", 640), bytes(4)))
    assert None is extent("text/plain", PNG)
    assert None is extent("image/webp", WEBP + b"VPX9" + bytes(40))
