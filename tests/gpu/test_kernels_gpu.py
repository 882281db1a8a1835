"""What only a GPU can show of the kernels: that it makes Pillow's bytes there, and how near to its memory's speed it comes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seseg_trt.cuda import device as cuda
from seseg_trt.masks import kernel_binary, reference
from seseg_trt.masks.kernels import Kernels, Workspace
from seseg_trt.masks.launches import plan_composite, plan_sample
from seseg_trt.masks.records import DeviceImage, DeviceSource
from seseg_trt.options import OutputKind

from ..seseg_trt.masks.kernel_host import Case, expected, make_case, sizes

pytestmark = pytest.mark.gpu

OUTPUTS = ("se", "nse", "mask", "bits")
KEYS = (reference.random_key(1, b"a", "se"), reference.random_key(1, b"a", "nse"))
POISON = 0x5A

WIDTH, HEIGHT, BATCH = 2400, 1800, 48
"""4.3 megapixels; 48 of them have 620 MB of pixels: twelve times the second-level cache of an H200."""


@pytest.fixture
def device(gpu: None) -> cuda.Device:
    return cuda.open_device(0)


@pytest.fixture
def kernels(device: cuda.Device) -> Kernels:
    return Kernels(device)


class OnDevice:
    """Cases whose arrays have a copy in device memory, at addresses with the same place within 16 bytes."""

    def __init__(self, device: cuda.Device, stream: cuda.Stream, cases: list[Case]) -> None:
        self.cases, self.stream = cases, stream
        self.images: list[DeviceImage] = []
        self._outputs: list[tuple[int, np.ndarray]] = []
        arrays = [self._arrays(case) for case in cases]
        total = 256 + sum(256 + -(-array.nbytes // 256) * 256 for named in arrays for array in named.values())
        self.buffer = device.allocate(total)
        at = -(-self.buffer.address // 256) * 256
        for case, named in zip(cases, arrays, strict=True):
            addresses = {}
            for name, array in named.items():
                addresses[name] = at + array.ctypes.data % 16
                stream.copy_in(addresses[name], array)
                if name in case.outputs:
                    self._outputs.append((addresses[name], array))
                at += 256 + -(-array.nbytes // 256) * 256
            self.images.append(dataclasses.replace(case.image, **addresses))
        stream.synchronize()

    @staticmethod
    def _arrays(case: Case) -> dict[str, np.ndarray]:
        held_map, source, wholes = case.keep
        outputs = {name: whole for name, (whole, _) in zip(case.outputs, wholes, strict=True)}
        return {"map": held_map, "source": source, **outputs}

    def fetch(self) -> None:
        """Bring the outputs back into the cases' arrays, and give the memory back."""
        for address, array in self._outputs:
            self.stream.copy_out(array, address)
        self.stream.synchronize()
        self.buffer.free()


def differing(device: cuda.Device, kernels: Kernels, cases: list[Case], threshold: int | None, color: Any, size: int = 256) -> int:
    """Return how many bytes the GPU makes otherwise than Pillow, padding included."""
    stream, workspace = device.stream(), Workspace(device)
    there = OnDevice(device, stream, cases)
    kernels.run(plan_composite(there.images, size, threshold, color), workspace, stream)
    there.fetch()
    workspace.close()
    stream.close()
    wrong = 0
    for case in cases:
        wanted = expected(case, threshold, color, np.array(KEYS, np.uint64))
        wrong += sum(int((case.outputs[name] != wanted[name]).sum()) for name in case.outputs)
        wrong += not case.untouched_padding()
    return wrong


@pytest.mark.parametrize("threshold", [None, 0, 1, 25, 50, 99, 100])
@pytest.mark.parametrize("color", [(127, 127, 127), "random"])
def test_every_size_equals_pillow(device: cuda.Device, kernels: Kernels, threshold: int | None, color: Any) -> None:
    rng = np.random.default_rng(threshold or 0)
    outputs = OUTPUTS[:3] if threshold is None else OUTPUTS
    some = sizes() if color != "random" else sizes()[::7]
    for part in np.array_split(np.arange(len(some)), 4):
        cases = [make_case(rng, *some[i], outputs=outputs, keys=KEYS) for i in part]
        assert differing(device, kernels, cases, threshold, color) == 0


@pytest.mark.parametrize(("padding", "offset"), [(1, 0), (16, 0), (0, 4), (0, 3), (7, 9)])
def test_padding_and_any_address_equal_pillow(device: cuda.Device, kernels: Kernels, padding: int, offset: int) -> None:
    rng = np.random.default_rng(2)
    shapes = [(1, 1), (1, 70), (130, 90), (1600, 200), (513, 300), (17, 5), (4000, 300)]
    cases = [make_case(rng, w, h, outputs=OUTPUTS, padding=padding, offset=offset, keys=KEYS) for w, h in shapes]
    assert differing(device, kernels, cases, 50, (3, 2, 1)) == 0


def test_large_images_and_large_batches_equal_pillow(device: cuda.Device, kernels: Kernels) -> None:
    rng = np.random.default_rng(3)
    shapes = [(8000, 6000), (4032, 3024), (3001, 2003), (20_000, 11), (11, 20_000), *[(1280, 960)] * 8]
    cases = [make_case(rng, w, h, outputs=("se", "mask"), keys=KEYS) for w, h in shapes]
    assert differing(device, kernels, cases, None, (0, 255, 7)) == 0


