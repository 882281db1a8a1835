"""Segmenter with images that are on the device: a fake GPU on which the real kernels run; what comes back is the host's, byte for byte."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seseg_trt import FakeBackend, MaskOptions, Segmenter, UsageError
from seseg_trt.backends import tensorrt_api
from seseg_trt.backends.tensorrt import TensorRTBackend
from seseg_trt.cuda import device as cuda
from seseg_trt.cuda.array import DeviceArray
from seseg_trt.models.plan_file import write_plan

from .fake_gpu import LEGACY
from .fake_tensorrt import PLAN, make_tensorrt
from .lanes.fake_device import ForeignArray, LockedGpu, install_with_kernels
from .lanes.test_gpu import IDENTITY, SIZE
from .masks.kernel_host import Host

SHAPES = [(40, 30), (7, 90), (16, 16), (1, 1), (55, 23), (31, 64), (20, 20)]


@pytest.fixture(params=[False, True], ids=["lazy", "hasty"])
def gpu(request: pytest.FixtureRequest) -> LockedGpu:
    made = LockedGpu()
    made.hasty = request.param
    return made


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, gpu: LockedGpu, host: Host) -> Iterator[cuda.Device]:
    yield install_with_kernels(monkeypatch, gpu, host)
    assert not gpu.contexts, "a context was left on the thread"
    cuda.open_device.cache_clear()


@pytest.fixture
def segmenter(device: cuda.Device, monkeypatch: pytest.MonkeyPatch, gpu: LockedGpu, tmp_path: Path) -> Iterator[Segmenter]:
    monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt(gpu, SIZE))
    tensorrt_api.logger.cache_clear()
    write_plan(tmp_path / "model.plan", IDENTITY, PLAN + bytes([len(IDENTITY.options.profiles)]))
    with Segmenter(backend=TensorRTBackend(tmp_path / "model.plan", "cuda:0")) as opened:
        yield opened
    tensorrt_api.logger.cache_clear()


@pytest.fixture
def on_host() -> Segmenter:
    return Segmenter(backend=FakeBackend(SIZE))


def photographs(seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in SHAPES]


class TheirStream:
    """A stream of another library."""

    def __init__(self, stream: cuda.Stream) -> None:
        self.stream = stream

    def __cuda_stream__(self) -> tuple[int, int]:
        return (0, self.stream.handle)


def there(device: cuda.Device, gpu: LockedGpu, images: list[np.ndarray], stream: cuda.Stream | None = None) -> list[ForeignArray]:
    return [ForeignArray(device, gpu, image, stream=stream) for image in images]


def test_confidence_is_the_hosts(segmenter: Segmenter, on_host: Segmenter, device: cuda.Device, gpu: LockedGpu) -> None:
    images = photographs()
    found = segmenter.confidence(there(device, gpu, images))
    assert isinstance(found, DeviceArray) and found.shape == (len(images), SIZE, SIZE)
    np.testing.assert_array_equal(found.to_host(), on_host.confidence(images))


@pytest.mark.parametrize("threshold", [None, 0, 50])
def test_masks_are_the_hosts(segmenter: Segmenter, on_host: Segmenter, device: cuda.Device, gpu: LockedGpu, threshold: int | None) -> None:
    images = photographs()
    for found, expected in zip(segmenter.masks(there(device, gpu, images), threshold), on_host.masks(images, threshold), strict=True):
        np.testing.assert_array_equal(found.to_host(), expected)


@pytest.mark.parametrize("color", [(1, 2, 3), "random"])
def test_outputs_are_the_hosts(segmenter: Segmenter, on_host: Segmenter, device: cuda.Device, gpu: LockedGpu, color: Any) -> None:
    images, options = photographs(), MaskOptions(("mask", "nse", "se"), color, 50, seed=3)
    for found, expected in zip(segmenter.composite(there(device, gpu, images), options), on_host.composite(images, options), strict=True):
        assert list(found) == list(expected) == ["mask", "nse", "se"]
        for kind, array in found.items():
            np.testing.assert_array_equal(array.to_host(), expected[kind])
    assert segmenter.composite(there(device, gpu, images), MaskOptions(())) == [{}] * len(images)


def test_one_array_of_many_images_is_taken(segmenter: Segmenter, on_host: Segmenter, device: cuda.Device, gpu: LockedGpu) -> None:
    batch = np.random.default_rng(4).integers(0, 256, (9, 20, 33, 3), dtype=np.uint8)
    array = ForeignArray(device, gpu, batch)
    for found, expected in zip(segmenter.masks(array, 40), on_host.masks(batch, 40), strict=True):
        np.testing.assert_array_equal(found.to_host(), expected)


def test_nothing_waits_and_all_is_in_the_order_of_the_callers_stream(
    segmenter: Segmenter, on_host: Segmenter, device: cuda.Device, gpu: LockedGpu
) -> None:
    images, options = photographs(), MaskOptions(("se",), threshold=50)
    stream = device.stream()
    gpu.ours.discard(stream.handle)  # the caller's
    for _ in range(3):  # the first calls allocate
        segmenter.composite(there(device, gpu, images, stream), options, stream=TheirStream(stream))
        stream.synchronize()
    arrays = there(device, gpu, images, stream)
    gpu.waits.clear()
    made = segmenter.composite(arrays, options, stream=TheirStream(stream))
    assert not [wait for wait in gpu.waits if wait == "stream"], "the host waited for a stream"
    copies = [np.empty_like(image) for image in images]
    for copy, outputs in zip(copies, made, strict=True):
        assert outputs["se"].stream == stream.handle
        stream.copy_out(copy, outputs["se"].address)
    stream.synchronize()
    for copy, expected in zip(copies, on_host.composite(images, options), strict=True):
        np.testing.assert_array_equal(copy, expected["se"])


def test_thirty_batches_without_a_wait(segmenter: Segmenter, on_host: Segmenter, device: cuda.Device, gpu: LockedGpu) -> None:
    stream, options = device.stream(), MaskOptions(("mask", "se"), threshold=50)
    gpu.ours.discard(stream.handle)
    batches = [photographs(seed)[: 1 + seed % len(SHAPES)] for seed in range(30)]
    made = [segmenter.composite(there(device, gpu, images, stream), options, stream=TheirStream(stream)) for images in batches]
    for images, outputs in zip(batches, made, strict=True):
        for found, expected in zip(outputs, on_host.composite(images, options), strict=True):
            for kind in options.outputs:
                np.testing.assert_array_equal(found[kind].to_host(), expected[kind])


def test_the_default_stream_is_taken_without_a_name(segmenter: Segmenter, device: cuda.Device, gpu: LockedGpu) -> None:
    assert segmenter.confidence(there(device, gpu, photographs())).stream == LEGACY


def test_memory_comes_back(segmenter: Segmenter, device: cuda.Device, gpu: LockedGpu) -> None:
    arrays, stream = there(device, gpu, photographs()), device.stream()
    held = gpu.pool_bytes
    for _ in range(5):
        segmenter.composite(arrays, MaskOptions(("se", "mask")), stream=stream)
        stream.synchronize()
        assert gpu.pool_bytes == held


def test_host_images_still_go_in_and_out_on_the_host(segmenter: Segmenter, on_host: Segmenter) -> None:
    images = photographs()
    np.testing.assert_array_equal(segmenter.confidence(images), on_host.confidence(images))
    assert segmenter.masks([]) == []


def test_images_that_are_elsewhere_are_refused(on_host: Segmenter, segmenter: Segmenter, device: cuda.Device, gpu: LockedGpu) -> None:
    arrays = there(device, gpu, photographs())
    with pytest.raises(UsageError, match="on a GPU, and the network runs on cpu"):
        on_host.masks(arrays)
    with pytest.raises(UsageError, match="not an array on a GPU"):
        segmenter.masks([arrays[0], object()])  # type: ignore[list-item]
    with pytest.raises(UsageError, match=r"image 0 is \[16, 16\]"):
        segmenter.masks([ForeignArray(device, gpu, np.zeros((16, 16), np.uint8))])
    with pytest.raises(UsageError, match=r"\[40, 30, 3\], not uint8 \[N, H, W, 3\]"):
        segmenter.confidence(arrays[0])
    with pytest.raises(UsageError, match="threshold"):
        segmenter.masks(arrays, 101)
