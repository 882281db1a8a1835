"""From a Keras 2.2.4 checkpoint to today's Keras model of the same network, with the same weights.

The file is read by :mod:`engine.reader` in a process of its own: a checkpoint is untrusted input, and a damaged file
that crashes or stalls the HDF5 library ends that process and not this one.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from seseg_trt.errors import CheckpointError

from .hdf5 import DAMAGED
from .network import NetworkSpec, build_unet, spec_of
from .reader import CheckpointInfo, Weights

__all__ = ["CheckpointInfo", "Weights", "load_checkpoint", "load_encoder_weights", "read_apart", "set_weights"]

PATIENCE = 60.0  # seconds for any file
PATIENCE_PER_BYTE = 1 / 10e6  # and for its size, from a slow disk


def load_checkpoint(path: str | Path) -> tuple[Any, CheckpointInfo]:
    """Build the network of a checkpoint, with its weights.

    Args:
        path: HDF5, written by Keras 2's ``model.save()`` or ``model.save_weights()``.

    Returns:
        The Keras model (see :func:`engine.network.build_unet`), and what the checkpoint is.

    Raises:
        CheckpointError: it is missing, foreign or damaged, or holds another network.
    """
    weights, info = read_apart(path)
    model = build_unet(info.spec)
    set_weights(model, weights)
    return model, info


def load_encoder_weights(model: Any, path: str | Path) -> None:
    """Load an encoder's weights alone into a U-Net: the ImageNet weights of image-classifiers 0.2.0, without the top.

    Args:
        model: made by :func:`engine.network.build_unet`; it is changed.
        path: HDF5, written by Keras 2's ``save_weights()`` or ``save()`` of the encoder.

    Raises:
        CheckpointError: it is missing, foreign or damaged, or the weights of another encoder.
    """
    weights, _ = _ask_reader(Path(path), spec_of(model))
    set_weights(model, weights)


def read_apart(path: str | Path) -> tuple[Weights, CheckpointInfo]:
    """Read a checkpoint in a process of its own, without building anything.

    Returns:
        As :func:`engine.reader.read_checkpoint`.

    Raises:
        CheckpointError: it is missing, foreign or damaged, or holds another network.
    """
    path = Path(path)
    weights, answer = _ask_reader(path, None)
    spec = NetworkSpec.from_json(answer["spec"])
    return weights, CheckpointInfo(path, answer["sha256"], answer["kind"], spec, answer["keras_version"])


def set_weights(model: Any, weights: Weights) -> None:
    """Put weights into a model's layers of the same names."""
    for name, values in weights.items():
        model.get_layer(name).set_weights(values)


def _ask_reader(path: Path, encoder_of: NetworkSpec | None) -> tuple[Weights, dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="seseg-") as folder:
        out = Path(folder) / "weights.npz"
        sizes = dataclasses.asdict(encoder_of) if encoder_of else None
        answer = _run_reader(path, {"path": str(path.absolute()), "out": str(out), "encoder_of": sizes})
        if "error" in answer:
            raise CheckpointError(answer["error"].replace(str(path.absolute()), str(path)), answer["hint"])
        weights: Weights = {}
        with np.load(out, allow_pickle=False) as arrays:
            for key in arrays:
                weights.setdefault(key.split("/")[0], []).append(arrays[key])
        return weights, answer


def _run_reader(path: Path, request: dict[str, Any]) -> dict[str, Any]:
    patience = PATIENCE + (path.stat().st_size * PATIENCE_PER_BYTE if path.is_file() else 0)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "engine.reader", json.dumps(request)],
            cwd=Path(__file__).resolve().parent.parent,  # where `engine` is importable
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # each thread would take addresses from its memory limit
            capture_output=True,
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CheckpointError(f"{path} was not read in {patience:.0f} s; it must be damaged", DAMAGED) from None
    try:
        if done.returncode == 0:
            answer = json.loads(done.stdout)
            if isinstance(answer, dict):
                return answer
    except ValueError:
        pass
    if done.returncode < 0:
        how = f"crashed with {signal.Signals(-done.returncode).name}"
    else:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        how = f"failed: {said[-1][:300] if said else 'it said nothing'}"
    raise CheckpointError(f"{path} can't be read: its reader {how}", DAMAGED)
