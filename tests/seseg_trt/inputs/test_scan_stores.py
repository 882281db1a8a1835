"""Inputs that lie in an object store (the one that fsspec keeps in memory)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seseg_trt.errors import UsageError
from seseg_trt.inputs.scan import Scan
from seseg_trt.inputs.tar_entries import forget_stores
from seseg_trt.storage.base import Stat
from seseg_trt.storage.objects import STORES, ObjectStorage
from tests.runs import needs_scale
from tests.seseg_trt.inputs.tars import pack
from tests.seseg_trt.inputs.test_scan import paths, reasons, scan

pytestmark = needs_scale

TOP = "memory://photos/in"
NAMES = ["a.jpg", "b.jpg", "sub/.git/x.jpg", "sub/Thumbs.db", "sub/c", "sub/d.tar"]


@pytest.fixture(autouse=True)
def store() -> Iterator[None]:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.store.clear()
    forget_stores()
    for name in NAMES:
        STORES.put(f"{TOP}/{name}", b"x")
    yield
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


@pytest.mark.parametrize("end", ["", "/", "//"])
def test_a_folder_of_a_store_gives_its_objects_by_their_names(end: str) -> None:
    found = scan(TOP + end)
    assert paths(found) == ["a.jpg", "b.jpg", "sub/c", "sub/d.tar"] and found.ignored == 2 and not found.refused
    assert {item.root for item in found.items} == {TOP} and found.items[2].source == f"{TOP}/sub/c"
    assert all(item.listed is not None and item.listed.size == 1 for item in found.items)


def test_an_object_gives_its_base_name(tmp_path: Path) -> None:
    found = scan(f"{TOP}/sub/c", f"{TOP}/a.jpg")
    assert [(item.root, item.path) for item in found.items] == [(f"{TOP}/sub", "c"), (TOP, "a.jpg")]
    assert found.items[0].listed is not None and found.items[0].listed.size == 1


def test_a_base_in_a_store_rules_all_names() -> None:
    for base in ("memory://photos", "memory://photos/"):
        found = scan(f"{TOP}/sub", f"{TOP}/a.jpg", base=base)
        assert [item.path for item in found.items] == ["in/sub/c", "in/sub/d.tar", "in/a.jpg"]
        assert {item.root for item in found.items} == {"memory://photos"}
    assert paths(scan(TOP, base=TOP)) == ["a.jpg", "b.jpg", "sub/c", "sub/d.tar"]
    for outside in (f"{TOP}/a.jpg", f"{TOP}/subway", "memory://photos"):
        with pytest.raises(UsageError, match="is not under the base folder") as caught:
            scan(outside, base=f"{TOP}/sub")
        assert str(caught.value) == f"{outside} is not under the base folder {TOP}/sub\n  choose a --base that holds all inputs"


def test_a_local_base_says_nothing_of_a_store(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "e.jpg").write_bytes(b"x")
    found = scan(f"{TOP}/sub", tmp_path / "in", base=str(tmp_path))
    assert paths(found) == ["c", "d.tar", "in/e.jpg"]
    found = scan(f"{TOP}/sub", tmp_path / "in", base=TOP)
    assert paths(found) == ["sub/c", "sub/d.tar", "e.jpg"]


@pytest.mark.parametrize("output", [TOP, f"{TOP}/", f"{TOP}/masks", f"{TOP}/sub/masks/"])
def test_an_output_folder_within_the_input_folder_is_refused(output: str) -> None:
    with pytest.raises(UsageError) as caught:
        scan(TOP, output=output)
    name = output.rstrip("/")
    assert caught.value.message == f"the output folder {name} is, or lies in, the input folder {TOP}"
    assert caught.value.hint == "choose another output folder"


@pytest.mark.parametrize("output", ["memory://photos", "memory://photos/into", "memory://photos/i", "memory://photos/other/in", "/nowhere"])
def test_an_output_folder_elsewhere_is_none_of_the_scans_business(output: str) -> None:
    assert len(paths(scan(TOP, output=output))) == 4


def test_a_list_may_name_objects_and_files(tmp_path: Path) -> None:
    for name in ("e.jpg", "f.jpg"):
        (tmp_path / name).write_bytes(b"x")
    found = scan(listed=[f"{TOP}/sub/c", f"{tmp_path}/e.jpg", f"{TOP}/a.jpg", f"{tmp_path}/f.jpg"])
    assert paths(found) == ["c", "a.jpg", "e.jpg", "f.jpg"]
    assert paths(scan(listed=[f"{TOP}/b.jpg"])) == ["b.jpg"]


def test_a_name_that_names_nothing_is_an_error() -> None:
    with pytest.raises(UsageError, match="nothing under memory://photos/nothing"):
        scan("memory://photos/nothing")
    with pytest.raises(UsageError, match=r"nothing under .*d-1\.tar"):
        scan(f"{TOP}/d-{{1..2}}.tar")


def test_names_that_can_be_no_paths_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    stat = Stat(1, 1)

    def find(self: object, name: str) -> list[tuple[str, Stat]]:
        return [("/top.jpg", stat), ("a//b.jpg", stat), ("c.jpg", stat), ("d//.hidden", stat)]

    monkeypatch.setattr(ObjectStorage, "find", find)
    found = scan(TOP)
    assert paths(found) == ["c.jpg"] and found.ignored == 1
    assert reasons(found) == {"/top.jpg": "unreadable", "a//b.jpg": "unreadable"}
    assert found.refused[1].message == "its name, 'a//b.jpg', can't be a path: a part of it is empty"


def test_a_tar_of_a_store_gives_its_entries() -> None:
    tar = pack([("x/a.jpg", b"123"), ("b.jpg", b"4567")])
    STORES.put("memory://photos/tars/one.tar", tar)
    found = scan("memory://photos/tars/one.tar")
    assert [(item.root, item.path, item.offset) for item in found.items] == [
        ("memory://photos/tars/one.tar", "x/a.jpg", 512),
        ("memory://photos/tars/one.tar", "b.jpg", 1536),
    ]
    assert [item.listed[0] for item in found.items if item.listed] == [3, 4]
    based = scan("memory://photos/tars/one.tar", base="memory://photos")
    assert [(item.root, item.path) for item in based.items] == [
        ("memory://photos", "tars/one.tar/x/a.jpg"),
        ("memory://photos", "tars/one.tar/b.jpg"),
    ]
    local = scan("memory://photos/tars/one.tar", base="/nowhere")
    assert paths(local) == ["x/a.jpg", "b.jpg"]
    twice = scan("memory://photos/tars/one.tar", "memory://photos/tars/one.tar")
    assert paths(twice) == ["x/a.jpg", "b.jpg"]


def test_a_range_of_tars_of_a_store() -> None:
    for number in (1, 2):
        STORES.put(f"memory://photos/tars/{number}.tar", pack([(f"{number}.jpg", b"1")]))
    assert paths(scan("memory://photos/tars/{1..2}.tar")) == ["1.jpg", "2.jpg"]


def test_a_folder_of_a_store_may_be_called_as_a_tar_is() -> None:
    STORES.put("memory://photos/in/e.tar/f.jpg", b"x")
    found = scan("memory://photos/in/e.tar")
    assert [(item.root, item.path) for item in found.items] == [("memory://photos/in/e.tar", "f.jpg")]


def test_which_names_are_tars_is_asked_again_after_each_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    from seseg_trt.inputs.tar_entries import split_source

    tar = "memory://photos/tars/new.tar"
    assert split_source(f"{tar}/a.jpg") is None
    STORES.put(tar, pack([("a.jpg", b"123")]))
    assert split_source(f"{tar}/a.jpg") is None  # as was answered before
    assert paths(scan(tar)) == ["a.jpg"]
    assert split_source(f"{tar}/a.jpg") == (tar, "a.jpg")
    asked: list[Any] = []
    monkeypatch.setattr(ObjectStorage, "is_file", lambda self, name: asked.append(name))
    assert split_source(f"{tar}/b.jpg") == (tar, "b.jpg") and asked == []


def test_the_output_is_known_with_or_without_its_last_slash() -> None:
    found = Scan("memory://photos/out/", "/nowhere", None)
    with pytest.raises(UsageError, match="the output folder memory://photos/out is"):
        found.add("memory://photos/out")
