"""Read a model file's kind, identity, inputs and outputs without running it.

An artifact is an ONNX graph (``.onnx``) or a TensorRT plan (``.plan``). A graph made by this project stores its identity in ONNX's
``metadata_props`` under the keys of :data:`KEYS`. Graphs from elsewhere are accepted if they have the right input and output.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, Literal

from ..errors import ModelError

KEY_PREFIX = "seseg."
KEYS = (
    "seseg.network",  # e.g. u-seresnet152
    "seseg.input_size",  # the side of the square input, in pixels
    "seseg.resample",  # the filter that resizes images to the input: nearest
    "seseg.precision",  # fp32, fp16, int8, fp8
    "seseg.checkpoint_sha256",  # SHA-256 of the Keras file, or "random:SEED"
    "seseg.versions",  # JSON: versions of the libraries that made the graph
)

INPUT_NAME = "image"
OUTPUT_NAME = "confidence"
FLOAT_OUTPUT_NAME = "p"

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
ONNX_UINT8 = 2

Kind = Literal["onnx", "plan"]
Precision = Literal["fp32", "fp16", "int8", "fp8"]


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A model file with its metadata.

    Attributes:
        path: the file.
        kind: ``onnx`` or ``plan``.
        sha256: the SHA-256 of the file, hex.
        input_size: the side of the square input, in pixels.
        precision: ``fp32``, ``fp16``, ``int8`` or ``fp8``; ``fp32`` if the file does not state it.
        metadata: all metadata under :data:`KEY_PREFIX`, with the prefix removed from the keys.
        has_float_output: whether the confidence as float32 (``p``) is a graph output.
        name: the name that the user gave, such as ``demo``.
    """

    path: Path
    kind: Kind
    sha256: str
    input_size: int
    precision: str
    metadata: dict[str, str]
    has_float_output: bool = False
    name: str = ""

    @property
    def network(self) -> str:
        """The network's name, or ``unknown network``."""
        return self.metadata.get("network", "unknown network")

    def __str__(self) -> str:
        return f"{self.name or self.path.name} ({self.network}, {self.precision}, sha256 {self.sha256[:12]})"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 (hex) of a file, read in blocks."""
    with open(path, "rb") as file:
        hasher = hashlib.sha256()
        while piece := file.read(1 << 20):
            hasher.update(piece)
    return hasher.hexdigest()


def load_artifact(path: str | Path, name: str = "") -> Artifact:
    """Read a model file's metadata.

    Args:
        path: an ONNX graph, or a plan built by this project.
        name: the name that the user gave, for messages.

    Raises:
        ModelError: the file is missing, is not a model of this network, or is a Keras checkpoint. For a checkpoint, the message has the
            command that converts it.
    """
    path = Path(path)
    head = _read_head(path)
    if head.startswith(HDF5_MAGIC):
        raise ModelError(
            f"{path} is a Keras checkpoint (HDF5), not a graph",
            f"make a graph of it, in a checkout of seseg_trt: python build_engine.py --checkpoint {path} --out models\n"
            f"  or, to make it the default model as well:    make engine CHECKPOINT={path}",
        )
    if not head:
        raise ModelError(f"{path} is empty", "make it again: python build_engine.py --checkpoint C.hdf5 --out models")
    from .plan_file import MAGIC, read_identity

    if not head.startswith(MAGIC):
        return _load_onnx(path, name)
    identity = read_identity(path)
    return Artifact(
        path=path,
        kind="plan",
        sha256=sha256_of(path),
        input_size=identity.input_size,
        precision=identity.precision,
        metadata={"network": identity.network, **identity.metadata},
        name=name,
    )


def _read_head(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(64)
    except FileNotFoundError:
        raise ModelError(f"there is no model file {path}", "give --model the path of an .onnx file, or 'demo'") from None
    except IsADirectoryError:
        raise ModelError(f"{path} is a folder, not a model file", "give --model the .onnx file in it") from None
    except OSError as error:
        raise ModelError(f"the model file {path} can't be read: {error.strerror}") from error


def _load_onnx(path: Path, name: str) -> Artifact:
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # the module of protobuf's DecodeError differs between versions
        raise ModelError(
            f"{path} is not an ONNX graph, or is damaged: {error}", "make it again: python build_engine.py --checkpoint C.hdf5 --out models"
        ) from error
    input_size = _check_signature(model.graph, path)
    metadata = {p.key[len(KEY_PREFIX) :]: p.value for p in model.metadata_props if p.key.startswith(KEY_PREFIX)}
    return Artifact(
        path=path,
        kind="onnx",
        sha256=sha256_of(path),
        input_size=input_size,
        precision=metadata.get("precision", "fp32"),
        metadata=metadata,
        has_float_output=any(o.name == FLOAT_OUTPUT_NAME for o in model.graph.output),
        name=name,
    )


def _check_signature(graph: Any, path: Path) -> int:
    """Check that a graph maps ``image``, uint8 [N, S, S, 3], to ``confidence``, uint8 [N, S, S]; return S or raise ModelError."""

    def describe(value: Any) -> str:
        dims = ", ".join(d.dim_param or str(d.dim_value) for d in value.type.tensor_type.shape.dim)
        return f"{value.name}: type {value.type.tensor_type.elem_type} [{dims}]"

    initializers = {i.name for i in graph.initializer}
    inputs = [v for v in graph.input if v.name not in initializers]
    outputs = {v.name: v for v in graph.output}
    found = "; ".join(describe(v) for v in [*inputs, *graph.output]) or "nothing"
    wrong = ModelError(
        f"{path} is not a graph of this network: it has {found}",
        f"it must have {INPUT_NAME}: uint8 [N, S, S, 3] and {OUTPUT_NAME}: uint8 [N, S, S]; build_engine.py makes such a graph",
    )
    if len(inputs) != 1 or inputs[0].name != INPUT_NAME or OUTPUT_NAME not in outputs:
        raise wrong
    image, confidence = inputs[0].type.tensor_type, outputs[OUTPUT_NAME].type.tensor_type
    dims = [d.dim_value for d in image.shape.dim]
    if image.elem_type != ONNX_UINT8 or confidence.elem_type != ONNX_UINT8:
        raise wrong
    if len(dims) != 4 or dims[3] != 3 or dims[1] != dims[2] or dims[1] < 1 or len(confidence.shape.dim) != 3:
        raise wrong
    return int(dims[1])
