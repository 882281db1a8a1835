"""Read the weights of a Keras 2.2.4 checkpoint and match them to the network's layers, without TensorFlow.

Layers are matched by structure: by the architecture if the file has one, else by Keras's order. They are never matched
by name, since Keras numbers encoder layers with a counter that runs through the whole process. A checkpoint is
untrusted input: see :mod:`engine.hdf5` for the file, and :mod:`engine.architecture` for the code in its Lambda layers,
which is never run.

:mod:`engine.checkpoint` runs ``python -m engine.reader`` to do this in a separate process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import resource
import sys
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from seseg_trt.errors import CheckpointError, SesegError
from seseg_trt.models.artifact import sha256_of

from .architecture import OTHER_NETWORK, ConvSignature, derive_spec, keras2_order, match, spec_from_config
from .hdf5 import DAMAGED, FileLayer, KerasFile, open_keras_file, weight_role
from .network import Layer, NetworkSpec, is_encoder, plan_layers

Weights = dict[str, list[npt.NDArray[np.float32]]]


@dataclasses.dataclass(frozen=True)
class CheckpointInfo:
    """A description of a checkpoint.

    Attributes:
        path: the file.
        sha256: the hash of the file, hex.
        kind: ``model`` if the file has the architecture, ``weights`` if it has only the weights.
        spec: the network's sizes.
        keras_version: the version of Keras that the file names.
    """

    path: Path
    sha256: str
    kind: Literal["model", "weights"]
    spec: NetworkSpec
    keras_version: str


def read_checkpoint(path: str | Path) -> tuple[Weights, CheckpointInfo]:
    """Read a checkpoint in this process.

    Args:
        path: an HDF5 file, written by Keras 2's ``model.save()`` or ``model.save_weights()``.

    Returns:
        The weights, float32, by the layer names and in the order of :func:`engine.network.plan_layers`, within a layer
        in Keras's order; and a description of the file.

    Raises:
        CheckpointError: the file is missing, damaged or not from Keras 2, or holds another network.
    """
    path = Path(path)
    with open_keras_file(path) as file:
        if file.model_config is not None:
            spec = spec_from_config(file.model_config)
            names = match(file.model_config, spec)
            planned = plan_layers(spec)
            pairs = _pair_by_name(file, planned, names)
        else:
            spec = _spec_from_weights(file)
            planned = plan_layers(spec)
            pairs = _pair_by_order(_weighted(file), keras2_order(planned))
        weights = _read_weights(pairs, planned)
        kind: Literal["model", "weights"] = "weights" if file.model_config is None else "model"
        return weights, CheckpointInfo(path, sha256_of(path), kind, spec, file.keras_version)


def read_encoder(path: str | Path, spec: NetworkSpec) -> Weights:
    """Read the weights of an encoder, written by ``save_weights()`` or ``save()`` of the encoder.

    Args:
        path: an HDF5 file of Keras 2.
        spec: the network whose encoder it must be.

    Returns:
        The weights, as of :func:`read_checkpoint`.

    Raises:
        CheckpointError: the file is missing, damaged or not from Keras 2, or holds another encoder.
    """
    planned = plan_layers(spec)
    order = [layer for layer in keras2_order(planned) if is_encoder(layer.name)]
    with open_keras_file(Path(path)) as file:
        return _read_weights(_pair_by_order(_weighted(file), order), planned)


def _weighted(file: KerasFile) -> list[FileLayer]:
    return [layer for layer in file.layers.values() if layer.weights]


def _spec_from_weights(file: KerasFile) -> NetworkSpec:
    kernels = [(layer.weights[0].shape, len(layer.weights)) for layer in _weighted(file)]
    return derive_spec([ConvSignature(s[0], s[3], n > 1, s[2]) for s, n in kernels if len(s) == 4])


def _pair_by_name(file: KerasFile, planned: dict[str, Layer], names: dict[str, str]) -> list[tuple[FileLayer, Layer]]:
    used = {names[layer.name] for layer in planned.values() if layer.weights}
    for found in _weighted(file):
        if found.name not in used:
            raise CheckpointError(f"layer {found.name!r} has weights, but its counterpart in the network has none", OTHER_NETWORK)
    pairs = []
    for layer in planned.values():
        if layer.weights:
            name = names[layer.name]
            if name not in file.layers:
                raise CheckpointError(f"layer {name!r} ({layer.name}) is missing: the file has no weights for it", DAMAGED)
            pairs.append((file.layers[name], layer))
    return pairs


def _pair_by_order(found: Sequence[FileLayer], planned: Sequence[Layer]) -> list[tuple[FileLayer, Layer]]:
    pairs = []
    for layer, wanted in zip_longest(found, [layer for layer in planned if layer.weights]):
        if wanted is None:
            raise CheckpointError(f"layer {layer.name!r} {_shapes(layer)} is one more than the network has", OTHER_NETWORK)
        if layer is None:
            raise CheckpointError(f"layer {wanted.name} {_wanted_shapes(wanted)} is missing: the file ends before it", DAMAGED)
        _check_shapes(layer, wanted)
        pairs.append((layer, wanted))
    return pairs


def _shapes(layer: FileLayer) -> str:
    return "{" + ", ".join(f"{weight_role(w.name)[:40]} {w.shape}" for w in layer.weights) + "}"


def _wanted_shapes(layer: Layer) -> str:
    return "{" + ", ".join(f"{name} {shape}" for name, shape in layer.weights.items()) + "}"


def _check_shapes(layer: FileLayer, wanted: Layer) -> None:
    found = [(weight_role(w.name), w.shape) for w in layer.weights]
    if found != list(wanted.weights.items()):
        raise CheckpointError(
            f"layer {layer.name!r} has {_shapes(layer)}, the network's {wanted.name} has {_wanted_shapes(wanted)}",
            "a layer here is missing, duplicated or of another size; " + OTHER_NETWORK,
        )


def _read_weights(pairs: Sequence[tuple[FileLayer, Layer]], planned: dict[str, Layer]) -> Weights:
    for layer, wanted in pairs:
        _check_shapes(layer, wanted)
    weights: Weights = {}
    for layer, wanted in pairs:
        weights[wanted.name] = [_read_finite(layer, i) for i in range(len(layer.weights))]
        if wanted.kind == "BatchNormalization" and (weights[wanted.name][3] < 0).any():
            raise CheckpointError(f"layer {layer.name!r} has a negative moving_variance", DAMAGED)
    return {name: weights[name] for name in planned if name in weights}


def _read_finite(layer: FileLayer, index: int) -> npt.NDArray[np.float32]:
    weight = layer.weights[index]
    values = weight.read()
    bad = values.size - int(np.isfinite(values).sum())
    if bad:
        raise CheckpointError(f"layer {layer.name!r}: {bad} of {values.size} values of {weight.name!r} are NaN or infinite", DAMAGED)
    return values


MEMORY_LIMIT = 8 << 30  # bytes of address space, plus twice the file's size: a damaged file can make HDF5 ask for far more


def main(request: str) -> None:
    """Read the checkpoint that a request names, save its weights, and write the answer to stdout.

    Args:
        request: a JSON object: ``path`` of the checkpoint; ``encoder_of``, the sizes of a network if the file holds an
            encoder alone, else null; ``out``, the .npz file to write.

    The answer is a JSON object: the fields of :class:`CheckpointInfo` (none for an encoder), or ``error`` and ``hint``.
    """
    wanted = json.loads(request)
    with contextlib.suppress(OSError):  # a missing file is reported below
        size = Path(wanted["path"]).stat().st_size
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT + 2 * size,) * 2)
    answer: dict[str, Any]
    try:
        if wanted["encoder_of"]:
            weights = read_encoder(wanted["path"], NetworkSpec.from_json(wanted["encoder_of"]))
            answer = {}
        else:
            weights, info = read_checkpoint(wanted["path"])
            answer = {**dataclasses.asdict(info), "path": str(info.path)}
        arrays: dict[str, Any] = {f"{name}/{i}": w for name, values in weights.items() for i, w in enumerate(values)}
        np.savez(wanted["out"], **arrays)
    except SesegError as error:
        answer = {"error": error.message, "hint": error.hint}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1])
