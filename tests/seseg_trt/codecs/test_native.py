"""Test what native decoders get: known structures without metadata, and no file whose header Pillow would refuse."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from seseg_trt.codecs import pillow
from seseg_trt.codecs.native import native_image, probe_pixels
from seseg_trt.errors import BadImage
from seseg_trt.options import DecodeOptions

from ...corpus import make_images, png_of, saved, scene, with_exif_orientation

TURN, AS_STORED = DecodeOptions(), DecodeOptions(exif_orientation=False)
IMAGES = make_images()
BIG_ENDIAN_6 = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"


def picture() -> Image.Image:
    return Image.fromarray(scene())


def pixels_of(data: bytes, options: DecodeOptions = TURN) -> np.ndarray:
    return np.asarray(pillow.decode(data, options).image)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


NATIVE = sorted(name for name, (data, _) in IMAGES.items() if native_image(data, TURN))


def test_the_usual_formats_are_native() -> None:
    wanted = {"good.jpg", "progressive.jpg", "grey_jpg.jpg", "exif6.jpg", "frames_mpo.mpo", "good_png.png", "rgba.png", "one_bit.png"}
    assert wanted | {"palette_transparent.png", "grey_alpha.png", "photo_webp.webp", "narrow_1x20000.png"} <= set(NATIVE)


def test_others_are_not() -> None:
    refused = {"empty.jpg", "truncated_jpg.jpg", "truncated_png.png", "header_only.jpg", "bomb_png.png", "garbage.jpg", "text.jpg"}
    for name in refused | {
        "grey16_png.png",
        "rgb16.png",
        "cmyk_jpg.jpg",
        "lab.tif",
        "animated_gif.gif",
        "truncated_webp.webp",
        "photo_jp2.jp2",
    }:
        assert native_image(IMAGES[name][0], TURN) is None, name


@pytest.mark.parametrize("name", NATIVE)
def test_what_goes_to_native_decoders_shows_the_same_image(name: str) -> None:
    data, expected = IMAGES[name]
    native = native_image(data, TURN)
    assert native is not None
    if expected == "mask":
        assert np.array_equal(pixels_of(native.data), pixels_of(data))
        assert probe_pixels(data) == native.width * native.height


@pytest.mark.parametrize("orientation", range(10))
def test_the_orientation_is_kept_if_it_is_wanted(orientation: int) -> None:
    data = with_exif_orientation(orientation)
    for options in (TURN, AS_STORED):
        native = native_image(data, options)
        assert native is not None and (native.width, native.height) == (120, 80)
        assert np.array_equal(pixels_of(native.data), pixels_of(data, options))


def with_exif(*blocks: bytes) -> bytes:
    data = saved(picture(), "JPEG")
    segments = b"".join(b"\xff\xe1" + struct.pack(">H", 2 + len(block)) + block for block in blocks)
    return data[:2] + segments + data[2:]


@pytest.mark.parametrize(
    "data",
    [
        with_exif(b"Exif\0\0" + BIG_ENDIAN_6),
        with_exif(b"Exif\0\0" + BIG_ENDIAN_6.replace(b"\0\x03\0\0\0\x01\0\x06", b"\0\x04\0\0\0\x01\0\0") + b"\0\6"),
        with_exif(b"Exif\0\0" + BIG_ENDIAN_6[:20], b"Exif\0\0" + BIG_ENDIAN_6[20:]),
        with_exif(b"Exif\0\0" + BIG_ENDIAN_6, b"Exif\0\0" + BIG_ENDIAN_6.replace(b"\6", b"\3")),
        with_exif(b"Exif\0\0"),
        with_exif(b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>", b"Exif\0\0" + b"II*\0\xff\xff\xff\xff"),
    ],
    ids=["big_endian", "long", "split", "two", "empty", "damaged"],
)
def test_odd_exif_blocks_turn_as_pillow_turns(data: bytes) -> None:
    native = native_image(data, TURN)
    assert native is not None
    assert np.array_equal(pixels_of(native.data), pixels_of(data))
    assert native.data.count(b"Exif\0\0") <= 1


def test_no_metadata_of_a_jpeg_is_passed_on() -> None:
    exif = Image.Exif()
    exif[274], exif[270] = 6, "a secret"
    comment = b"another secret"
    data = saved(picture(), "JPEG", exif=exif.tobytes(), comment=comment, icc_profile=b"a profile, secret", xmp=b"<secret/>", dpi=(3, 4))
    assert data.count(b"secret") == 4
    native = native_image(data, TURN)
    assert native is not None and b"secret" not in native.data
    assert np.array_equal(pixels_of(native.data), pixels_of(data))


def test_no_metadata_of_a_png_is_passed_on() -> None:
    data = saved(picture(), "PNG")
    data = data[:33] + chunk(b"tEXt", b"Comment\0secret") + chunk(b"gAMA", struct.pack(">I", 100_000)) + data[33:]
    native = native_image(data, TURN)
    assert native is not None and b"secret" not in native.data and b"gAMA" not in native.data
    assert np.array_equal(pixels_of(native.data), pixels_of(data))


def png(*chunks: bytes) -> bytes:
    whole = saved(picture(), "PNG")
    return b"".join([whole[:33], *chunks, whole[33:]])


@pytest.mark.parametrize(
    "data",
    [
        saved(picture(), "PNG")[:-12] + chunk(b"eXIf", BIG_ENDIAN_6) + chunk(b"IEND", b""),
        png(chunk(b"ABCD", b"")),
        png(chunk(b"IHDR", b"")),
        png_of(4, 4, 3, 0, bytes(20)),
        png_of(0, 4, 8, 2, bytes(20)),
        png_of(1 << 31, 4, 8, 2, bytes(20)),
        with_exif_orientation(6, "WEBP"),
        with_exif_orientation(6, "PNG"),
        saved(picture(), "JPEG", keep_rgb=True),
        saved(picture(), "TIFF"),
        saved(picture(), "BMP"),
        b"P6 4 4 100\n" + bytes(48),
    ],
    ids=[
        "late_exif",
        "unknown_critical",
        "two_headers",
        "bits",
        "empty",
        "huge",
        "webp_exif",
        "png_exif",
        "rgb",
        "tif",
        "bmp",
        "ppm",
    ],
)
def test_what_is_in_doubt_is_pillows(data: bytes) -> None:
    assert native_image(data, TURN) is None


def test_the_limit_on_pixels_is_kept() -> None:
    data = IMAGES["good.jpg"][0]
    assert native_image(data, DecodeOptions(max_pixels=120 * 80)) is not None
    assert native_image(data, DecodeOptions(max_pixels=120 * 80 - 1)) is None


@settings(deadline=None)
@given(st.sampled_from(NATIVE), st.data())
def test_damage_is_never_turned_into_another_image(name: str, drawn: st.DataObject) -> None:
    data = bytearray(IMAGES[name][0])
    for _ in range(drawn.draw(st.integers(1, 4))):
        data[drawn.draw(st.integers(0, min(700, len(data) - 1)))] = drawn.draw(st.integers(0, 255))
    damaged = bytes(data[: drawn.draw(st.integers(1, len(data)))] if drawn.draw(st.booleans()) else data)
    limit = DecodeOptions(max_pixels=1_000_000)
    native = native_image(damaged, limit)
    probe_pixels(damaged)
    if native is None:
        return
    try:
        expected = pixels_of(damaged, limit)
    except BadImage:
        return
    assert np.array_equal(pixels_of(native.data, limit), expected)


def test_a_rebuilt_jpeg_is_a_whole_one() -> None:
    native = native_image(IMAGES["exif6.jpg"][0], TURN)
    assert native is not None
    with Image.open(io.BytesIO(native.data)) as image:
        image.verify()
        assert image.getexif() == {274: 6}
