"""Plan the kernel launches for a batch of images of any sizes: records, workspace layout and launches.

A plan lays out one block of device memory, the workspace. It begins with the records that the kernels read, which are written on the host
and copied at once. Weights and intermediate maps follow, which only kernels write. Planning uses NumPy and not CUDA, so tests run the
same plans on the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .records import (
    ALIGNMENT,
    BATCH,
    BUSY_WARPS,
    IMAGE,
    MAX_PIXELS,
    MAX_RUNS_PER_WARP,
    NEVER,
    NULL,
    PRECISION_BITS,
    RUN,
    SAMPLING,
    SOURCE,
    STRIP,
    TABLE,
    WARPS,
    DeviceImage,
    DeviceSource,
    Launch,
    Plan,
)

RUN_BYTES = 3 * RUN


class _Layout:
    """An allocator of aligned parts of a workspace."""

    def __init__(self) -> None:
        self.end = 0

    def take(self, nbytes: int) -> int:
        start = self.end
        self.end = _up(start + nbytes, ALIGNMENT)
        return start

    def take_each(self, nbytes: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """Allocate a part for each size; return the offsets, with :data:`NULL` for a size of 0."""
        ends = np.cumsum((nbytes + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT)
        offsets = (self.end + np.concatenate(([0], ends[:-1]))).astype(np.uint64)
        self.end += int(ends[-1])
        offsets[nbytes == 0] = NULL
        return offsets


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


def _blocks(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """Return the prefix sums of the images' block counts, uint32 [N + 1]."""
    sums = np.concatenate(([0], np.cumsum(counts)))
    if sums[-1] >= 2**31:
        raise ValueError(f"the batch needs {sums[-1]:,} blocks, and a launch has fewer than 2^31; use a smaller batch")
    return sums.astype(np.uint32)


def _check(images: Sequence[DeviceImage], size: int, threshold: int | None) -> None:
    if not images:
        raise ValueError("a batch has at least one image")
    if size % 4 or size < 8:
        raise ValueError(f"maps of {size} pixels a side are not supported: the side must be a multiple of 4, at least 8")
    for image in images:
        if image.width < 1 or image.height < 1 or image.width * image.height > MAX_PIXELS:
            raise ValueError(f"an image of {image.width} x {image.height} is empty, or has over {MAX_PIXELS:,} pixels")
        if image.map == 0 or image.map % 4:
            raise ValueError(f"the map's address {image.map:#x} is null, or not aligned to 4 bytes")
        if (image.se or image.nse) and not image.source:
            raise ValueError("se and nse need the image's pixels")
        if image.source and image.source in (image.se, image.nse):
            raise ValueError("an output can't overwrite its source")
        if image.bits and threshold is None:
            raise ValueError("a mask of 1 bit needs a threshold")


