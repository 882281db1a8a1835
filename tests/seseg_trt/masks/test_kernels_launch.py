"""Test Kernels and Workspace on a fake device that runs on the host: launches, and memory that grows and is reused."""

from __future__ import annotations

import ctypes
import types
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from seseg_trt.cuda.device import OutOfDeviceMemory
from seseg_trt.masks import reference
from seseg_trt.masks.kernels import Kernels, Workspace
from seseg_trt.masks.launches import plan_composite, plan_sample
from seseg_trt.masks.records import DeviceSource

from .kernel_host import Host, Pixels, aligned, make_case


class HostBuffer:
    def __init__(self, device: HostDevice, nbytes: int) -> None:
        self.memory, self.address = aligned(nbytes, 256)
        self.nbytes, self.device = nbytes, device
        device.held += nbytes

    def free(self) -> None:
        self.device.held -= self.nbytes


class HostStream:
    def __init__(self) -> None:
        self.copies = 0

    def copy_in(self, address: int, host: npt.NDArray[Any]) -> None:
        assert host.flags.c_contiguous
        ctypes.memmove(address, host.ctypes.data, host.nbytes)
        self.copies += 1


class HostDevice:
    """A fake of the part of seseg_trt.cuda.device.Device that Kernels uses."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.gpu = types.SimpleNamespace(capability=(9, 0))
        self.held = self.allocations = self.most = 0
        self.room: int | None = None
        self.pinned_sizes: list[int] = []
        self.functions: list[str] = []
        self.launched: list[tuple[str, int, int]] = []

    def allocate(self, nbytes: int) -> HostBuffer:
        self.allocations += 1
        if self.room is not None and self.held + nbytes > self.room:
            raise OutOfDeviceMemory("full")
        buffer = HostBuffer(self, nbytes)
        self.most = max(self.most, self.held)
        return buffer

    def pinned(self, shape: tuple[int, ...]) -> Pixels:
        self.pinned_sizes.append(*shape)
        return np.empty(shape, np.uint8)

    def load_module(self, image: bytes) -> Any:
        assert len(image) > 10_000

        def function(name: str) -> Any:
            self.functions.append(name)

            def launch(grid: tuple[int, ...], block: tuple[int, ...], shared: int, stream: HostStream, args: tuple[int, ...]) -> None:
                assert block == (256,) and stream.copies
                self.launched.append((name, *grid, shared))
                assert self.host.library.launch(name.encode(), *grid, shared, ctypes.c_void_p(*args), 0) == 0

            return types.SimpleNamespace(launch=launch)

        return types.SimpleNamespace(function=function)


@pytest.fixture
def device(host: Host) -> HostDevice:
    return HostDevice(host)


def test_sample_then_composite_in_one_workspace(device: HostDevice) -> None:
    rng = np.random.default_rng(1)
    kernels, stream = Kernels(device), HostStream()
    workspace = Workspace(device)
    for shapes in ([(100, 80)], [(300, 280), (17, 400)], [(64, 64)]):
        cases = [make_case(rng, w, h, outputs=("nse", "mask")) for w, h in shapes]
        out, address = aligned(len(shapes) * 256 * 256 * 3, 16)
        sources = [DeviceSource(c.image.width, c.image.height, c.image.source) for c in cases]
        kernels.run(plan_sample(sources, 256, address), workspace, stream)
        kernels.run(plan_composite([c.image for c in cases], 256, 50, (1, 2, 3)), workspace, stream)
        for case, sampled in zip(cases, out.reshape(-1, 256, 256, 3), strict=True):
            assert np.array_equal(sampled, reference.sample_nearest(case.source, 256))
            mask = reference.apply_threshold(reference.resize_map(case.map, case.image.width, case.image.height), 50)
            assert np.array_equal(case.outputs["mask"], mask)
    assert stream.copies == 6
    assert device.held == workspace.nbytes > 0
    workspace.close()
    assert device.held == 0


def test_a_workspace_grows_only_when_it_must(device: HostDevice) -> None:
    workspace = Workspace(device)
    before = device.allocations
    for nbytes in (1000, 900, 1100, 5000, 1, 5000):
        workspace.reserve(nbytes, 10)
        assert workspace.nbytes >= nbytes
    assert device.allocations == before + 2
    workspace.close()
    workspace.close()


def test_a_workspace_has_a_quarter_more_than_was_asked_for(device: HostDevice) -> None:
    workspace = Workspace(device)
    assert workspace.nbytes == device.held == 0
    workspace.reserve(0, 0)
    assert device.allocations == 0 and device.pinned_sizes == []
    workspace.reserve(0, 1)
    assert device.allocations == 0 and device.pinned_sizes == [1], "the first byte was not pinned"
    device.pinned_sizes.clear()
    workspace.reserve(1000, 400)
    assert workspace.nbytes == device.held == 1250 and device.pinned_sizes == [500]
    workspace.reserve(1250, 500)
    workspace.reserve(1249, 499)
    workspace.reserve(3, 2)
    assert device.allocations == 1 and device.pinned_sizes == [500]
    workspace.reserve(1251, 500)
    assert workspace.nbytes == device.held == 1251 + 312 and device.pinned_sizes == [500]
    assert device.most == 1251 + 312, "the old memory is freed before the new is taken"
    workspace.reserve(1, 501)
    assert device.allocations == 2 and device.pinned_sizes == [500, 626]
    workspace.close()


def test_a_workspace_that_can_not_grow_is_empty_and_can_be_used_again(device: HostDevice) -> None:
    workspace = Workspace(device)
    workspace.reserve(1000, 10)
    device.room = 2000
    with pytest.raises(OutOfDeviceMemory):
        workspace.reserve(5000, 10)
    assert workspace.nbytes == device.held == 0
    workspace.reserve(1600, 10)
    assert workspace.nbytes == 2000
    workspace.close()
    workspace.close()
    assert device.held == 0


def test_a_plan_is_launched_in_its_order_and_each_kernel_is_looked_up_once(device: HostDevice) -> None:
    kernels, stream, workspace = Kernels(device), HostStream(), Workspace(device)
    case = make_case(np.random.default_rng(2), 90, 70)
    plan = plan_composite([case.image], 256, 50, (1, 2, 3))
    assert len(plan.launches) == 5
    for turn in (1, 2):
        kernels.run(plan, workspace, stream)
        assert device.launched == [(x.kernel, x.blocks, x.shared) for x in plan.launches] * turn
        assert stream.copies == turn
    assert device.functions == [x.kernel for x in plan.launches]
    assert case.untouched_padding()
    workspace.close()
