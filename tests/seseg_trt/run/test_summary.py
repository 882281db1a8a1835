from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from seseg_trt import native
from seseg_trt.errors import DeviceError, StoppedError
from seseg_trt.run.pipeline import StageReport
from seseg_trt.run.summary import ADVICE, Summary


def summary(*stages: StageReport, **changes: Any) -> Summary:
    made = Summary(9, 9, 0, 0, 0, 2.0, 0.1, {}, 1.0, stages, "the CPU", "demo", "0" * 64, "", "out", Path("out/.seseg"))
    return dataclasses.replace(made, **changes)


@pytest.mark.parametrize(
    ("decode", "infer", "slowest"),
    [((100, 10.0, 1), (10, 9.0, 1), "infer"), ((10, 9.0, 4), (10, 9.0, 1), "infer"), ((10, 9.0, 1), (10, 9.0, 2), "decode")],
)
def test_the_bottleneck_is_the_slowest_stage(decode: tuple[int, float, int], infer: tuple[int, float, int], slowest: str) -> None:
    stages = [StageReport(name, workers, jobs, busy) for name, (jobs, busy, workers) in (("decode", decode), ("infer", infer))]
    found = summary(StageReport("read", 1), *stages)
    assert found.bottleneck == slowest == min((stage for stage in stages), key=lambda stage: stage.rate).name
    assert any(f"the bottleneck is {slowest}" in line for line in found.lines())


def test_there_is_no_bottleneck_where_nothing_was_done() -> None:
    busy = StageReport("decode", 1, 3, 1.0)
    assert summary().bottleneck is None and summary(StageReport("decode", 1)).bottleneck is None
    assert summary(busy, inputs=3, done=0, quarantined=3).bottleneck is None
    assert not any("bottleneck" in line for line in summary(busy, done=0).lines())


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, 0),
        ({"quarantined": 1}, 2),
        ({"left": 1}, 5),
        ({"left": 1, "quarantined": 1}, 5),
        ({"stopped": StoppedError("full")}, 5),
        ({"stopped": DeviceError("gone"), "left": 2, "quarantined": 1}, 3),
        ({"signal": signal.SIGINT, "stopped": StoppedError("full"), "left": 1}, 130),
        ({"signal": 15}, 143),
    ],
)
def test_the_exit_code_says_what_became_of_the_run(changes: dict[str, Any], code: int) -> None:
    assert summary(**changes).exit_code == code


def test_the_rate_is_of_what_was_masked() -> None:
    assert summary(done=9, seconds=2.0).rate == 4.5
    assert summary(done=9, seconds=0.5).rate == 18.0
    assert summary(done=0, seconds=0.0).rate == 0.0


def test_a_plain_run_is_told_in_four_lines() -> None:
    assert summary(megapixels=5.0, startup_seconds=1.26).lines() == [
        "9 inputs = 9 done + 0 skipped + 0 quarantined",
        "2.0 s, 4.5 images/s (2.5 MP/s); start-up 1.3 s; the CPU",
        "model: demo",
        "outputs: out",
    ]


def test_a_run_that_did_nothing_has_no_rate() -> None:
    assert summary(done=0, skipped=9, seconds=3.0).lines()[:2] == [
        "9 inputs = 0 done + 9 skipped + 0 quarantined",
        "3.0 s; start-up 0.1 s; the CPU",
    ]
    assert summary(seconds=0.0).lines()[1] == "0.0 s; start-up 0.1 s; the CPU"


