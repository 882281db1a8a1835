"""Test the TensorRT backend on a fake GPU that runs work lazily: order, memory, graphs, last batches, running out of memory."""

from __future__ import annotations

import dataclasses
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from seseg_trt.backends import tensorrt_api, tensorrt_stream
from seseg_trt.backends.base import Backend, FakeBackend
from seseg_trt.backends.tensorrt import TensorRTBackend, available
from seseg_trt.cuda import device as cuda
from seseg_trt.cuda.array import DeviceArray, DevicePool
from seseg_trt.errors import DeviceError, ModelError, UsageError, install_hint
from seseg_trt.models.plan_file import write_plan
from seseg_trt.models.plan_identity import BuildOptions, PlanIdentity

from ..fake_gpu import LEGACY, Gpu, install
from ..fake_tensorrt import PLAN, SCRATCH_PER_IMAGE, make_tensorrt

SIZE = 8
IMAGE = SIZE * SIZE * 3
IDENTITY = PlanIdentity(
    graph_sha256="a" * 64,
    graph_name="model.fp16.onnx",
    network="u-test",
    input_size=SIZE,
    precision="fp16",
    version="11.4.0.106",
    options=BuildOptions(profiles=((1, 1, 1), (1, 4, 6))),
    targets=("sm90",),
)


@pytest.fixture(params=[False, True], ids=["lazy", "hasty"])
def gpu(request: pytest.FixtureRequest) -> Gpu:
    made = Gpu()
    made.hasty = request.param
    return made


@pytest.fixture
def open_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: Gpu) -> Iterator[Callable[..., TensorRTBackend]]:
    opened: list[TensorRTBackend] = []
    install(monkeypatch, gpu)
    tensorrt_api.logger.cache_clear()

    def make(*, float_output: bool = False, payload: bytes | None = None, **arguments: object) -> TensorRTBackend:
        monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt(gpu, SIZE, float_output=float_output))
        tensorrt_api.logger.cache_clear()
        plan = tmp_path / "model.plan"
        write_plan(plan, IDENTITY, payload or PLAN + bytes([len(IDENTITY.options.profiles)]))
        opened.append(TensorRTBackend(plan, "cuda:0", **arguments))  # type: ignore[arg-type]
        return opened[-1]

    yield make
    for backend in opened:
        backend.close()
    assert not gpu.contexts, "a context was left on the thread"
    tensorrt_api.logger.cache_clear()
    cuda.open_device.cache_clear()


def photographs(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def expected(images: np.ndarray) -> np.ndarray:
    return FakeBackend(SIZE).infer(images)


def on_device(images: np.ndarray, stream: int = LEGACY) -> DeviceArray:
    device = cuda.open_device(0)
    array = DevicePool(device).array(images.shape, stream)
    with device.active():
        device.pycuda.memcpy_htod_async(array.address, images, _Stream(stream))
    return array


@dataclasses.dataclass
class _Stream:
    handle: int


def test_it_is_a_backend(open_backend: Callable[..., TensorRTBackend]) -> None:
    backend = open_backend()
    assert isinstance(backend, Backend)
    assert (backend.name, backend.device, backend.input_size) == ("tensorrt", "cuda:0", SIZE)
    assert "11.4.0.106" in backend.description and "Fake GPU (sm90)" in backend.description


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 13, 30])
def test_host_arrays_come_back_in_order_whatever_their_number(open_backend: Callable[..., TensorRTBackend], count: int) -> None:
    images = photographs(count)
    np.testing.assert_array_equal(open_backend().infer(images), expected(images))


def test_the_last_batch_runs_at_its_own_size_in_the_profile_that_suits_it(
    open_backend: Callable[..., TensorRTBackend],
) -> None:
    open_backend().infer(photographs(13))
    assert [(batch, profile) for batch, _, profile in sys.modules["tensorrt"].runs] == [(6, 1), (6, 1), (1, 0)]


def test_batches_alternate_over_the_streams(open_backend: Callable[..., TensorRTBackend]) -> None:
    open_backend(streams=3).infer(photographs(24))
    streams = [stream for _, stream, _ in sys.modules["tensorrt"].runs]
    assert len(set(streams)) == 3 and streams[0] == streams[3]


def test_an_array_that_is_not_contiguous_is_taken(open_backend: Callable[..., TensorRTBackend]) -> None:
    images = photographs(8)[::2, :, ::-1]
    np.testing.assert_array_equal(open_backend().infer(images), expected(images))