def plan_composite(
    images: Sequence[DeviceImage],
    size: int,
    threshold: int | None,
    color: tuple[int, int, int] | Literal["random"],
) -> Plan:
    """Plan a batch's outputs: resize the confidence maps with BICUBIC, apply the threshold, and make ``se``, ``nse`` and ``mask``.

    Args:
        images: the images and their outputs; at least one.
        size: S, the side of the confidence maps: a multiple of 4, at least 8.
        threshold: a percentage, 0..100; None makes opacity maps.
        color: R, G, B, each 0..255; or ``"random"``, with the keys of each image.

    Raises:
        ValueError: the kernels don't support an image, an address or a size.
    """
    _check(images, size, threshold)
    records = np.zeros(len(images), IMAGE)
    columns = np.array([(i.width, i.height, bool(i.se or i.nse), bool(i.mask), bool(i.bits)) for i in images], np.int64)
    width, height, colored, mask, bits = columns.T
    pitch = (width + 15) // 16 * 16

    for name in ("map", "source", "mask", "bits", "width", "height"):
        records[name] = [getattr(i, name) for i in images]
    records["colored"] = [(i.se, i.nse) for i in images]
    records["keys"] = [(i.se_key, i.nse_key) for i in images]
    records["pitch"] = pitch
    tight = {"source": 3 * width, "color": 3 * width, "mask": width, "bits": (width + 7) // 8}
    pitches = {}
    for name, least in tight.items():
        given = np.array([getattr(i, f"{name}_pitch") for i in images], np.int64)
        pitches[name] = np.where(given == 0, least, given)
        if (pitches[name] < least).any():
            raise ValueError(f"a {name}_pitch is smaller than a row")
        records[f"{name}_pitch"] = pitches[name]

    padded = colored * ((pitches["source"] != 3 * width) | (pitches["color"] != 3 * width)) + mask * (pitches["mask"] != width)
    dense = padded == 0
    runs_in_row = -(-width // RUN)
    runs = np.where(dense, -(-(width * height) // RUN), runs_in_row * height)
    records["dense"], records["runs"] = dense, runs
    records["reciprocal"] = [(2**64 - 1) // d + 1 & 2**64 - 1 for d in np.where(dense, width, runs_in_row).tolist()]

    fused = (colored | mask).astype(bool)
    runs_per_warp = int(min(max(runs[fused].sum() // BUSY_WARPS, 1), MAX_RUNS_PER_WARP)) if fused.any() else 1
    random = color == "random"
    scratch = random or any(i.se and i.nse for i in images)
    low = height < size
    shrunk_rows = np.where(low, np.maximum(height, 4), 0)
    column_groups = -(-pitch // 128)
    blocks = {
        "table": -(-width // TABLE) + -(-height // TABLE),
        "stretch": -(-(column_groups * -(-size // STRIP)) // WARPS),
        "shrink": -(-(column_groups * shrunk_rows) // WARPS),
        "composite": np.where(fused, -(-runs // (WARPS * runs_per_warp)), 0),
        "pack": np.where(bits, -(-(-(-width // 256) * -(-height // STRIP)) // WARPS), 0),
    }
    sums = {name: _blocks(counts) for name, counts in blocks.items()}

    layout = _Layout()
    batch = np.zeros(1, BATCH)
    batch["count"], batch["size"], batch["limit"] = len(images), size, _limit(threshold)
    batch["color"] = 0 if color == "random" else int.from_bytes(bytes(color), "little")
    batch["runs_per_warp"], batch["scratch"] = runs_per_warp, scratch
    parts: list[tuple[int, npt.NDArray[Any]]] = [(layout.take(batch.nbytes), batch), (layout.take(records.nbytes), records)]
    pointers = [(batch["images"], np.full(1, parts[1][0], np.uint64))]
    for name, prefix in sums.items():
        parts.append((layout.take(prefix.nbytes), prefix))
        pointers.append((batch[f"{name}_blocks"], np.full(1, parts[-1][0], np.uint64)))
    records_nbytes = layout.end

    wide_entry = {"columns": 2 + 2 * -(-2 * size // width) + 1, "rows": 2 + 2 * -(-2 * size // height) + 1}
    pieces = {
        "columns": np.where(width >= size, 16 * width, 0),
        "rows": 16 * height,
        "wide_columns": np.where(width < size, 4 * width * wide_entry["columns"], 0),
        "wide_rows": np.where(low, 4 * height * wide_entry["rows"], 0),
        "stretched": size * pitch,
        "shrunk": shrunk_rows * pitch,
    }
    pointers += [(records[name], layout.take_each(nbytes)) for name, nbytes in pieces.items()]

    name = f"seseg_{'opacity' if threshold is None else 'threshold'}_{'random' if random else 'fixed'}"
    launches = (
        Launch("seseg_weights", int(sums["table"][-1])),
        Launch("seseg_stretch", int(sums["stretch"][-1])),
        Launch("seseg_shrink", int(sums["shrink"][-1])),
        Launch(name, int(sums["composite"][-1]), WARPS * (2 * RUN_BYTES + RUN + (RUN_BYTES if scratch else 0))),
        Launch("seseg_pack_bits", int(sums["pack"][-1])),
    )
    return Plan(tuple(x for x in launches if x.blocks), records_nbytes, layout.end, tuple(parts), tuple(pointers))


def _limit(threshold: int | None) -> int:
    """Return the smallest sum of ``convolve`` in ``compositing.h`` that is above the threshold."""
    if threshold is None:
        return NEVER
    if not 0 <= threshold <= 100:
        raise ValueError(f"the threshold {threshold} is outside 0 to 100")
    highest_unmasked = 255 * threshold // 100
    return NEVER if highest_unmasked == 255 else (highest_unmasked + 1) << PRECISION_BITS


def plan_sample(sources: Sequence[DeviceSource], size: int, out: int) -> Plan:
    """Plan the sampling of a batch's network input by Pillow 5's NEAREST.

    Args:
        sources: the images; at least one.
        size: S, the side of the network's input, in pixels.
        out: the address of the input, uint8 [N, S, S, 3]; a multiple of 16.

    Raises:
        ValueError: the kernels don't support an image, an address or a size.
    """
    if not sources or size < 1 or out == 0 or out % 16:
        raise ValueError(f"can't sample {len(sources)} images to {size} pixels a side at {out:#x}")
    if any(s.width < 1 or s.height < 1 or not s.pixels or max(s.width, s.height) >= 2**31 for s in sources):
        raise ValueError("an image to sample is empty, has no address, or has a side of 2^31 pixels or more")
    if any(s.pitch and s.pitch < 3 * s.width for s in sources):
        raise ValueError("a pitch is smaller than a row")
    records = np.array([(s.pixels, s.pitch or 3 * s.width, s.width, s.height) for s in sources], SOURCE)
    sampling = np.zeros(1, SAMPLING)
    sampling["out"], sampling["count"], sampling["size"] = out, len(sources), size
    layout = _Layout()
    parts = ((layout.take(sampling.nbytes), sampling), (layout.take(records.nbytes), records))
    records_nbytes = layout.end
    indices = layout.take(8 * size * len(sources))
    pointers = (
        (sampling["sources"], np.full(1, parts[1][0], np.uint64)),
        (sampling["indices"], np.full(1, indices, np.uint64)),
    )
    launches = (
        Launch("seseg_indices", -(-2 * len(sources) // (32 * WARPS))),
        Launch("seseg_sample", int(_blocks(np.array([-(-len(sources) * size // WARPS)], np.int64))[-1]), WARPS * _up(3 * size, 16)),
    )
    return Plan(launches, records_nbytes, layout.end, parts, pointers)
