"""Run what is measured: an artifact in a backend, or anything else that returns confidences, with its identity."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from ..models.artifact import FLOAT_OUTPUT_NAME, Artifact

if TYPE_CHECKING:
    from pathlib import Path

    from ..backends.base import Backend, Confidence, Images
    from ..backends.tensorrt_api import Progress
    from ..options import BackendName

Floats = npt.NDArray[np.float32]
Run = Callable[["Images"], "tuple[Confidence, Floats | None]"]


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network that runs.

    Attributes:
        name: shown to people, e.g. ``model.onnx`` or ``checkpoint.hdf5``.
        sha256: of the file that it was loaded from, hex.
        input_size: the side of its square input, in pixels.
        description: one line with library, version and device.
        run: takes uint8 [N, S, S, 3]; returns the maps, uint8 [N, S, S], 255 p truncated, and p itself as float32 [N, S, S], or
            None if the network has no such output.
        precision: ``fp32``, ``fp16``, ``int8`` or ``fp8``.
        metadata: the rest of its identity, for the certificate.
        path: its file. It is hashed again after the measurement.
    """

    name: str
    sha256: str
    input_size: int
    description: str
    run: Run
    precision: str = "fp32"
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    path: Path | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the identity as the certificate stores it."""
        identity = {name: getattr(self, name) for name in ("name", "sha256", "precision", "input_size")}
        return {**identity, "backend": self.description, "metadata": self.metadata}


def subject_of_backend(backend: Backend, *, name: str, sha256: str, precision: str = "fp32") -> Subject:
    """Make a subject of a ready backend. One with ``infer_with_float`` returns p as well. The caller closes the backend."""
    return Subject(name, sha256, backend.input_size, backend.description, _runner(backend), precision)


def _runner(backend: Backend, floats: bool = True) -> Run:
    """Return a function that runs a backend and returns the maps, and p if it is wanted and the backend has it."""
    with_float: Run | None = getattr(backend, "infer_with_float", None) if floats else None
    return with_float or (lambda images: (backend.infer(images), None))


@contextlib.contextmanager
def open_subject(
    artifact: Artifact,
    *,
    backend: BackendName | None = None,
    device: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Subject]:
    """Open an artifact in a backend, and close the backend at the end.

    Arguments are those of :func:`seseg_trt.backends.select.create_backend`.

    Raises:
        ModelError, DeviceError, UsageError: as :func:`seseg_trt.backends.select.create_backend`.
    """
    from ..backends.select import create_backend

    floats = _has_floats(artifact)
    ready = create_backend(artifact, backend=backend, device=device, threads=threads, float_output=floats, progress=progress)
    try:
        run = _runner(ready, floats)
        name = f"{artifact.name} ({artifact.path.name})" if artifact.name else artifact.path.name
        metadata = {key: value for key, value in sorted(artifact.metadata.items()) if key != "precision"}
        yield Subject(name, artifact.sha256, ready.input_size, ready.description, run, artifact.precision, metadata, artifact.path)
    finally:
        ready.close()


def _has_floats(artifact: Artifact) -> bool:
    """Tell whether the confidence as float32 can be had: as an output, or as a tensor of an ONNX graph that can become one in memory."""
    if artifact.has_float_output or artifact.kind != "onnx":
        return artifact.has_float_output
    import onnx

    graph = onnx.load(os.fspath(artifact.path), load_external_data=False).graph
    return any(FLOAT_OUTPUT_NAME in node.output for node in graph.node)


def check_unchanged(subject: Subject) -> None:
    """Raise ModelError if a subject's file changed after it was loaded."""
    from ..models.artifact import sha256_of

    if subject.path is not None and sha256_of(subject.path) != subject.sha256:
        raise ModelError(f"{subject.path} has changed while it was measured", "run it again")
