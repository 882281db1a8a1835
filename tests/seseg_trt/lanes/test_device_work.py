"""Test the slots of a device, and how images on it are described."""

from __future__ import annotations

import contextlib
import types
from typing import Any

import numpy as np
import pytest

from seseg_trt import FakeBackend
from seseg_trt.backends.tensorrt import TensorRTBackend
from seseg_trt.cuda import device as cuda
from seseg_trt.errors import UsageError
from seseg_trt.lanes.device_work import SLOTS, DeviceWork, as_device_source, device_image, output_shape
from seseg_trt.masks.records import DeviceImage, DeviceSource
from seseg_trt.masks.reference import random_key, sample_nearest
from seseg_trt.options import MaskOptions

from ..fake_gpu import bytes_at
from .fake_device import SIZE, ForeignArray, LockedGpu


def test_eight_threads_may_work_at_once(device: cuda.Device, gpu: LockedGpu, backend: TensorRTBackend) -> None:
    before = set(gpu.ours)
    work = DeviceWork(device, backend)
    assert SLOTS == 8 == len(gpu.ours - before)
    with contextlib.ExitStack() as stack:
        slots = [stack.enter_context(work.slot()) for _ in range(8)]
        assert {slot.stream.handle for slot in slots} == gpu.ours - before
        assert len({id(slot.sampling) for slot in slots} | {id(slot.compositing) for slot in slots}) == 16
        assert work._free.empty()
    work.close()


def test_closing_gives_all_back_but_the_slot_of_a_stuck_thread(device: cuda.Device, gpu: LockedGpu, backend: TensorRTBackend) -> None:
    events, live = gpu.events_alive, gpu.live
    work = DeviceWork(device, backend)
    assert gpu.events_alive == events + 16
    with contextlib.ExitStack() as stack:
        for slot in [stack.enter_context(work.slot()) for _ in range(8)]:
            slot.sampling.reserve(1000, 10)
            slot.compositing.reserve(1000, 10)
    assert gpu.live == live + 16 * 1250
    stuck = contextlib.ExitStack()
    stuck.enter_context(work.slot())
    work.close()
    assert (gpu.events_alive, gpu.live) == (events + 2, live + 2 * 1250)
    stuck.close()
    work._free.get_nowait().close()
    assert (gpu.events_alive, gpu.live) == (events, live)


def test_a_slot_is_given_back_after_a_failure_and_waited_for_when_it_is_taken_again(
    device: cuda.Device, gpu: LockedGpu, backend: TensorRTBackend
) -> None:
    work, done = DeviceWork(device, backend), []
    with pytest.raises(ZeroDivisionError), work.slot() as first:
        gpu.hasty = False
        gpu.enqueue(first.stream.handle, lambda: done.append(True))
        raise ZeroDivisionError
    for _ in range(7):
        with work.slot() as other:
            assert other is not first and done == []
    with work.slot() as again:
        assert again is first and done == [True]
    work.close()


@pytest.mark.parametrize("given", [False, True])
def test_maps_are_written_where_the_caller_says(given: bool, device: cuda.Device, gpu: LockedGpu, backend: TensorRTBackend) -> None:
    work = DeviceWork(device, backend)
    assert (work.size, work.backend, work.device) == (SIZE, backend, device)
    images = [np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8) for seed in range(5)]
    arrays = [ForeignArray(device, gpu, image, padding=3) for image in images]
    for array in arrays:
        array.wait()
    with work.slot() as slot:
        out = work.pool.array((5, SIZE, SIZE), slot.stream.handle) if given else None
        maps = work.infer([as_device_source(array) for array in arrays], slot, out)
        assert maps.shape == (5, SIZE, SIZE) and (maps is out) is given
        slot.stream.synchronize()
    found = bytes_at(maps.address, 5 * SIZE**2).reshape(5, SIZE, SIZE)
    assert np.array_equal(found, FakeBackend(SIZE).infer(np.stack([sample_nearest(image, SIZE) for image in images])))
    del maps, out
    work.close()


@pytest.mark.parametrize("color", [(1, 2, 3), "random", "".join(("ran", "dom"))])
def test_an_image_is_described_with_its_keys(color: Any) -> None:
    source, options = DeviceSource(7, 5, 4096, 32), MaskOptions(color=color, seed=9)
    keys: list[tuple[int, int]] = [(0, 0), (0, 0)]
    if color == "random":
        keys = [random_key(9, b"a/b", "se"), random_key(9, b"a/b", "nse")]
    found = device_image(source, 8192, options, b"a/b", se=256, bits=512)
    assert found == DeviceImage(7, 5, 8192, 4096, se=256, bits=512, source_pitch=32, se_key=keys[0], nse_key=keys[1])


def test_a_mask_has_one_channel() -> None:
    assert output_shape("mask", 7, 5) == output_shape("".join(("ma", "sk")), 7, 5) == (5, 7)  # type: ignore[arg-type]
    assert output_shape("se", 7, 5) == output_shape("nse", 7, 5) == (5, 7, 3)


def array(shape: Any, strides: Any = None, typestr: str = "|u1", **more: Any) -> Any:
    interface = {"shape": shape, "typestr": typestr, "data": (4096, False), "version": 3, "strides": strides, **more}
    return types.SimpleNamespace(__cuda_array_interface__={name: value for name, value in interface.items() if value != "absent"})


@pytest.mark.parametrize(("strides", "pitch"), [(None, 0), ("absent", 0), ((21, 3, 1), 21), ((64, 3, 1), 64)])
def test_an_image_on_the_device_has_its_pitch(strides: Any, pitch: int) -> None:
    found = as_device_source(array((5, 7, 3), strides))
    assert found == DeviceSource(7, 5, 4096, pitch)
    assert as_device_source(array((1, 1, 3))) == DeviceSource(1, 1, 4096)


@pytest.mark.parametrize("shape", [(5, 7), (1, 5, 7, 3), (5, 7, 2), (5, 7, 4), (5, 7, 1), (0, 7, 3), (5, 0, 3), (3,)])
def test_arrays_of_other_shapes_are_refused(shape: Any) -> None:
    with pytest.raises(UsageError, match=r"is \|u1 \[.*\], not uint8 \[H, W, 3\]"):
        as_device_source(array(shape))


@pytest.mark.parametrize(("strides", "typestr"), [((21, 1, 7), "|u1"), ((21, 4, 1), "|u1"), ((21, 3, 2), "|u1"), ((42, 2, 1), "|u1")])
def test_arrays_with_gaps_are_refused(strides: Any, typestr: str) -> None:
    with pytest.raises(UsageError, match="gaps between its pixels"):
        as_device_source(array((5, 7, 3), strides, typestr))


@pytest.mark.parametrize("typestr", ["|i1", "<u2", "<f4", "|b1"])
def test_arrays_of_other_types_are_refused(typestr: str) -> None:
    with pytest.raises(UsageError, match="not uint8"):
        as_device_source(array((5, 7, 3), typestr=typestr))
