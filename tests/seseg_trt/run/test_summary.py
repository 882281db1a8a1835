from __future__ import annotations

from pathlib import Path

import pytest

from seseg_trt.run.pipeline import StageReport
from seseg_trt.run.summary import Summary


def summary(*stages: StageReport) -> Summary:
    return Summary(9, 9, 0, 0, 0, 2.0, 0.1, {}, 1.0, stages, "the CPU", "demo", "0" * 64, "", "out", Path("out/.seseg"))


@pytest.mark.parametrize(
    ("decode", "infer", "slowest"),
    [((100, 10.0, 1), (10, 9.0, 1), "infer"), ((10, 9.0, 4), (10, 9.0, 1), "infer"), ((10, 9.0, 1), (10, 9.0, 2), "decode")],
)
def test_the_bottleneck_is_the_slowest_stage(decode: tuple[int, float, int], infer: tuple[int, float, int], slowest: str) -> None:
    stages = [StageReport(name, workers, jobs, busy) for name, (jobs, busy, workers) in (("decode", decode), ("infer", infer))]
    found = summary(StageReport("read", 1), *stages)
    assert found.bottleneck == slowest == min((stage for stage in stages), key=lambda stage: stage.rate).name
    assert any(f"the bottleneck is {slowest}" in line for line in found.lines())
