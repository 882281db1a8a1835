"""Run the kernels on the host: compile the harness with g++, and run plans on NumPy arrays instead of device memory."""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from seseg_trt.masks import kernel_binary
from seseg_trt.masks.records import RUN, DeviceImage, Plan

HARNESS = Path(__file__).with_name("kernels_host.cpp")
STRICT = ("-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-shared", "-fPIC")

PRIMES = (2, 3, 5, 7, 11, 13, 17, 31, 61, 127, 131, 251, 257, 263, 509, 521, 1021, 1031)

Pixels = npt.NDArray[np.uint8]


def compile_harness(folder: Path, options: tuple[str, ...] = ()) -> Path:
    """Compile the harness into ``folder``; raise AssertionError with the compiler's messages if that fails."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    assert compiler, "a C++ compiler is needed: apt install g++"
    out = folder / "kernels_host.so"
    command = [compiler, *STRICT, *options, f"-I{kernel_binary.FOLDER}", f"-I{kernel_binary.NATIVE}", str(HARNESS), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


class Host:
    """The compiled harness, which runs plans on the host."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))

    def run(self, plan: Plan, in_reverse: bool = False) -> None:
        """Run a plan in a workspace filled with garbage, with the alignment of device memory."""
        memory, at = aligned(plan.workspace_nbytes, 256)
        memory[...] = 0xA5
        records = np.empty(plan.records_nbytes, np.uint8)
        plan.write_records(records, at)
        memory[: plan.records_nbytes] = records
        for launch in plan.launches:
            code = self.library.launch(launch.kernel.encode(), launch.blocks, launch.shared, ctypes.c_void_p(at), int(in_reverse))
            assert code == 0, launch.kernel


def aligned(nbytes: int, alignment: int, offset: int = 0) -> tuple[Pixels, int]:
    """Return an array of exactly ``nbytes`` whose address is ``offset`` above a multiple of ``alignment``, and that address."""
    # For alignments up to 16, which every allocation has, the array ends with its allocation, so a sanitizer detects an overrun.
    store = np.empty(nbytes + (offset if alignment <= 16 else alignment + offset), np.uint8)
    skip = -store.ctypes.data % alignment + offset
    assert skip + nbytes <= store.nbytes
    return store[skip : skip + nbytes], store.ctypes.data + skip


@dataclasses.dataclass
class Case:
    """An image with its map and outputs in arrays. Each row has ``padding`` bytes, and ``offset`` misaligns each address."""

    map: Pixels
    source: Pixels
    outputs: dict[str, Pixels]
    image: DeviceImage
    keep: tuple[Any, ...]

    def untouched_padding(self) -> bool:
        """Return whether the padding between rows is untouched."""
        return all((whole[:, used:] == 0x5A).all() for whole, used in self.keep[-1])


def make_case(
    rng: np.random.Generator,
    width: int,
    height: int,
    size: int = 256,
    outputs: tuple[str, ...] = ("se", "nse", "mask", "bits"),
    padding: int = 0,
    offset: int = 0,
    confidence: Pixels | None = None,
    keys: tuple[tuple[int, int], tuple[int, int]] = ((1, 2), (3, 4)),
) -> Case:
    """Make an image of random pixels, a map (random unless given) and outputs with a known filling."""

    def rows(row_bytes: int) -> tuple[Pixels, Pixels, int]:
        pitch = row_bytes + padding
        flat, address = aligned(height * pitch, 16, offset)
        flat[...] = 0x5A
        whole = flat.reshape(height, pitch)
        return whole, whole[:, :row_bytes], address

    confidence = rng.integers(0, 256, (size, size), dtype=np.uint8) if confidence is None else confidence
    held_map, map_address = aligned(size * size, 16)
    held_map[...] = confidence.reshape(-1)
    whole, source, source_address = rows(3 * width)
    source[...] = rng.integers(0, 256, source.shape, dtype=np.uint8)
    views, addresses, wholes = {}, {}, []
    for name in outputs:
        row_bytes = {"mask": width, "bits": (width + 7) // 8}.get(name, 3 * width)
        whole_output, view, address = rows(row_bytes)
        views[name], addresses[name] = view, address
        wholes.append((whole_output, row_bytes))
    pitches = {
        "source_pitch": 3 * width + padding,
        "color_pitch": 3 * width + padding,
        "mask_pitch": width + padding,
        "bits_pitch": (width + 7) // 8 + padding,
    }
    image = DeviceImage(
        width=width,
        height=height,
        map=map_address,
        source=source_address,
        se_key=keys[0],
        nse_key=keys[1],
        **addresses,
        **(pitches if padding else {}),
    )
    return Case(confidence, source.reshape(height, width, 3), views, image, (held_map, whole, wholes))


def sizes() -> list[tuple[int, int]]:
    """Return over 400 sizes: all edge cases of the kernels, and sizes between them."""
    rng = np.random.default_rng(20)
    found = [(1, 1), (1, 256), (256, 1), (256, 256), (255, 257), (8000, 1), (8000, 31), (1, 2000), (8001, 3), (3, 8001)]
    found += list(itertools.product((1, 2, 3, 4, 5, 15, 16, 17), (1, 2, 3, 4, 5, 255, 256, 300)))
    found += list(zip(PRIMES, reversed(PRIMES), strict=True)) + [(p, p) for p in PRIMES[:14]]
    found += [(w, 40) for w in range(120, 137)] + [(40, h) for h in range(250, 262)]
    found += [(w, 9) for w in (RUN - 1, RUN, RUN + 1, 2 * RUN - 1, 2 * RUN, 2 * RUN + 1, 4 * RUN + 3)]
    found += [(500 + i, 300 - i) for i in range(20)] + [(640, 480), (512, 512), (1280, 96), (100, 1280)]
    # spread evenly over orders of magnitude, or nearly all sizes would be large
    found += [(int(w), int(h)) for w, h in np.exp(rng.uniform(0, np.log(700), (330, 2))).tolist()]
    return found


def expected(case: Case, threshold: int | None, color: tuple[int, int, int] | str, keys: npt.NDArray[np.uint64]) -> dict[str, Pixels]:
    """Return the outputs that Pillow makes."""
    height, width, _ = case.source.shape
    side = case.map.shape[0]
    stretched = Image.fromarray(case.map).resize((width, side), Image.Resampling.BICUBIC)
    mask = np.asarray(stretched.resize((width, height), Image.Resampling.BICUBIC))
    if threshold is not None:
        mask = np.where(mask > 255 * threshold / 100, 255, 0).astype(np.uint8)
    found = {"mask": mask, "bits": np.packbits(mask > 127, axis=1)}
    for name, cover, key in (("se", 255 - mask, keys[0]), ("nse", mask, keys[1])):
        image = Image.fromarray(case.source)
        if color == "random":
            words = np.random.Philox(key=key).random_raw(-(-3 * width * height // 8)).astype("<u8")
            paste: object = Image.fromarray(words.view(np.uint8)[: 3 * width * height].reshape(height, width, 3))
        else:
            paste = color
        image.paste(paste, (0, 0), Image.fromarray(cover))
        found[name] = np.asarray(image).reshape(height, 3 * width)
    return found
