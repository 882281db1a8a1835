from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from seseg_trt.options import DecodeOptions, EncodeOptions, LaneOptions, MaskOptions, StreamOptions
from seseg_trt.outputs.naming import Naming
from seseg_trt.run.spec import RunSpec, lane_from_json


def spec(lane: LaneOptions, **changes: Any) -> RunSpec:
    made = RunSpec(
        model="/models/a.onnx",
        identity="0" * 64,
        lane=lane,
        keep_suffix=True,
        target="out",
        state="out/.seseg",
        durable=True,
        device="cuda:0",
        backend="tensorrt",
        threads=3,
        stream=StreamOptions(4, memory=5, max_file_bytes=6, timeout=7.5, readers=8),
    )
    return dataclasses.replace(made, **changes)


LANES = [
    LaneOptions(),
    LaneOptions(
        MaskOptions(("nse", "mask"), (1, 2, 3), 40, 5),
        DecodeOptions(False, 77, "first", "dali", "linear"),
        EncodeOptions("webp", 55, "444"),
        "rle",
    ),
    LaneOptions(MaskOptions((), "random", None, 9), measure="stats"),
]


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("cores", [(), (1, 3)])
def test_a_spec_is_the_same_after_its_way_through_json(lane: LaneOptions, cores: tuple[int, ...]) -> None:
    before = spec(lane, cores=cores)
    after = RunSpec.from_json(json.loads(json.dumps(before.to_json())))
    assert after == before and hash(after) == hash(before)
    assert lane_from_json(json.loads(json.dumps(before.to_json()))["lane"]) == lane


def test_reading_a_spec_leaves_its_json_as_it_was() -> None:
    found = json.loads(json.dumps(spec(LANES[1]).to_json()))
    before = json.dumps(found)
    RunSpec.from_json(found)
    assert json.dumps(found) == before


def test_a_run_is_bound_to_no_core_and_what_outputs_are_called_follows_from_it() -> None:
    assert spec(LANES[1]).cores == ()
    assert spec(LANES[1]).naming == Naming(("nse", "mask"), "webp", True)
    assert spec(LaneOptions(), keep_suffix=False).naming == Naming(("se",), "png", False)


def test_a_spec_never_changes() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec(LaneOptions()).target = "elsewhere"  # type: ignore[misc]
