"""Run all tests and measurements that need a GPU: ``python -m benchmarks.gpu_check`` (``make gpu-check``).

It runs the GPU tests, compares the masks of each GPU backend with the CPU's FP32 masks, measures the engine alone, and runs the GPU
contest of the benchmarks. It writes ``gpu-check.json`` and ``gpu-check.md``. Without a GPU it says so, writes the same files with what is
missing, and exits with 0.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from seseg_trt.backends.select import create_backend
from seseg_trt.doctor import diagnose
from seseg_trt.errors import DeviceError, SesegError
from seseg_trt.models import cache
from seseg_trt.models.artifact import Artifact
from seseg_trt.options import BackendName
from seseg_trt.storage.atomic import atomic_write

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SECONDS_A_BATCH = 2.0
LEAST_REPEATS = 5
GPU_BACKENDS: tuple[BackendName, ...] = ("tensorrt", "rtx", "onnxruntime")
TESTS = Path(__file__).parent.parent / "tests" / "gpu"
CONTEST_SECONDS = 1500.0


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the record. Default: $OUT, or benchmarks/results/gpu-check.")
@click.option("--model", "models", multiple=True, default=("demo",), show_default=True, help="A model to measure; may be repeated.")
@click.option("--device", default="cuda:0", show_default=True)
@click.option("--contest/--no-contest", default=True, show_default=True, help="Run `python -m benchmarks run gpu` as well.")
def main(out: Path | None, models: tuple[str, ...], device: str, contest: bool) -> None:
    """Run all GPU tests and measurements, and write the results as JSON and as a Markdown table."""
    out = out or Path(os.environ.get("OUT") or Path(__file__).parent / "results" / "gpu-check")
    out.mkdir(parents=True, exist_ok=True)
    record = describe()
    if record["gpu"] is None:
        click.secho(f"NO GPU TESTS WERE RUN: {record['no_gpu']}", fg="yellow", bold=True)
    else:
        click.echo(f"GPU: {record['gpu']}, driver {record['driver']}")
        record["tests"] = run_tests()
        record["ceilings"] = ceilings(device)
        record["backends"] = [
            measured for model in models for measured in measure_model(cache.find_model(model), device, record["ceilings"])
        ]
        if contest:
            record["contest"] = run_contest(out)
    with atomic_write(out / "gpu-check.json") as file:
        file.write((json.dumps(record, indent=1) + "\n").encode())
    table = as_table(record)
    with atomic_write(out / "gpu-check.md") as file:
        file.write(table.encode())
    click.echo(table)
    sys.exit(1 if record.get("tests", {}).get("failed") else 0)


def describe() -> dict[str, Any]:
    """Describe this machine and checkout: GPU and driver (or why there is none), what `seseg-trt doctor` finds, Python, commit, date."""
    from seseg_trt.cuda.driver import driver_report

    record: dict[str, Any] = {"date": time.strftime("%Y-%m-%d", time.gmtime()), "commit": _commit(), "python": platform.python_version()}
    try:
        report = driver_report()
        if not report.gpus:
            raise DeviceError("the driver shows no GPU")
        gpu = report.gpus[0]
        record |= {
            "gpu": f"{gpu.name} ({gpu.sm}, {gpu.memory / 2**30:.0f} GiB)",
            "driver": report.driver,
            "cuda": ".".join(map(str, report.cuda)),
        }
    except DeviceError as error:
        record |= {"gpu": None, "driver": None, "no_gpu": error.message}
    record["chains"] = {chain.name: "yes" if chain.ok else f"no: {chain.broken.detail if chain.broken else ''}" for chain in diagnose()}
    return record


def _commit() -> str:
    result = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=TESTS.parent, check=False)
    return result.stdout.strip() or "unknown"


def run_tests() -> dict[str, Any]:
    """Run the tests that need a GPU, and return their results as of :func:`read_junit`."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", str(TESTS), f"--junit-xml={report}"]
        subprocess.run(command, check=False, cwd=TESTS.parent.parent)
        return read_junit(report)


def read_junit(report: Path) -> dict[str, Any]:
    """Read pytest's JUnit XML.

    Returns:
        ``passed``, a count; ``failed`` and ``skipped``, the reason by test name; ``figures``, the recorded properties by test name.
    """
    found: dict[str, Any] = {"passed": 0, "failed": {}, "skipped": {}, "figures": {}}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        bad = next((element for kind in ("failure", "error") for element in case.findall(kind)), None)
        skipped = case.find("skipped")
        if bad is not None:
            found["failed"][name] = (bad.get("message") or "").splitlines()[:1]
        elif skipped is not None:
            found["skipped"][name] = skipped.get("message")
        else:
            found["passed"] += 1
        for item in case.iter("property"):
            found["figures"].setdefault(name, {})[item.get("name")] = item.get("value")
    return found


