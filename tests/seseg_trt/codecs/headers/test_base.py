from __future__ import annotations

import dataclasses
import struct

import pytest

from seseg_trt.codecs import headers
from seseg_trt.codecs.headers import Header, exif_orientation
from seseg_trt.codecs.headers.base import cut_off, damaged
from seseg_trt.codecs.headers.kinds import Kind

from .by_hand import box, chunk, exif, refused, told

KIND = Kind("PNG", 8, "uint", "grey", 1, False, "deflate")


def test_a_header_speaks_of_one_whole_upright_usual_picture_unless_told_otherwise() -> None:
    header = Header(KIND, 3, 2, bytes)
    assert told(header) == (KIND, 3, 2, 1, 1, True, False) and header.complete is None


def test_a_header_can_not_be_changed() -> None:
    header = Header(KIND, 3, 2, bytes)
    with pytest.raises(dataclasses.FrozenInstanceError):
        header.width = 4  # type: ignore[misc]
    assert not hasattr(header, "__dict__")


def test_the_errors_name_a_reason() -> None:
    assert (damaged("why").reason, damaged("why").message) == ("decode_error", "why")
    assert (cut_off("GIF", "why").reason, cut_off("GIF", "why").message) == ("truncated", "the GIF ends too early: why")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("prefix", [False, True])
def test_the_orientation_is_the_blocks_if_it_is_one_of_eight(order: str, prefix: bool) -> None:
    found = [exif_orientation(exif(value, prefix=prefix, order=order)) for value in range(11)]
    assert found == [1, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1]


@pytest.mark.parametrize("block", [None, "text", 6, bytearray(exif(6)), b"", b"\xff" * 30, b"II*\0", exif(6)[:12], exif(6, tag=271)])
def test_the_orientation_is_upright_where_a_block_says_nothing(block: object) -> None:
    assert exif_orientation(block) == 1


def test_an_orientation_in_letters_is_none() -> None:
    block = b"II*\0" + struct.pack("<IHHHI4sI", 8, 1, 274, 2, 2, b"6\0\0\0", 0)
    assert exif_orientation(block) == 1


def test_an_empty_file() -> None:
    assert refused(b"") == ("empty", "the file has 0 bytes")


def test_a_header_that_ends_within_a_field() -> None:
    assert refused(b"\x89PNG\r\n\x1a\n\0") == ("truncated", "the PNG ends too early: its header is not whole")
    assert refused(b"GIF89a\1") == ("truncated", "the GIF ends too early: its header is not whole")


def test_a_weak_signature_alone_is_no_image() -> None:
    for data in (b"BMW is a make of cars, and this is a text", b"P5 is a road", b"\0\0\1\0" + bytes(60), b"x"):
        assert refused(data) == ("not_an_image", "no decoder knows what it is")


def test_a_weak_signature_of_another_kind_gives_its_name() -> None:
    assert refused(b"P6 " + bytes(254) + b"ustar\0")[0] == "unsupported"


@pytest.mark.parametrize("error", [OverflowError, IndexError])
def test_whatever_a_reader_reads_beyond_the_end(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(data: bytes) -> Header:
        raise error

    monkeypatch.setitem(headers._READERS, "GIF", fail)
    assert refused(b"GIF89a") == ("truncated", "the GIF ends too early: its header is not whole")


def test_only_a_heif_wants_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    heif = box(b"ftyp", b"heic\0\0\0\0")
    reason, message = refused(heif)
    assert reason == "unsupported" and "HEIF image (HEIC)" in message and "[heif]" in message
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)) + chunk(b"IDAT") + chunk(b"IEND")
    assert headers.read(png).width == 1
    assert refused(box(b"ftyp", b"avif\0\0\0\0")) == (
        "unsupported",
        "it is an AVIF sequence without a still image, which is not decoded; convert it to an 8-bit PNG, as `magick IN -depth 8 OUT.png` does",
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert "a HEIF sequence" in refused(heif)[1]
