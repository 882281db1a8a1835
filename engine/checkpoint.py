"""Load a Keras 2.2.4 checkpoint into a current Keras model of the same network.

A checkpoint is untrusted input, so :mod:`engine.reader` reads it in a separate process: a damaged file that crashes or
hangs the HDF5 library ends only that process.
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

TIMEOUT = 60.0  # seconds, for a file of any size
TIMEOUT_PER_BYTE = 1 / 10e6  # seconds more for each byte: a slow disk reads 10 MB/s


def load_checkpoint(path: str | Path) -> tuple[Any, CheckpointInfo]:
    """Build the network of a checkpoint and load its weights.

    Args:
        path: an HDF5 file, written by Keras 2's ``model.save()`` or ``model.save_weights()``.

    Returns:
        The Keras model (see :func:`engine.network.build_unet`), and a description of the checkpoint.

    Raises:
        CheckpointError: the file is missing, damaged or not from Keras 2, or holds another network.
    """
    weights, info = read_apart(path)
    model = build_unet(info.spec)
    set_weights(model, weights)
    return model, info


def load_encoder_weights(model: Any, path: str | Path) -> None:
    """Load the weights of an encoder into a U-Net, e.g. the ImageNet weights of image-classifiers 0.2.0 without the top.

    Args:
        model: a model of :func:`engine.network.build_unet`; its encoder is changed in place.
        path: an HDF5 file, written by Keras 2's ``save_weights()`` or ``save()`` of the encoder.

    Raises:
        CheckpointError: the file is missing, damaged or not from Keras 2, or holds another encoder.
    """
    weights, _ = _ask_reader(Path(path), spec_of(model))
    set_weights(model, weights)


def read_apart(path: str | Path) -> tuple[Weights, CheckpointInfo]:
    """Read a checkpoint in a separate process, without building a model.

    Args:
        path: as for :func:`load_checkpoint`.

    Returns:
        The same as :func:`engine.reader.read_checkpoint`.

    Raises:
        CheckpointError: the file is missing, damaged or not from Keras 2, or holds another network.
    """
    path = Path(path)
    weights, answer = _ask_reader(path, None)
    spec = NetworkSpec.from_json(answer["spec"])
    return weights, CheckpointInfo(path, answer["sha256"], answer["kind"], spec, answer["keras_version"])


def set_weights(model: Any, weights: Weights) -> None:
    """Copy weights into the model's layers of the same names."""
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
    timeout = TIMEOUT + (path.stat().st_size * TIMEOUT_PER_BYTE if path.is_file() else 0)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "engine.reader", json.dumps(request)],
            cwd=Path(__file__).resolve().parent.parent,  # from here `engine` can be imported
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # the stack of each thread counts against its memory limit
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CheckpointError(f"{path} was not read in {timeout:.0f} s; it must be damaged", DAMAGED) from None
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