def run_contest(out: Path, arguments: Sequence[str] = ("gpu",), seconds: float = CONTEST_SECONDS) -> dict[str, Any]:
    """Run a contest of the benchmarks in a separate process.

    Args:
        out: the folder for its records.
        arguments: the contest, and options of ``python -m benchmarks run``.
        seconds: the time limit.

    Returns:
        ``failed``, the reason or None; ``cases``, by case name, the median and the samples or why the case is absent.
    """
    from .records import read

    known = {record.run for record in read(out)}
    command = [sys.executable, "-m", "benchmarks", "run", *arguments, "--out", str(out.resolve())]
    try:
        done = subprocess.run(command, cwd=TESTS.parent.parent, check=False, timeout=seconds)
        failed = f"it ended with exit code {done.returncode}" if done.returncode else None
    except subprocess.TimeoutExpired:
        failed = f"it took longer than {seconds:g} s"
    cases = {
        record.case["name"]: {"absent": record.absent} if record.absent else {"median": record.median, "samples": record.samples}
        for record in read(out)
        if record.run not in known
    }
    return {"failed": failed, "cases": cases}


def ceilings(device: str) -> dict[str, float | None]:
    """Measure the GPU's limits with PyTorch: a large FP16 matrix product (TFLOP/s) and a copy in device memory (GB/s, read + written).

    Both are None without PyTorch.
    """
    try:
        import torch
    except ImportError:
        return {"fp16_tflops": None, "copy_gb_s": None}
    n = 8192
    a, b = (torch.randn(n, n, device=device, dtype=torch.float16) for _ in range(2))
    source = torch.randn(1 << 28, device=device)
    target = torch.empty_like(source)

    def seconds(work: Callable[[], Any]) -> float:
        times = []
        for _ in range(12):
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record()
            work()
            after.record()
            torch.cuda.synchronize()
            times.append(before.elapsed_time(after) / 1e3)
        return float(np.median(times[2:]))

    return {
        "fp16_tflops": 2 * n**3 / seconds(lambda: a @ b) / 1e12,
        "copy_gb_s": 2 * source.nbytes / seconds(lambda: target.copy_(source)) / 1e9,
    }


def measure_model(artifact: Artifact, device: str, limits: dict[str, float | None]) -> list[dict[str, Any]]:
    """Measure each GPU backend on a model: the IoU with the CPU's masks, the rate of the engine alone, and the latency.

    Args:
        artifact: the model.
        device: the GPU, e.g. ``cuda:0``.
        limits: as of :func:`ceilings`.

    Returns:
        An entry for each backend; if it can't run here, the entry has the reason.
    """
    inputs = random_inputs(max(BATCHES), artifact.input_size)
    reference = create_backend(artifact, device="cpu").infer(inputs[:8])
    measured = []
    for name in GPU_BACKENDS:
        entry: dict[str, Any] = {"model": str(artifact), "backend": name, "precision": artifact.precision}
        try:
            backend = create_backend(artifact, backend=name, device=device)
        except SesegError as error:
            measured.append({**entry, "runs": False, "reason": error.message})
            continue
        entry |= {"runs": True, "description": backend.description, "iou_against_cpu": iou(backend.infer(inputs[:8]), reference)}
        entry["rates"] = {str(batch): rate(resident(backend, inputs[:batch]), batch) for batch in BATCHES}
        entry["latency_ms_batch_1"] = 1e3 / entry["rates"]["1"]
        if limits["fp16_tflops"]:
            macs = count_macs(artifact)
            entry["share_of_fp16_product"] = max(entry["rates"].values()) * 2 * macs / (limits["fp16_tflops"] * 1e12)
        backend.close()
        measured.append(entry)
    return measured


def count_macs(artifact: Artifact) -> int:
    """Return the multiply-accumulate operations for one image, counted from the graph."""
    from .macs import count

    return count(artifact.path).macs


