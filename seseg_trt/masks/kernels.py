"""Make the network's input and the outputs on the GPU. Work is enqueued on a stream, without waiting for it.

The results equal those of :mod:`seseg_trt.masks.reference`, byte for byte. The arithmetic is in ``compositing.h``, the kernels are in
``bodies.h``, ``fused.h`` and ``kernels.cu``, and ``launches.py`` decides what is launched.

A batch uses a :class:`Workspace` until its work on the stream has completed. Batches in flight at once need one workspace each.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from .kernel_binary import load_binary
from .records import WARPS, Plan

if TYPE_CHECKING:
    from ..cuda.device import Buffer, Device, Stream


class Workspace:
    """Device memory for a batch's records and intermediate maps, and pinned host memory for its records. Both grow on demand.

    Growing waits for the device, because the old memory may still be in use. To avoid the wait, reserve memory for the largest batch.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._buffer: Buffer | None = None
        self._records = np.empty(0, np.uint8)

    @property
    def nbytes(self) -> int:
        """The size of the device memory, in bytes."""
        return self._buffer.nbytes if self._buffer else 0

    def reserve(self, workspace_nbytes: int, records_nbytes: int) -> None:
        """Grow to at least the given sizes of device memory and pinned memory, in bytes.

        Raises:
            OutOfDeviceMemory: there is too little device memory. The workspace's device memory has been freed.
        """
        if self.nbytes < workspace_nbytes:
            self.close()
            self._buffer = self._device.allocate(workspace_nbytes + workspace_nbytes // 4)
        if self._records.nbytes < records_nbytes:
            self._records = self._device.pinned((records_nbytes + records_nbytes // 4,))

    def place(self, plan: Plan, stream: Stream) -> int:
        """Enqueue the copy of a plan's records to the device; return their address, which is the kernels' argument."""
        self.reserve(plan.workspace_nbytes, plan.records_nbytes)
        assert self._buffer is not None
        records = self._records[: plan.records_nbytes]
        plan.write_records(records, self._buffer.address)
        stream.copy_in(self._buffer.address, records)
        return self._buffer.address

    def close(self) -> None:
        """Wait for the device and free its memory. The workspace can be used again."""
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            buffer.free()


class Kernels:
    """The kernels, loaded on a device.

    Args:
        device: a :class:`seseg_trt.cuda.device.Device`.

    Raises:
        DeviceError: there are no kernels for this GPU. The message says how to compile them.
    """

    def __init__(self, device: Device) -> None:
        self._function = functools.cache(device.load_module(load_binary(device.gpu.capability)).function)

    def run(self, plan: Plan, workspace: Workspace, stream: Stream) -> None:
        """Enqueue a plan of :mod:`.launches`: one copy of its records, then its launches.

        Raises:
            OutOfDeviceMemory: the workspace could not grow to the size that the plan needs.
        """
        argument = workspace.place(plan, stream)
        for launch in plan.launches:
            self._function(launch.kernel).launch((launch.blocks,), (32 * WARPS,), launch.shared, stream, (argument,))
