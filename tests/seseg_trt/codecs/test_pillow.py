from __future__ import annotations

import contextlib
import functools
import gc
import io
import re
import struct
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, PngImagePlugin, features

from seseg_trt.codecs import pillow
from seseg_trt.codecs.headers.sniff import unsupported_kind
from seseg_trt.codecs.native import native_image, probe_pixels
from seseg_trt.errors import BadImage
from seseg_trt.options import DecodeOptions, EncodeOptions
from tests import corpus
from tests.conftest import KERAS224
from tests.corpus import saved, scene, with_exif_orientation

DEFAULT = DecodeOptions()
AS_STORED = DecodeOptions(exif_orientation=False)


@functools.cache
def images() -> dict[str, tuple[bytes, str]]:
    return corpus.make_images()


def pixels_of(data: bytes, options: DecodeOptions = DEFAULT) -> np.ndarray:
    return np.asarray(pillow.decode(data, options).image)


def reason_of(data: bytes, options: DecodeOptions = DEFAULT) -> str:
    with pytest.raises(BadImage) as caught:
        pillow.decode(data, options)
    assert caught.value.message
    return caught.value.reason


class TestCorpus:
    @pytest.mark.parametrize("name", images())
    def test_each_is_decoded_or_refused_with_its_reason(self, name: str) -> None:
        data, expected = images()[name]
        if expected != "mask":
            assert reason_of(data) == expected
            return
        decoded = pillow.decode(data, DEFAULT)
        assert decoded.image.mode == "RGB" and decoded.image.size == (decoded.width, decoded.height)
        assert decoded.source_format in pillow.FORMATS
        assert type(decoded.image) is Image.Image and not decoded.image.info and not decoded.image.getexif()

    def test_every_outcome_of_a_decoder_is_in_it(self) -> None:
        outcomes = {expected for _, expected in images().values()}
        assert outcomes == {*("mask", "empty", "truncated", "not_an_image", "unsupported", "several_frames", "too_large", "decode_error")}

    @pytest.mark.parametrize("name", [n for n, (_, expected) in images().items() if expected == "mask"])
    def test_pixels_are_those_of_convert(self, name: str) -> None:
        if "16_" in name or name == "exif6.jpg":
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(images()[name][0])) as image:
                expected = np.asarray(image.convert("RGB"))
        assert np.array_equal(pixels_of(images()[name][0]), expected)

    @pytest.mark.parametrize("name", ["animated_webp.webp", "animated_png.png", "frames_tif.tif"])
    def test_of_several_frames_the_first(self, name: str) -> None:
        assert np.array_equal(pixels_of(images()[name][0], DecodeOptions(frames="first")), scene())

    @pytest.mark.skipif("avif" not in features.modules or not features.check("avif"), reason="this Pillow has no AVIF decoder")
    def test_avif(self) -> None:
        data = saved(Image.fromarray(scene()), "AVIF", quality=95)
        assert pillow.decode(data, DEFAULT).source_format == "AVIF"
        assert np.abs(pixels_of(data).astype(int) - scene()).mean() < 20
        assert reason_of(data[: len(data) // 2]) == "truncated"

    @pytest.mark.parametrize("path", sorted((KERAS224 / "inputs").glob("*.png")), ids=lambda path: path.name)
    def test_fixture_decodes_as_the_original_program_did(self, path: Any) -> None:
        with np.load(KERAS224 / "reference.npz") as stored:
            assert np.array_equal(pixels_of(path.read_bytes(), AS_STORED), stored[path.name.split(".")[0] + "__rgb"])


class TestSixteenBits:
    VALUES = np.arange(65_536, dtype=np.uint16).reshape(256, 256)

    @pytest.mark.parametrize("kind", ["png", "tiff", "tiff_lzw", "pgm", "jp2", "tiff_big_endian"])
    def test_grey_is_scaled_as_pillow_scales_rgb(self, kind: str) -> None:
        image = Image.fromarray(self.VALUES)
        data = {
            "png": lambda: saved(image, "PNG"),
            "tiff": lambda: saved(image, "TIFF"),
            "tiff_lzw": lambda: saved(image, "TIFF", compression="tiff_lzw"),
            "pgm": lambda: b"P5 256 256 65535\n" + self.VALUES.astype(">u2").tobytes(),
            "jp2": lambda: saved(image, "JPEG2000"),
            "tiff_big_endian": self.big_endian_tiff,
        }[kind]()
        rgb = pixels_of(corpus.png16_rgb(np.repeat(self.VALUES[..., np.newaxis], 3, axis=2)))
        assert np.array_equal(rgb[..., 0], self.VALUES >> 8)
        assert np.array_equal(pixels_of(data), rgb)

    def big_endian_tiff(self) -> bytes:
        tags = [(256, 256), (257, 256), (258, 16), (259, 1), (262, 1), (273, 8 + 2 + 12 * 8 + 4), (278, 256), (279, 131_072)]
        entries = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in tags)
        return b"MM\0*" + struct.pack(">IH", 8, len(tags)) + entries + bytes(4) + self.VALUES.astype(">u2").tobytes()

    def test_twelve_bits_in_a_tiff(self) -> None:
        # Pillow reads 12-bit TIFFs (two samples in three bytes) but can't write them: write a 16-bit one and change its tag.
        values = (np.arange(256, dtype=np.uint16) * 16 + 5).reshape(16, 16)
        first, second = values.ravel()[0::2], values.ravel()[1::2]
        packed = np.stack([first >> 4, ((first & 15) << 4) | (second >> 8), second & 255], axis=-1).astype(np.uint8).tobytes()
        data = bytearray(saved(Image.fromarray(values), "TIFF"))
        entry = data.index(b"\x02\x01\x03\x00\x01\x00\x00\x00\x10\x00")
        data[entry + 8] = 12
        start = data.index(values.astype("<u2").tobytes())
        data[start : start + len(packed)] = packed
        count = data.index(struct.pack("<HHII", 279, 4, 1, 512)) if struct.pack("<HHII", 279, 4, 1, 512) in data else None
        size = data.index(struct.pack("<HHIHH", 279, 3, 1, 512, 0)) if count is None else count
        data[size + 8 : size + 12] = struct.pack("<I", len(packed))
        assert np.array_equal(pixels_of(bytes(data))[..., 0], values >> 4)


TURNS: dict[int, Any] = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: np.rot90,
}


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize(
        ("file_format", "parameters"),
        [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("JPEG", {})],
    )
    def test_is_applied_or_left_as_asked(self, file_format: str, parameters: dict[str, Any], orientation: int) -> None:
        data = with_exif_orientation(orientation, file_format, **parameters)
        stored = pixels_of(saved(Image.fromarray(scene()), "JPEG")) if file_format == "JPEG" else scene()
        assert np.array_equal(pixels_of(data, AS_STORED), stored)
        assert np.array_equal(pixels_of(data), TURNS[orientation](stored))
        decoded = pillow.decode(data, DEFAULT)
        assert (decoded.width, decoded.height) == ((80, 120) if orientation >= 5 else (120, 80))

    @pytest.mark.parametrize(
        "block",
        [b"", b"Exif\0\0", b"Exif\0\0MM\0*", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0" + bytes(100), b"\xff" * 70, b"Exif\0\0II+\0"],
    )
    @pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
    def test_a_damaged_block_is_as_good_as_none(self, file_format: str, block: bytes) -> None:
        plain, damaged = (saved(Image.fromarray(scene()), file_format, **p) for p in ({}, {"exif": block}))
        assert np.array_equal(pixels_of(damaged), pixels_of(plain))

    @pytest.mark.parametrize("value", [0, 9, 65_535])
    def test_an_orientation_that_is_none(self, value: int) -> None:
        assert np.array_equal(pixels_of(with_exif_orientation(value, "PNG")), scene())

    def test_xmp_does_not_count(self) -> None:
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", '<x:xmpmeta tiff:Orientation="6"/>')
        assert np.array_equal(pixels_of(saved(Image.fromarray(scene()), "PNG", pnginfo=info)), scene())
        tiff = saved(Image.fromarray(scene()), "TIFF", tiffinfo={700: b'<x:xmpmeta tiff:Orientation="6"/>'})
        assert np.array_equal(pixels_of(tiff), scene())


class TestSize:
    def test_is_checked_before_pixels_are_decoded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(self: object) -> None:
            raise AssertionError("pixels were decoded")

        monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
        data = saved(Image.fromarray(scene()), "PNG")
        assert reason_of(data, DecodeOptions(max_pixels=120 * 80 - 1)) == "too_large"

    def test_the_limit_itself_passes(self) -> None:
        assert pillow.decode(saved(Image.fromarray(scene()), "PNG"), DecodeOptions(max_pixels=120 * 80)).width == 120

    @pytest.mark.parametrize("limit", [100, 5_000, None])
    @pytest.mark.parametrize("name", ["good.jpg", "good_png.png", "palette_transparent_gif.gif", "photo_bmp.bmp"])
    def test_pillows_own_limit_neither_warns_nor_refuses_nor_changes(
        self, name: str, limit: int | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert pillow.decode(images()[name][0], DEFAULT).width == 120
        assert limit == Image.MAX_IMAGE_PIXELS

    def test_a_frame_that_is_larger_than_the_header_says(self) -> None:
        data = bytearray(saved(Image.new("P", (300, 300)), "GIF"))
        data[6:10] = b"\x0a\0\x0a\0"  # the canvas: 10 x 10
        assert reason_of(bytes(data), DecodeOptions(max_pixels=200)) == "too_large"

    def test_no_pixels(self) -> None:
        assert reason_of(corpus.png_of(0, 7, 8, 2, b"")) in {"decode_error", "truncated"}

    @pytest.mark.slow
    def test_hundred_megapixels(self) -> None:
        decoded = pillow.decode(corpus.hundred_megapixels(), DEFAULT)
        assert (decoded.width, decoded.height) == (12_500, 8_000)


class TestTruncated:
    FORMATS: tuple[tuple[str, dict[str, Any]], ...] = (
        *(("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("GIF", {}), ("BMP", {}), ("PPM", {}), ("JPEG2000", {})),
        *(("WEBP", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})),
        *(("TIFF", {"compression": "tiff_adobe_deflate"}), ("TIFF", {"compression": "packbits"}), ("TIFF", {"compression": "jpeg"})),
    )

    @pytest.mark.parametrize(("file_format", "parameters"), FORMATS)
    def test_no_part_of_an_image_passes(self, file_format: str, parameters: dict[str, Any]) -> None:
        data = saved(Image.fromarray(scene()), file_format, **parameters)
        whole = pixels_of(data)
        reasons: dict[str, int] = {}
        for length in range(64, len(data) - 1, max(1, len(data) // 40)):
            try:
                part = pixels_of(data[:length])
            except BadImage as bad:
                reasons[bad.reason] = reasons.get(bad.reason, 0) + 1
            else:
                assert np.array_equal(part, whole)  # only bytes after the pixels are missing
        assert set(reasons) == {"truncated"} and reasons["truncated"] > 30

    @pytest.mark.parametrize("name", ["good.jpg", "good_png.png", "photo_webp.webp", "frames_tif.tif", "photo_jp2.jp2"])
    def test_of_its_first_bytes_alone(self, name: str) -> None:
        for length in range(1, 64):
            assert reason_of(images()[name][0][:length]) in {"truncated", "not_an_image"}


class TestRefused:
    def test_no_program_is_started(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*args: object, **kwargs: object) -> None:
            raise AssertionError("a program was started")

        monkeypatch.setattr(subprocess, "Popen", refuse)
        monkeypatch.setattr("os.system", refuse)
        assert reason_of(saved(Image.fromarray(scene()), "EPS")) == "unsupported"

    @pytest.mark.parametrize("file_format", ["TGA", "PCX", "XBM", "SPIDER", "MSP", "DDS", "ICNS", "EPS", "PDF"])
    def test_other_formats_that_pillow_writes(self, file_format: str) -> None:
        image = Image.fromarray(scene(64, 64))
        image = {"XBM": image.convert("1"), "MSP": image.convert("1"), "SPIDER": image.convert("F")}.get(file_format, image)
        assert reason_of(saved(image, file_format)) in {"unsupported", "not_an_image"}

    def test_what_is_not_decoded_is_named(self) -> None:
        for data, kind in ((b"8BPS\0\1", "a Photoshop document"), (b"\xef\xbb\xbf\n<svg xmlns=''>", "an SVG drawing")):
            bad = unsupported_kind(data)
            assert bad is not None and bad.reason == "unsupported" and kind in bad.message
        assert unsupported_kind(b"<?xml version='1.0'?><html/>") is None
        assert unsupported_kind(b"") is None

    @pytest.mark.parametrize("error", [MemoryError(), RecursionError("deep"), OverflowError("big"), KeyError("tag"), ZeroDivisionError()])
    def test_whatever_a_decoder_raises(self, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(self: object) -> None:
            raise error

        monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
        data = images()["good_png.png"][0]
        with pytest.raises(BadImage) as caught:
            pillow.decode(data, DEFAULT)
        assert caught.value.reason == "decode_error" and caught.value.__cause__ is error

    def test_an_interrupt_passes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(self: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(ImageFile.ImageFile, "load", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pillow.decode(images()["good_png.png"][0], DEFAULT)

    @given(st.sampled_from([n for n, (d, _) in images().items() if 0 < len(d) < 20_000]), st.data())
    @settings(max_examples=250, deadline=None)
    def test_damage_anywhere_is_answered_with_a_reason(self, name: str, data: st.DataObject) -> None:
        damaged = bytearray(images()[name][0])
        for _ in range(data.draw(st.integers(1, 6))):
            near_the_start = data.draw(st.booleans())
            limit = min(len(damaged), 200) if near_the_start else len(damaged)
            damaged[data.draw(st.integers(0, limit - 1))] = data.draw(st.integers(0, 255))
        try:
            decoded = pillow.decode(bytes(damaged), DecodeOptions(max_pixels=1_000_000))
        except BadImage as bad:
            assert bad.reason in {"not_an_image", "unsupported", "several_frames", "too_large", "truncated", "decode_error"}
        else:
            assert decoded.image.mode == "RGB" and decoded.width * decoded.height <= 1_000_000

    @given(st.binary(max_size=300))
    @settings(max_examples=150, deadline=None)
    def test_noise_is_no_image(self, data: bytes) -> None:
        assert reason_of(data) in {"empty", "not_an_image", "unsupported", "truncated", "decode_error"}


class TestMemory:
    @pytest.mark.parametrize("name", [n for n, (_, expected) in images().items() if expected != "mask"] + ["good.jpg"])
    def test_an_error_that_is_forgotten_keeps_no_bytes(self, name: str) -> None:
        data = bytes(bytearray(images()[name][0]))
        gc.collect()
        gc.disable()  # a circle of error and frame would live until the collector comes by
        try:
            before = sys.getrefcount(data)
            for decode in (lambda: pillow.decode(data, DEFAULT), lambda: probe_pixels(data), lambda: native_image(data, DEFAULT)):
                with contextlib.suppress(BadImage):
                    decode()
            assert sys.getrefcount(data) == before
        finally:
            gc.enable()


class TestThreads:
    def test_many_at_once_without_a_warning_and_without_a_trace(self) -> None:
        # pytest turns warnings into errors, and Pillow warns about each of these files.
        names = ["palette_transparent.png", "exif_damaged.jpg", "rgb16.png", "truncated_tif.tif", "good.jpg"]
        before = list(warnings.filters)
        start = threading.Barrier(8)

        def work(number: int) -> int:
            start.wait()
            good = 0
            for step in range(40):
                try:
                    pillow.decode(images()[names[(number + step) % len(names)]][0], DEFAULT)
                    good += 1
                except BadImage as bad:
                    assert bad.reason == "truncated"
            return good

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(work, range(8))) == 8 * 40 * 4 // 5
        assert list(warnings.filters) == before

    def test_other_warnings_are_still_heard(self) -> None:
        with pillow._SILENCE:
            with pytest.warns(UserWarning, match="ours"):
                warnings.warn("ours", stacklevel=1)


class TestEncodeLossy:
    @staticmethod
    def private_image() -> Image.Image:
        exif = Image.Exif()
        exif[0x8825] = {1: "N", 2: (52.0, 31.0, 12.0)}  # GPS
        exif[274] = 6
        data = saved(Image.fromarray(scene()), "JPEG", exif=exif.tobytes(), comment=b"secret", icc_profile=b"profile" * 20)
        image = Image.open(io.BytesIO(data))
        image.load()
        assert {"exif", "comment", "icc_profile"} <= set(image.info)
        return image

    @pytest.mark.parametrize("file_format", ["jpg", "webp"])
    def test_it_is_close_to_the_image_and_without_metadata(self, file_format: Any) -> None:
        image = self.private_image()
        data = pillow.encode_lossy(image, EncodeOptions(file_format, quality=95, subsampling="444"))
        with Image.open(io.BytesIO(data)) as result:
            assert result.format == {"jpg": "JPEG", "webp": "WEBP"}[file_format]
            assert not {"exif", "comment", "icc_profile", "xmp"} & set(result.info) and not result.getexif()
            difference = np.abs(np.asarray(result.convert("RGB")).astype(int) - np.asarray(image).astype(int))
        assert difference.mean() < 12
        assert not re.search(rb"secret|Exif|profile", data)

    def test_decoding_drops_metadata_too(self) -> None:
        image = self.private_image()
        decoded = pillow.decode(saved(image, "PNG", exif=image.info["exif"], icc_profile=b"p" * 9), DEFAULT).image
        assert not decoded.info and not re.search(rb"eXIf|iCCP|tEXt", saved(decoded, "PNG"))

    @pytest.mark.parametrize(("subsampling", "sampling"), [("444", 0x11), ("422", 0x21), ("420", 0x22)])
    def test_subsampling(self, subsampling: Any, sampling: int) -> None:
        data = pillow.encode_lossy(Image.fromarray(scene()), EncodeOptions("jpg", subsampling=subsampling))
        frame = data.index(b"\xff\xc0")
        assert data[frame + 11] == sampling  # of the luma component

    def test_quality(self) -> None:
        sizes = [len(pillow.encode_lossy(Image.fromarray(scene()), EncodeOptions(f, quality=q))) for f in ("jpg", "webp") for q in (20, 95)]
        assert sizes[0] < sizes[1] and sizes[2] < sizes[3]

    @pytest.mark.parametrize(("file_format", "side"), [("jpg", 65_536), ("webp", 16_384)])
    def test_too_long_for_the_format(self, file_format: Any, side: int) -> None:
        for size in ((side, 1), (1, side)):
            with pytest.raises(BadImage, match=f"{side}.*png takes it") as caught:
                pillow.encode_lossy(Image.new("RGB", size), EncodeOptions(file_format))
            assert caught.value.reason == "encode_error"

    @pytest.mark.parametrize(("file_format", "side"), [("jpg", 65_000), ("webp", 16_383)])
    def test_as_long_as_the_format_takes(self, file_format: Any, side: int) -> None:
        assert pillow.encode_lossy(Image.new("RGB", (side, 1)), EncodeOptions(file_format))

    def test_png_is_not_lossy(self) -> None:
        with pytest.raises(ValueError, match="not lossy"):
            pillow.encode_lossy(Image.new("RGB", (1, 1)), EncodeOptions("png"))
