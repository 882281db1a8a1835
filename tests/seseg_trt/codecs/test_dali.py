"""Test DALI on the CPU: pixels equal to Pillow's, refused batches, images that outlive later pipeline runs, and the filters."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from seseg_trt.codecs import pillow
from seseg_trt.codecs.batches import BatchRefused
from seseg_trt.codecs.dali import DaliDecoder, DaliResampler, GpuImage
from seseg_trt.codecs.native import native_image
from seseg_trt.lanes.device_work import as_device_source
from seseg_trt.masks.records import DeviceSource
from seseg_trt.options import DecodeOptions, Resample

from ...conftest import KERAS224
from ...corpus import make_images, saved, scene, with_exif_orientation

pytestmark = pytest.mark.dali

OPTIONS = DecodeOptions()
IMAGES = make_images()
GOOD = {name: native for name, (data, e) in IMAGES.items() if e == "mask" and (native := native_image(data, OPTIONS))}


@pytest.fixture(scope="module")
def decoder() -> DaliDecoder:
    return DaliDecoder(batch=6)


def test_every_native_format_has_pillows_pixels(decoder: DaliDecoder) -> None:
    for name, found in zip(GOOD, decoder.decode([native.data for native in GOOD.values()]), strict=True):
        assert np.array_equal(found, np.asarray(pillow.decode(IMAGES[name][0], OPTIONS).image)), name


def test_photographs_have_pillows_pixels(decoder: DaliDecoder) -> None:
    files = [path.read_bytes() for path in sorted((KERAS224 / "inputs").iterdir())]
    native = [(data, image.data) for data in files if (image := native_image(data, OPTIONS))]
    assert len(native) >= 5
    for (data, _), found in zip(native, decoder.decode([clean for _, clean in native]), strict=True):
        assert np.array_equal(found, np.asarray(pillow.decode(data, OPTIONS).image))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("size", [(1, 1), (17, 9), (333, 250)])
def test_jpegs_of_any_subsampling_have_pillows_pixels(decoder: DaliDecoder, subsampling: int, size: tuple[int, int]) -> None:
    data = saved(Image.fromarray(scene(*size)), "JPEG", subsampling=subsampling, quality=85)
    native = native_image(data, OPTIONS)
    assert native is not None
    assert np.array_equal(decoder.decode([native.data])[0], np.asarray(pillow.decode(data, OPTIONS).image))


@pytest.mark.parametrize("options", [OPTIONS, DecodeOptions(exif_orientation=False)], ids=["turned", "as_stored"])
def test_orientations_are_pillows(decoder: DaliDecoder, options: DecodeOptions) -> None:
    files = [with_exif_orientation(orientation) for orientation in range(1, 9)]
    native = [image.data for data in files if (image := native_image(data, options))]
    assert len(native) == 8
    for data, found in zip(files, decoder.decode(native), strict=True):
        assert np.array_equal(found, np.asarray(pillow.decode(data, options).image))


def test_a_bad_image_is_refused_and_the_decoder_goes_on(decoder: DaliDecoder) -> None:
    good = GOOD["good.jpg"].data
    bad = native_image(IMAGES["damaged_stream.png"][0], OPTIONS)
    assert bad is not None
    for _ in range(2):
        with pytest.raises(BatchRefused):
            decoder.decode([good, bad.data])
        assert decoder.decode([good])[0].shape == (80, 120, 3)


def test_images_outlive_later_runs_and_the_decoder() -> None:
    decoder = DaliDecoder(batch=4)
    files = [native.data for native in list(GOOD.values())[:9]]
    held = decoder.decode(files)
    copies = [image.copy() for image in held]
    for _ in range(4):
        decoder.decode(files[::-1])
    del decoder
    for image, copy in zip(held, copies, strict=True):
        assert np.array_equal(image, copy)


def test_threads_share_a_decoder(decoder: DaliDecoder) -> None:
    files = [native.data for native in list(GOOD.values())[:8]]
    expected = [image.copy() for image in decoder.decode(files)]
    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(lambda _: [image.copy() for image in decoder.decode(files)], range(6)):
            assert all(map(np.array_equal, found, expected))


@pytest.mark.parametrize("resample", ["linear", "cubic", "lanczos3", "triangular", "gaussian"])
def test_filters_make_inputs_of_the_networks_size(resample: Resample) -> None:
    flat = np.full((100, 60, 3), (10, 200, 90), np.uint8)
    ramp = np.repeat(np.linspace(0, 255, 300).astype(np.uint8)[np.newaxis, :, np.newaxis], 40, axis=0).repeat(3, axis=2)
    made = DaliResampler(32, resample, batch=2).resample([flat, ramp, flat])
    assert [m.shape for m in made] == [(32, 32, 3)] * 3
    assert (made[0] == (10, 200, 90)).all() and (made[2] == made[0]).all()
    assert np.abs(made[1][5, :, 0].astype(int) - np.linspace(4, 251, 32)).max() <= 4


def test_a_tensor_on_the_gpu_looks_like_an_array() -> None:
    interface = {"shape": [4, 5, 3], "typestr": "|u1", "data": (4096, False), "strides": None, "version": 2}

    class Tensor:  # like DALI's tensors, whose shape is a method
        __cuda_array_interface__ = interface

        def shape(self) -> list[int]:
            return [4, 5, 3]

    image = GpuImage(Tensor())
    assert image.shape == (4, 5, 3)
    assert as_device_source(image) == DeviceSource(5, 4, 4096)
