"""Describe images in device memory, and the kernels' arguments: NumPy dtypes of the structs in ``bodies.h``.

The tests compare the size and field offsets of each dtype with the compiled header's.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

WARPS = 8
"""The number of warps in a block, of 32 threads each. This constant and the next four must equal those in ``bodies.h``."""
RUN = 512
STRIP = 16
TABLE = 32 * WARPS
NEVER = 3 << 29

PRECISION_BITS = 22
MAX_RUNS_PER_WARP = 8
BUSY_WARPS = 8192
"""About the number of warps that the largest GPUs run at once. With more runs of pixels than this, each warp handles several."""

MAX_PIXELS = 2**32 - RUN
"""The most pixels of an image: the kernels count pixels in 32 bits and bytes in 64."""

ALIGNMENT = 256
NULL = np.uint64(2**64 - 1)
"""The offset of a null address."""


def _struct(words: str, halves: str, **shapes: tuple[int, ...]) -> np.dtype[np.void]:
    """Return the dtype of a struct: its fields of 8 bytes, then those of 4 bytes; ``shapes`` holds the shapes of the arrays among them."""
    fields = [(name, "<u8") for name in words.split()] + [(name, "<u4") for name in halves.split()]
    return np.dtype([(name, kind, shapes.get(name, ())) for name, kind in fields])


IMAGE = _struct(
    "map source colored mask bits columns rows wide_columns wide_rows stretched shrunk"
    " source_pitch color_pitch mask_pitch bits_pitch reciprocal keys",
    "width height pitch dense runs reserved",
    colored=(2,),
    keys=(2, 2),
)
BATCH = _struct(
    "images table_blocks stretch_blocks shrink_blocks composite_blocks pack_blocks",
    "count size limit color runs_per_warp scratch",
)
SOURCE = _struct("pixels pitch", "width height")
SAMPLING = _struct("sources indices out", "count size")


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceImage:
    """The device addresses of an image and its outputs. An output with the address 0 is not made.

    ``map`` must be a multiple of 4. The other addresses may be unaligned, but copies are faster if ``source``, ``se``, ``nse`` and
    ``mask`` are multiples of 16.

    Attributes:
        width, height: in pixels; width * height is at most :data:`MAX_PIXELS`.
        map: the confidence map, uint8 [S, S].
        source: the image, uint8 [H, W, 3] RGB; may be 0 if neither ``se`` nor ``nse`` is made.
        se, nse: the masked images, uint8 [H, W, 3]; must not be the memory of ``source``.
        mask: the mask, uint8 [H, W].
        bits: the mask with 1 bit a pixel, uint8 [H, ceil(W / 8)], as in a 1-bit PNG: first pixel in the highest bit, unused bits 0.
        source_pitch: the distance between rows of ``source`` in bytes; 0 for rows without padding.
        color_pitch: the same for ``se`` and ``nse``.
        mask_pitch: the same for ``mask``.
        bits_pitch: the same for ``bits``.
        se_key, nse_key: the keys of the random colours, two 64-bit words each (see :func:`seseg_trt.masks.reference.random_key`).
    """

    width: int
    height: int
    map: int
    source: int = 0
    se: int = 0
    nse: int = 0
    mask: int = 0
    bits: int = 0
    source_pitch: int = 0
    color_pitch: int = 0
    mask_pitch: int = 0
    bits_pitch: int = 0
    se_key: tuple[int, int] = (0, 0)
    nse_key: tuple[int, int] = (0, 0)


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceSource:
    """An RGB image in device memory, uint8 [height, width, 3] at address ``pixels``, with rows ``pitch`` bytes apart (0: no padding)."""

    width: int
    height: int
    pixels: int
    pitch: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Launch:
    """A kernel launch: the kernel's name, the number of blocks of ``32 * WARPS`` threads, and each block's shared memory in bytes."""

    kernel: str
    blocks: int
    shared: int = 0


@dataclasses.dataclass(frozen=True)
class Plan:
    """The launches and memory that a batch needs.

    Attributes:
        launches: the kernel launches, in order.
        records_nbytes: the size of the records, which are copied from the host to the start of the workspace. They begin with the kernels'
            argument.
        workspace_nbytes: the size of the workspace, including the records.
    """

    launches: tuple[Launch, ...]
    records_nbytes: int
    workspace_nbytes: int
    _parts: tuple[tuple[int, npt.NDArray[Any]], ...]
    _pointers: tuple[tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]], ...]

    def write_records(self, out: npt.NDArray[np.uint8], base: int) -> None:
        """Write the records into ``out``, uint8 [at least records_nbytes], for a workspace at address ``base``, a multiple of 256."""
        if base % ALIGNMENT:
            raise ValueError(f"a workspace at {base:#x} is not aligned to {ALIGNMENT} bytes")
        for field, offsets in self._pointers:
            field[...] = np.where(offsets == NULL, 0, offsets + np.uint64(base))
        for at, part in self._parts:
            out[at : at + part.nbytes] = part.reshape(-1).view(np.uint8)
