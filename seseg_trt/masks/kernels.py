"""Masks on the GPU: the network's input, and from confidence maps to outputs, enqueued on a stream without waiting for it.

Bit for bit what masks.reference makes with Pillow. The arithmetic stands in compositing.h, the kernels in bodies.h, fused.h and
kernels.cu; planning.py says what is launched.

A batch holds a :class:`Workspace` from the moment it is enqueued until the stream has passed; then the next may have it. Batches
under way at once need one each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from .kernel_binary import load_binary
from .planning import plan_composite, plan_sample
from .records import WARPS, DeviceImage, DeviceSource, Plan

__all__ = ["DeviceImage", "DeviceSource", "Kernels", "Workspace", "plan_composite", "plan_sample"]


class _Buffer(Protocol):
    address: int
    nbytes: int

    def free(self) -> None: ...


class _Stream(Protocol):
    def copy_in(self, address: int, host: npt.NDArray[Any]) -> None: ...


class _Device(Protocol):
    """What is needed of :class:`seseg_trt.cuda.Device`."""

    gpu: Any

    def allocate(self, nbytes: int) -> Any: ...

    def pinned(self, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]: ...

    def load_module(self, image: bytes) -> Any: ...


class Workspace:
    """Device memory for a batch's intermediate maps, and page-locked memory for its records. Both grow on demand.

    Growing waits for the device, because freed memory must not be in use: reserve for the largest batch where that matters.
    """

    def __init__(self, device: _Device) -> None:
        self._device = device
        self._buffer: _Buffer | None = None
        self._records = np.empty(0, np.uint8)

    @property
    def nbytes(self) -> int:
        """Of device memory held."""
        return self._buffer.nbytes if self._buffer else 0

    def reserve(self, workspace_nbytes: int, records_nbytes: int) -> None:
        """Hold at least so much device memory and page-locked memory.

        Raises:
            OutOfDeviceMemory: it is not there; what was held is given back.
        """
        if self.nbytes < workspace_nbytes:
            self.close()
            self._buffer = self._device.allocate(workspace_nbytes + workspace_nbytes // 4)
        if self._records.nbytes < records_nbytes:
            self._records = self._device.pinned((records_nbytes + records_nbytes // 4,))

    def place(self, plan: Plan, stream: _Stream) -> int:
        """Enqueue the copy of a plan's records and return their address, the kernels' argument."""
        self.reserve(plan.workspace_nbytes, plan.records_nbytes)
        assert self._buffer is not None
        records = self._records[: plan.records_nbytes]
        plan.write_records(records, self._buffer.address)
        stream.copy_in(self._buffer.address, records)
        return self._buffer.address

    def close(self) -> None:
        """Give the device memory back; waits for the device. It may be used again."""
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            buffer.free()


class Kernels:
    """The kernels of one device, loaded.

    Args:
        device: a :class:`seseg_trt.cuda.Device`.

    Raises:
        DeviceError: there are no kernels for this GPU; the message says how to make them.
    """

    def __init__(self, device: _Device) -> None:
        self._device = device
        self._module = device.load_module(load_binary(device.gpu.capability))
        self._functions: dict[str, Any] = {}

    def workspace(self) -> Workspace:
        """Return a new, empty workspace."""
        return Workspace(self._device)

    def sample(self, sources: Sequence[DeviceSource], size: int, out: int, workspace: Workspace, stream: _Stream) -> None:
        """Enqueue the making of the network's input by Pillow's NEAREST; see :func:`plan_sample` for arguments and errors."""
        self.run(plan_sample(sources, size, out), workspace, stream)

    def composite(
        self,
        images: Sequence[DeviceImage],
        size: int,
        threshold: int | None,
        color: tuple[int, int, int] | Literal["random"],
        workspace: Workspace,
        stream: _Stream,
    ) -> None:
        """Enqueue se, nse and masks; see :func:`plan_composite` for arguments and errors."""
        self.run(plan_composite(images, size, threshold, color), workspace, stream)

    def run(self, plan: Plan, workspace: Workspace, stream: _Stream) -> None:
        """Enqueue a plan: one copy of its records, then its launches.

        Raises:
            OutOfDeviceMemory: the workspace could not grow to what the plan needs.
        """
        argument = workspace.place(plan, stream)
        for launch in plan.launches:
            function = self._functions.get(launch.kernel)
            if function is None:
                function = self._functions[launch.kernel] = self._module.function(launch.kernel)
            function.launch((launch.blocks,), (32 * WARPS,), launch.shared, stream, (argument,))
