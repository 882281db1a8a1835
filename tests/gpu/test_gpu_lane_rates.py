"""How fast the GPU lane is from JPEG bytes on: each step alone, all overlapped, with damaged files among them.

Without a disk: bytes go in from memory, and results are counted and dropped. ``SESEG_GPU_MODEL`` names the graph (default: the demonstration
network, which is far smaller than the full one: the engine is then hardly ever the bottleneck). These are measurements with a floor on
the ratios; figures go into the record.
"""

from __future__ import annotations

import dataclasses
import io
import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seseg_trt import MaskOptions
from seseg_trt.backends.tensorrt import TensorRTBackend
from seseg_trt.backends.tensorrt_build import build_plan
from seseg_trt.cuda import device as cuda
from seseg_trt.errors import BadImage
from seseg_trt.lanes.base import Frame, Source
from seseg_trt.lanes.gpu import GPULane, open_gpu_lane
from seseg_trt.models.plan_identity import BuildOptions, Runtime
from seseg_trt.options import DecodeOptions, EncodeOptions, LaneOptions
from seseg_trt.run.pipeline import Pipeline, Stage

from ..seseg_trt.backends.test_tensorrt_build import DEMO, to_fp16

pytestmark = [pytest.mark.gpu, pytest.mark.dali, pytest.mark.ort, pytest.mark.timeout(900)]

