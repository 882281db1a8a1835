"""Measure seseg_trt through its public API, and its stages one by one: a worker, see :mod:`benchmarks.workers.protocol`."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from seseg_trt.options import LaneOptions

from .protocol import serve

if TYPE_CHECKING:
    from seseg_trt import Backend

FAKE = "fake"
LIBRARIES = ("seseg_trt", "numpy", "pillow", "openvino", "onnxruntime", "zlib-ng", "tensorrt", "nvidia-dali-cuda130", "pycuda")
In = TypeVar("In")
Out = TypeVar("Out")


class Kept:
    """A backend that stays open after a run, so that the network is loaded once for all rounds, as the peers' are."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.name, self.device = backend.name, backend.device
        self.input_size, self.description = backend.input_size, backend.description
        self.concurrency, self.infer = backend.concurrency, backend.infer

    def close(self) -> None:
        """Do nothing."""


class Ours:
    """The worker: its state between requests, and a method for each request."""

    def __init__(self) -> None:
        self.model = ""
        self.device = "cpu"
        self.backend: Backend | None = None

    def load(self, model_path: str, device: str = "cpu", backend: Any = None, **_: Any) -> dict[str, Any]:
        """Load a model into a backend; the model ``fake`` gives the fake backend, for tests of the harness."""
        start = time.perf_counter()
        self.model, self.device = model_path, device
        if model_path == FAKE:
            from seseg_trt import FakeBackend

            self.backend = FakeBackend()
        else:
            from seseg_trt.backends.select import create_backend
            from seseg_trt.models.cache import find_model

            self.backend = create_backend(find_model(model_path), backend=backend, device=device, throughput=True)
        description = self.backend.description
        return {"seconds": time.perf_counter() - start, "versions": _versions(), "description": description}

    def engine(self, count: int, batch: int = 1, **_: Any) -> dict[str, Any]:
        """Run the network on a batch in the memory that it runs from (the host's or the GPU's), from as many threads as the backend wants."""
        assert self.backend is not None
        side = self.backend.input_size
        images = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)
        once: Callable[[], object] = functools.partial(self.backend.infer, images)
        wait: Callable[[], object] = _nothing
        callers = self.backend.concurrency
        if hasattr(self.backend, "infer_device"):
            once, wait = _on_device(self.backend, images)
            callers = 1
        with ThreadPoolExecutor(callers) as pool:

            def run(times: int) -> float:
                start = time.perf_counter()
                for begun in [pool.submit(once) for _ in range(times)]:
                    begun.result()
                wait()
                return time.perf_counter() - start

            run(callers)
            return {"seconds": run(count), "count": count * batch}

    def files(self, inputs: list[str], output_dir: str, output: Any, threshold: int | None = None) -> dict[str, Any]:
        """Mask files into a new folder.

        On the CPU the seconds are those of the whole call, including the work plan and the journal. On a GPU the call also loads the
        network, so the seconds are those of the run after that.
        """
        from seseg_trt import MaskOptions, RunOptions, segment_files

        assert self.backend is not None
        on_cpu = self.device == "cpu"
        start = time.perf_counter()
        summary = segment_files(
            inputs,
            output_dir,
            model=None if on_cpu else self.model,
            masks=MaskOptions((output,), threshold=threshold),
            options=RunOptions(device=self.device),
            backend=Kept(self.backend) if on_cpu else None,
        )
        seconds = time.perf_counter() - start if on_cpu else summary.seconds
        if summary.done + summary.quarantined != len(inputs):
            raise RuntimeError(f"{len(inputs)} inputs, but {summary.done} done and {summary.quarantined} quarantined")
        written = sum(p.stat().st_size for p in Path(output_dir).rglob("*.png"))
        return {
            "seconds": seconds,
            "count": len(inputs),
            "bytes_out": written,
            "quarantined": summary.quarantined,
            "stages": summary.as_dict()["stages"],
        }

    def stages(self, inputs: list[str], output: Any, threads: int) -> dict[str, Any]:
        """Run the stages of the CPU lane one after the other over all inputs, on some threads; return the seconds of each stage."""
        from seseg_trt import FakeBackend, MaskOptions
        from seseg_trt.lanes.base import Source
        from seseg_trt.lanes.cpu import CPULane
        from seseg_trt.outputs.folder import OutputFolder

        side = self.backend.input_size if self.backend else 256
        lane = CPULane(FakeBackend(side), LaneOptions(MaskOptions((output,))))
        seconds: dict[str, float] = {}
        with ThreadPoolExecutor(threads) as pool, tempfile.TemporaryDirectory(dir=_scratch()) as folder:

            def timed_stage(name: str, work: Callable[[In], Out], items: Sequence[In]) -> list[Out]:
                start = time.perf_counter()
                done = list(pool.map(work, items))
                seconds[name] = time.perf_counter() - start
                return done

            data = timed_stage("read", lambda path: Path(path).read_bytes(), inputs)
            sources = [Source(os.fsencode(path), d) for path, d in zip(inputs, data, strict=True)]
            frames = [f for f in timed_stage("decode", lambda s: lane.decode([s])[0], sources) if not isinstance(f, Exception)]
            for frame in frames:  # not timed: the network is measured as the engine
                lane.infer([frame])
            timed_stage("composite", lambda f: lane.composite([f]), frames)
            encoded = [e for e in timed_stage("encode", lambda f: lane.encode([f])[0], frames) if isinstance(e, Mapping)]
            blobs = [(f"{index}-{kind}", data) for index, e in enumerate(encoded) for kind, data in e.items()]
            for name, durable in (("write", False), ("disk", True)):
                target = OutputFolder(Path(folder) / name, durable=durable)
                target.prepare()
                timed_stage(name, lambda blob: target.write(*blob), blobs)  # noqa: B023 - it is called before the loop goes on
        count, written = len(frames), sum(len(data) for _, data in blobs)
        return {"seconds": sum(seconds.values()), "count": count, "stage_seconds": seconds, "threads": threads, "bytes_out": written}


def _nothing() -> None:
    pass


def _scratch() -> str | None:
    return os.environ.get("SESEG_BENCH_SCRATCH")


def _on_device(backend: Any, images: Any) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return a function that runs the network on images in the GPU's memory, and one that waits for all runs to finish."""
    from seseg_trt.cuda import device as cuda
    from seseg_trt.cuda.array import DevicePool

    device = cuda.open_device(int(backend.device.partition(":")[2] or 0))
    stream = device.stream()
    resident = DevicePool(device).array(images.shape, stream.handle)
    stream.copy_in(resident.address, images)
    stream.synchronize()
    return (lambda: backend.infer_device(resident, stream)), stream.synchronize


def _versions() -> dict[str, str]:
    from seseg_trt import native

    versions = {"python": platform.python_version(), "compiled code": "absent" if native.MODULE is None else "built"}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


if __name__ == "__main__":
    ours = Ours()
    serve({"load": ours.load, "engine": ours.engine, "files": ours.files, "stages": ours.stages})
