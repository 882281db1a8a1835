"""Read the layers, weights and architecture in an HDF5 file that Keras 2 wrote, as plain data.

The file is untrusted. Nothing in it is executed. Nothing outside it is read: links, external and virtual datasets are
refused. The sizes that it declares are checked against the file's own size before memory is allocated.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seseg_trt.errors import CheckpointError, SesegError
from seseg_trt.models.artifact import HDF5_MAGIC

MAX_JSON_BYTES = 16 << 20
MAX_NAMES_BYTES = 16 << 20
MAX_LAYERS = 20_000
MAX_NAME = 512
MAX_WEIGHTS = 16  # in one layer
MAX_WEIGHT_BYTES = 4 << 30

FOREIGN = "it must be an HDF5 file that Keras 2 wrote: model.save('checkpoint.hdf5') or model.save_weights('weights.h5')"
DAMAGED = "copy or download the file again; if the error stays, save it again from Keras"


@dataclasses.dataclass(frozen=True)
class FileWeight:
    """One tensor of a layer: its name (``conv2d_1/kernel:0``), its shape and its HDF5 dataset."""

    name: str
    shape: tuple[int, ...]
    dataset: Any

    def read(self) -> npt.NDArray[np.float32]:
        """Read the values: float32, of :attr:`shape`."""
        values = np.empty(self.shape, np.float32)
        if values.size:
            self.dataset.read_direct(values)
        return values


@dataclasses.dataclass(frozen=True)
class FileLayer:
    """A layer in the file, with its tensors in the file's order."""

    name: str
    weights: tuple[FileWeight, ...]


@dataclasses.dataclass(frozen=True)
class KerasFile:
    """The content of a Keras 2 file.

    Attributes:
        layers: the layers by name, in the file's order.
        model_config: the architecture, or None if only weights were saved.
        keras_version: the version that the file names, or an empty string.
    """

    layers: dict[str, FileLayer]
    model_config: dict[str, Any] | None
    keras_version: str


@contextlib.contextmanager
def open_keras_file(path: Path) -> Iterator[KerasFile]:
    """Open a Keras 2 file; its tensors can be read inside the ``with`` block.

    Raises:
        CheckpointError: the file is missing, damaged or not from Keras 2.
    """
    import h5py

    _check_head(path)
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield _read_file(path, file)
    except SesegError:
        raise
    # h5py's errors on a damaged file have no common class: OSError, KeyError, RuntimeError, ValueError, TypeError and more.
    except Exception as error:
        raise CheckpointError(f"{path} is damaged: {_first_line(error)}", DAMAGED) from error


def _first_line(error: Exception) -> str:
    text = str(error).strip("'\"") or type(error).__name__
    return text.splitlines()[0][:300]


def _check_head(path: Path) -> None:
    try:
        with open(path, "rb") as file:
            head = file.read(len(HDF5_MAGIC))
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {path}", "give --checkpoint the path of a Keras .hdf5 file") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a folder, not a checkpoint", "give --checkpoint the .hdf5 file in it") from None
    except OSError as error:
        raise CheckpointError(f"the checkpoint {path} can't be read: {error.strerror}") from error
    if not head:
        raise CheckpointError(f"{path} is empty", DAMAGED)
    if head != HDF5_MAGIC:
        raise CheckpointError(f"{path} is not an HDF5 file", FOREIGN)


def _read_file(path: Path, file: Any) -> KerasFile:
    config = None
    root = file
    if "model_config" in file.attrs:
        config = _parse_json(_read_text(file.attrs, "model_config", path))
    if _has_link(file, "model_weights"):
        root = _hard_member(file, "model_weights", "the file")
    if "layer_names" not in root.attrs and "layer_names0" not in root.attrs:
        raise CheckpointError(f"{path} holds no Keras weights (it lists no layer_names)", FOREIGN)
    names = _read_names(root.attrs, "layer_names", "the file")
    if len(names) > MAX_LAYERS:
        raise CheckpointError(f"{path} lists {len(names)} layers, more than {MAX_LAYERS}", FOREIGN)
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise CheckpointError(f"{path} lists the layer {twice!r} twice", DAMAGED)
    layers = {name: _read_layer(root, name) for name in names}
    declared = sum(4 * int(np.prod(w.shape, dtype=object)) for layer in layers.values() for w in layer.weights)
    if declared > min(path.stat().st_size, MAX_WEIGHT_BYTES):
        raise CheckpointError(f"{path} declares {declared:,} bytes of weights, but has {path.stat().st_size:,} bytes", DAMAGED)
    version = _read_text(root.attrs, "keras_version", path) if "keras_version" in root.attrs else ""
    return KerasFile(layers, config, version[:100])


def _has_link(group: Any, name: str) -> bool:
    return group.get(name, getlink=True) is not None if name in group else False


