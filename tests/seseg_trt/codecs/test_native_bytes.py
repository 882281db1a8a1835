"""The very bytes that native decoders get."""

from __future__ import annotations

import struct

import pytest
from PIL import Image

from seseg_trt.codecs import native
from seseg_trt.codecs.native import NativeImage, native_image, probe_pixels
from seseg_trt.errors import BadImage
from seseg_trt.options import DecodeOptions
from tests.corpus import make_images, png_of, saved, scene, with_exif_orientation

TURN, AS_STORED = DecodeOptions(), DecodeOptions(exif_orientation=False)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_is_one_block_of_36_bytes_after_the_beginning(orientation: int) -> None:
    plain = native_image(with_exif_orientation(1), TURN)
    turned = native_image(with_exif_orientation(orientation), TURN)
    assert plain is not None and turned is not None
    if orientation == 1:
        assert turned == plain and b"Exif" not in plain.data
        return
    block = b"Exif\0\0" + b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 274, 3, 1, orientation, 0, 0)
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(block)) + block
    assert len(segment) == 36
    at = 20 if plain.data[2:4] == b"\xff\xe0" else 2
    assert turned.data == plain.data[:at] + segment + plain.data[at:]
    stored = native_image(with_exif_orientation(orientation), AS_STORED)
    assert stored == plain


def test_a_jpeg_without_jfif_gets_its_block_at_once() -> None:
    data = with_exif_orientation(6)
    native_data = native_image(data, TURN)
    assert native_data is not None
    body = native_data.data
    if body[2:4] == b"\xff\xe0":
        body = body[:2] + body[20:]
        again = native_image(body, TURN)
        assert again is not None and again.data.count(b"Exif\0\0") == 1
        assert again.data[:4] == b"\xff\xd8\xff\xe1" or again.data[20:22] == b"\xff\xe1"


def test_the_block_follows_jfif_or_the_first_marker(monkeypatch: pytest.MonkeyPatch) -> None:
    real = native.headers.read
    jfif = native.JFIF

    class Stripped:
        def __init__(self, header: object, data: bytes) -> None:
            self.header, self.data = header, data

        def __getattr__(self, name: str) -> object:
            return getattr(self.header, name)

        def stripped(self) -> bytes:
            return self.data

    for data, at in ((b"\xff\xd8" + jfif + b"rest", 2 + len(jfif)), (b"\xff\xd8rest" + jfif, 2), (b"\xff" + jfif + b"rest", 2)):
        monkeypatch.setattr(native.headers, "read", lambda file, data=data: Stripped(real(file), data))
        found = native_image(with_exif_orientation(3), TURN)
        assert found is not None and found.data == data[:at] + native._exif_segment(3) + data[at:]
        monkeypatch.undo()


def test_pixels_are_counted_from_the_header_or_not_at_all() -> None:
    images = make_images()
    assert probe_pixels(images["good.jpg"][0]) == 120 * 80
    for data in (b"", b"no image", images["garbage.jpg"][0]):
        assert probe_pixels(data) == 0
    assert probe_pixels(saved(Image.fromarray(scene(1, 1)), "PNG")) == 1


@pytest.mark.parametrize(("width", "height", "pixels"), [(-3, 5, 0), (3, -5, 0), (-3, -5, 0), (0, 5, 0), (1, 1, 1), (3, 5, 15)])
def test_a_header_of_odd_sizes_has_no_pixels(width: int, height: int, pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Header:
        pass

    header = Header()
    header.width, header.height = width, height  # type: ignore[attr-defined]
    monkeypatch.setattr(native.headers, "read", lambda data: header)
    assert probe_pixels(b"x") == pixels


def test_a_native_image_cannot_be_changed() -> None:
    image = NativeImage(b"x", 1, 2)
    with pytest.raises(AttributeError):
        image.width = 3  # type: ignore[misc]
    assert not hasattr(image, "__dict__")


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_grey_of_any_depth_up_to_8_is_native_and_16_is_not(depth: int) -> None:
    def grey(bits: int) -> bytes:
        return png_of(8, 2, bits, 0, bytes(2 * (1 + bits)))

    assert native_image(grey(depth), TURN) is not None
    assert native_image(grey(16), TURN) is None


def test_only_a_jpeg_may_be_turned() -> None:
    for file_format in ("PNG", "WEBP"):
        data = with_exif_orientation(6, file_format)
        assert native_image(data, TURN) is None
        for none in (data, with_exif_orientation(1, file_format)):
            stored = native_image(none, AS_STORED)
            assert stored is not None and b"Exif" not in stored.data


def test_what_cannot_be_stripped_is_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_images()["good.jpg"][0]
    header_type = type(native.headers.read(data))

    def fail(self: object) -> bytes:
        raise BadImage("decode_error", "odd")

    monkeypatch.setattr(header_type, "stripped", fail)
    assert native_image(data, TURN) is None
