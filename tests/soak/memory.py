"""Measure the peak memory of runs of the command line, each in a separate process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tests.runs import picture

MIB = 1 << 20


def peak_of(inputs: Path, output: Path, *options: str) -> int:
    """Mask a folder with the demonstration network; return the peak resident memory of the process, in bytes."""
    command = [sys.executable, "-m", "seseg_trt", "segment", "--model", "demo", "--quiet", *options, str(inputs), str(output)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, process.returncode
    return usage.ru_maxrss * 1024


def write_small(folder: Path, count: int) -> Path:
    """Write ``count`` small JPEGs, a thousand to a folder; return ``folder``."""
    blobs = [picture(seed, 96, 64, "JPEG") for seed in range(50)]
    for index in range(count):
        path = folder / f"{index // 1000:03d}" / f"{index:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blobs[index % len(blobs)])
    return folder


def write_large(folder: Path, side: int) -> Path:
    """Write one JPEG of side x side pixels, smooth with some noise; return ``folder``."""
    folder.mkdir(parents=True)
    y, x = np.ogrid[0:side, 0:side]
    pixels = np.empty((side, side, 3), np.uint8)
    for channel, (across, down) in enumerate(((40, 1000), (1000, 37), (50, 50))):
        pixels[..., channel] = x // across + y // down
    pixels[::7, ::5] ^= np.random.default_rng(0).integers(0, 64, pixels[::7, ::5].shape, dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "large.jpg", quality=90)
    return folder


def many_images(folder: Path, few: int, many: int) -> dict[str, object]:
    """Compare the peak memory of a run over ``many`` small images with one over ``few``.

    Raises:
        AssertionError: it is more than a tenth higher.
    """
    peaks = [peak_of(write_small(folder / f"in{count}", count), folder / f"out{count}") for count in (few, many)]
    assert peaks[1] <= 1.1 * peaks[0], [peak // MIB for peak in peaks]
    return {f"peak MiB, {count} small images": peak // MIB for count, peak in zip((few, many), peaks, strict=True)}


def large_image(folder: Path, side: int, above: int, kinds: tuple[str, ...] = ("se", "mask", "se,nse,mask")) -> dict[str, object]:
    """Compare the peak memory of a run over one image of side x side pixels with one over a tiny image, for each kind of outputs.

    Raises:
        AssertionError: it is more than ``above`` bytes higher.
    """
    idle = peak_of(write_small(folder / "tiny", 1), folder / "tiny-out")
    inputs = write_large(folder / "large", side)
    record: dict[str, object] = {"peak MiB, one tiny image": idle // MIB}
    for outputs in kinds:
        peak = peak_of(inputs, folder / f"large-{outputs}", "--output_type", outputs)
        assert peak - idle <= above, (outputs, peak // MIB, idle // MIB)
        record[f"peak MiB, one JPEG of {side * side / 1e6:g} megapixels to {outputs}"] = peak // MIB
    return record
