"""Inputs and outputs in object stores, against a server that speaks S3 on loopback."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seseg_trt import FakeBackend, MaskOptions, RunOptions, StoppedError, Summary, UsageError, Watch, segment_files
from seseg_trt.run import remote
from seseg_trt.run.report_page import Collector, write_page
from tests.runs import make_inputs, make_tar, needs_scale, tree

pytestmark = [needs_scale, pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")]

MASKS = MaskOptions(("se", "mask"), threshold=50)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return s3fs's file system on an empty bucket called ``photos``, and let the program find the server as its users would."""
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    remote._store.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()
    store = s3fs.S3FileSystem(use_listings_cache=False)
    if store.exists("photos"):
        store.rm("photos", recursive=True)
    store.mkdir("photos")
    return store


def run(source: object, target: object, **options: Any) -> Summary:
    summary = segment_files([str(source)], str(target), masks=MASKS, options=RunOptions(**options), backend=FakeBackend(16))
    assert summary.inputs == summary.done + summary.skipped + summary.quarantined + summary.left
    return summary


def contents(store: Any, folder: str) -> dict[str, bytes]:
    return {key[len(folder) + 1 :]: store.cat_file(key) for key in store.find(folder)}


def test_the_same_bytes_as_folders_and_resumed_as_they_are(bucket: Any, tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 25, bad_every=8)
    (inputs / ".dot").write_bytes(b"x")
    local = run(inputs, tmp_path / "local")
    bucket.put(f"{inputs}/", "photos/in/", recursive=True)
    state = str(tmp_path / "state")
    there = run("s3://photos/in", "s3://photos/out", state_dir=state)
    assert (there.done, there.skipped, there.quarantined) == (local.done, local.skipped, local.quarantined) == (22, 1, 3)
    assert contents(bucket, "photos/out") == tree(tmp_path / "local")
    again = run("s3://photos/in", "s3://photos/out", state_dir=state)
    assert (again.done, again.skipped, again.quarantined) == (0, 23, 3)
    bucket.rm_file("photos/out/image00000_se.png")
    bucket.pipe_file("photos/in/image00003.png", b"no picture any more")
    assert run("s3://photos/in", "s3://photos/out", state_dir=state).done == 1
    left = contents(bucket, "photos/out")
    assert left == {name: data for name, data in tree(tmp_path / "local").items() if "image00003" not in name}


def test_from_a_store_to_a_folder_and_back(bucket: Any, tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 6)
    run(inputs, tmp_path / "local")
    run(inputs, "s3://photos/up", state_dir=str(tmp_path / "state"))
    assert contents(bucket, "photos/up") == tree(tmp_path / "local")
    bucket.put(f"{inputs}/", "photos/in/", recursive=True)
    run("s3://photos/in/", tmp_path / "down")
    assert tree(tmp_path / "down") == tree(tmp_path / "local")
    run("s3://photos/in/sub1/image00001.png", tmp_path / "one")
    assert set(tree(tmp_path / "one")) == {"image00001_se.png", "image00001_pred.png"}


def test_shards_of_a_store_with_a_journal_each(bucket: Any, tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 12)
    bucket.put(f"{inputs}/", "photos/in/", recursive=True)
    parts = [run("s3://photos/in", "s3://photos/out", state_dir=str(tmp_path / f"state{i}"), shard=(i, 2)) for i in (1, 2)]
    assert sum(part.done for part in parts) == 12
    run(inputs, tmp_path / "local")
    assert contents(bucket, "photos/out") == tree(tmp_path / "local")


def test_what_cannot_work_is_said(bucket: Any, tmp_path: Path) -> None:
    bucket.pipe_file("photos/in/a.png", b"x")
    with pytest.raises(UsageError, match="--state"):
        run("s3://photos/in", "s3://photos/out")
    with pytest.raises(UsageError, match="nothing under"):
        run("s3://photos/nothing", tmp_path / "out")
    with pytest.raises(UsageError, match="output folder"):
        run("s3://photos/in", "s3://photos/in/out", state_dir=str(tmp_path / "state"))
    with pytest.raises(StoppedError, match="can't be listed"):
        run("s3://no-such-bucket/in", tmp_path / "out")
    inputs = make_inputs(tmp_path / "in", 2)
    with pytest.raises(StoppedError, match="can't be listed"):
        run(inputs, "s3://no-such-bucket/out", state_dir=str(tmp_path / "state2"))


