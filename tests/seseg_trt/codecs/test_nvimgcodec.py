"""Test nvImageCodec on the CPU: None for bad images alone, and files with the requested format, quality and subsampling."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seseg_trt.codecs import pillow
from seseg_trt.codecs.native import native_image
from seseg_trt.codecs.nvimgcodec import NvimgcodecDecoder, NvimgcodecEncoder
from seseg_trt.errors import BadImage
from seseg_trt.options import DecodeOptions, EncodeOptions, Subsampling

from ...corpus import make_images, saved, scene

pytestmark = pytest.mark.dali

ROOT = Path(__file__).parents[3]

IMAGES = make_images()
NATIVE = {name: native for name, (data, _) in IMAGES.items() if (native := native_image(data, DecodeOptions()))}
SIZES = [(120, 80), (333, 64), (1, 1), (7, 5)]
LOSSY = {"jpg": "JPEG", "webp": "WEBP"}
FACTORS = {"444": (1, 1), "422": (2, 1), "420": (2, 2)}


def opened(file: bytes | BadImage) -> Image.Image:
    assert isinstance(file, bytes)
    image = Image.open(io.BytesIO(file))
    image.load()
    return image


def test_each_image_is_decoded_by_itself() -> None:
    found = NvimgcodecDecoder().decode([native.data for native in NATIVE.values()])
    assert len(found) == len(NATIVE)
    for name, image in zip(NATIVE, found, strict=True):
        data, expected = IMAGES[name]
        if expected == "mask":
            assert image is not None and np.array_equal(image, np.asarray(pillow.decode(data, DecodeOptions()).image)), name
        else:
            assert image is None, name


def test_png_is_exact() -> None:
    images = [scene(*size) for size in SIZES]
    for pixels, file in zip(images, NvimgcodecEncoder(EncodeOptions("png")).encode(images), strict=True):
        image = opened(file)
        assert image.format == "PNG" and np.array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("image_format", ["jpg", "webp"])
def test_lossy_files_are_as_near_as_pillows(image_format: str) -> None:
    smooth = [np.asarray(Image.fromarray(scene(*size)).resize((90, 70), Image.Resampling.BOX)) for size in SIZES]
    options = EncodeOptions(image_format, 90, "444")  # type: ignore[arg-type]
    for pixels, file in zip(smooth, NvimgcodecEncoder(options).encode(smooth), strict=True):
        image = opened(file)
        pillows = opened(pillow.encode_lossy(Image.fromarray(pixels), options))
        assert image.format == LOSSY[image_format]
        errors = [np.abs(np.asarray(i.convert("RGB")).astype(int) - pixels).mean() for i in (image, pillows)]
        assert errors[0] <= errors[1] * 1.1 + 0.1


@pytest.mark.parametrize("subsampling", ["444", "422", "420"])
@pytest.mark.parametrize("quality", [30, 90])
def test_jpeg_has_the_quality_and_the_subsampling(quality: int, subsampling: Subsampling) -> None:
    file = NvimgcodecEncoder(EncodeOptions("jpg", quality, subsampling)).encode([scene()])[0]
    image, pillows = opened(file), opened(saved(Image.fromarray(scene()), "JPEG", quality=quality))
    assert image.layer[0][1:3] == FACTORS[subsampling]  # type: ignore[attr-defined]
    assert image.quantization == pillows.quantization  # type: ignore[attr-defined]


def test_webp_obeys_the_quality() -> None:
    sizes = [len(NvimgcodecEncoder(EncodeOptions("webp", quality)).encode([scene()])[0]) for quality in (20, 90)]  # type: ignore[arg-type]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("image_format", ["jpg", "png", "webp"])
def test_files_hold_no_metadata(image_format: str) -> None:
    exif = Image.Exif()
    exif[274], exif[270] = 6, "a secret"
    data = saved(Image.fromarray(scene()), "JPEG", exif=exif.tobytes(), icc_profile=b"a profile")
    native = native_image(data, DecodeOptions())
    assert native is not None
    pixels = NvimgcodecDecoder().decode([native.data])[0]
    assert pixels is not None
    file = NvimgcodecEncoder(EncodeOptions(image_format)).encode([pixels])[0]  # type: ignore[arg-type]
    image = opened(file)
    assert not image.getexif() and not {"icc_profile", "xmp", "exif", "comment"} & set(image.info)
    assert image.size == (80, 120)  # the orientation is in the pixels


def test_a_side_that_is_too_long_is_refused_alone() -> None:
    long = np.zeros((2, 16_384, 3), np.uint8)
    found = NvimgcodecEncoder(EncodeOptions("webp")).encode([scene(), long, scene(40, 30)])
    assert isinstance(found[1], BadImage) and found[1].reason == "encode_error" and "16384 x 2" in found[1].message
    assert opened(found[0]).size == (120, 80) and opened(found[2]).size == (40, 30)


@pytest.mark.parametrize(("count", "seed"), [(400, 1), pytest.param(20_000, 2, marks=pytest.mark.slow)])
def test_damaged_files_crash_nothing_and_show_what_pillow_shows(count: int, seed: int) -> None:
    command = [sys.executable, "-m", "tests.seseg_trt.codecs.damaged_run", str(count), str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
