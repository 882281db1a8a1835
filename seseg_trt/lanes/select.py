"""Choose and create the lane for an artifact and a device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..backends.base import DeviceBackend
from ..backends.select import create_backend
from ..options import BackendName, LaneOptions
from .base import Lane

if TYPE_CHECKING:
    from ..backends.base import Backend
    from ..backends.tensorrt_api import Progress
    from ..models.artifact import Artifact


def open_lane(
    artifact: Artifact | None,
    options: LaneOptions,
    *,
    device: str = "auto",
    backend: BackendName | Backend | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Lane:
    """Create the lane for the given options.

    Args:
        artifact: the model; None if ``backend`` is an object.
        options: the user's options.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. There is no fallback from a named device.
        backend: a backend's name, a backend object, which the lane closes, or None to choose by artifact and device.
        threads: cores for a CPU backend; None for all.
        progress: see :func:`seseg_trt.backends.select.create_backend`.

    Raises:
        UsageError, ModelError: as :func:`seseg_trt.backends.select.create_backend`.
        DeviceError: the device or a library for it is missing.
    """
    if backend is None or isinstance(backend, str):
        assert artifact is not None
        backend = create_backend(artifact, backend=backend, device=device, threads=threads, throughput=True, progress=progress)
    if isinstance(backend, DeviceBackend):
        from .gpu import open_gpu_lane

        return open_gpu_lane(backend, options)
    from .cpu import CPULane

    return CPULane(backend, options)
