"""One process a device, with processes that have a fake network each."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest

from seseg_trt import DeviceError, FakeBackend, MaskOptions, ModelError, RunOptions, Summary, UsageError, Watch, driver, segment_files
from seseg_trt.run.devices import every_device, split_devices
from seseg_trt.run.journal import Journal
from tests.runs import make_inputs, tree

MASKS = MaskOptions(("se", "mask"), threshold=50)


class SlowBackend(FakeBackend):
    """The fake network, slow enough for its process to be killed in the middle."""

    def infer(self, images: Any) -> Any:
        time.sleep(0.01)
        return super().infer(images)


def run(inputs: Path, target: Path, device: str = "cpu,cpu", watch: Watch | None = None, **options: Any) -> Summary:
    summary = segment_files(
        [inputs], target, masks=MASKS, options=RunOptions(device=device, **options), backend=SlowBackend(16), watch=watch
    )
    assert summary.inputs == summary.done + summary.skipped + summary.quarantined + summary.left
    return summary


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ("cuda:0,1", ["cuda:0", "cuda:1"]),
        ("cuda:0,cuda:3,5", ["cuda:0", "cuda:3", "cuda:5"]),
        ("cpu", ["cpu"]),
        ("cpu,cpu", ["cpu", "cpu"]),
        ("auto", ["auto"]),
    ],
)
def test_devices_by_name(text: str, devices: list[str]) -> None:
    assert split_devices(text) == devices


@pytest.mark.parametrize("text", ["cuda:", "cuda:0,", "0,1", "cuda:0,x", "cuda:0,cuda:0"])
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


def test_two_processes_do_together_what_one_does(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 120, bad_every=10)
    committed: list[bytes] = []
    summary = run(inputs, tmp_path / "out", watch=Watch(committed=lambda row: committed.append(row.path)))
    assert (summary.done, summary.quarantined, summary.left) == (108, 12, 0)
    assert len(committed) == len(set(committed)) == 120 and summary.decoded_by == {"pillow": 108}
    assert "cpu: fake backend" in summary.device and summary.device.count("fake") == 2
    assert {stage.name: stage.workers for stage in summary.stages}["infer"] == 2
    run(inputs, tmp_path / "undisturbed", device="cpu")
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")
    assert run(inputs, tmp_path / "out").skipped == 108  # nothing is left, so no process is started
    assert not multiprocessing.active_children()


def test_what_a_killed_process_had_is_done_by_the_other(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 250)
    killed: list[int] = []

    def committed(row: Any) -> None:
        if not killed:
            child = multiprocessing.active_children()[0]
            child.kill()
            killed.append(child.pid or 0)

    summary = run(inputs, tmp_path / "out", watch=Watch(committed=committed))
    assert killed and summary.left == 0 and summary.stopped is None
    assert summary.done + summary.skipped == 250
    run(inputs, tmp_path / "undisturbed", device="cpu")
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")
    with contextlib.closing(Journal(tmp_path / "out" / ".seseg" / "journal.sqlite")) as journal:
        assert journal.counts() == {"done": 250}


def test_when_all_processes_die_the_run_stops_and_the_same_command_goes_on(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 250)

    def committed(row: Any) -> None:
        for child in multiprocessing.active_children():
            child.kill()

    summary = run(inputs, tmp_path / "out", watch=Watch(committed=committed))
    assert summary.exit_code == 3 and summary.left > 0 and "died" in str(summary.stopped)
    assert run(inputs, tmp_path / "out", device="cpu").left == 0
    run(inputs, tmp_path / "undisturbed", device="cpu")
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")


def test_a_stop_reaches_every_process(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 400)
    stops: list[Any] = []
    summary = run(inputs, tmp_path / "out", watch=Watch(started=stops.append, committed=lambda row: stops[0]()))
    assert 0 < summary.done < 400 and summary.left == 400 - summary.done
    assert len(tree(tmp_path / "out")) == 2 * summary.done


def test_a_device_that_is_not_there_is_a_broken_promise(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 3)
    with pytest.raises((DeviceError, ModelError)) as caught:
        segment_files([inputs], tmp_path / "out", model="demo", options=RunOptions(device="cuda:98,99"))
    assert caught.value.exit_code == 3 and caught.value.hint
    assert tree(tmp_path / "out") == {} and not multiprocessing.active_children()
