from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from seseg_trt.errors import ModelError, UsageError
from seseg_trt.models.plan_file import ALIGNMENT, MAGIC, only_builder, open_plan, read_identity, write_plan
from seseg_trt.storage.atomic import temporary_name

from .test_plan_identity import IDENTITY

PAYLOAD = bytes(range(256)) * 64


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "model.plan"
    write_plan(path, IDENTITY, PAYLOAD)
    return path


def test_a_plan_comes_back_as_it_was_written(plan: Path) -> None:
    identity = read_identity(plan)
    assert dataclasses.replace(identity, plan_sha256="", plan_bytes=0) == IDENTITY
    assert identity.plan_bytes == len(PAYLOAD)
    with open_plan(plan) as (again, payload):
        assert again == identity
        assert bytes(payload) == PAYLOAD
    assert os.listdir(plan.parent) == [plan.name]


def test_tensorrts_bytes_begin_at_a_page(plan: Path) -> None:
    assert plan.read_bytes().index(PAYLOAD) % ALIGNMENT == 0


def test_a_new_plan_replaces_the_old_one(plan: Path) -> None:
    write_plan(plan, dataclasses.replace(IDENTITY, version="2"), b"new")
    with open_plan(plan) as (identity, payload):
        assert (identity.version, bytes(payload)) == ("2", b"new")


def test_every_shortened_plan_is_refused(plan: Path) -> None:
    whole = plan.read_bytes()
    for size in [0, 1, len(MAGIC), len(MAGIC) + 3, 100, 600, ALIGNMENT - 1, ALIGNMENT, len(whole) - 1]:
        plan.write_bytes(whole[:size])
        with pytest.raises(ModelError):
            read_identity(plan)
    plan.write_bytes(whole + b"x")
    with pytest.raises(ModelError, match="incomplete"):
        read_identity(plan)


def test_every_kind_of_damage_is_refused(plan: Path) -> None:
    whole = plan.read_bytes()
    for position in [0, len(MAGIC), len(MAGIC) + 3, len(MAGIC) + 4, whole.index(PAYLOAD), len(whole) - 1]:
        plan.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        with pytest.raises(ModelError) as caught:
            with open_plan(plan):
                pass
        assert "seseg-trt build" in caught.value.hint


def test_what_is_no_plan_is_named(tmp_path: Path) -> None:
    foreign = tmp_path / "trtexec.plan"
    foreign.write_bytes(b"ftrt" + bytes(1000))
    with pytest.raises(ModelError, match="has no identity"):
        read_identity(foreign)
    with pytest.raises(ModelError, match="there is no plan"):
        read_identity(tmp_path / "none.plan")
    with pytest.raises(ModelError, match="can't be read"):
        read_identity(tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't be written"):
        write_plan(tmp_path / "none" / "model.plan", IDENTITY, PAYLOAD)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="can't be written"):
        with only_builder(tmp_path / "file" / "model.plan"):
            pass


def test_one_builds_at_a_time_and_nothing_is_left_behind(tmp_path: Path) -> None:
    plan, inside, most, waited = tmp_path / "model.plan", [], [0], []

    def build() -> None:
        for _ in range(20):
            with only_builder(plan, lambda: waited.append(1)):
                inside.append(1)
                most[0] = max(most[0], len(inside))
                time.sleep(0.0005)
                inside.pop()

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert most == [1]
    assert waited
    assert os.listdir(tmp_path) == []


def test_a_lock_file_without_a_holder_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / ".model.plan.lock").write_bytes(b"")
    leftover, other = (Path(temporary_name(tmp_path / name)) for name in ("model.plan", "other.plan"))
    leftover.write_bytes(b"half")
    other.write_bytes(b"somebody else's")
    with only_builder(tmp_path / "model.plan", lambda: pytest.fail("waited")):
        assert not leftover.exists() and other.exists()


def _count_builders(folder: str, start: multiprocessing.synchronize.Event) -> None:
    start.wait(30)
    for _ in range(20):
        with only_builder(Path(folder) / "model.plan"):
            token = Path(folder) / "token"
            descriptor = os.open(token, os.O_CREAT | os.O_EXCL)
            os.close(descriptor)
            token.unlink()


def test_processes_exclude_each_other(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start = context.Event()
    workers = [context.Process(target=_count_builders, args=(str(tmp_path), start)) for _ in range(3)]
    for worker in workers:
        worker.start()
    start.set()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from seseg_trt.models.plan_file import only_builder, write_plan
from tests.seseg_trt.models.test_plan_identity import IDENTITY
print("ready", flush=True)
while True:
    with only_builder({plan!r}):
        write_plan({plan!r}, IDENTITY, bytes(8 << 20))
        Path({plan!r}).unlink()
"""


def test_a_writer_killed_at_any_moment_leaves_a_whole_plan_or_none(tmp_path: Path) -> None:
    plan = tmp_path / "model.plan"
    source = WRITER.format(root=str(Path(__file__).parents[3]), plan=str(plan))
    states = set()
    for turn in range(8):
        with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
            time.sleep(0.011 * (turn + 1))
            writer.send_signal(signal.SIGKILL)
        if plan.exists():
            states.add("whole")
            with open_plan(plan) as (_, payload):
                assert len(payload) == 8 << 20
        else:
            states.add("none")
        with only_builder(plan, lambda: pytest.fail("the killed builder still holds the right")):
            plan.unlink(missing_ok=True)
        assert os.listdir(tmp_path) == []
    assert states