def test_many_threads_share_the_streams(open_backend: Callable[..., TensorRTBackend]) -> None:
    backend, failures = open_backend(), []

    def work(seed: int) -> None:
        for turn in range(5):
            images = photographs(9, seed * 100 + turn)
            if not np.array_equal(backend.infer(images), expected(images)):
                failures.append((seed, turn))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive(), "threads wait for each other"
    assert not failures


@pytest.mark.parametrize("shape", [(0, SIZE, SIZE, 3), (1, SIZE, SIZE), (1, SIZE, 4, 3), (1, SIZE, SIZE, 4)])
def test_a_wrong_shape_is_refused(open_backend: Callable[..., TensorRTBackend], shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"\[N, 8, 8, 3\]"):
        open_backend().infer(np.zeros(shape, np.uint8))


def test_device_arrays_go_in_and_come_out_without_a_wait(open_backend: Callable[..., TensorRTBackend], gpu: Gpu) -> None:
    backend, images = open_backend(), photographs(13)
    caller = gpu.new_stream()
    source = on_device(images, caller)
    backend.warm_up(6, 1)
    gpu.waits.clear()
    result = backend.infer_device(source, caller)
    assert gpu.waits == []
    assert result.stream == caller
    assert result.__cuda_array_interface__["stream"] == caller
    np.testing.assert_array_equal(result.to_host(), expected(images))


def test_the_result_is_ready_in_the_order_of_the_callers_stream(open_backend: Callable[..., TensorRTBackend], gpu: Gpu) -> None:
    backend, images = open_backend(), photographs(4)
    caller, got = gpu.new_stream(), np.zeros((4, SIZE, SIZE), np.uint8)
    result = backend.infer_device(on_device(images, caller), caller)
    device = cuda.open_device(0)
    with device.active():
        device.pycuda.memcpy_dtoh_async(got, result.address, _Stream(caller))
    gpu.run(caller)
    np.testing.assert_array_equal(got, expected(images))


@pytest.mark.parametrize("graphs", [True, False])
def test_a_batch_runs_in_the_new_memory_after_a_larger_one_has_grown_it(open_backend: Callable[..., TensorRTBackend], graphs: bool) -> None:
    backend = open_backend(graphs=graphs, streams=1)
    small, large = on_device(photographs(2)), on_device(photographs(6, seed=3))
    out = backend.infer_device(small)
    for _ in range(3):
        backend.infer_device(small, out=out)
    backend.infer_device(large).to_host()
    backend.infer_device(small, out=out)  # the same arrays: nothing but the scratch memory is another
    np.testing.assert_array_equal(out.to_host(), expected(photographs(2)))


def test_thirty_batches_that_grow_and_shrink_without_a_wait(open_backend: Callable[..., TensorRTBackend], gpu: Gpu) -> None:
    backend, caller = open_backend(), gpu.new_stream()
    batches = [photographs(1 + 5 * seed % 13, seed) for seed in range(30)]
    found = [backend.infer_device(on_device(images, caller), caller) for images in batches]
    for images, maps in zip(batches, found, strict=True):
        np.testing.assert_array_equal(maps.to_host(), expected(images))


def test_the_default_stream_is_the_callers_where_none_is_named(open_backend: Callable[..., TensorRTBackend]) -> None:
    images = photographs(3)
    result = open_backend().infer_device(on_device(images))
    assert result.stream == LEGACY
    np.testing.assert_array_equal(result.to_host(), expected(images))


def test_an_output_of_the_caller_is_used(open_backend: Callable[..., TensorRTBackend]) -> None:
    backend, images = open_backend(), photographs(3)
    out = backend.infer_device(on_device(images))
    other = photographs(3, seed=5)
    assert backend.infer_device(on_device(other), out=out) is out
    np.testing.assert_array_equal(out.to_host(), expected(other))
    with pytest.raises(UsageError, match="needed"):
        backend.infer_device(on_device(photographs(2)), out=out)


def test_memory_of_results_returns_in_the_streams_order(open_backend: Callable[..., TensorRTBackend], gpu: Gpu) -> None:
    backend, source = open_backend(), on_device(photographs(2))
    before = gpu.pool_bytes
    for _ in range(3):
        backend.infer_device(source).to_host()
    assert gpu.pool_bytes == before


