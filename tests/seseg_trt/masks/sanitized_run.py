"""Run every kernel under the sanitizers, with a separate allocation for each buffer. Started by test_kernels_sanitized."""

from __future__ import annotations

import ctypes
import sys

import numpy as np
import numpy.typing as npt

from seseg_trt.masks.launches import plan_composite, plan_sample
from seseg_trt.masks.records import BATCH, IMAGE, DeviceSource, Plan

from .kernel_host import aligned, make_case

SHAPES = [(1, 1), (1, 300), (300, 1), (2, 2), (3, 5), (16, 255), (17, 257), (127, 128), (513, 7), (31, 600)]
SHAPES += [(700, 300), (2001, 3), (131, 90), (302, 50), (405, 9)]
PREFIXES = ("table_blocks", "stretch_blocks", "shrink_blocks", "composite_blocks", "pack_blocks")


def wide(coordinates: int, size: int) -> int:
    """Return the size of the weights of an axis that shrinks, as defined in compositing.h, in bytes."""
    return 4 * coordinates * (2 + 2 * -(-2 * size // coordinates) + 1)


def scattered(plan: Plan) -> tuple[int, list[npt.NDArray[np.uint8]]]:
    """Move each part of a plan's workspace to an allocation of its exact size; return the argument's address."""
    _, base = aligned(plan.workspace_nbytes, 256)
    records = np.empty(plan.records_nbytes, np.uint8)
    plan.write_records(records, base)
    held = [records]
    batch = records[: BATCH.itemsize].view(BATCH)[0]
    count, size = int(batch["count"]), int(batch["size"])
    for name in ("images", *PREFIXES):
        start = int(batch[name]) - base
        held.append(records[start : start + (IMAGE.itemsize * count if name == "images" else 4 * (count + 1))].copy())
        batch[name] = held[-1].ctypes.data
    for image in held[1].view(IMAGE):
        width, height, pitch = int(image["width"]), int(image["height"]), int(image["pitch"])
        sizes = {
            "columns": 16 * width,
            "rows": 16 * height,
            "wide_columns": wide(width, size),
            "wide_rows": wide(height, size),
            "stretched": size * pitch,
            "shrunk": max(height, 4) * pitch,
        }
        for name, nbytes in sizes.items():
            if image[name]:
                piece, image[name] = aligned(nbytes, 16)
                piece[...] = 0xA5
                held.append(piece)
    return records.ctypes.data, held


def main(path: str) -> None:
    """Run all kernels. A sanitizer ends the process at the first error."""
    library = ctypes.CDLL(path)

    def launch(plan: Plan, argument: int) -> None:
        for kernel in plan.launches:
            for in_reverse in (0, 1):
                code = library.launch(kernel.kernel.encode(), kernel.blocks, kernel.shared, ctypes.c_void_p(argument), in_reverse)
                assert code == 0

    rng = np.random.default_rng(5)
    for threshold, color, size in [
        (None, (1, 2, 3), 256),
        (50, (9, 8, 7), 256),
        (None, "random", 256),
        (0, "random", 8),
        (100, (0, 0, 0), 8),
    ]:
        for padding, offset in ((0, 0), (5, 0), (16, 0), (0, 3), (0, 4)):
            outputs = ("se", "nse", "mask") if threshold is None else ("se", "nse", "mask", "bits")
            cases = [make_case(rng, w, h, size=size, outputs=outputs, padding=padding, offset=offset) for w, h in SHAPES]
            plan = plan_composite([c.image for c in cases], size, threshold, color)
            argument, held = scattered(plan)
            launch(plan, argument)
            assert held and all(c.untouched_padding() for c in cases)
    for size in (256, 100):
        images = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for w, h in SHAPES]
        out = np.empty((len(images), size, size, 3), np.uint8)
        plan = plan_sample([DeviceSource(i.shape[1], i.shape[0], i.ctypes.data) for i in images], size, out.ctypes.data)
        memory, base = aligned(plan.workspace_nbytes, 256)
        plan.write_records(memory[: plan.records_nbytes], base)
        launch(plan, base)


if __name__ == "__main__":
    main(sys.argv[1])
    sys.stdout.write("clean\n")
