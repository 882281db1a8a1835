"""Test which lane is made, and with what a named backend is created."""

from __future__ import annotations

from typing import Any

import pytest

from seseg_trt import FakeBackend
from seseg_trt.lanes import gpu as gpu_lane
from seseg_trt.lanes import select
from seseg_trt.lanes.cpu import CPULane
from seseg_trt.options import LaneOptions


class OnDevice(FakeBackend):
    """A backend that also takes images on a GPU."""

    def infer_device(self, images: object, stream: object = None, out: Any = None) -> Any: ...


@pytest.fixture
def created(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []

    def create_backend(*arguments: Any, **named: Any) -> FakeBackend:
        calls.append((arguments, named))
        return FakeBackend(16)

    monkeypatch.setattr(select, "create_backend", create_backend)
    return calls


@pytest.mark.parametrize("name", [None, "openvino"])
def test_a_named_backend_is_created_for_throughput(name: Any, created: list[Any]) -> None:
    artifact, progress = object(), object()
    lane = select.open_lane(artifact, LaneOptions(), device="cuda:1", backend=name, threads=3, progress=progress)  # type: ignore[arg-type]
    named = {"backend": name, "device": "cuda:1", "threads": 3, "throughput": True, "progress": progress}
    assert created == [((artifact,), named)]
    assert type(lane) is CPULane and lane.input_size == 16


def test_device_and_threads_are_chosen_unless_given(created: list[Any]) -> None:
    select.open_lane("the model", LaneOptions())  # type: ignore[arg-type]
    named = {"backend": None, "device": "auto", "threads": None, "throughput": True, "progress": None}
    assert created == [(("the model",), named)]


@pytest.mark.parametrize("name", [None, "openvino"])
def test_a_backend_to_create_needs_a_model(name: Any, created: list[Any]) -> None:
    with pytest.raises(AssertionError):
        select.open_lane(None, LaneOptions(), backend=name)
    assert created == []


def test_a_backend_is_taken_as_it_is(created: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(gpu_lane, "open_gpu_lane", lambda *arguments: opened.append(arguments) or "the lane")
    on_host, on_device, options = FakeBackend(16), OnDevice(16), LaneOptions()
    assert type(select.open_lane(None, options, backend=on_host)) is CPULane
    assert opened == []
    assert select.open_lane(None, options, backend=on_device) == "the lane"  # type: ignore[comparison-overlap]
    assert opened == [(on_device, options)] and created == []


def test_all_but_model_and_options_is_named(created: list[Any]) -> None:
    with pytest.raises(TypeError, match="positional"):
        select.open_lane("the model", LaneOptions(), "cpu")  # type: ignore[arg-type, misc]
    assert created == []