def test_a_host_array_is_no_device_array(open_backend: Callable[..., TensorRTBackend]) -> None:
    with pytest.raises(UsageError, match=r"not an array on a GPU|not on cuda"):
        open_backend().infer_device(photographs(1))


def test_a_graph_is_made_at_the_second_run_and_used_from_then_on(open_backend: Callable[..., TensorRTBackend], gpu: Gpu) -> None:
    backend, images = open_backend(streams=1), photographs(4)
    for run in range(4):
        np.testing.assert_array_equal(backend.infer(images), expected(images))
        assert (gpu.graphs_made, gpu.graphs_launched) == (min(run, 1), run)


def test_a_graph_is_made_again_for_another_size_or_address(open_backend: Callable[..., TensorRTBackend], gpu: Gpu) -> None:
    backend = open_backend(streams=1)
    first, second = on_device(photographs(2, 1)), on_device(photographs(2, 2))
    out = backend.infer_device(first)
    for source, seed, made in ((first, 1, 1), (second, 2, 1), (second, 2, 2), (first, 1, 2)):
        backend.infer_device(source, out=out)
        assert gpu.graphs_made == made
        np.testing.assert_array_equal(out.to_host(), expected(photographs(2, seed)))


def test_memory_that_grows_voids_the_graphs(open_backend: Callable[..., TensorRTBackend], gpu: Gpu) -> None:
    backend = open_backend(streams=1)
    small, large = photographs(2), photographs(6)
    backend.infer(small)
    backend.infer(small)
    assert gpu.graphs_alive == 1
    backend.infer(large)
    assert gpu.graphs_alive == 0
    for _ in range(3):
        np.testing.assert_array_equal(backend.infer(small), expected(small))


def test_a_context_with_a_graph_serves_one_batch_size(open_backend: Callable[..., TensorRTBackend]) -> None:
    backend = open_backend(streams=1)
    for count in (2, 3, 2, 3, 2, 3):
        images = photographs(count)
        np.testing.assert_array_equal(backend.infer(images), expected(images))
    assert len(sys.modules["tensorrt"].contexts) == 2
    backend = open_backend(streams=1, graphs=False)
    for count in (2, 3, 4, 5):
        backend.infer(photographs(count))
    assert len(sys.modules["tensorrt"].contexts) == 1


def test_large_batches_and_graphs_off_make_no_graph(
    open_backend: Callable[..., TensorRTBackend], gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_stream, "MAX_GRAPH_BATCH", 3)
    backend = open_backend(streams=1)
    for _ in range(3):
        backend.infer(photographs(4))
    assert gpu.graphs_made == 0
    backend = open_backend(streams=1, graphs=False)
    for _ in range(3):
        backend.infer(photographs(2))
    assert gpu.graphs_made == 0


def test_rtx_makes_its_graphs_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: Gpu, request: pytest.FixtureRequest) -> None:
    install(monkeypatch, gpu, capability=(8, 6))
    trt = make_tensorrt(gpu, SIZE, version="1.7.1.116")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", trt)
    tensorrt_api.logger.cache_clear()
    request.addfinalizer(tensorrt_api.logger.cache_clear)
    request.addfinalizer(cuda.open_device.cache_clear)
    options = BuildOptions(runtime="rtx", targets=("sm86",), profiles=IDENTITY.options.profiles)
    identity = dataclasses.replace(IDENTITY, options=options, targets=("sm86",), version="1.7.1.116")
    write_plan(tmp_path / "rtx.plan", identity, PLAN + bytes([2]))
    for graphs, strategy in ((True, "whole graph"), (False, None)):
        backend, images = TensorRTBackend(tmp_path / "rtx.plan", graphs=graphs), photographs(3)
        for _ in range(3):
            np.testing.assert_array_equal(backend.infer(images), expected(images))
        assert backend.name == "rtx" and gpu.graphs_made == 0
        assert trt.contexts[-1]._graphs_by_runtime == strategy
        backend.close()


def test_a_driver_that_refuses_to_capture_costs_the_graphs_alone(
    open_backend: Callable[..., TensorRTBackend], gpu: Gpu, caplog: pytest.LogCaptureFixture
) -> None:
    gpu.refuse_capture = True
    backend, images = open_backend(streams=1), photographs(2)
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            np.testing.assert_array_equal(backend.infer(images), expected(images))
    assert [r.message for r in caplog.records if "graphs are switched off" in r.message] == [caplog.records[0].message]


