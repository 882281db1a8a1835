"""Test the arithmetic and the messages of the GPU check, on any machine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import gpu_check
from seseg_trt import DeviceError, FakeBackend
from seseg_trt.cuda import driver


def test_without_a_gpu_it_says_so_loudly_and_records_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise DeviceError("there is no driver")

    monkeypatch.setattr(driver, "driver_report", none)
    result = CliRunner().invoke(gpu_check.main, ["--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "NO GPU TESTS WERE RUN: there is no driver" in result.output
    record = json.loads((tmp_path / "gpu-check.json").read_text())
    assert record["gpu"] is None and "tests" not in record and "backends" not in record
    assert "there is no driver" in (tmp_path / "gpu-check.md").read_text()


def test_junit_is_read_by_outcome(tmp_path: Path) -> None:
    report = tmp_path / "junit.xml"
    report.write_text(
        '<testsuites><testsuite><testcase classname="tests.gpu.a" name="good"><properties><property name="share" value="0.9"/></properties></testcase>'
        '<testcase classname="tests.gpu.a" name="bad"><failure message="1 != 2&#10;more"/></testcase>'
        '<testcase classname="tests.gpu.a" name="left"><skipped message="no torch"/></testcase></testsuite></testsuites>'
    )
    found = gpu_check.read_junit(report)
    assert found == {
        "passed": 1,
        "failed": {"a::bad": ["1 != 2"]},
        "skipped": {"a::left": "no torch"},
        "figures": {"a::good": {"share": "0.9"}},
    }


def test_iou_pools_and_takes_empty_for_equal() -> None:
    one, other = np.array([[[0, 128, 255]]], np.uint8), np.array([[[0, 127, 255]]], np.uint8)
    assert gpu_check.iou(one, other) == 0.5  # 128 is over 127.5, and 127 is not
    assert gpu_check.iou(one * 0, other * 0) == 1.0


def test_a_rate_counts_images_not_calls() -> None:
    inputs = gpu_check.random_inputs(4, 16)
    assert inputs.shape == (4, 16, 16, 3) and inputs.std() > 20
    calls = []
    backend = FakeBackend(16)
    monkey = gpu_check.resident(backend, inputs)

    def run(times: int) -> None:
        calls.append(times)
        monkey(times)

    assert gpu_check.rate(run, 4, seconds=0.01) > 0
    assert calls[:2] == [2, 1] and len(calls) >= 2 + gpu_check.LEAST_REPEATS


def test_the_table_names_what_does_not_run() -> None:
    record = {
        "date": "2026-01-01",
        "commit": "abc",
        "gpu": "X",
        "driver": "580",
        "cuda": "13.0",
        "chains": {"c": "yes"},
        "tests": {"passed": 3, "failed": {}, "skipped": {}},
        "backends": [
            {"model": "m", "backend": "rtx", "runs": False, "reason": "no kernels for sm90"},
            {
                "model": "m",
                "backend": "tensorrt",
                "runs": True,
                "iou_against_cpu": 1.0,
                "rates": {"1": 10.0, "8": 50.0},
                "latency_ms_batch_1": 100.0,
            },
        ],
    }
    table = gpu_check.as_table(record)
    assert "does not run: no kernels for sm90" in table
    assert "| 50.0 | 8 | 100.00 ms | not measured |" in table


def test_a_contest_s_medians_and_absences_come_into_the_record(tmp_path: Path) -> None:
    found = gpu_check.run_contest(tmp_path, ("tiny", "--suite", "tiny", "--only", "fake"))
    assert found["failed"] is None and len(found["cases"]) == 2
    assert all(entry["median"] > 0 and len(entry["samples"]) == 2 for entry in found["cases"].values())
    assert gpu_check.run_contest(tmp_path, ("no-such-contest",)) == {"failed": "it ended with exit code 2", "cases": {}}
    record = {"date": "d", "commit": "c", "gpu": "g", "driver": "1", "cuda": "13", "chains": {}, "backends": [], "contest": found}
    record["tests"] = {"passed": 1, "failed": {}, "skipped": {}}
    found["cases"]["other"] = {"absent": "no trtexec"}
    table = gpu_check.as_table(record)
    assert "| other | absent: no trtexec |" in table and all(name in table for name in found["cases"])