def test_a_run_where_everything_happened_is_told_in_full() -> None:
    stages = (StageReport("read", 1, 20, 0.2), StageReport("decode", 2, 20, 4.0), StageReport("write", 1))
    found = summary(
        *stages,
        inputs=30,
        done=12,
        skipped=3,
        quarantined=5,
        left=10,
        certificate="certified: IoU 0.9996",
        workers=("worker 0 on cpu: 7 images", "worker 1 on cpu: 5 images"),
        reasons={"empty": 3, "truncated": 2},
        results="results.parquet",
        unpacked=1,
        stopped=StoppedError("the disk is full", "make room"),
    )
    assert found.lines() == [
        "30 inputs = 12 done + 3 skipped + 5 quarantined + 10 left",
        "2.0 s, 6.0 images/s (0.5 MP/s); start-up 0.1 s; the CPU",
        "model: demo; certified: IoU 0.9996",
        "worker 0 on cpu: 7 images",
        "worker 1 on cpu: 5 images",
        f"each stage alone: read 100/s, decode 10/s; the bottleneck is decode: {ADVICE['decode']}",
        "quarantined: 3 empty, 2 truncated; each with its reason: out/.seseg/quarantine.jsonl",
        "1 tar is not written yet, since not all of their inputs are done; the outputs so far are kept in out/.seseg",
        "stopped: the disk is full\n  make room",
        "table: results.parquet",
        "outputs: out",
    ]


def test_one_worker_alone_is_not_told_of() -> None:
    assert len(summary(workers=("worker 0 on cpu: 9 images",)).lines()) == 4


def test_several_tars_that_wait_are_counted() -> None:
    (line,) = (line for line in summary(unpacked=2).lines() if "tar" in line and "not written" in line)
    assert line.startswith("2 tars are not written yet")


def test_a_signal_is_named_and_hides_what_it_led_to() -> None:
    lines = summary(signal=int(signal.SIGTERM), stopped=StoppedError("the disk is full"), left=1).lines()
    assert "stopped by SIGTERM; the same command goes on from here" in lines
    assert not any("disk is full" in line for line in lines)


def test_a_stage_without_advice_gets_none() -> None:
    assert summary(StageReport("wash", 1, 9, 1.0)).lines()[3] == "each stage alone: wash 9/s; the bottleneck is wash: "


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize("stage", list(ADVICE))
def test_the_code_that_was_not_built_would_help_what_it_does(stage: str, built: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "MODULE", object() if built else None)
    line = summary(StageReport(stage, 1, 9, 1.0)).lines()[3]
    assert ADVICE[stage] in line
    assert ("compiled code, which was not built here" in line) == (stage in ("composite", "encode") and not built)


def test_programs_get_rounded_figures() -> None:
    stage = StageReport("decode", 2, 20, busy=3.14159, starved=1.23456, blocked=9.87654, queue_peak=5)
    found = summary(
        stage,
        done=7,
        seconds=3.00049,
        startup_seconds=0.12345,
        megapixels=1.23456,
        decoded_by={"pillow": 7},
        reasons={"empty": 2},
        quarantined=2,
        stopped=StoppedError("the disk is full", "make room"),
        signal=2,
    ).as_dict()
    json.dumps(found | {"stages": {}})
    assert found == {
        "inputs": 9,
        "done": 7,
        "skipped": 0,
        "quarantined": 2,
        "left": 0,
        "seconds": 3.0,
        "startup_seconds": 0.123,
        "decoded_by": {"pillow": 7},
        "megapixels": 1.235,
        "stages": {
            "decode": {
                "workers": 2,
                "jobs": 20,
                "rate": 12.73,
                "busy_seconds": 3.142,
                "starved_seconds": 1.235,
                "blocked_seconds": 9.877,
                "queue_peak": 5,
            }
        },
        "device": "the CPU",
        "model": "demo",
        "model_sha256": "0" * 64,
        "certificate": "",
        "output_dir": "out",
        "state_dir": "out/.seseg",
        "workers": (),
        "reasons": {"empty": 2},
        "results": None,
        "unpacked": 0,
        "stopped": "the disk is full",
        "images_per_second": 2.33,
        "bottleneck": "decode",
        "exit_code": 130,
    }


def test_programs_see_that_nothing_stopped_a_run() -> None:
    found = summary().as_dict()
    assert found["stopped"] is None and found["exit_code"] == 0 and found["bottleneck"] is None and "signal" not in found


def test_a_summary_never_changes() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        summary().done = 10  # type: ignore[misc]
