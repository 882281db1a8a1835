"""What only a GPU can show of the CUDA module and of TensorRT: that they run there, and agree with the CPU."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from seseg_trt.backends.tensorrt import TensorRTBackend
from seseg_trt.backends.tensorrt_build import build_plan
from seseg_trt.models.artifact import load_artifact
from seseg_trt.models.plan_identity import BuildOptions, Runtime

from ..seseg_trt.backends.test_tensorrt_build import DEMO, to_fp16

pytestmark = [pytest.mark.gpu, pytest.mark.ort]

PROFILES = ((1, 1, 1), (1, 8, 16))


@pytest.fixture(params=["tensorrt", "rtx"])
def runtime(request: pytest.FixtureRequest, need_runtime: Callable[[Runtime], None]) -> Runtime:
    name: Runtime = request.param
    need_runtime(name)
    return name


def options_for(runtime: Runtime) -> BuildOptions:
    from seseg_trt.cuda import device as cuda

    targets = (cuda.open_device(0).gpu.sm,) if runtime == "rtx" else ()
    return BuildOptions(runtime=runtime, targets=targets, profiles=PROFILES)


@pytest.fixture
def backend(runtime: Runtime, tmp_path: Path) -> Iterator[TensorRTBackend]:
    build_plan(DEMO, tmp_path / "demo.plan", options_for(runtime))
    backend = TensorRTBackend(tmp_path / "demo.plan")
    yield backend
    backend.close()


def images(count: int, seed: int = 0) -> np.ndarray:
    """Return blocks of colour with noise: large enough structures for a network to find something."""
    size = load_artifact(DEMO).input_size
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8).repeat(size // 8, axis=1).repeat(size // 8, axis=2)
    return np.clip(blocks.astype(np.int16) + rng.integers(-20, 21, blocks.shape), 0, 255).astype(np.uint8)


def on_cpu(graph: Path, batch: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(["confidence"], {"image": batch})[0]
    return result


def agreement(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Return the share of pixels within 1, and the pooled IoU at half."""
    masks = one > 127, other > 127
    union = np.logical_or(*masks).sum()
    near = (np.abs(one.astype(np.int16) - other.astype(np.int16)) <= 1).mean()
    return float(near), float(np.logical_and(*masks).sum() / union) if union else 1.0


def test_fp32_agrees_with_the_cpu(backend: TensorRTBackend) -> None:
    batch = images(37)
    near, iou = agreement(backend.infer(batch), on_cpu(DEMO, batch))
    assert near >= 0.999 and iou >= 0.9999


def test_fp16_agrees_with_the_cpu(runtime: Runtime, tmp_path: Path) -> None:
    graph = to_fp16(DEMO, tmp_path / "demo.fp16.onnx")
    build_plan(graph, tmp_path / "demo.plan", options_for(runtime))
    backend, batch = TensorRTBackend(tmp_path / "demo.plan"), images(37)
    try:
        assert agreement(backend.infer(batch), on_cpu(DEMO, batch))[1] >= 0.999
    finally:
        backend.close()


@pytest.mark.parametrize("count", [1, 2, 16, 17, 33])
def test_graphs_change_no_byte(backend: TensorRTBackend, tmp_path: Path, count: int) -> None:
    plain, batch = TensorRTBackend(tmp_path / "demo.plan", graphs=False), images(count)
    try:
        first = plain.infer(batch)
        for _ in range(4):
            np.testing.assert_array_equal(backend.infer(batch), first)
    finally:
        plain.close()


def test_device_arrays_give_what_host_arrays_give(backend: TensorRTBackend) -> None:
    from seseg_trt.cuda import device as cuda
    from seseg_trt.cuda.array import DevicePool

    device = cuda.open_device(0)
    stream, pool, batch = device.stream(), DevicePool(device), images(21)
    expected = backend.infer(batch)
    source = pool.array(batch.shape, stream.handle)
    stream.copy_in(source.address, batch)
    for _ in range(4):
        result = backend.infer_device(source, stream)
        np.testing.assert_array_equal(result.to_host(), expected)
    del source, result
    pool.close()
    stream.close()


def test_torch_tensors_go_in_and_out_by_dlpack(backend: TensorRTBackend) -> None:
    torch = pytest.importorskip("torch")
    batch = images(5)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        tensor = torch.from_numpy(batch).cuda(non_blocking=True)
        result = torch.from_dlpack(backend.infer_device(tensor, stream))
        got = result.cpu().numpy()
    np.testing.assert_array_equal(got, backend.infer(batch))


def test_threads_share_a_backend(backend: TensorRTBackend) -> None:
    batches = [images(19, seed) for seed in range(4)]
    expected = [backend.infer(b) for b in batches]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(5):
            if not np.array_equal(backend.infer(batches[index]), expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_more_than_the_memory_holds_is_run_in_halves(backend: TensorRTBackend, caplog: pytest.LogCaptureFixture) -> None:
    from seseg_trt.cuda import device as cuda

    device, batch = cuda.open_device(0), images(16)
    expected = backend.infer(batch[:1])
    for stream in backend._streams:
        stream.trim()
    blocks, size = [], 1 << 34
    while size >= 1 << 21:
        try:
            blocks.append(device.allocate(size))
        except cuda.OutOfDeviceMemory:
            size //= 2
    # Room again for one image, and for little more.
    for block in blocks[-8:]:
        block.free()
    try:
        np.testing.assert_array_equal(backend.infer(batch[:1]), expected)
        assert backend.infer(batch).shape == batch.shape[:3]
    finally:
        for block in blocks:
            block.free()


def test_memory_streams_events_and_graphs(gpu: None) -> None:
    from seseg_trt.cuda import device as cuda

    device = cuda.open_device(0)
    first, second, buffer = device.stream(), device.stream(), device.allocate(1 << 20)
    there, back = device.pinned((1 << 20,)), device.pinned((1 << 20,))
    start, end = cuda.Event(device, timed=True), cuda.Event(device, timed=True)
    graph = first.capture(lambda: first.copy_in(buffer.address, there))
    for value in (1, 2):
        there[:] = value
        start.record(first)
        graph.launch(first)
        second.wait_for(first)
        second.copy_out(back, buffer.address)
        end.record(second).synchronize()
        assert (back == value).all()
        assert end.milliseconds_since(start) > 0
    for thing in (graph, start, end, first, second):
        thing.close()
    buffer.free()
