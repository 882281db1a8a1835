"""What an object store is asked, and what is read of it."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from seseg_trt import FakeBackend, MaskOptions, RunObserver, RunOptions, Summary, segment_files
from seseg_trt.storage.base import ChangedError
from seseg_trt.storage.objects import STORES
from tests.runs import make_inputs, needs_scale, picture, records
from tests.stores import Bucket

pytestmark = [needs_scale, pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")]

only_s3 = pytest.mark.parametrize("server", ["s3"], indirect=True)
"""For tests that count requests at the server."""
MASKS = MaskOptions(("se", "mask"), threshold=50)


def run(source: object, target: object, **options: Any) -> Summary:
    summary = segment_files([str(source)], str(target), masks=MASKS, options=RunOptions(**options), backend=FakeBackend(16))
    assert summary.inputs == summary.done + summary.skipped + summary.quarantined + summary.left
    return summary


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """Return how often the server that speaks S3 was asked, by method and path."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication

    found: Counter[tuple[str, str]] = Counter()
    real = DomainDispatcherApplication.__call__

    def counted(self: Any, environ: Any, start_response: Any) -> Any:
        found[environ["REQUEST_METHOD"], environ["PATH_INFO"]] += 1
        return real(self, environ, start_response)

    monkeypatch.setattr(DomainDispatcherApplication, "__call__", counted)
    return found


@only_s3
def test_no_object_is_asked_for_more_than_once(bucket: Bucket, tmp_path: Path, asked: Counter[tuple[str, str]]) -> None:
    inputs = make_inputs(tmp_path / "in", 50, bad_every=10)
    bucket.put_tree(inputs, "photos/in")
    names = [str(path.relative_to(inputs)) for path in inputs.rglob("*.png")]
    reads = {("GET", f"/photos/in/{name}"): 1 for name in names}
    listing = {("GET", "/photos"): 2, ("HEAD", "/photos/in"): 1}  # a page; and whether there is an object of the folder's own name
    source, target, state = bucket.address("photos/in"), bucket.address("photos/out"), str(tmp_path / "state")
    results = str(tmp_path / "results.parquet")

    asked.clear()
    assert run(source, tmp_path / "out", results=results).done == 45
    assert dict(asked) == reads | listing
    asked.clear()
    assert run(source, tmp_path / "out", results=results).skipped == 45
    assert dict(asked) == listing
    asked.clear()
    assert run(source, tmp_path / "out2", processes=1).done == 45  # a worker process knows what its parent's listing said
    assert dict(asked) == reads | listing

    asked.clear()
    assert run(source, target, state_dir=state).done == 45
    listings = {key: count for key, count in asked.items() if not key[1].endswith(".png")}
    removed = {key: count for key, count in asked.items() if key[0] == "DELETE"}  # two outputs of each of five that failed
    written = {key: count for key, count in asked.items() if key[0] == "PUT"}
    assert len(written) == 90 and len(removed) == 10 and set(removed.values()) == {1}
    assert sum(listings.values()) <= 9 and {key: asked[key] for key in asked.keys() - listings.keys()} == reads | written | removed
    assert {path for _, path in written} == {f"/photos/out/{name}" for name in bucket.contents("photos/out")}
    asked.clear()
    assert run(source, target, state_dir=state).skipped == 45
    assert sum(asked.values()) == 6 and not [path for _, path in asked if path.endswith(".png")]


def test_what_a_listing_said_is_held_against_what_is_read(bucket: Bucket) -> None:
    name, sizes = bucket.address("photos/in/a.png"), []
    bucket.put("photos/in/a.png", b"0123456789")
    ((_, listed),) = STORES.find(name)
    assert listed.size == 10 and listed == STORES.stat(name)
    assert STORES.read(name, sizes.append, listed) == STORES.read(name, sizes.append) == (b"0123456789", listed)
    assert sizes == [10, 10]
    with pytest.raises(ZeroDivisionError):
        STORES.read(name, lambda size: 1 // 0, listed)
    for other in (b"012345678", b"0123456789A", b"x" * 1000):
        bucket.put("photos/in/a.png", other)
        with pytest.raises(ChangedError):
            STORES.read(name, sizes.append, listed)
    bucket.remove("photos/in/a.png")
    with pytest.raises(OSError):
        STORES.read(name, sizes.append, listed)
    with pytest.raises(FileNotFoundError):
        STORES.stat(name)
    assert not STORES.is_file(name) and STORES.names(bucket.address("photos/in")) == []


def test_an_object_that_changed_since_it_was_listed_is_quarantined_and_done_the_next_time(bucket: Bucket, tmp_path: Path) -> None:
    for number in range(3):
        bucket.put(f"photos/in/{number}.png", picture(number))
    observer = RunObserver(planned=lambda plan, remaining: bucket.put("photos/in/1.png", picture(9, 40, 30)))
    options = RunOptions()
    source, target = bucket.address("photos/in"), tmp_path / "out"
    summary = segment_files([source], target, masks=MASKS, options=options, observer=observer, backend=FakeBackend(16))
    assert (summary.done, records(target)) == (2, {"1.png": "changed"})
    assert (run(source, target).done, records(target)) == (1, {})


def test_ranges_files_and_names(bucket: Bucket, tmp_path: Path) -> None:
    name = bucket.address("photos/in/a.bin")
    bucket.put("photos/in/a.bin", bytes(range(100)))
    bucket.put("photos/in/sub/b.bin", b"b")
    assert STORES.read_range(name, 10, 5) == bytes(range(10, 15)) and STORES.read_range(name, 0, 0) == b""
    assert STORES.read_range(name, 90, 50) == bytes(range(90, 100))
    assert STORES.is_file(name) and not STORES.is_file(bucket.address("photos/in/sub"))
    assert sorted(STORES.names(bucket.address("photos/in"))) == ["a.bin", "sub"]
    with STORES.open(name) as file:
        file.seek(97)
        assert file.read(10) == bytes([97, 98, 99])
    with pytest.raises(ZeroDivisionError), STORES.write(name, tmp_path / "scratch") as out:
        out.write(b"half")
        raise ZeroDivisionError
    assert bucket.get("photos/in/a.bin") == bytes(range(100))
    with STORES.write(name, tmp_path / "scratch") as out:
        out.write(b"new")
    assert bucket.get("photos/in/a.bin") == b"new" and os.listdir(tmp_path / "scratch") == []
