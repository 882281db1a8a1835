"""Inputs and outputs in object stores, against servers on loopback that speak S3, Google Cloud Storage and Azure Blob Storage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from seseg_trt import FakeBackend, MaskOptions, RunObserver, RunOptions, StoppedError, Summary, UsageError, segment_files
from seseg_trt.files import retry_files
from seseg_trt.reports.run_page import Collector, write_page
from seseg_trt.storage import objects as remote
from seseg_trt.storage.objects import STORES
from tests.runs import make_inputs, make_tar, needs_scale, picture, records, tree
from tests.stores import AZURE_KEY, Bucket

pytestmark = [needs_scale, pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")]

MASKS = MaskOptions(("se", "mask"), threshold=50)


def run(source: object, target: object, **options: Any) -> Summary:
    summary = segment_files([str(source)], str(target), masks=MASKS, options=RunOptions(**options), backend=FakeBackend(16))
    assert summary.inputs == summary.done + summary.skipped + summary.quarantined + summary.left
    return summary


def test_the_same_bytes_as_folders_and_resumed_as_they_are(bucket: Bucket, tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 9, bad_every=4)
    (inputs / ".dot").write_bytes(b"x")
    local = run(inputs, tmp_path / "local")
    bucket.put_tree(inputs, "photos/in")
    state = str(tmp_path / "state")
    there = run(bucket.address("photos/in"), bucket.address("photos/out"), state_dir=state)
    assert (there.done, there.skipped, there.quarantined) == (local.done, local.skipped, local.quarantined) == (7, 1, 2)
    assert bucket.contents("photos/out") == tree(tmp_path / "local")
    again = run(bucket.address("photos/in"), bucket.address("photos/out"), state_dir=state)
    assert (again.done, again.skipped, again.quarantined) == (0, 8, 2)
    bucket.remove("photos/out/image00000_se.png")
    bucket.put("photos/in/image00006.png", b"no picture any more")
    assert run(bucket.address("photos/in"), bucket.address("photos/out"), state_dir=state).done == 1
    left = bucket.contents("photos/out")
    assert left == {name: data for name, data in tree(tmp_path / "local").items() if "image00006" not in name}


def test_from_a_store_to_a_folder_and_back(bucket: Bucket, tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 6)
    run(inputs, tmp_path / "local")
    run(inputs, bucket.address("photos/up"), state_dir=str(tmp_path / "state"))
    assert bucket.contents("photos/up") == tree(tmp_path / "local")
    bucket.put_tree(inputs, "photos/in")
    run(bucket.address("photos/in/"), tmp_path / "down")
    assert tree(tmp_path / "down") == tree(tmp_path / "local")
    run(bucket.address("photos/in/sub1/image00001.png"), tmp_path / "one")
    assert set(tree(tmp_path / "one")) == {"image00001_se.png", "image00001_pred.png"}


def test_shards_of_a_store_with_a_journal_each(bucket: Bucket, tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 8)
    bucket.put_tree(inputs, "photos/in")
    parts = [
        run(bucket.address("photos/in"), bucket.address("photos/out"), state_dir=str(tmp_path / f"state{i}"), shard=(i, 2)) for i in (1, 2)
    ]
    assert sum(part.done for part in parts) == 8
    run(inputs, tmp_path / "local")
    assert bucket.contents("photos/out") == tree(tmp_path / "local")


def test_what_cannot_work_is_said(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("photos/in/a.png", b"x")
    with pytest.raises(UsageError, match="--state"):
        run(bucket.address("photos/in"), bucket.address("photos/out"))
    with pytest.raises(UsageError, match="nothing under"):
        run(bucket.address("photos/nothing"), tmp_path / "out")
    with pytest.raises(UsageError, match="output folder"):
        run(bucket.address("photos/in"), bucket.address("photos/in/out"), state_dir=str(tmp_path / "state"))
    # Azure's library lists a container that is not there as an empty one
    with pytest.raises((StoppedError, UsageError), match=r"no-such-bucket/in can't be listed|nothing under .*no-such-bucket/in"):
        run(bucket.address("no-such-bucket/in"), tmp_path / "out")
    inputs = make_inputs(tmp_path / "in", 2)
    try:
        said, left = run(inputs, bucket.address("no-such-bucket/out"), state_dir=str(tmp_path / "state2")).stopped, True
    except StoppedError as error:
        said, left = error, False
    assert "no-such-bucket/out" in str(said) and ("can't be written" if left else "can't be listed") in str(said)


ODD = (
    "a#b.png",
    "a?b.png",
    "50%25.png",
    "50%.png",
    "a+b&c=d.png",
    "\u00fc \u00f1.png",
    "x[0-9]*.png",
    "{a}.png",
    "sp ace/@at.png",
    "dots..png",
)


def test_odd_names(bucket: Bucket, tmp_path: Path) -> None:
    for index, name in enumerate(ODD):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(index))
    bucket.put_tree(tmp_path / "in", "photos/in")
    run(tmp_path / "in", tmp_path / "local")
    assert len(tree(tmp_path / "local")) == 2 * len(ODD)
    state = str(tmp_path / "state")
    assert run(bucket.address("photos/in"), bucket.address("photos/out"), state_dir=state).done == len(ODD)
    assert bucket.contents("photos/out") == tree(tmp_path / "local")
    assert run(bucket.address("photos/in"), bucket.address("photos/out"), state_dir=state).skipped == len(ODD)
    for name in ODD:
        one = tmp_path / "one" / name.replace("/", "_")
        assert run(bucket.address(f"photos/in/{name}"), one).done == 1, name


def test_an_object_and_objects_under_its_name(bucket: Bucket, tmp_path: Path) -> None:
    for index, name in enumerate(("both.png", "both.png/a.png", "both.png/b/c.png", "both.pngs/d.png", "e.png")):
        bucket.put(f"photos/in/{name}", picture(index))
    found = STORES.find(bucket.address("photos/in/both.png"))
    assert [name for name, _ in found] == ["", "a.png", "b/c.png"] and all(stat.size > 50 for _, stat in found)
    assert run(bucket.address("photos/in/both.png"), tmp_path / "one").done == 3
    assert run(bucket.address("photos/in"), tmp_path / "all").done == 5
    assert run(bucket.address("photos/in/both.png/a.png"), tmp_path / "under").done == 1


def test_who_may_read_only_what_is_under_a_name_may_list_it(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.put("photos/in/a.png", picture(1))
    store = remote._store(bucket.scheme)
    real = store.info

    def forbidding(path: str, **more: Any) -> Any:
        if path.endswith("photos/in"):
            raise PermissionError("Forbidden") if bucket.scheme == "s3" else OSError("Forbidden: photos/in")
        return real(path, **more)

    monkeypatch.setattr(store, "info", forbidding)
    assert run(bucket.address("photos/in"), tmp_path / "out").done == 1


def test_names_that_can_be_no_paths_are_quarantined(bucket: Bucket, tmp_path: Path) -> None:
    for index, name in enumerate(("a.png", "/a.png", "x/c.png", "x//c.png", "x///d.png")):
        bucket.put(f"photos/in/{name}", picture(index))
    summary = run(bucket.address("photos/in"), tmp_path / "out")
    assert (summary.inputs, summary.done, summary.quarantined) == (5, 2, 3)
    assert set(records(tmp_path / "out")) == {"/a.png", "x//c.png", "x///d.png"}
    again = retry_files(tmp_path / "out", backend=FakeBackend(16))
    assert (again.done, again.quarantined) == (0, 3)
    assert len(tree(tmp_path / "out")) == 4


def test_an_address_of_azure_names_its_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import fsspec

    for name in list(os.environ):
        if name.startswith("AZURE_"):
            monkeypatch.delenv(name)
    remote._store.cache_clear()
    fsspec.get_filesystem_class("az").clear_instance_cache()
    with pytest.raises(UsageError, match=r"can't be opened.*\n.*AZURE_STORAGE_CONNECTION_STRING"):
        run("az://photos/in", tmp_path / "out")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", AZURE_KEY)
    store, path = remote._split("abfss://photos@moderators.dfs.core.windows.net/in/a.png")
    assert store.account_name == "moderators" and store._strip_protocol(path) == "photos/in/a.png"
    monkeypatch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING",
        f"DefaultEndpointsProtocol=https;AccountName=another;AccountKey={AZURE_KEY};EndpointSuffix=core.windows.net",
    )
    remote._store.cache_clear()
    fsspec.get_filesystem_class("abfss").clear_instance_cache()
    with pytest.raises(UsageError, match="names the account moderators, and the environment leads to another"):
        remote._split("abfss://photos@moderators.dfs.core.windows.net/in/a.png")
    assert remote._split("abfss://photos@another.dfs.core.windows.net/in/a.png")[0].account_name == "another"


def test_a_store_that_refuses_to_write_stops_the_run(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_inputs(tmp_path / "in", 4)

    def refuse(path: str, data: bytes) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(remote._store(bucket.scheme, ""), "pipe_file", refuse)
    summary = run(inputs, bucket.address("photos/out"), state_dir=str(tmp_path / "state"))
    assert summary.exit_code == 5 and summary.left == 4 and "Access Denied" in str(summary.stopped)
    assert bucket.contents("photos/out") == {}


def test_tars_of_a_store_in_and_out(bucket: Bucket, tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 11, bad_every=4)
    files = sorted(inputs.rglob("*.png"))
    for number in range(2):
        bucket.put(f"photos/in/data-{number}.tar", make_tar(tmp_path / f"data-{number}.tar", inputs, files[number * 6 :][:6]).read_bytes())
    run(inputs, tmp_path / "folder")
    run(tmp_path / "data-{0..1}.tar", tmp_path / "m-%03d.tar", tar_entries=4)
    expected = {path.name: path.read_bytes() for path in tmp_path.glob("m-*.tar")}
    source, target, state = bucket.address("photos/in/data-{0..1}.tar"), bucket.address("photos/out/m-%03d.tar"), str(tmp_path / "state")
    there = run(source, target, state_dir=state, tar_entries=4)
    assert (there.done, there.quarantined, there.unpacked) == (9, 2, 0)
    assert bucket.contents("photos/out") == expected and len(expected) == 3
    assert run(source, target, state_dir=state).skipped == 9
    bucket.remove("photos/out/m-001.tar")
    assert 0 < run(source, target, state_dir=state).done < 9
    assert bucket.contents("photos/out") == expected
    run(bucket.address("photos/in/data-0.tar"), tmp_path / "down.tar")
    run(tmp_path / "data-0.tar", tmp_path / "local.tar")
    assert (tmp_path / "down.tar").read_bytes() == (tmp_path / "local.tar").read_bytes()
    run(source, bucket.address("photos/one.tar"), state_dir=str(tmp_path / "state1"))
    with pytest.raises(UsageError, match="no journal knows it"):
        run(source, bucket.address("photos/one.tar"), state_dir=str(tmp_path / "state2"))
    assert run(source, tmp_path / "folder2").done == 9 and tree(tmp_path / "folder2") == tree(tmp_path / "folder")
    with pytest.raises(UsageError, match="--state"):
        run(source, bucket.address("photos/two.tar"))
    with pytest.raises(UsageError, match=r"data-2\.tar"):
        run(bucket.address("photos/in/data-{0..2}.tar"), tmp_path / "out")


def test_a_tar_that_was_changed_in_the_store_is_mended(bucket: Bucket, tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 12, bad_every=6)
    state = str(tmp_path / "state")
    run(inputs, bucket.address("photos/m.tar"), state_dir=state)
    whole = bucket.get("photos/m.tar")
    bucket.put("photos/m.tar", whole[: len(whole) // 2])
    assert 0 < run(inputs, bucket.address("photos/m.tar"), state_dir=state).done < 10
    assert bucket.get("photos/m.tar") == whole
    (inputs / "sub2" / "image00005.png").write_bytes((inputs / "image00000.png").read_bytes())
    assert run(inputs, bucket.address("photos/m.tar"), state_dir=state).done == 1
    run(inputs, tmp_path / "m.tar")
    assert bucket.get("photos/m.tar") == (tmp_path / "m.tar").read_bytes()


def test_a_report_shows_what_lies_in_a_store(bucket: Bucket, tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 3)
    bucket.put_tree(inputs, "photos/in")
    collector = Collector()
    observer = RunObserver(started=lambda stop: collector.start(), committed=collector.add)
    options = RunOptions(state_dir=str(tmp_path / "state"))
    summary = segment_files(
        [bucket.address("photos/in")],
        bucket.address("photos/out"),
        masks=MASKS,
        options=options,
        observer=observer,
        backend=FakeBackend(16),
    )
    write_page(tmp_path / "report.html", summary, collector, "clear")
    assert (tmp_path / "report.html").read_text().count('alt="se"') == 3


def test_the_command_line(bucket: Bucket, tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 3)
    bucket.put_tree(inputs, "photos/in")
    arguments = [
        "segment",
        "--model",
        "demo",
        "--json",
        "--state",
        str(tmp_path / "state"),
        bucket.address("photos/in"),
        bucket.address("photos/out"),
    ]
    done = subprocess.run([sys.executable, "-m", "seseg_trt", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["done"] == 3
    assert set(bucket.contents("photos/out")) == {"image00000_se.png", "sub1/image00001_se.png", "sub2/image00002_se.png"}


def test_a_name_that_a_store_refuses_costs_one_input(bucket: Bucket, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for index, name in enumerate(("a.png", os.fsdecode(b"b\xff.png"), "c\n.png", "d.png")):
        (tmp_path / "in" / name).write_bytes(picture(index))
    for _ in range(2):  # also at the rerun
        summary = run(tmp_path / "in", bucket.address("photos/out"), state_dir=str(tmp_path / "state"))
        assert (summary.done + summary.skipped, summary.quarantined, summary.stopped) == (2, 2, None)
    assert {name.partition("_")[0] for name in bucket.contents("photos/out")} == {"a", "d"}
    lines = [json.loads(line) for line in (tmp_path / "state" / "quarantine.jsonl").read_text().splitlines()]
    assert {line["reason"] for line in lines} == {"encode_error"}


def test_keys_that_differ_are_different_objects(bucket: Bucket, tmp_path: Path) -> None:
    names = ["a.png", "a.png?versionId=1.png", "a.png?versionId=2.png", "b#1.png", "b%20.png", "b .png"]
    for index, name in enumerate(names):
        STORES.put(bucket.address(f"photos/in/{name}"), picture(index))
    assert sorted(name for name, _ in STORES.find(bucket.address("photos/in"))) == sorted(names)
    for index, name in enumerate(names):
        assert STORES.read(bucket.address(f"photos/in/{name}"), lambda size: None)[0] == picture(index)
    assert run(bucket.address("photos/in"), tmp_path / "out").done == len(names)
    STORES.remove(bucket.address(f"photos/in/{names[1]}"))
    assert sorted(name for name, _ in STORES.find(bucket.address("photos/in"))) == sorted({*names} - {names[1]})
