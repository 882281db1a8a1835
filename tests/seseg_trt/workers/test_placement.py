"""Which worker runs where."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from seseg_trt import UsageError
from seseg_trt.cuda import driver
from seseg_trt.options import LaneOptions, StreamOptions, split_devices
from seseg_trt.run.spec import RunSpec
from seseg_trt.workers import placement
from seseg_trt.workers.placement import every_device, place_workers

SPEC = RunSpec(None, "x", LaneOptions(), False, "out", "out/.seseg", False, "cpu", None, None, StreamOptions(workers=4, memory=1000))


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ("cuda:0,1", ["cuda:0", "cuda:1"]),
        ("cuda:0,cuda:3,5", ["cuda:0", "cuda:3", "cuda:5"]),
        ("cpu", ["cpu"]),
        ("cuda:0,cpu", ["cuda:0", "cpu"]),
        ("auto", ["auto"]),
    ],
)
def test_devices_by_name(text: str, devices: list[str]) -> None:
    assert split_devices(text) == devices


@pytest.mark.parametrize("text", ["cuda:", "cuda:0,", "0,1", "cuda:0,x", "cuda:0,cuda:0", "cpu,cpu"])
def test_what_is_no_list_of_devices(text: str) -> None:
    with pytest.raises(UsageError):
        split_devices(text)


def test_cuda_is_every_gpu_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = tuple(driver.Gpu(index, "a GPU", (9, 0), 80 << 30) for index in range(3))
    monkeypatch.setattr(driver, "driver_report", lambda: driver.DriverReport("580.1", (13, 0), gpus))
    assert every_device("cuda") == ["cuda:0", "cuda:1", "cuda:2"]
    assert every_device("cuda:1") == ["cuda:1"]
    monkeypatch.setattr(driver, "driver_report", lambda: driver.DriverReport("580.1", (13, 0), gpus[:1]))
    assert every_device("cuda") == ["cuda"]


def test_one_worker_has_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    (place,) = place_workers(SPEC, ["cpu"], 1)
    assert place.spec == SPEC and place.environment == {}


def test_workers_share_cores_threads_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement.os, "sched_getaffinity", lambda pid: set(range(8)))
    places = place_workers(SPEC, ["cuda:1", "cpu"], 2)
    assert [place.device for place in places] == ["cuda:1", "cuda:1", "cpu", "cpu"]
    assert [place.spec.cores for place in places] == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert {place.spec.threads for place in places} == {2} == {place.spec.stream.workers for place in places}
    assert {place.spec.stream.memory for place in places} == {250}
    assert [place.spec.device for place in places] == ["cuda:0", "cuda:0", "cpu", "cpu"]
    assert places[0].environment == {"CUDA_VISIBLE_DEVICES": "1"} and places[2].environment == {}
    chosen = place_workers(dataclasses.replace(SPEC, threads=3), ["cpu"], 2)
    assert {place.spec.threads for place in chosen} == {3}


def test_a_gpu_is_named_as_its_parent_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, GPU-abc")
    assert place_workers(SPEC, ["cuda:1"], 1)[0].environment == {"CUDA_VISIBLE_DEVICES": "GPU-abc"}
    (place,) = place_workers(SPEC, ["cuda:2"], 1)
    assert place.spec.device == "cuda:2" and place.environment == {}


def test_cores_of_one_numa_node_stay_together(tmp_path: Path) -> None:
    for node, cores in ((0, "0-1,4-5"), (1, "2,3,6-7"), (10, "")):
        (tmp_path / f"node{node}").mkdir()
        (tmp_path / f"node{node}" / "cpulist").write_text(cores + "\n")
    assert placement._core_shares(range(8), 2, tmp_path) == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert placement._core_shares(range(8), 4, tmp_path) == [[0, 1], [4, 5], [2, 3], [6, 7]]
    assert placement._core_shares([0, 1], 3, tmp_path) == [[0], [1], [0]]
    assert placement._core_shares([0, 1, 2], 2, tmp_path / "none") == [[0], [1, 2]]


def test_a_spec_comes_through_json() -> None:
    import json

    from seseg_trt import MaskOptions

    for masks in (MaskOptions(("se", "mask"), (1, 2, 3), 50), MaskOptions((), "random", None, 7)):
        spec = dataclasses.replace(SPEC, lane=LaneOptions(masks, measure="rle"), cores=(1, 2))
        assert RunSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
