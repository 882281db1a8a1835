from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seseg_trt.codecs import headers, pillow
from seseg_trt.codecs.headers import kinds
from seseg_trt.codecs.headers.kinds import CHECKED, Kind
from seseg_trt.errors import BadImage
from seseg_trt.options import DecodeOptions

pytest.importorskip("imagecodecs", reason="the second decoder is not installed")
pytest.importorskip("tifffile", reason="the second decoder is not installed")

from tests import kind_files
from tests.kind_files import Sample
from tests.second_decoder import second_picture

MAKERS: list[Callable[[], Iterator[Sample]]] = [
    kind_files.tiffs,
    kind_files.faxes,
    kind_files.jpegs_in_tiffs,
    kind_files.pngs,
    kind_files.jpegs,
    kind_files.webps,
    kind_files.gifs,
    kind_files.bmps,
    kind_files.icos,
    kind_files.pnms,
    kind_files.jpeg2000s,
    kind_files.avifs,
    kind_files.heifs,
]
ROOT = Path(__file__).parents[4]
AS_STORED = DecodeOptions(exif_orientation=False)


def far_apart(one: Any, other: Any) -> int:
    return int(np.abs(one.astype(int) - other).max()) if one.shape == other.shape else 256


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_each_kind_is_what_its_header_says_and_equals_the_second_decoder(make: Callable[[], Iterator[Sample]]) -> None:
    if make is kind_files.heifs:
        pytest.importorskip("pillow_heif")
    for sample in make():
        name = f"{sample.label}: {sample.kind}"
        assert headers.read(sample.data).kind == sample.kind, name
        found = np.asarray(pillow.decode(sample.data, AS_STORED).image)
        assert far_apart(found, sample.rgb) <= sample.tolerance, name
        second = second_picture(sample.data, sample.kind)
        # Both decode lossy files with one algorithm each, but round colours and interpolate chroma in their own ways.
        if second is not None:
            assert far_apart(found, second) <= (0 if sample.tolerance == 0 else 6), name


def test_no_kind_is_left_out() -> None:
    pytest.importorskip("pillow_heif")
    kinds = {sample.kind for make in MAKERS for sample in make()}
    assert kinds == CHECKED and len(CHECKED) >= 200
    assert f"({len(CHECKED)} combinations" in (ROOT / "docs" / "inputs-and-outputs.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("sample", list(kind_files.pngs())[:4] + list(kind_files.tiffs())[:4], ids=lambda sample: str(sample.kind))
def test_what_is_not_in_the_table_is_refused_by_its_name(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers.kinds, "CHECKED", CHECKED - {sample.kind})
    with pytest.raises(BadImage, match=sample.kind.format) as caught:
        pillow.decode(sample.data, AS_STORED)
    assert caught.value.reason == "unsupported" and str(sample.kind) in caught.value.message and "convert" in caught.value.message


def test_a_kind_is_named_in_words() -> None:
    for kind, words in (
        (Kind("TIFF", 8, "uint", "RGB", 3, True, "LZW"), "a TIFF of 8-bit RGB samples in planes, 3 channels, LZW"),
        (Kind("TIFF", 16, "int", "grey", 1, False, "LZW"), "a TIFF of 16-bit signed grey samples, 1 channel, LZW"),
        (Kind("PNG", 32, "float", "grey", 2, False, "deflate"), "a PNG of 32-bit floating-point grey samples, 2 channels, deflate"),
        (Kind("GIF", 1, "complex int", "odd", 0, False, "none"), "a GIF of 1-bit complex int odd samples, 0 channels, none"),
    ):
        assert str(kind) == words


def test_a_kind_that_was_not_checked_is_refused_with_a_way_out() -> None:
    for kind in CHECKED:
        kinds.check(kind)
    other = Kind("TIFF", 64, "float", "grey", 1, False, "LZW")
    with pytest.raises(BadImage) as caught:
        kinds.check(other)
    way_out = "convert it to an 8-bit PNG, as `magick IN -depth 8 OUT.png` does"
    assert (caught.value.reason, caught.value.message) == ("unsupported", f"it is {other}, which is not decoded; {way_out}")
    assert kinds.unsupported("a thing", "leave it").message == "it is a thing, which is not decoded; leave it"


def test_planes_and_predictors_that_the_decoders_read_wrongly_are_not_among_the_checked() -> None:
    tiffs = [kind for kind in CHECKED if kind.format == "TIFF"]
    assert not [kind for kind in tiffs if kind.planar and kind.channels == 1]
    assert {(kind.depth, kind.colors) for kind in tiffs if kind.planar and kind.compression == "uncompressed"} == {(8, "RGB"), (8, "CMYK")}
    assert {(kind.depth, kind.colors) for kind in tiffs if kind.planar} == {
        (8, "RGB"), (16, "RGB"), (8, "CMYK"), (16, "CMYK"), (8, "grey"),
    }  # fmt: skip
    assert {kind.depth for kind in tiffs if "predictor" in kind.compression} == {8, 16}


VALUES = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 24, 32, 37, 53, 255, 256, 257, 32773, 34712, 65_535, 65_536, 2**31, 2**32 - 1)


