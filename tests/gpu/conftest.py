"""GPU tests say why they don't run; with SESEG_REQUIRE_GPU=1 they fail instead."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from seseg_trt.models.plan_identity import Runtime


def _refuse(reason: str) -> None:
    if os.environ.get("SESEG_REQUIRE_GPU") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def gpu() -> None:
    """A GPU that this package can use."""
    from seseg_trt.cuda import device as cuda
    from seseg_trt.errors import DeviceError

    try:
        cuda.open_device(0)
    except DeviceError as error:
        _refuse(str(error))


@pytest.fixture
def need_runtime(gpu: None) -> Callable[[Runtime], None]:
    """Skip, or fail, where a flavour of TensorRT can't run."""
    from seseg_trt.backends.tensorrt import available

    def need(runtime: Runtime) -> None:
        reason = available(runtime)
        if reason is not None:
            _refuse(reason)

    return need
