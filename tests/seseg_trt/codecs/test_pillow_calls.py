"""What Pillow is asked for, the bounds that are checked around it, and in which words its failures are told."""

from __future__ import annotations

import importlib
import io
import struct
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from seseg_trt.codecs import headers, pillow
from seseg_trt.errors import BadImage
from seseg_trt.options import DecodeOptions, EncodeOptions, ImageFormat
from tests.corpus import saved, scene, with_exif_orientation

DEFAULT = DecodeOptions()


def refusal(data: bytes, options: DecodeOptions = DEFAULT) -> tuple[str, str]:
    with pytest.raises(BadImage) as caught:
        pillow.decode(data, options)
    return caught.value.reason, caught.value.message


@pytest.mark.parametrize(("image_format", "longest"), [("jpg", 65_535), ("webp", 16_383), ("png", 2_147_483_647)])
def test_the_longest_side_of_each_format(image_format: ImageFormat, longest: int) -> None:
    for width, height in ((longest, 1), (1, longest), (longest, longest)):
        assert pillow.too_long(width, height, image_format) is None
    for width, height in ((longest + 1, 1), (1, longest + 1)):
        bad = pillow.too_long(width, height, image_format)
        assert bad is not None and bad.reason == "encode_error"
        size = f"an image of {width} x {height} pixels"
        assert bad.message == f"{size} can't be a {image_format}: the longest side is {longest}; png takes it"


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        (EncodeOptions("webp", 70), {"format": "WEBP", "quality": 70, "method": 2}),
        (EncodeOptions("jpg", 70, "444"), {"format": "JPEG", "quality": 70, "subsampling": "4:4:4"}),
        (EncodeOptions("jpg", 35, "420"), {"format": "JPEG", "quality": 35, "subsampling": "4:2:0"}),
    ],
)
def test_lossy_files_are_those_of_pillow_with_these_parameters(options: EncodeOptions, parameters: dict[str, Any]) -> None:
    image = Image.fromarray(scene())
    buffer = io.BytesIO()
    image.save(buffer, **parameters)
    assert pillow.encode_lossy(image, options) == buffer.getvalue()