def test_out_of_memory_halves_the_batch_and_says_so_once(
    open_backend: Callable[..., TensorRTBackend], gpu: Gpu, caplog: pytest.LogCaptureFixture
) -> None:
    backend, images = open_backend(streams=1), photographs(12)
    # Memory for two images, not for three: it tries 6, then 3, then 1.
    gpu.free_memory = 2 * (IMAGE + IMAGE // 3 + SCRATCH_PER_IMAGE) + 500
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(backend.infer(images), expected(images))
        np.testing.assert_array_equal(backend.infer(images), expected(images))
    assert [r.message for r in caplog.records] == [
        "Fake GPU has not enough free memory to allocate 6,000 bytes; going on with batches of 3"
    ]
    assert {batch for batch, _, _ in sys.modules["tensorrt"].runs} == {1}


def test_out_of_memory_on_the_device_path_halves_too(
    open_backend: Callable[..., TensorRTBackend], gpu: Gpu, caplog: pytest.LogCaptureFixture
) -> None:
    backend, images = open_backend(streams=1), photographs(6)
    source = on_device(images)
    gpu.free_memory = 6 * SIZE * SIZE + 4 * SCRATCH_PER_IMAGE
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(backend.infer_device(source).to_host(), expected(images))
    assert len(caplog.records) == 1 and "batches of 3" in caplog.records[0].message


def test_no_room_for_one_image_ends_with_the_reason(open_backend: Callable[..., TensorRTBackend], gpu: Gpu) -> None:
    backend = open_backend()
    gpu.free_memory = 10
    with pytest.raises(cuda.OutOfDeviceMemory, match="not enough free memory"):
        backend.infer(photographs(6))
    gpu.free_memory = 1 << 30
    images = photographs(6)
    np.testing.assert_array_equal(backend.infer(images), expected(images))


def test_closing_gives_everything_back(open_backend: Callable[..., TensorRTBackend], gpu: Gpu) -> None:
    before, events = gpu.free_memory, gpu.events_alive
    backend = open_backend(float_output=True)
    for _ in range(3):
        backend.infer(photographs(13))
    backend.close()
    assert gpu.free_memory == before
    assert (gpu.graphs_alive, gpu.events_alive) == (0, events)


def test_a_float_output_is_written_where_it_hurts_nobody(open_backend: Callable[..., TensorRTBackend]) -> None:
    backend = open_backend(float_output=True)
    for count in (1, 6, 13, 2):
        images = photographs(count)
        np.testing.assert_array_equal(backend.infer(images), expected(images))


def test_a_plan_that_tensorrt_refuses_is_an_error_with_its_words(open_backend: Callable[..., TensorRTBackend]) -> None:
    with pytest.raises(DeviceError, match=r"can't load the plan(.|\n)*magicTagRead"):
        open_backend(payload=b"something else")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": "11.3.0.99"}, "built by tensorrt 11.3.0.99, and 11.4.0.106 is installed"),
        ({"targets": ("sm80",)}, "built for sm80, and this GPU is sm90"),
    ],
)
def test_a_plan_of_another_machine_is_refused_before_tensorrt_sees_it(
    open_backend: Callable[..., TensorRTBackend], tmp_path: Path, change: dict[str, object], words: str
) -> None:
    open_backend()
    plan = tmp_path / "other.plan"
    write_plan(plan, dataclasses.replace(IDENTITY, **change), b"not looked at")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=words) as caught:
        TensorRTBackend(plan)
    assert "seseg-trt build --model model.fp16.onnx --runtime tensorrt --batch 1 --batch 1:4:6" in caught.value.hint


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, gpu: Gpu) -> None:
    install(monkeypatch, gpu)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_bindings", None)
    assert available("tensorrt") == f"TensorRT is not installed ({install_hint('gpu')})"
    monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt(gpu, SIZE, version="10.9.0.34"))
    assert "10.9.0.34 is too old" in str(available("tensorrt"))
    monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt(gpu, SIZE))
    assert available("tensorrt") is None
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", make_tensorrt(gpu, SIZE, version="1.7.1.116"))
    assert "no kernels for Fake GPU (sm90)" in str(available("rtx"))
    assert "no GPU 3" in str(available("tensorrt", "cuda:3"))
    cuda.open_device.cache_clear()
