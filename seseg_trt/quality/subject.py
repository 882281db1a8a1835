"""What is measured: a network that runs, with its identity. An artifact in a backend, or anything else that gives confidences."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..artifact import FLOAT_OUTPUT_NAME, Artifact
from ..errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    from ..backends.base import Backend, Confidence, Images
    from ..backends.select import BackendName

Floats = npt.NDArray[np.float32]
Run = Callable[["Images"], "tuple[Confidence, Floats | None]"]


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network that runs.

    Attributes:
        name: for people, e.g. ``model.onnx`` or ``checkpoint.hdf5``.
        sha256: of the file that it was made from, hex.
        input_size: the side of its square input, in pixels.
        description: one line with library, version and device.
        run: takes uint8 [N, S, S, 3]; gives the maps, uint8 [N, S, S], 255 p truncated, and p itself as float32 [N, S, S], or
            None where the network has no such output.
        precision: ``fp32``, ``fp16``, ``int8`` or ``fp8``.
        metadata: what else its identity has, for the certificate.
        path: its file, which is hashed again after the measurement.
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
        """Return its identity as the certificate has it."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "precision": self.precision,
            "input_size": self.input_size,
            "backend": self.description,
            "metadata": self.metadata,
        }


def subject_of_backend(backend: Backend, *, name: str, sha256: str, precision: str = "fp32") -> Subject:
    """Make a subject of a ready backend; one with ``infer_with_float`` gives p as well. The caller closes it."""
    return Subject(name, sha256, backend.input_size, backend.description, runner(backend), precision)


def runner(backend: Backend) -> Run:
    """Return a backend as a function that gives maps, and p where it can."""
    with_float = getattr(backend, "infer_with_float", None)
    if with_float is not None:
        return lambda images: with_float(images)
    return lambda images: (backend.infer(images), None)


@contextlib.contextmanager
def open_subject(
    artifact: Artifact, *, backend: BackendName | None = None, device: str = "auto", threads: int | None = None
) -> Iterator[Subject]:
    """Run an artifact, and close its backend in the end.

    Raises:
        ModelError, DeviceError, UsageError: as :func:`seseg_trt.backends.select.create_backend`.
    """
    from ..backends.select import create_backend

    floats = has_floats(artifact)
    ready = create_backend(artifact, backend=backend, device=device, threads=threads, float_output=floats)
    try:
        run: Run = runner(ready) if floats else lambda images: (ready.infer(images), None)
        name = f"{artifact.name} ({artifact.path.name})" if artifact.name else artifact.path.name
        metadata = {key: value for key, value in sorted(artifact.metadata.items()) if key != "precision"}
        yield Subject(name, artifact.sha256, ready.input_size, ready.description, run, artifact.precision, metadata, artifact.path)
    finally:
        ready.close()


def has_floats(artifact: Artifact) -> bool:
    """Whether the confidence as float32 can be had: it is an output, or a tensor of a graph that can be made one in memory."""
    if artifact.has_float_output or artifact.kind != "onnx":
        return artifact.has_float_output
    import onnx

    graph = onnx.load(os.fspath(artifact.path), load_external_data=False).graph
    return any(FLOAT_OUTPUT_NAME in node.output for node in graph.node)


def check_unchanged(subject: Subject) -> None:
    """Raise ModelError if a subject's file is no longer the one that was loaded: what was measured is then of neither."""
    from ..artifact import sha256_of

    if subject.path is not None and sha256_of(subject.path) != subject.sha256:
        raise ModelError(f"{subject.path} has changed while it was measured", "run it again")