def test_nvrtc_makes_the_same_kernels(device: cuda.Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if kernel_binary.nvrtc_library() is None:
        pytest.skip("NVRTC is not installed: pip install nvidia-cuda-nvrtc")
    monkeypatch.setattr(kernel_binary, "FATBIN", tmp_path / "missing")
    rng = np.random.default_rng(4)
    cases = [make_case(rng, w, h, outputs=OUTPUTS, keys=KEYS) for w, h in sizes()[::20]]
    assert differing(device, Kernels(device), cases, 50, (1, 1, 1)) == 0


def test_sampling_equals_pillow(device: cuda.Device, kernels: Kernels) -> None:
    rng = np.random.default_rng(5)
    stream, workspace = device.stream(), Workspace(device)
    shapes = [(1, 1), (933, 700), (255, 257), (8000, 2), (2, 5000), (4032, 3024), *sizes()[::15]]
    for size in (256, 100):
        images = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for w, h in shapes]
        buffers = [device.allocate(image.nbytes) for image in images]
        for image, buffer in zip(images, buffers, strict=True):
            stream.copy_in(buffer.address, image)
        out = device.allocate(len(images) * size * size * 3)
        sources = [DeviceSource(w, h, buffer.address) for (w, h), buffer in zip(shapes, buffers, strict=True)]
        kernels.run(plan_sample(sources, size, out.address), workspace, stream)
        found = np.empty((len(images), size, size, 3), np.uint8)
        stream.copy_out(found, out.address)
        stream.synchronize()
        for image, sampled in zip(images, found, strict=True):
            assert np.array_equal(sampled, reference.sample_nearest(image, size)), image.shape
        for buffer in (*buffers, out):
            buffer.free()
    workspace.close()
    stream.close()


def median_milliseconds(device: cuda.Device, stream: cuda.Stream, work: Callable[[], None], repeats: int = 15) -> float:
    """The device's time for one call, after two that warm up."""
    times = []
    for turn in range(repeats + 2):
        before, after = cuda.Event(device, timed=True), cuda.Event(device, timed=True)
        before.record(stream)
        work()
        after.record(stream)
        after.synchronize()
        if turn >= 2:
            times.append(after.milliseconds_since(before))
        before.close()
        after.close()
    return float(np.median(times))


@pytest.mark.parametrize("threshold", [None, 50])
@pytest.mark.parametrize("outputs", [("se",), ("se", "nse"), ("se", "mask")])
def test_share_of_the_copy_bandwidth_at_4_megapixels(
    device: cuda.Device,
    kernels: Kernels,
    outputs: tuple[OutputKind, ...],
    threshold: int | None,
    record_property: Callable[[str, object], None],
) -> None:
    rng = np.random.default_rng(6)
    stream, workspace = device.stream(), Workspace(device)
    pixels = WIDTH * HEIGHT
    block = -(-3 * pixels // 256) * 256
    memory = device.allocate((1 + len(outputs)) * BATCH * block + BATCH * 65_536)
    # Random pixels and maps: a GPU runs faster on zeros.
    noise = rng.integers(0, 256, block, dtype=np.uint8)
    starts = itertools.count(memory.address, block)
    images = []
    for _ in range(BATCH):
        source = next(starts)
        stream.copy_in(source, noise)
        images.append(DeviceImage(WIDTH, HEIGHT, 0, source, **{kind: next(starts) for kind in outputs}))
    maps = next(starts)
    stream.copy_in(maps, rng.integers(0, 256, BATCH * 65_536, dtype=np.uint8))
    images = [dataclasses.replace(image, map=maps + 65_536 * i) for i, image in enumerate(images)]
    plan = plan_composite(images, 256, threshold, (127, 127, 127))

    source, target = memory.address, memory.address + BATCH * block

    def copy() -> None:
        with device.active():
            device.pycuda.memcpy_dtod_async(target, source, BATCH * block, stream.pycuda)

    # Interleaved, so that both see the same clocks. The copy writes over outputs, and over sources of the same noise.
    made = median_milliseconds(device, stream, lambda: kernels.run(plan, workspace, stream))
    copied = median_milliseconds(device, stream, copy)
    made = min(made, median_milliseconds(device, stream, lambda: kernels.run(plan, workspace, stream)))
    moved = BATCH * pixels * (3 + sum(1 if kind == "mask" else 3 for kind in outputs))
    bandwidth, ceiling = moved / made / 1e9, 2 * BATCH * block / copied / 1e9
    record_property("gpu", device.gpu.name)
    record_property("composite_tb_per_s", round(bandwidth, 3))
    record_property("copy_tb_per_s", round(ceiling, 3))
    record_property("share_of_copy", round(bandwidth / ceiling, 3))
    record_property("microseconds_an_image", round(1e3 * made / BATCH, 2))
    memory.free()
    workspace.close()
    stream.close()
    assert bandwidth >= 0.8 * ceiling, f"{bandwidth:.2f} of {ceiling:.2f} TB/s"