def test_a_store_that_refuses_to_write_stops_the_run(bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_inputs(tmp_path / "in", 4)

    def refuse(path: str, data: bytes) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(remote._store("s3"), "pipe_file", refuse)
    summary = run(inputs, "s3://photos/out", state_dir=str(tmp_path / "state"))
    assert summary.exit_code == 5 and summary.left == 4 and "Access Denied" in str(summary.stopped)
    assert contents(bucket, "photos/out") == {}


def test_tars_of_a_store_in_and_out(bucket: Any, tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 25, bad_every=8)
    files = sorted(inputs.rglob("*.png"))
    for number in range(2):
        bucket.put(str(make_tar(tmp_path / f"data-{number}.tar", inputs, files[number * 13 :][:13])), f"photos/in/data-{number}.tar")
    run(inputs, tmp_path / "folder")
    run(tmp_path / "data-{0..1}.tar", tmp_path / "m-%03d.tar", tar_entries=10)
    expected = {path.name: path.read_bytes() for path in tmp_path.glob("m-*.tar")}
    source, target, state = "s3://photos/in/data-{0..1}.tar", "s3://photos/out/m-%03d.tar", str(tmp_path / "state")
    there = run(source, target, state_dir=state, tar_entries=10)
    assert (there.done, there.quarantined, there.unpacked) == (22, 3, 0)
    assert contents(bucket, "photos/out") == expected and len(expected) == 3
    assert run(source, target, state_dir=state).skipped == 22
    bucket.rm_file("photos/out/m-001.tar")
    assert 0 < run(source, target, state_dir=state).done < 22
    assert contents(bucket, "photos/out") == expected
    run("s3://photos/in/data-0.tar", tmp_path / "down.tar")
    run(tmp_path / "data-0.tar", tmp_path / "local.tar")
    assert (tmp_path / "down.tar").read_bytes() == (tmp_path / "local.tar").read_bytes()
    run(source, "s3://photos/one.tar", state_dir=str(tmp_path / "state1"))
    with pytest.raises(UsageError, match="no journal knows it"):
        run(source, "s3://photos/one.tar", state_dir=str(tmp_path / "state2"))
    assert run(source, tmp_path / "folder2").done == 22 and tree(tmp_path / "folder2") == tree(tmp_path / "folder")
    with pytest.raises(UsageError, match="--state"):
        run(source, "s3://photos/two.tar")
    with pytest.raises(UsageError, match=r"data-2\.tar"):
        run("s3://photos/in/data-{0..2}.tar", tmp_path / "out")


def test_a_tar_that_was_changed_in_the_store_is_mended(bucket: Any, tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 12, bad_every=6)
    state = str(tmp_path / "state")
    run(inputs, "s3://photos/m.tar", state_dir=state)
    whole = bucket.cat_file("photos/m.tar")
    bucket.pipe_file("photos/m.tar", whole[: len(whole) // 2])
    assert 0 < run(inputs, "s3://photos/m.tar", state_dir=state).done < 10
    assert bucket.cat_file("photos/m.tar") == whole
    (inputs / "sub2" / "image00005.png").write_bytes((inputs / "image00000.png").read_bytes())
    assert run(inputs, "s3://photos/m.tar", state_dir=state).done == 1
    run(inputs, tmp_path / "m.tar")
    assert bucket.cat_file("photos/m.tar") == (tmp_path / "m.tar").read_bytes()


def test_a_report_shows_what_lies_in_a_store(bucket: Any, tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 3)
    bucket.put(f"{inputs}/", "photos/in/", recursive=True)
    collector = Collector()
    watch = Watch(planned=lambda plan, todo: collector.begin(plan), started=lambda stop: collector.start(), committed=collector.add)
    options = RunOptions(state_dir=str(tmp_path / "state"))
    summary = segment_files(["s3://photos/in"], "s3://photos/out", masks=MASKS, options=options, watch=watch, backend=FakeBackend(16))
    write_page(tmp_path / "report.html", summary, collector, "clear")
    assert (tmp_path / "report.html").read_text().count('alt="se"') == 3


def test_the_command_line(bucket: Any, tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 3)
    bucket.put(f"{inputs}/", "photos/in/", recursive=True)
    arguments = ["segment", "--model", "demo", "--json", "--state", str(tmp_path / "state"), "s3://photos/in", "s3://photos/out"]
    done = subprocess.run([sys.executable, "-m", "seseg_trt", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["done"] == 3
    assert set(contents(bucket, "photos/out")) == {"image00000_se.png", "sub1/image00001_se.png", "sub2/image00002_se.png"}
