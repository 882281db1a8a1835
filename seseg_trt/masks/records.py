"""What the kernels of masks.kernels.cu read: NumPy records of the structs in bodies.h, and what describes an image in device memory.

The tests compare each record's size and offsets with the compiled header's.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

WARPS = 8
"""Warps a block, of 32 threads each; this and the next four are also in bodies.h."""
RUN = 512
STRIP = 16
TABLE = 32 * WARPS
NEVER = 3 << 29

PRECISION_BITS = 22
MAX_RUNS_PER_WARP = 8
BUSY_WARPS = 8192
"""A warp takes several runs of pixels once there are more runs than this: about what the largest GPUs hold."""

MAX_PIXELS = 2**32 - RUN
"""The most pixels of one image: pixels are counted in 32 bits, bytes in 64."""

ALIGNMENT = 256
NULL = np.uint64(2**64 - 1)
"""The offset that stands for no address."""

IMAGE = np.dtype(
    [
        ("map", "<u8"),
        ("source", "<u8"),
        ("colored", "<u8", (2,)),
        ("mask", "<u8"),
        ("bits", "<u8"),
        ("columns", "<u8"),
        ("rows", "<u8"),
        ("wide_columns", "<u8"),
        ("wide_rows", "<u8"),
        ("stretched", "<u8"),
        ("shrunk", "<u8"),
        ("source_pitch", "<u8"),
        ("color_pitch", "<u8"),
        ("mask_pitch", "<u8"),
        ("bits_pitch", "<u8"),
        ("reciprocal", "<u8"),
        ("keys", "<u8", (2, 2)),
        ("width", "<u4"),
        ("height", "<u4"),
        ("pitch", "<u4"),
        ("dense", "<u4"),
        ("runs", "<u4"),
        ("reserved", "<u4"),
    ]
)
BATCH = np.dtype(
    [
        ("images", "<u8"),
        ("table_blocks", "<u8"),
        ("stretch_blocks", "<u8"),
        ("shrink_blocks", "<u8"),
        ("composite_blocks", "<u8"),
        ("pack_blocks", "<u8"),
        ("count", "<u4"),
        ("size", "<u4"),
        ("limit", "<i4"),
        ("color", "<u4"),
        ("runs_per_warp", "<u4"),
        ("scratch", "<u4"),
    ]
)
SOURCE = np.dtype([("pixels", "<u8"), ("pitch", "<u8"), ("width", "<u4"), ("height", "<u4")])
SAMPLING = np.dtype([("sources", "<u8"), ("indices", "<u8"), ("out", "<u8"), ("count", "<u4"), ("size", "<u4")])


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceImage:
    """An image in device memory and where its outputs go. Addresses are bytes; 0 is an output not wanted.

    Any address works; those of ``source``, ``se``, ``nse`` and ``mask`` should be multiples of 16, or the copies get slower.

    Attributes:
        width: in pixels.
        height: in pixels; width * height is at most :data:`MAX_PIXELS`.
        map: uint8 [S, S], the confidence; a multiple of 4.
        source: uint8 [H, W, 3], RGB; may be 0 if neither se nor nse is wanted.
        se: uint8 [H, W, 3]; not the same memory as ``source``.
        nse: uint8 [H, W, 3]; likewise.
        mask: uint8 [H, W].
        bits: uint8 [H, ceil(W / 8)]: the thresholded mask, the first pixel in the highest bit, unused bits 0: rows of a 1-bit PNG.
        source_pitch: bytes from row to row of ``source``; 0 means that no row has padding.
        color_pitch: the same of ``se`` and ``nse``.
        mask_pitch: the same of ``mask``.
        bits_pitch: the same of ``bits``.
        se_key: two 64-bit words that key the random colour of ``se`` (reference.random_key).
        nse_key: the same of ``nse``.
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
    """An RGB image in device memory, uint8 [height, width, 3], ``pitch`` bytes from row to row (0: no padding)."""

    width: int
    height: int
    pixels: int
    pitch: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Launch:
    """One kernel of a plan: its name, its blocks (of ``32 * WARPS`` threads) and the shared memory of each, in bytes."""

    kernel: str
    blocks: int
    shared: int = 0


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a batch needs, and what is launched for it. ``base`` is the address of its workspace, a multiple of 256.

    Attributes:
        launches: in order.
        records_nbytes: how much is copied from the host to the workspace's beginning; the kernels' argument lies at its start.
        workspace_nbytes: how much the workspace must have, the records included.
    """

    launches: tuple[Launch, ...]
    records_nbytes: int
    workspace_nbytes: int
    _parts: tuple[tuple[int, npt.NDArray[Any]], ...]
    _pointers: tuple[tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]], ...]

    def write_records(self, out: npt.NDArray[np.uint8], base: int) -> None:
        """Write the records for a workspace at ``base`` into ``out``, uint8 [at least records_nbytes]."""
        if base % ALIGNMENT:
            raise ValueError(f"a workspace at {base:#x} is not aligned to {ALIGNMENT} bytes")
        for field, offsets in self._pointers:
            field[...] = np.where(offsets == NULL, 0, offsets + np.uint64(base))
        for at, part in self._parts:
            out[at : at + part.nbytes] = part.reshape(-1).view(np.uint8)