def fuzzed_tiff(data: bytes, rng: random.Random) -> bytes:
    """Set fields of a TIFF's directory at random: tags, types, counts and values."""
    order, changed = "<" if data[:2] == b"II" else ">", bytearray(data)
    big = data[2:4] in (b"+\0", b"\0+")
    at = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    count = struct.unpack_from(order + ("Q" if big else "H"), data, at)[0]
    first, size = (at + 8, 20) if big else (at + 2, 12)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        entry = first + size * rng.randrange(count)
        what = rng.choice(("value", "value", "value", "value", "near", "tag", "type", "count"))
        if what == "tag":
            struct.pack_into(
                order + "H", changed, entry, rng.choice((254, 255, 259, 262, 266, 284, 292, 317, 330, 332, 338, 339, rng.randrange(65_536)))
            )
        elif what == "type":
            struct.pack_into(order + "H", changed, entry + 2, rng.randrange(20))
        elif what == "count":
            struct.pack_into(order + ("Q" if big else "I"), changed, entry + 4, rng.choice(VALUES))
        else:
            place = entry + (12 if big else 8)
            short = struct.unpack_from(order + "H", changed, entry + 2)[0] == 3
            old = struct.unpack_from(order + ("H" if short else "I"), changed, place)[0]
            new = max(0, old + rng.choice((-1, 1, -2, 2))) if what == "near" else rng.choice(VALUES)
            struct.pack_into(order + ("H" if short else "I"), changed, place, new & (0xFFFF if short else 0xFFFFFFFF))
    return bytes(changed)


def fuzzed_png(data: bytes, rng: random.Random) -> bytes:
    """Set fields of a PNG's header at random, and its checksum to match."""
    fields = list(struct.unpack_from(">IIBBBBB", data, 16))
    for _ in range(rng.choice((1, 1, 2))):
        place = rng.randrange(7)
        near = place < 2 and rng.random() < 0.7
        fields[place] = (
            min(max(0, fields[place] + rng.choice((-1, 1, -8, 8))), 2**32 - 1)
            if near
            else rng.choice(VALUES) & (0xFF if place > 1 else 0xFFFFFFFF)
        )
    header = b"IHDR" + struct.pack(">IIBBBBB", *fields)
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


@pytest.mark.parametrize(("make", "fuzz"), [(kind_files.tiffs, fuzzed_tiff), (kind_files.pngs, fuzzed_png)], ids=["tiff", "png"])
def test_a_header_with_random_fields_gives_the_second_decoders_picture_or_none(
    make: Callable[[], Iterator[Sample]], fuzz: Callable[[bytes, random.Random], bytes]
) -> None:
    assert check_fuzzed(make, fuzz, 700, seed=5) > 20


@pytest.mark.slow
@pytest.mark.parametrize(("make", "fuzz"), [(kind_files.tiffs, fuzzed_tiff), (kind_files.pngs, fuzzed_png)], ids=["tiff", "png"])
def test_ten_thousand_headers(make: Callable[[], Iterator[Sample]], fuzz: Callable[[bytes, random.Random], bytes]) -> None:
    assert check_fuzzed(make, fuzz, 10_000, seed=6) > 300


def check_fuzzed(make: Callable[[], Iterator[Sample]], fuzz: Callable[[bytes, random.Random], bytes], files: int, seed: int) -> int:
    """Return how many of so many files were decoded; all of them were equal to the second decoder's."""
    rng, samples, decoded = random.Random(seed), list(make()), 0
    for _ in range(files):
        sample = rng.choice(samples)
        data = fuzz(sample.data, rng)
        try:
            found = np.asarray(pillow.decode(data, DecodeOptions(exif_orientation=False, max_pixels=1_000_000)).image)
        except BadImage:
            continue
        decoded += 1
        kind: Kind = headers.read(data).kind
        name = f"{sample.label}: {sample.kind} became {kind}"
        try:
            second = second_picture(data, kind)
        except Exception as error:
            raise AssertionError(f"{name}, which the second decoder refuses") from error
        assert second is not None and far_apart(found, second) == 0, name
    return decoded
