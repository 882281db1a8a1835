"""Test that OpenVINO gives bit-identical maps when optimised for latency and for throughput."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from seseg_trt.backends import openvino
from seseg_trt.backends.openvino import OpenVINOBackend
from seseg_trt.errors import DeviceError
from seseg_trt.models.artifact import load_artifact
from tests.conftest import DATA

FIXTURE = DATA / "fixture.onnx"


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (24, 256, 256, 3), np.uint8)


def test_several_callers_at_once_get_the_maps_that_one_gets(images: np.ndarray) -> None:
    artifact = load_artifact(FIXTURE)
    alone = OpenVINOBackend(artifact, threads=1)
    together = OpenVINOBackend(artifact, throughput=True)
    assert alone.concurrency == 1 <= together.concurrency
    expected = alone.infer(images)
    assert expected.std() > 1
    with ThreadPoolExecutor(together.concurrency + 2) as pool:  # more callers than requests, so some must wait
        maps = list(pool.map(lambda image: together.infer(image[np.newaxis])[0], images))
    assert (np.stack(maps) == expected).all()


def test_floats_and_maps_are_of_one_run(images: np.ndarray) -> None:
    backend = OpenVINOBackend(load_artifact(FIXTURE), throughput=True, float_output=True)
    with ThreadPoolExecutor(4) as pool:
        for maps, floats in pool.map(lambda image: backend.infer_with_float(image[np.newaxis]), images[:8]):
            assert (np.floor(floats * np.float32(255)).astype(np.uint8) == maps).all()


def test_the_first_use_of_openvino_is_one_threads_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads in the initialisation of the bindings would deadlock."""
    alone: list[bool] = []
    check = OpenVINOBackend._check_copies

    def noted(self: OpenVINOBackend) -> None:
        alone.append(openvino._first_use.locked())
        check(self)

    monkeypatch.setattr(OpenVINOBackend, "_check_copies", noted)
    OpenVINOBackend(load_artifact(FIXTURE), throughput=True)
    assert alone == [True]


def test_copies_that_disagree_are_never_used(monkeypatch: pytest.MonkeyPatch) -> None:
    run, calls = OpenVINOBackend._run, iter(range(99))

    @contextlib.contextmanager
    def second_is_wrong(self: OpenVINOBackend, image: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
        with run(self, image) as results:
            maps = np.array(results["confidence"])
            maps[0, 0, 0] ^= next(calls) == 1
            yield {"confidence": maps}

    monkeypatch.setattr(OpenVINOBackend, "_run", second_is_wrong)
    with pytest.raises(DeviceError, match="different masks"):
        OpenVINOBackend(load_artifact(FIXTURE), threads=2, throughput=True)


@pytest.mark.ort
def test_eight_bits_are_the_same_in_every_copy(tmp_path: Path, images: np.ndarray) -> None:
    """OpenVINO's streams share reordered weights, and those of an 8-bit graph were wrong in every second start."""
    from tests.seseg_trt.backends.test_tensorrt_build import to_int8

    artifact = load_artifact(to_int8(FIXTURE, tmp_path / "int8.onnx", 256))
    expected = OpenVINOBackend(artifact, threads=1).infer(images[:4])
    for _ in range(4):
        together = OpenVINOBackend(artifact, throughput=True)
        with ThreadPoolExecutor(together.concurrency) as pool:
            maps = [result[0] for result in pool.map(together.infer, np.split(images[:4], 4))]
        assert (np.stack(maps) == expected).all()


def test_a_closed_backend_says_so_to_every_caller(images: np.ndarray) -> None:
    backend = OpenVINOBackend(load_artifact(FIXTURE), throughput=True)
    backend.close()
    for _ in range(backend.concurrency + 1):
        with pytest.raises(DeviceError, match="closed"):
            backend.infer(images[:1])
    with pytest.raises(DeviceError, match="float output"):
        backend.infer_with_float(images[:1])
