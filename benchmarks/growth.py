"""Measure how the cost of a run grows with the number of images, and that of an image with its size, each point in a fresh process."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

from seseg_trt.storage.atomic import atomic_write

from . import machine, models
from .cases import OURS, Case
from .contestant import Settings, output_folder
from .images import ImageSet, Prepared, describe, draw, jpeg, prepare
from .process import Worker
from .records import Record

COUNTS = (10, 100, 1_000, 10_000)
MEGAPIXELS = (0.05, 0.2, 1.0, 3.0, 12.0, 36.0, 100.0)
NETWORK = "demo"
"""The small network: with the full-size one, the network alone would dominate every curve."""
UNIQUE = 20
TILE = 1024


def images(settings: Settings, run: str, counts: tuple[int, ...] = COUNTS, network: str = NETWORK) -> list[Record]:
    """Measure runs over growing numbers of 512 x 512 images, to masks.

    The images are hard links to a few different ones.

    Args:
        settings: the settings of the run.
        run: the name of the run, for the records.
        counts: the numbers of images.
        network: ``demo``, or another network of :class:`benchmarks.cases.Case`.
    """
    case = Case(OURS, "end_to_end", network=network, images="512x512", output="mask")
    base = prepare(ImageSet("growth", ((512, 512),), UNIQUE, seed=8), settings.cache)
    records = []
    for count in counts:
        settings.tell(f"growth: {count} images")
        with output_folder(settings) as folder:
            paths = []
            for index in range(count):
                paths.append(folder / f"{index:06d}.jpg")
                os.link(base.paths[index % UNIQUE], paths[-1])
            facts = {**base.facts, "count": count, "megapixels": base.facts["megapixels"] * count / UNIQUE}
            prepared = Prepared("512x512", folder, tuple(map(str, paths)), facts)
            records.append(
                _point(dataclasses.replace(case, count=count), prepared, settings, run, "growth-images", rounds=3 if count < 5000 else 1)
            )
    return records


def megapixels(settings: Settings, run: str, sizes: tuple[float, ...] = MEGAPIXELS, network: str = NETWORK) -> list[Record]:
    """Measure images of growing size (4:3), to ``se``.

    Args:
        settings: the settings of the run.
        run: the name of the run, for the records.
        sizes: the sizes of the images, in megapixels.
        network: ``demo``, or another network of :class:`benchmarks.cases.Case`.
    """
    case = Case(OURS, "end_to_end", network=network, output="se")
    records = []
    for size in sizes:
        settings.tell(f"growth: {size} megapixels")
        count = max(3, min(24, round(48 / size)))
        path = _drawn(size, settings.cache)
        prepared = Prepared(f"{size:g} MP", path.parent, (str(path),), describe([path]))
        with output_folder(settings) as folder:
            links = []
            for index in range(count):
                links.append(folder / f"{index:03d}.jpg")
                os.link(path, links[-1])
            facts = {**prepared.facts, "count": count, "megapixels": prepared.facts["megapixels"] * count}
            linked = dataclasses.replace(prepared, paths=tuple(map(str, links)), facts=facts)
            point = dataclasses.replace(case, images=prepared.name, count=count)
            records.append(_point(point, linked, settings, run, "growth-megapixels", rounds=3))
    return records


def _drawn(size: float, cache: Path) -> Path:
    """Draw a 4:3 image of a size in megapixels, unless it is cached; a large one repeats a tile, which no stage is sensitive to."""
    import numpy as np

    height = max(1, round((size * 1e6 * 3 / 4) ** 0.5))
    width = round(height * 4 / 3)
    target = cache / "images" / "sizes" / f"{size:g}.jpg"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        tile = draw(min(width, 2 * TILE), min(height, 2 * TILE), 9, 0)
        tiled = np.tile(tile, (-(-height // tile.shape[0]), -(-width // tile.shape[1]), 1))[:height, :width]
        with atomic_write(target) as file:
            file.write(jpeg(np.ascontiguousarray(tiled)))
    return target


def _point(case: Case, images_of: Prepared, settings: Settings, run: str, contest: str, rounds: int) -> Record:
    """Measure one point in a fresh process, so that its peak memory is not that of another point."""
    model = models.find(case, "graph", settings.cache)
    described, before = machine.describe(), machine.clock_state()
    log = settings.cache / "logs" / "growth.txt"
    samples: list[float] = []
    with Worker([sys.executable, "-m", "benchmarks.workers.ours"], log) as worker:
        loaded = worker.ask("load", model_path=model.path)
        for number in range(rounds + 1):
            with output_folder(settings) as folder:
                inputs = list(images_of.paths[: 2 if number == 0 else None])
                answer = worker.ask("files", inputs=inputs, output_dir=str(folder), output=case.output, timeout=7200)
            if number:
                samples.append(answer["seconds"] / answer["count"])
    facts: dict[str, Any] = {key: answer[key] for key in ("count", "cpu_seconds", "peak_rss", "bytes_out", "quarantined", "stages")}
    return Record(
        run=run,
        suite=settings.suite,
        contest=contest,
        case={**dataclasses.asdict(case), "name": f"{case.name}/{case.count}"},
        kind=machine.kind(described),
        samples=tuple(float(f"{s:.6g}") for s in samples),
        facts={**facts, "images": {"set": images_of.name, **images_of.facts}, "model": model.facts},
        machine=described,
        versions=loaded["versions"],
        clock=machine.clock_change(before, machine.clock_state()),
        commit=machine.commit(),
    )