def _hard_member(group: Any, name: str, of: str) -> Any:
    """Return a member of a group; soft and external links are refused."""
    import h5py

    try:
        link = group.get(name, getlink=True)
    except KeyError:
        link = None
    if link is None:
        raise CheckpointError(f"{of} lists {name!r}, which is not in the file", DAMAGED)
    if not isinstance(link, h5py.HardLink):
        raise CheckpointError(f"{of}: {name!r} is a link to somewhere else, which is not followed", FOREIGN)
    return group[name]


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _attribute(attributes: Any, name: str, limit: int) -> Any:
    attribute = attributes.get_id(name)
    if attribute.dtype.itemsize * int(np.prod(attribute.shape, dtype=object)) > limit:
        raise CheckpointError(f"the attribute {name!r} is larger than {limit:,} bytes", FOREIGN)
    return attributes[name]


def _read_text(attributes: Any, name: str, path: Path) -> str:
    value = _attribute(attributes, name, MAX_JSON_BYTES)
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if not isinstance(value, bytes | str) or len(value) > MAX_JSON_BYTES:
        raise CheckpointError(f"{path}: the attribute {name!r} is not a text", FOREIGN)
    return _text(value)


def _read_names(attributes: Any, name: str, of: str) -> list[str]:
    """Read a list of names; Keras splits a list over 64 KB into ``layer_names0``, ``layer_names1``..."""
    if name in attributes:
        pieces = [name]
    else:
        pieces = []
        while f"{name}{len(pieces)}" in attributes and len(pieces) < 1000:
            pieces.append(f"{name}{len(pieces)}")
        if not pieces:
            raise CheckpointError(f"{of} does not list its {name}", DAMAGED)
    found: list[str] = []
    for piece in pieces:
        values = np.asarray(_attribute(attributes, piece, MAX_NAMES_BYTES))
        if values.size and values.dtype.kind not in "SUO":
            raise CheckpointError(f"{of}: the attribute {piece!r} holds no names", DAMAGED)
        found += [_text(v) for v in values.reshape(-1)]
    longest = max(map(len, found), default=0)
    if longest > MAX_NAME:
        raise CheckpointError(f"{of}: a name in {name!r} has {longest} characters", FOREIGN)
    return found


def _read_layer(root: Any, name: str) -> FileLayer:
    import h5py

    group = _hard_member(root, name, "the list of layers") if "/" not in name else None
    if not isinstance(group, h5py.Group):
        raise CheckpointError(f"layer {name!r} is not a group of tensors", DAMAGED)
    names = _read_names(group.attrs, "weight_names", f"layer {name!r}")
    if len(names) > MAX_WEIGHTS:
        raise CheckpointError(f"layer {name!r} lists {len(names)} tensors", FOREIGN)
    return FileLayer(name, tuple(_read_weight(group, name, weight) for weight in names))


def _read_weight(group: Any, layer: str, name: str) -> FileWeight:
    import h5py

    of = f"layer {layer!r}"
    member = group
    for part in name.split("/"):
        if part in ("", ".", "..") or not isinstance(member, h5py.Group):
            raise CheckpointError(f"{of}: {name!r} is not the name of a tensor in it", DAMAGED)
        member = _hard_member(member, part, of)
    if not isinstance(member, h5py.Dataset):
        raise CheckpointError(f"{of}: {name!r} is not a tensor", DAMAGED)
    properties = member.id.get_create_plist()
    if properties.get_layout() not in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT) or properties.get_nfilters():
        repack = "store it contiguous and uncompressed: h5repack -f NONE -l CONTI IN OUT"
        raise CheckpointError(f"{of}: {name!r} is chunked, compressed or virtual, which Keras never writes", repack)
    if member.external:
        raise CheckpointError(f"{of}: {name!r} is stored in another file, which is not read", FOREIGN)
    if member.dtype.kind != "f" or member.dtype.itemsize != 4:
        raise CheckpointError(f"{of}: {name!r} has the type {member.dtype}, not float32", FOREIGN)
    if member.shape is None or (member.size and not member.id.get_storage_size()):
        raise CheckpointError(f"{of}: {name!r} has no numbers", DAMAGED)
    return FileWeight(name, tuple(int(n) for n in member.shape), member)


def _parse_json(text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"the architecture in the file is not JSON: {_first_line(error)}", DAMAGED) from error
    if not isinstance(config, dict):
        raise CheckpointError("the architecture in the file is not a JSON object", FOREIGN)
    return config


def weight_role(name: str) -> str:
    """Return the role of a tensor by its name in the file: ``conv2d_71_1/kernel:0`` is the ``kernel``."""
    return re.sub(r"(_\d+)?(:\d+)?$", "", name.rsplit("/", 1)[-1])