def random_inputs(count: int, size: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Make network inputs, uint8 [count, size, size, 3]: blocks of colour with noise, since a GPU is faster on constant data."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8).repeat(-(-size // 8), 1).repeat(-(-size // 8), 2)[:, :size, :size]
    noisy: np.ndarray[Any, np.dtype[np.uint8]] = np.clip(blocks.astype(np.int16) + rng.integers(-20, 21, blocks.shape), 0, 255).astype(
        np.uint8
    )
    return noisy


def iou(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any], threshold: int = 50) -> float:
    """Return the pooled IoU of two stacks of confidence maps, uint8 [N, S, S], at a threshold in percent; 1.0 if both are empty."""
    a, b = one.astype(np.int32) * 100 > 255 * threshold, other.astype(np.int32) * 100 > 255 * threshold
    union = int(np.sum(a | b))
    return int(np.sum(a & b)) / union if union else 1.0


def resident(backend: Any, inputs: np.ndarray[Any, Any]) -> Callable[[int], None]:
    """Return a function that runs a batch a number of times: from device memory if the backend can, else from the host.

    Args:
        backend: the backend.
        inputs: uint8 [N, S, S, 3].
    """
    if not hasattr(backend, "infer_device"):

        def run_from_the_host(times: int) -> None:
            for _ in range(times):
                backend.infer(inputs)

        return run_from_the_host
    from seseg_trt.cuda.device import open_device
    from seseg_trt.cuda.driver import parse_device

    device = open_device(parse_device(backend.device))
    stream, images = device.stream(), device.allocate(inputs.nbytes)
    stream.copy_in(images.address, inputs)
    stream.synchronize()

    class View:
        __cuda_array_interface__ = {"shape": inputs.shape, "typestr": "|u1", "data": (images.address, False), "version": 3, "strides": None}  # noqa: RUF012
        memory = images

    def run(times: int) -> None:
        out = None
        for _ in range(times):
            out = backend.infer_device(View(), stream, out)
        stream.synchronize()

    return run


def rate(run: Callable[[int], None], batch: int, seconds: float = SECONDS_A_BATCH) -> float:
    """Measure images a second: the median of several repeats, after a warm-up.

    Args:
        run: runs a batch a number of times.
        batch: the number of images in the batch.
        seconds: the total time; each repeat takes about a tenth of it.
    """
    run(2)
    start = time.perf_counter()
    run(1)
    calls = max(1, int(seconds / 10 / max(time.perf_counter() - start, 1e-6)))
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < LEAST_REPEATS or time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        run(calls)
        times.append((time.perf_counter() - start) / calls)
    return batch / float(np.median(times))


def as_table(record: dict[str, Any]) -> str:
    """Format the record as Markdown."""
    lines = [f"# GPU check of {record['date']}, commit {record['commit']}", ""]
    if record["gpu"] is None:
        lines += [f"**No GPU tests were run:** {record['no_gpu']}.", ""]
    else:
        tests = record["tests"]
        lines += [f"{record['gpu']}, driver {record['driver']}, CUDA {record['cuda']}", ""]
        lines += [f"Tests: {tests['passed']} passed, {len(tests['failed'])} failed, {len(tests['skipped'])} skipped", ""]
        lines += [f"- failed: {name}: {' '.join(said)}" for name, said in tests["failed"].items()]
        lines += [f"- skipped: {name}: {why}" for name, why in tests["skipped"].items()]
        lines += [
            "",
            "| model | backend | IoU against the CPU | images/s, best | at batch | latency, batch 1 | share of the FP16 product |",
            "|---|---|---|---|---|---|---|",
        ]
        for entry in record["backends"]:
            if not entry["runs"]:
                lines.append(f"| {entry['model']} | {entry['backend']} | does not run: {entry['reason']} | | | | |")
                continue
            best = max(entry["rates"], key=entry["rates"].get)
            share = f"{entry['share_of_fp16_product']:.3f}" if "share_of_fp16_product" in entry else "not measured"
            lines.append(
                f"| {entry['model']} | {entry['backend']} | {entry['iou_against_cpu']:.5f} | {entry['rates'][best]:.1f} | {best} "
                f"| {entry['latency_ms_batch_1']:.2f} ms | {share} |"
            )
    if "contest" in record:
        contest = record["contest"]
        lines += ["", "| case of the GPU contest | median: seconds an image, or operations or bytes a second |", "|---|---|"]
        for name, entry in contest["cases"].items():
            lines.append(f"| {name} | {'absent: ' + entry['absent'] if 'absent' in entry else format(entry['median'], '.4g')} |")
        if contest["failed"]:
            lines.append(f"| the contest | {contest['failed']} |")
    lines += ["", "| what | runs here |", "|---|---|", *(f"| {name} | {state} |" for name, state in record["chains"].items())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
