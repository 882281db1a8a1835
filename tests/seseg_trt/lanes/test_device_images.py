"""Test images that a caller has on the device: their outputs are the reference's, in the order of the caller's stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seseg_trt import FakeBackend
from seseg_trt.backends.tensorrt import TensorRTBackend
from seseg_trt.cuda import device as cuda
from seseg_trt.errors import UsageError
from seseg_trt.lanes import device_images
from seseg_trt.lanes.device_images import DeviceSegmenter
from seseg_trt.masks.reference import apply_threshold, composite, resize_map, sample_nearest
from seseg_trt.options import MaskOptions

from .fake_device import SIZE, ForeignArray, LockedGpu

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@pytest.fixture
def segmenter(backend: TensorRTBackend) -> Iterator[DeviceSegmenter]:
    made = DeviceSegmenter(backend)
    yield made
    made.close()


@pytest.fixture
def stream(device: cuda.Device, gpu: LockedGpu) -> cuda.Stream:
    """The caller's stream: its work is run when something waits for it, and not before."""
    made = device.stream()
    gpu.ours.discard(made.handle)
    return made


def photographs(count: int = 4, seed: int = 0) -> list[Pixels]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (12 + 9 * index, 40 - 7 * index, 3), np.uint8) for index in range(count)]


def there(device: cuda.Device, gpu: LockedGpu, stream: cuda.Stream, images: list[Pixels]) -> list[ForeignArray]:
    return [ForeignArray(device, gpu, image, stream=stream) for image in images]


def confidences(images: list[Pixels]) -> Pixels:
    return FakeBackend(SIZE).infer(np.stack([sample_nearest(image, SIZE) for image in images]))


def expected(images: list[Pixels], options: MaskOptions) -> list[dict[str, Pixels]]:
    found = []
    for index, (image, confidence) in enumerate(zip(images, confidences(images), strict=True)):
        mask = apply_threshold(resize_map(confidence, image.shape[1], image.shape[0]), options.threshold)
        picture, identity = Image.fromarray(image), str(index).encode()
        found.append({kind: composite(picture, mask, kind, options, identity) for kind in options.outputs})
    return found


def check(found: list[dict[Any, Any]], wanted: list[dict[str, Pixels]]) -> None:
    assert len(found) == len(wanted)
    for made, known in zip(found, wanted, strict=True):
        assert list(made) == list(known)
        for kind, array in made.items():
            np.testing.assert_array_equal(array.to_host(), known[kind])


def test_maps_are_those_of_the_network(segmenter: DeviceSegmenter, stream: cuda.Stream, device: cuda.Device, gpu: LockedGpu) -> None:
    for images in (photographs(), photographs(1, 5)):
        maps = segmenter.confidence(there(device, gpu, stream, images), stream)
        assert maps.shape == (len(images), SIZE, SIZE) and maps.stream == stream.handle
        np.testing.assert_array_equal(maps.to_host(), confidences(images))


@pytest.mark.parametrize("threshold", [None, 45])
@pytest.mark.parametrize("color", [(7, 8, 9), "random"])
@pytest.mark.parametrize("outputs", [("se", "nse", "mask"), ("mask",), ("nse",), ()])
def test_outputs_are_the_references(
    outputs: Any, color: Any, threshold: int | None, segmenter: DeviceSegmenter, stream: cuda.Stream, device: cuda.Device, gpu: LockedGpu
) -> None:
    images, options = photographs(), MaskOptions(outputs, color, threshold, seed=4)
    check(segmenter.composite(there(device, gpu, stream, images), options, stream), expected(images, options))


