"""Which lane runs an artifact on the device that the user named."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..backends.base import DeviceBackend
from ..backends.select import BackendName, create_backend
from ..options import DecodeOptions, EncodeOptions, MaskOptions
from .base import Lane, Measure

if TYPE_CHECKING:
    from ..artifact import Artifact
    from ..backends.base import Backend


def open_lane(
    artifact: Artifact | None,
    masks: MaskOptions,
    decoding: DecodeOptions,
    encoding: EncodeOptions,
    *,
    device: str = "auto",
    backend: BackendName | Backend | None = None,
    threads: int | None = None,
    measure: Measure = None,
) -> Lane:
    """Make the lane that the options ask for.

    Args:
        artifact: the model; None with a ready backend.
        masks, decoding, encoding: what to make.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; a named one is a promise.
        backend: the name of one, a ready one, or None: the artifact and the device decide.
        threads: cores for a CPU backend; None: all.
        measure: what of each mask is measured.

    Raises:
        UsageError, DeviceError, ModelError: see :func:`seseg_trt.backends.select.create_backend`; or a library that the lane needs is missing.
    """
    if backend is None or isinstance(backend, str):
        assert artifact is not None
        backend = create_backend(artifact, backend=backend, device=device, threads=threads, throughput=True)
    if isinstance(backend, DeviceBackend):
        from .gpu import open_gpu_lane

        return open_gpu_lane(backend, masks, decoding, encoding, measure)
    if decoding.decoder == "dali":
        from .dali_cpu import DaliCPULane

        return DaliCPULane(backend, masks, decoding, encoding, measure)
    from .cpu import CPULane

    return CPULane(backend, masks, decoding, encoding, measure)