@pytest.mark.parametrize("error", [OSError("encoder error -2"), ValueError("odd"), MemoryError()])
def test_an_encoder_that_fails_costs_one_image(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, *arguments: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(BadImage) as caught:
        pillow.encode_lossy(Image.new("RGB", (2, 2)), EncodeOptions("webp"))
    words = str(error) or "MemoryError"
    assert (caught.value.reason, caught.value.message) == ("encode_error", f"the webp encoder failed: {words}")
    assert caught.value.__cause__ is error


def test_an_encoders_other_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, *arguments: object, **named: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(KeyError):
        pillow.encode_lossy(Image.new("RGB", (2, 2)), EncodeOptions("jpg"))


PNG = saved(Image.fromarray(scene()), "PNG")


@pytest.mark.parametrize(
    ("error", "reason", "message"),
    [
        (Image.DecompressionBombError("large"), "too_large", "Pillow takes it for a decompression bomb: large"),
        (MemoryError("x"), "decode_error", "there is not enough memory to decode it"),
        (OSError("image file is Truncated (3 bytes)"), "truncated", "the PNG ends too early: image file is Truncated (3 bytes)"),
        (OSError("not enough image data"), "truncated", "the PNG ends too early: not enough image data"),
        (ValueError("Unexpected end of file"), "truncated", "the PNG ends too early: Unexpected end of file"),
        (struct.error("unpack requires"), "truncated", "the PNG ends too early: unpack requires"),
        (IndexError(), "truncated", "the PNG ends too early: IndexError"),
        (EOFError(), "truncated", "the PNG ends too early: EOFError"),
        (OSError("broken data stream"), "decode_error", "the PNG is damaged: broken data stream"),
        (ZeroDivisionError(), "decode_error", "the PNG is damaged: ZeroDivisionError"),
    ],
)
def test_what_a_decoder_raises_becomes_a_reason(error: Exception, reason: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object) -> None:
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    assert refusal(PNG) == (reason, message)


def test_a_refusal_of_ours_passes_through_pillow_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = BadImage("unsupported", "ours")

    def fail(self: object) -> None:
        raise bad

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    assert refusal(PNG) == ("unsupported", "ours")


@pytest.mark.parametrize(("width", "height"), [(0, 1), (1, 0), (-1, 1), (1, -1), (0, 0)])
def test_a_size_without_pixels_is_damage(width: int, height: int) -> None:
    with pytest.raises(BadImage) as caught:
        pillow._check_size((width, height), DEFAULT)
    message = f"its header states a size of {width} x {height} pixels"
    assert (caught.value.reason, caught.value.message) == ("decode_error", message)


def test_the_limit_on_pixels_is_told_with_the_way_out() -> None:
    pillow._check_size((1, 1), DecodeOptions(max_pixels=1))
    pillow._check_size((120, 80), DecodeOptions(max_pixels=9600))
    assert refusal(PNG, DecodeOptions(max_pixels=9599)) == (
        "too_large",
        "120 x 80 is 9600 pixels, over the limit of 9599; --max-pixels raises it",
    )


def test_several_pictures_are_refused_unless_the_first_is_asked_for() -> None:
    frames = [Image.fromarray(scene()), Image.fromarray(scene()[::-1])]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert refusal(data) == (
        "several_frames",
        "the GIF has 2 pictures, and a mask shows one; --frames first masks the first, and no other",
    )
    assert pillow.decode(data, DecodeOptions(frames="first")).width == 120
    for count in (0, 1):
        pillow._check_frames("GIF", count, DEFAULT)


@pytest.mark.parametrize(("orientation", "turned"), [(1, False), (2, False), (4, False), (5, True), (6, True), (8, True)])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_probe_gives_the_size_that_decoding_gives(file_format: str, orientation: int, turned: bool) -> None:
    data = with_exif_orientation(orientation, file_format)
    assert pillow.probe_size(data, DEFAULT) == ((80, 120) if turned else (120, 80))
    assert pillow.probe_size(data, DecodeOptions(exif_orientation=False)) == (120, 80)
    decoded = pillow.decode(data, DEFAULT)
    assert pillow.probe_size(data, DEFAULT) == (decoded.width, decoded.height)
    with pytest.raises(BadImage, match="over the limit"):
        pillow.probe_size(data, DecodeOptions(max_pixels=9599))


def test_a_probe_asks_pillow_where_a_header_does_not_say_the_orientation(monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[274] = 6
    header = headers.read(PNG)
    fake = SimpleNamespace(kind=header.kind, width=1, height=1, pictures=1, orientation=0, cut=False, stripped=lambda: b"file")
    monkeypatch.setattr(pillow.headers, "read", lambda data: fake)
    opened = SimpleNamespace(size=(7, 5), info={"exif": exif.tobytes()})
    monkeypatch.setattr(pillow, "_open", lambda file_format, data: opened)
    assert pillow.probe_size(b"file", DEFAULT) == (5, 7)
    assert pillow.probe_size(b"file", DecodeOptions(exif_orientation=False)) == (7, 5)
    opened.info = {}
    assert pillow.probe_size(b"file", DEFAULT) == (7, 5)

    def fail(file_format: str, data: bytes) -> None:
        raise EOFError("gone")

    monkeypatch.setattr(pillow, "_open", fail)
    with pytest.raises(BadImage) as caught:
        pillow.probe_size(b"file", DEFAULT)
    assert (caught.value.reason, caught.value.message) == ("truncated", "the PNG ends too early: gone")


def test_a_format_that_this_pillow_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pillow, "_openers", dict)
    reason, message = refusal(PNG)
    assert reason == "unsupported" and "a file of the format PNG" in message and "a newer Pillow may decode it" in message
    monkeypatch.setattr(pillow, "_openers", lambda: {"PNG": (None, lambda prefix: f"no library for {prefix[:4]!r}")})
    reason, message = refusal(PNG)
    assert reason == "unsupported" and r"Pillow says: no library for b'\x89PNG'" in message


def test_a_plugin_is_shown_the_first_sixteen_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    factory, _ = pillow._openers()["PNG"]
    monkeypatch.setattr(pillow, "_openers", lambda: {"PNG": (factory, seen.append)})
    assert pillow.decode(PNG, DEFAULT).width == 120 and [len(prefix) for prefix in seen] == [16]
    monkeypatch.setattr(pillow, "_openers", lambda: {"PNG": (factory, None)})
    assert pillow.decode(PNG, DEFAULT).width == 120


@pytest.mark.parametrize("file_format", ["HEIF", "PNG", "AVIF"])
def test_only_of_a_heif_its_reader_counts_the_pictures(file_format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = SimpleNamespace(format=file_format, compression="", depth=8)
    header: Any = SimpleNamespace(kind=kind, width=4, height=3, orientation=1, complete=None, cut=False)
    first = DecodeOptions(frames="first")
    for count in (1, 2):
        image = Image.new("RGB", (4, 3))
        image.n_frames = count  # type: ignore[attr-defined]
        monkeypatch.setattr(pillow, "_open", lambda name, data, image=image: image)
        assert pillow._load(header, b"", first).width == 4
        if file_format == "HEIF" and count == 2:
            with pytest.raises(BadImage, match="the HEIF has 2 pictures"):
                pillow._load(header, b"", DEFAULT)
        else:
            assert pillow._load(header, b"", DEFAULT).source_format == file_format
    monkeypatch.setattr(pillow, "_open", lambda name, data: Image.new("RGB", (4, 3)))
    assert pillow._load(header, b"", DEFAULT).height == 3  # a reader that counts nothing has one


def test_the_reader_of_avif_and_heif_may_turn_the_picture_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pillow, "_open", lambda name, data: Image.new("RGB", (3, 4)))
    for file_format in ("AVIF", "HEIF", "WEBP"):
        kind = SimpleNamespace(format=file_format, compression="", depth=8)
        header: Any = SimpleNamespace(kind=kind, width=4, height=3, orientation=1, complete=None, cut=False)
        if file_format == "WEBP":
            with pytest.raises(BadImage, match="another size"):
                pillow._load(header, b"", DEFAULT)
        else:
            decoded = pillow._load(header, b"", DEFAULT)
            assert (decoded.width, decoded.height) == (3, 4)


@pytest.mark.parametrize(
    ("compression", "last", "complete", "whole"),
    [
        ("deflate", 0, False, False),
        ("deflate", 0, True, True),
        ("deflate", 1, False, True),  # a row that was reached is one that was decoded
        ("interlaced deflate", 1, False, False),
        ("interlaced deflate", 1, True, True),
        ("deflate", 0, None, True),
    ],
)
def test_rows_are_missing_where_the_last_is_empty_and_the_data_end(
    compression: str, last: int, complete: bool | None, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.full((3, 4), 7, np.uint8)
    pixels[-1] = last
    kind = SimpleNamespace(format="PNG", compression=compression, depth=8)
    asked = None if complete is None else lambda: complete
    header: Any = SimpleNamespace(kind=kind, width=4, height=3, orientation=1, complete=asked, cut=False)
    monkeypatch.setattr(pillow, "_open", lambda name, data: Image.fromarray(pixels))
    if whole:
        assert pillow._load(header, b"", DEFAULT).width == 4
    else:
        with pytest.raises(BadImage) as caught:
            pillow._load(header, b"", DEFAULT)
        assert (caught.value.reason, caught.value.message) == ("truncated", "the PNG ends too early: rows are missing")


@pytest.mark.parametrize("height", [1, 2, 3, 4, 7])
def test_the_last_row_is_the_last(height: int) -> None:
    pixels = np.arange(height * 3, dtype=np.uint8).reshape(height, 3)
    assert pillow._last_row(Image.fromarray(pixels)).tolist() == pixels[-1:].tolist()


@pytest.mark.parametrize(
    ("file_format", "depth", "shift"), [("TIFF", 12, 4), ("TIFF", 16, 8), ("TIFF", 10, 2), ("PNG", 12, 8), ("PPM", 9, 8)]
)
def test_deep_grey_is_scaled_by_its_bits_in_a_tiff_and_by_16_elsewhere(file_format: str, depth: int, shift: int) -> None:
    values = np.array([[0, 255, 256, 4095]], np.uint16)
    header: Any = SimpleNamespace(kind=SimpleNamespace(format=file_format, depth=depth))
    for image in (Image.fromarray(values), Image.fromarray(values.astype(np.int32))):
        rgb = pillow._to_rgb(image, header)
        assert rgb.mode == "RGB" and np.asarray(rgb)[..., 0].tolist() == (values >> shift).astype(np.uint8).tolist()


def test_another_size_than_the_headers_is_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    real = pillow._open
    for box in ((0, 0, 119, 80), (0, 0, 120, 79)):
        monkeypatch.setattr(pillow, "_open", lambda name, data, box=box: real(name, data).crop(box))
        assert refusal(PNG) == ("decode_error", "the PNG was decoded to another size than its header states")


def test_a_black_last_row_is_no_missing_row() -> None:
    pixels = scene().copy()
    pixels[-1] = 0
    for file_format in ("PNG", "BMP", "TIFF", "PPM", "GIF"):
        data = saved(Image.fromarray(pixels), file_format)
        assert not np.asarray(pillow.decode(data, DEFAULT).image)[-1].any()


@pytest.mark.parametrize(("orientation", "corner"), [(0, 0), (1, 0), (2, 1), (3, 3), (4, 2), (5, 0), (6, 2), (7, 3), (8, 1), (9, 0)])
def test_a_turned_image_begins_with_that_corner(orientation: int, corner: int) -> None:
    image = Image.fromarray(np.array([[0, 9, 1], [2, 9, 3]], np.uint8))
    turned = pillow._turned(image, orientation)
    assert turned.getpixel((0, 0)) == corner
    assert turned.size == ((2, 3) if 5 <= orientation <= 8 else (3, 2))


def test_every_decoder_that_is_installed_is_loaded_at_once() -> None:
    pillow.load_plugins()
    found = pillow._openers()
    assert {"JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000", "PPM", "ICO"} <= set(found) <= set(pillow.FORMATS)
    assert pillow._openers() is found


def test_a_plugin_that_an_older_pillow_lacks_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pillow, "FORMATS", {"NEW": "NewImagePlugin", "PNG": "PngImagePlugin", "GIF": ""})
    assert {"PNG"} <= set(pillow._openers.__wrapped__()) <= {"PNG", "HEIF"}


def test_decoders_are_imported_by_their_modules_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []
    real = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", lambda name: (imported.append(name), real(name))[1])
    pillow._openers.__wrapped__()
    assert imported == [*(f"PIL.{module}" for module in pillow.FORMATS.values() if module), "pillow_heif"]


def test_decoded_images_cannot_be_changed() -> None:
    decoded = pillow.decode(PNG, DEFAULT)
    with pytest.raises(AttributeError):
        decoded.width = 1  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        decoded.other = 1  # type: ignore[attr-defined]
    assert (decoded.decoded_by, decoded.source_format) == ("pillow", "PNG") and not hasattr(decoded, "__dict__")