def test_without_outputs_nothing_is_enqueued(
    segmenter: DeviceSegmenter, stream: cuda.Stream, device: cuda.Device, gpu: LockedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(segmenter._work, "_kernels")
    assert segmenter.composite(there(device, gpu, stream, photographs()), MaskOptions(()), stream) == [{}] * 4


def test_one_array_holds_images_of_one_size(segmenter: DeviceSegmenter, stream: cuda.Stream, device: cuda.Device, gpu: LockedGpu) -> None:
    batch, options = np.random.default_rng(3).integers(0, 256, (5, 21, 34, 3), np.uint8), MaskOptions(("se", "mask"))
    (array,) = there(device, gpu, stream, [batch])
    check(segmenter.composite(array, options, stream), expected(list(batch), options))
    (single,) = there(device, gpu, stream, [batch[:1, :1, :1]])
    check(segmenter.composite(single, options, stream), expected([batch[0, :1, :1]], options))


def test_a_larger_batch_after_a_smaller_one(segmenter: DeviceSegmenter, stream: cuda.Stream, device: cuda.Device, gpu: LockedGpu) -> None:
    options = MaskOptions(("se", "mask"), threshold=50)
    for count in (1, 2, 4, 1, 3):
        images = photographs(count, count)
        check(segmenter.composite(there(device, gpu, stream, images), options, stream), expected(images, options))


def test_thirty_batches_without_a_wait(segmenter: DeviceSegmenter, stream: cuda.Stream, device: cuda.Device, gpu: LockedGpu) -> None:
    options, batches = MaskOptions(("se", "mask"), threshold=50), [photographs(1 + seed % 4, seed) for seed in range(30)]
    made = [segmenter.composite(there(device, gpu, stream, images), options, stream) for images in batches]
    for images, found in zip(batches, made, strict=True):
        check(found, expected(images, options))


@pytest.mark.parametrize("step", ["infer", "composite"])
def test_the_callers_stream_waits_also_after_a_failure(
    step: str, segmenter: DeviceSegmenter, stream: cuda.Stream, device: cuda.Device, gpu: LockedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[bool] = []

    def fail(*arguments: Any) -> Any:
        slot = next(one for one in arguments if isinstance(one, device_images.StreamSlot))
        gpu.enqueue(slot.stream.handle, lambda: ran.append(True))
        raise ZeroDivisionError

    monkeypatch.setattr(segmenter._work, step, fail)
    arrays = there(device, gpu, stream, photographs())
    with pytest.raises(ZeroDivisionError):
        segmenter.composite(arrays, MaskOptions(("se",)), stream)
    stream.synchronize()
    assert ran == [True]


@pytest.mark.parametrize(
    "shape", [(8, 9), (8, 9, 3), (1, 2, 8, 9, 3), (2, 8, 9, 4), (2, 8, 9, 1), (2, 0, 9, 3), (0, 8, 9, 3), (2, 8, 0, 3)]
)
def test_an_array_of_another_shape_is_refused(
    shape: Any, segmenter: DeviceSegmenter, stream: cuda.Stream, device: cuda.Device, gpu: LockedGpu
) -> None:
    with pytest.raises(UsageError, match=r"the images are \[.*\], not uint8 \[N, H, W, 3\]"):
        segmenter.confidence(placed(device, shape, stream), stream)


@pytest.mark.parametrize("shape", [(8, 9), (2, 8, 9, 3), (8, 9, 4), (8, 9, 1), (8, 0, 3), (0, 9, 3), (3,)])
def test_an_image_of_another_shape_is_refused_by_its_number(
    shape: Any, segmenter: DeviceSegmenter, stream: cuda.Stream, device: cuda.Device, gpu: LockedGpu
) -> None:
    good = placed(device, (8, 9, 3), stream)
    for index, images in enumerate(([placed(device, shape, stream), good], (good, placed(device, shape, stream)))):
        with pytest.raises(UsageError, match=rf"image {index} is \[.*\], not uint8 \[H, W, 3\]"):
            segmenter.composite(images, MaskOptions(), stream)


def placed(device: cuda.Device, shape: tuple[int, ...], stream: cuda.Stream) -> Any:
    """Return an array of a shape, without a pixel of its own."""
    interface = {"shape": shape, "typestr": "|u1", "data": (4096, False), "strides": None, "stream": stream.handle, "version": 3}
    return type("Placed", (), {"__cuda_array_interface__": interface})()


def test_a_segmenter_gives_its_streams_back(backend: TensorRTBackend, gpu: LockedGpu) -> None:
    events, live = gpu.events_alive, gpu.live
    made = DeviceSegmenter(backend)
    assert gpu.events_alive > events
    made.close()
    assert (gpu.events_alive, gpu.live) == (events, live)
