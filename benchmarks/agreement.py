"""Compare our masks with those of the original program, with and without the drift of JPEG decoders."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .cases import OURS
from .contestant import Contestant, Settings, output_folder
from .process import WorkerError

IMAGES = 6
IMAGES_QUICK = 2
THRESHOLD = 50


def measure(contestants: Sequence[Contestant], settings: Settings) -> dict[str, dict[str, Any]]:
    """Mask the same files with the original program and with ours, and compare the results.

    The masks, at a threshold of 50, are compared twice: from PNGs, where both programs read the same pixels, and from JPEGs, where their
    decoders differ as well.

    Returns:
        For each end-to-end case of ours, by name: ``images``, the number of images; ``threshold``, in percent; ``iou_same_pixels`` and
        ``iou_same_files``, the pooled IoU from PNGs and from JPEGs; ``se_bytes_within_1``, the share of bytes that differ by at most 1
        in ``se`` outputs from PNGs without a threshold; ``marked``, the share of pixels that the original program marks. Empty if a
        program could not be run.
    """
    original = next((c for c in contestants if c.case.who == "original" and c.case.figure == "end_to_end" and not c.failed), None)
    ours = [c for c in contestants if c.case.who == OURS and c.case.figure == "end_to_end" and not c.failed]
    if original is None or original.images is None or not ours:
        return {}
    settings.tell("comparing our masks with the original program's")
    found: dict[str, dict[str, Any]] = {}
    measured: dict[int, dict[str, Any]] = {}
    with output_folder(settings) as folder:
        jpegs = [Path(p) for p in original.images.paths[: IMAGES_QUICK if settings.suite == "quick" else IMAGES]]
        pngs = _as_png(jpegs, folder / "png")
        try:
            reference = _masks(original, jpegs, pngs, folder / "original")
            for contestant in ours:
                key = id(contestant.worker)
                if key not in measured:
                    measured[key] = _compare(reference, _masks(contestant, jpegs, pngs, folder / f"ours{key}"))
                found[contestant.case.name] = measured[key]
        except WorkerError as error:
            settings.tell(f"the masks could not be compared: {error}")
    return found


def _as_png(jpegs: list[Path], folder: Path) -> list[Path]:
    from PIL import Image

    folder.mkdir()
    targets = []
    for path in jpegs:
        targets.append(folder / f"{path.stem}.png")
        Image.open(io.BytesIO(path.read_bytes())).convert("RGB").save(targets[-1])
    return targets


def _masks(contestant: Contestant, jpegs: list[Path], pngs: list[Path], folder: Path) -> dict[str, list[npt.NDArray[np.uint8]]]:
    from PIL import Image

    results = {}
    for name, inputs, output, threshold in (
        ("same_pixels", pngs, "mask", THRESHOLD),
        ("same_files", jpegs, "mask", THRESHOLD),
        ("se", pngs, "se", None),
    ):
        target = folder / name
        target.mkdir(parents=True)
        contestant.worker.ask("files", inputs=[str(p) for p in inputs], output_dir=str(target), output=output, threshold=threshold)
        results[name] = [np.asarray(Image.open(p)) for p in sorted(target.glob("*.png"))]
    return results


def _compare(theirs: dict[str, list[npt.NDArray[np.uint8]]], ours: dict[str, list[npt.NDArray[np.uint8]]]) -> dict[str, Any]:
    near = total = 0
    for a, b in zip(theirs["se"], ours["se"], strict=True):
        near += int((np.abs(a.astype(np.int16) - b) <= 1).sum())
        total += a.size
    return {
        "images": len(theirs["se"]),
        "threshold": THRESHOLD,
        "iou_same_pixels": pooled_iou(theirs["same_pixels"], ours["same_pixels"]),
        "iou_same_files": pooled_iou(theirs["same_files"], ours["same_files"]),
        "se_bytes_within_1": round(near / total, 6),
        "marked": round(float(np.mean([m.mean() / 255 for m in theirs["same_pixels"]])), 4),
    }


def pooled_iou(theirs: Sequence[npt.NDArray[np.uint8]], ours: Sequence[npt.NDArray[np.uint8]]) -> float:
    """Return the IoU of two lists of masks, pooled over all images; 1 if nothing is marked in either.

    Args:
        theirs, ours: masks, uint8 [H, W] each, not 0 where marked.
    """
    both = sum(int(((a > 0) & (b > 0)).sum()) for a, b in zip(theirs, ours, strict=True))
    either = sum(int(((a > 0) | (b > 0)).sum()) for a, b in zip(theirs, ours, strict=True))
    return round(both / either, 6) if either else 1.0
