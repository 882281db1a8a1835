"""What tests of whole runs share: small inputs, and trees of outputs to compare."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seseg_trt import Summary
from seseg_trt.journal.journal import Journal


def picture(seed: int = 0, width: int = 24, height: int = 18, file_format: str = "PNG") -> bytes:
    """Return a small picture, another for each seed, as a file's bytes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, file_format)
    return buffer.getvalue()


def make_inputs(folder: Path, count: int, *, bad_every: int = 0) -> Path:
    """Write ``count`` small pictures of odd sizes into ``folder`` and its subfolders; each ``bad_every``-th is no picture."""
    for index in range(count):
        path = folder / (f"sub{index % 3}" if index % 3 else "") / f"image{index:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        bad = bad_every and index % bad_every == bad_every - 1
        path.write_bytes(b"no picture" if bad else picture(index, 16 + index % 7, 12 + index % 5))
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """Return the relative path and the bytes of every file under ``folder``, the run's own state left out."""
    found = {}
    for top, folders, files in os.walk(folder):
        if ".seseg" in folders:
            folders.remove(".seseg")
        for name in files:
            path = os.path.join(top, name)
            found[os.path.relpath(path, folder)] = Path(path).read_bytes()
    return found


def how_many(folder: Path) -> int:
    """Return how many finished files are under the folder of a run that goes on, whose temporary files come and go."""
    return sum(not name.endswith(".tmp") for top, _, names in os.walk(folder) if ".seseg" not in Path(top).parts for name in names)


def counts(summary: Summary) -> tuple[int, int, int, int]:
    """Return how many inputs were done, skipped, quarantined and left."""
    return summary.done, summary.skipped, summary.quarantined, summary.left


def states(journal: Journal) -> dict[str, int]:
    """Return how many rows of a journal are in each state."""
    return dict(Counter(row.state for row in journal.rows()))


def records(target: Path) -> dict[str, str]:
    """Return the reason of each quarantined input by its path."""
    lines = (target / ".seseg" / "quarantine.jsonl").read_text(encoding="ascii").splitlines()
    return {record["path"]: record["reason"] for record in map(json.loads, lines)}


needs_scale = pytest.mark.scale
"""For tests of object stores and Parquet results."""


def make_tar(target: Path, folder: Path, files: Sequence[Path] | None = None, *, tar_format: int = tarfile.GNU_FORMAT) -> Path:
    """Write a tar of a folder's files (all of them, in the order of their names), by their names in it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    chosen = sorted(path for path in folder.rglob("*") if path.is_file()) if files is None else files
    with tarfile.open(target, "w", format=tar_format, encoding="utf-8", errors="surrogateescape") as tar:
        for path in chosen:
            tar.add(path, str(path.relative_to(folder)))
    return target