WORKERS = max(2, min(8, len(os.sched_getaffinity(0)) // 2))
IMAGES = 1024
SIZES = [(1280, 960), (512, 512)]
GOALS = {"mask_png": (("mask",), "png", 50), "se_jpg": (("se",), "jpg", None), "nothing": ((), "png", None)}


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    given = os.environ.get("SESEG_GPU_MODEL")
    graph = Path(given) if given else to_fp16(DEMO, folder / "demo.fp16.onnx")
    build_plan(graph, folder / "lane.plan", BuildOptions(profiles=((1, 1, 1), (1, 64, 64))))
    return folder / "lane.plan"


@pytest.fixture
def backend(need_runtime: Callable[[Runtime], None], request: pytest.FixtureRequest) -> Iterator[TensorRTBackend]:
    need_runtime("tensorrt")
    backend = TensorRTBackend(request.getfixturevalue("plan"))
    backend.warm_up(64)
    yield backend
    backend.close()


def photographs(width: int, height: int, count: int) -> list[Source]:
    """Return JPEGs of quality 85: a photograph that ships with the project, cut and turned, with noise; 16 different ones in turn."""
    rng, paths = np.random.default_rng(5), sorted(DEMO.parent.glob("images/photo_*.jpg"))
    different = []
    for index in range(16):
        image = Image.open(paths[index % len(paths)]).convert("RGB").rotate(90 * (index // 4))
        pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
        pixels += rng.integers(-4, 5, pixels.shape, dtype=np.int16)
        buffer = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
        different.append(buffer.getvalue())
    return [Source(str(index).encode(), different[index % len(different)]) for index in range(count)]


def damaged(sources: Sequence[Source]) -> list[Source]:
    """Return the same with every twentieth damaged: some end too early, in the others a table of codes, which only decoders read, is broken."""
    found = list(sources)
    for index in range(7, len(found), 20):
        data = found[index].data
        table = data.index(b"\xff\xc4") + 5
        worse = data[: len(data) // 2] if index % 40 == 7 else data[:table] + b"\xff" + data[table + 1 :]
        found[index] = Source(found[index].identity, worse)
    return found


@dataclasses.dataclass
class Job:
    source: Source
    frame: Any = None
    bad: BadImage | None = None


def rate(count: int, work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return count / (time.perf_counter() - start)


def steps_alone(lane: GPULane, sources: list[Source]) -> dict[str, float]:
    """Return each step's images a second, with nothing else at work: in threads as many as it has in a run."""
    batches = [sources[i : i + lane.batch_size] for i in range(0, len(sources), lane.batch_size)]
    frames: list[list[Frame]] = []
    with ThreadPoolExecutor(WORKERS) as pool:

        def decode() -> None:
            frames.extend([f for f in found if isinstance(f, Frame)] for found in pool.map(lane.decode, batches))

        rates = {"decode": rate(len(sources), decode)}
        rates["infer"] = rate(len(sources), lambda: [lane.infer(batch) for batch in frames])
        rates["composite"] = rate(len(sources), lambda: list(pool.map(lane.composite, frames)))
        rates["encode"] = rate(len(sources), lambda: list(pool.map(lane.encode, frames)))
    return rates


def overlapped(lane: GPULane, sources: list[Source]) -> tuple[float, int]:
    """Return images a second with all steps at work at once, and how many were refused."""

    def decode(batch: list[Job]) -> None:
        for job, found in zip(batch, lane.decode([job.source for job in batch]), strict=True):
            if isinstance(found, BadImage):
                job.bad = found
            else:
                job.frame = found

    def each(step: Callable[[list[Frame]], object]) -> Callable[[list[Job]], None]:
        def work(batch: list[Job]) -> None:
            step([job.frame for job in batch])

        return work

    size = lane.batch_size
    pipeline = Pipeline(
        (Job(source) for source in sources),
        [
            Stage("decode", decode, workers=WORKERS, batch=size, capacity=size),
            Stage("infer", each(lane.infer), batch=size, capacity=size),
            Stage("composite", each(lane.composite), workers=2, batch=size, capacity=size),
            Stage("encode", each(lane.encode), workers=WORKERS, batch=size, capacity=size),
        ],
        lambda job: job.bad is not None,
    )
    start = time.perf_counter()
    jobs = [job for job in pipeline if job is not None]
    elapsed = time.perf_counter() - start
    assert len(jobs) == len(sources) == len({job.source.identity for job in jobs})
    return len(sources) / elapsed, sum(job.bad is not None for job in jobs)


def memory_in_use() -> int:
    device = cuda.open_device(0)
    with device.active():
        free, total = device.pycuda.mem_get_info()
    return int(total - free)


def open_lane(backend: TensorRTBackend, goal: str) -> GPULane:
    outputs, image_format, threshold = GOALS[goal]
    masks = MaskOptions(outputs, threshold=threshold)  # type: ignore[arg-type]
    return open_gpu_lane(backend, LaneOptions(masks, DecodeOptions(decoder="dali"), EncodeOptions(image_format)))  # type: ignore[arg-type]


@pytest.mark.parametrize("goal", list(GOALS))
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_overlapped_against_the_slowest_step(
    backend: TensorRTBackend, width: int, height: int, goal: str, record_property: Callable[[str, object], None]
) -> None:
    lane, sources = open_lane(backend, goal), photographs(width, height, IMAGES)
    steps_alone(lane, sources[: 4 * lane.batch_size])  # allocates, builds pipelines
    overlapped(lane, sources[: 4 * lane.batch_size])
    alone = [steps_alone(lane, sources) for _ in range(2)]
    cpu, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    together = [overlapped(lane, sources)[0] for _ in range(3)]
    used, seconds = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - start
    best = {step: max(found[step] for found in alone) for step in alone[0]}
    if goal == "nothing":
        del best["composite"], best["encode"]  # there is nothing to do
    bottleneck = min(best, key=lambda step: best[step])
    record_property("network", backend.identity.network)
    record_property("gpu", cuda.open_device(0).gpu.name)
    record_property("images_per_s_alone", {step: round(value) for step, value in best.items()})
    record_property("images_per_s_overlapped", [round(value) for value in together])
    record_property("bottleneck", bottleneck)
    record_property("host_cores", round((used.ru_utime + used.ru_stime - cpu.ru_utime - cpu.ru_stime) / seconds, 2))
    record_property("device_memory_gib", round(memory_in_use() / 2**30, 2))
    assert np.median(together) >= 0.9 * best[bottleneck], f"{bottleneck} alone: {best[bottleneck]:.0f}, overlapped: {together}"


def test_damaged_files_cost_little(backend: TensorRTBackend, record_property: Callable[[str, object], None]) -> None:
    lane, clean = open_lane(backend, "mask_png"), photographs(1280, 960, IMAGES)
    some_bad = damaged(clean)
    overlapped(lane, some_bad[: 4 * lane.batch_size])
    rates: dict[str, list[float]] = {"clean": [], "bad": []}
    for _ in range(3):
        rates["clean"].append(overlapped(lane, clean)[0])
        found, refused = overlapped(lane, some_bad)
        rates["bad"].append(found)
        assert refused == sum(one.data != other.data for one, other in zip(clean, some_bad, strict=True))
    share = float(np.median(rates["bad"]) / np.median(rates["clean"]))
    record_property("images_per_s", {name: [round(value) for value in values] for name, values in rates.items()})
    record_property("share_of_the_clean_rate", round(share, 3))
    assert share >= 0.9
