"""Find and store models in the user's cache.

::

    $SESEG_HOME, or the user's cache folder
    ├── checkpoints/original.hdf5         downloaded by `seseg-trt fetch`; its hash is in original.hdf5.json
    ├── models/NAME/model.onnx            an entry, stored by `make engine`: the CPU lane uses model.onnx,
    │              model.fp16.onnx, ...   the GPU lane model.fp16.onnx
    ├── plans/                            TensorRT plans, built at the first run on a GPU
    └── default                           a file with the name of the default entry
"""

from __future__ import annotations

import os
import re
import shutil
from importlib import resources
from pathlib import Path

from ..errors import ModelError, UsageError
from ..storage.atomic import atomic_write
from .artifact import Artifact, load_artifact

HOME_VARIABLE = "SESEG_HOME"
DEMO = "demo"
GET_A_MODEL = (
    "two commands get one, in a checkout of seseg_trt:\n"
    "    seseg-trt fetch --out checkpoint.hdf5\n"
    "    make engine CHECKPOINT=checkpoint.hdf5\n"
    "  or try the program with --model demo, a small network that knows nothing of the real task"
)


def home() -> Path:
    """Return the path of the cache folder. The folder may not exist."""
    if named := os.environ.get(HOME_VARIABLE):
        return Path(named)
    import platformdirs

    return Path(platformdirs.user_cache_dir("seseg_trt", appauthor=False))


def demo_path() -> Path:
    """Return the path of the demonstration network that ships with the package."""
    return Path(str(resources.files("seseg_trt") / "data" / "demo.onnx"))


def names() -> list[str]:
    """Return the names of the cache's entries."""
    folder = home() / "models"
    return sorted(p.parent.name for p in folder.glob("*/model.onnx"))


def default_name() -> str | None:
    """Return the name of the default entry, or None."""
    try:
        name = (home() / "default").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return name if (home() / "models" / name / "model.onnx").is_file() else None


def find_model(model: str | os.PathLike[str] | None, *, precision: str = "fp32") -> Artifact:
    """Resolve a model name or path to an artifact.

    Args:
        model: a path, ``demo``, the name of a cache entry, or None for the cache's default entry.
        precision: the graph to take from a cache entry: ``fp32`` for the CPU lane, ``fp16`` for the GPU lane.

    Raises:
        ModelError: there is no such model, or its file is not a model of this network.
    """
    if model is None:
        name = default_name()
        if name is None:
            raise ModelError("no model was named, and the cache has no default", GET_A_MODEL)
        return _entry(name, precision)
    text = os.fspath(model)
    if text == DEMO:
        return load_artifact(demo_path(), DEMO)
    if not Path(text).exists() and text in names():
        return _entry(text, precision)
    if not Path(text).exists() and not Path(text).suffix and os.sep not in text:
        known = ", ".join([DEMO, *names()])
        raise ModelError(f"there is no model {text!r}: there is no such file, and the cache has {known}", GET_A_MODEL)
    return load_artifact(text)


def _entry(name: str, precision: str) -> Artifact:
    folder = home() / "models" / name
    path = folder / ("model.onnx" if precision == "fp32" else f"model.{precision}.onnx")
    if not path.is_file():
        raise ModelError(
            f"the cache's entry {name!r} has no {precision} graph ({path.name})", "make engine CHECKPOINT=... rebuilds the entry"
        )
    return load_artifact(path, name)


def store(name: str, folder: Path, *, make_default: bool = True) -> Path:
    """Copy the graphs and certificates (``model*``) of a folder into the cache as an entry.

    Args:
        name: the entry's name. An existing entry of this name is replaced.
        folder: the folder to copy from; it must contain ``model.onnx``.
        make_default: make it the default entry.

    Returns:
        The entry's folder.

    Raises:
        UsageError: the name is not allowed.
        ModelError: the folder has no valid ``model.onnx``.
    """
    if name == DEMO or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UsageError(f"{name!r} can't be the name of a model in the cache", "use letters, digits, '.', '_' and '-'; 'demo' is taken")
    load_artifact(folder / "model.onnx")
    entry = home() / "models" / name
    fresh = entry.with_name(f".{name}.new-{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for file in sorted(folder.glob("model*")):
        if file.is_file():
            shutil.copyfile(file, fresh / file.name)
    old = entry.with_name(f".{name}.old-{os.getpid()}")
    if entry.exists():
        entry.rename(old)
    fresh.rename(entry)
    shutil.rmtree(old, ignore_errors=True)
    if make_default:
        with atomic_write(home() / "default") as pointer:
            pointer.write(f"{name}\n".encode())
    return entry
