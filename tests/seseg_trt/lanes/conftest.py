"""A fake GPU, its device, and a TensorRT backend on it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from seseg_trt.backends import tensorrt_api
from seseg_trt.backends.tensorrt import TensorRTBackend
from seseg_trt.cuda import device as cuda
from seseg_trt.models.plan_file import write_plan

from ..fake_tensorrt import PLAN, make_tensorrt
from ..masks.kernel_host import Host
from .fake_device import IDENTITY, SIZE, LockedGpu, install_with_kernels


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
def backend(device: cuda.Device, monkeypatch: pytest.MonkeyPatch, gpu: LockedGpu, tmp_path: Path) -> Iterator[TensorRTBackend]:
    monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt(gpu, SIZE))
    tensorrt_api.logger.cache_clear()
    write_plan(tmp_path / "model.plan", IDENTITY, PLAN + bytes([len(IDENTITY.options.profiles)]))
    yield TensorRTBackend(tmp_path / "model.plan", "cuda:0")
    tensorrt_api.logger.cache_clear()
