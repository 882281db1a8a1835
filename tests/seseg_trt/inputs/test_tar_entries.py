"""Tars as inputs: the same outputs as of folders, and every entry of any tar masked or accounted for."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seseg_trt import FakeBackend, RunObserver, UsageError, segment_files
from seseg_trt.files import retry_files
from seseg_trt.outputs.naming import Naming
from seseg_trt.run import work
from seseg_trt.storage.locations import expand_range, tar_name, tar_number
from tests.runs import counts, make_inputs, make_tar, picture, records, tree
from tests.seseg_trt.inputs.tars import ARCHIVE, ENTRIES, MASKS, STARTS, index, pack, plan, run


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_a_tar_gives_the_same_tree_as_its_folder(tmp_path: Path, tar_format: int) -> None:
    inputs = make_inputs(tmp_path / "in", 20, bad_every=7)
    (inputs / ".dot.png").write_bytes(b"x")
    (inputs / "Thumbs.db").write_bytes(b"x")
    make_tar(tmp_path / "in.tar", inputs, tar_format=tar_format)
    folder = run(inputs, tmp_path / "folder")
    tar = run(tmp_path / "in.tar", tmp_path / "tar")
    assert counts(tar) == counts(folder) == (18, 2, 2, 0)
    assert tree(tmp_path / "tar") == tree(tmp_path / "folder")
    assert records(tmp_path / "tar") == records(tmp_path / "folder")
    assert counts(run(tmp_path / "in.tar", tmp_path / "tar")) == (0, 20, 2, 0)


def test_several_tars_by_names_a_range_a_glob_and_a_list(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 12)
    files = sorted(inputs.rglob("*.png"))
    for number in range(3):
        make_tar(tmp_path / f"data-{number:06d}.tar", inputs, files[number::3])
    run(inputs, tmp_path / "folder")
    expected = tree(tmp_path / "folder")
    listed = [str(tmp_path / f"data-{number:06d}.tar") for number in range(3)]
    run(tmp_path / "data-{000000..000002}.tar", tmp_path / "range")
    run(tmp_path / "data-*.tar", tmp_path / "glob")
    segment_files([], tmp_path / "list", masks=MASKS, listed=listed, backend=FakeBackend(16))
    run([*listed, listed[0]], tmp_path / "names", processes=2)
    assert tree(tmp_path / "range") == tree(tmp_path / "glob") == tree(tmp_path / "list") == tree(tmp_path / "names") == expected
    parts = [run(listed, tmp_path / "parts", shard=(i, 2)).done for i in (1, 2)]
    assert sum(parts) == 12 and tree(tmp_path / "parts") == expected
    with pytest.raises(UsageError, match=r"data-000003\.tar"):
        plan(tmp_path / "data-{000000..000003}.tar")


def test_a_tar_that_is_named_twice_once_by_a_link_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(ARCHIVE)
    (tmp_path / "link.tar").symlink_to("a.tar")
    found = plan(tmp_path / "link.tar", tmp_path / "a.tar", tmp_path / "link.tar")
    assert [item.source for item in found.items] == [f"{tmp_path}/link.tar/{name}" for name, _ in ENTRIES]
    (tmp_path / "a.tar").write_bytes(b"no tar " * 100)
    assert len(plan(tmp_path / "link.tar", tmp_path / "a.tar").refused) == 1


def test_ranges_are_written_as_webdataset_writes_them() -> None:
    assert expand_range("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expand_range("a-{8..10}.tar") == ["a-8.tar", "a-9.tar", "a-10.tar"]
    assert expand_range("s3://b/{0..1}/{0..1}.tar") == ["s3://b/0/0.tar", "s3://b/0/1.tar", "s3://b/1/0.tar", "s3://b/1/1.tar"]
    assert expand_range("a-{1..2}.jpg") == expand_range("a.tar") == []
    for name in ("a-{3..1}.tar", "a-{0..99999999}.tar"):
        with pytest.raises(UsageError):
            expand_range(name)


def test_a_pattern_and_its_numbers() -> None:
    assert [tar_name("d%d/m-%03d.tar", number) for number in (0, 1000)] == ["d%d/m-000.tar", "d%d/m-1000.tar"]
    assert [tar_number("d/m-%03d.tar", name) for name in ("m-007.tar", "m-1000.tar", "m-7.tar", "m-0007.tar", "x.tar", "m-.tar")] == [
        7,
        1000,
        None,
        None,
        None,
        None,
    ]
    assert (tar_number("d/m.tar", "m.tar"), tar_number("d/m.tar", "n.tar")) == (0, None)


def test_the_base_puts_the_shard_s_name_before_its_entries(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for name in ("one", "two"):
        (tmp_path / "d" / f"{name}.tar").write_bytes(pack([("./x/a.jpg", b"x")]))
    found = plan(tmp_path / "d", f"{tmp_path}/d/*.tar", base=str(tmp_path), naming=Naming(keep_suffix=True))
    assert [item.path for item in found.items] == ["d/one.tar", "d/two.tar", "d/one.tar/x/a.jpg", "d/two.tar/x/a.jpg"]
    assert found.items[-1].source == f"{tmp_path}/d/two.tar/x/a.jpg"


def test_a_tar_that_a_walk_meets_says_how_it_is_read(tmp_path: Path) -> None:
    make_tar(tmp_path / "in" / "a.tar", make_inputs(tmp_path / "pictures", 2))
    (tmp_path / "in" / "folder.tar").mkdir()
    (tmp_path / "in" / "folder.tar" / "b.png").write_bytes(picture())
    assert counts(run(tmp_path / "in", tmp_path / "out")) == (1, 0, 1, 0)
    line = json.loads((tmp_path / "out" / ".seseg" / "quarantine.jsonl").read_text())
    assert (line["path"], line["reason"]) == ("a.tar", "unsupported") and "name it itself" in line["message"]
    assert counts(run(tmp_path / "in" / "folder.tar", tmp_path / "out2")) == (1, 0, 0, 0)


def test_a_second_entry_with_one_output_is_quarantined_and_stays_so(tmp_path: Path) -> None:
    (tmp_path / "one.tar").write_bytes(pack([("a.png", picture(1)), ("a.jpg", picture(2)), ("a.png", picture(3)), ("b.png", picture(4))]))
    (tmp_path / "two.tar").write_bytes(pack([("x/../c.png", picture(5)), ("b.png", picture(6)), ("d.png", picture(7))]))
    source = [tmp_path / "one.tar", tmp_path / "two.tar"]
    wanted = {"a.jpg": "collision", "one.tar#3/a.png": "collision", "two.tar#2/b.png": "collision", "two.tar#1/c.png": "unreadable"}
    assert counts(run(source, tmp_path / "out")) == (3, 0, 4, 0)
    assert records(tmp_path / "out") == wanted
    made = tree(tmp_path / "out")
    assert set(made) == {f"{name}_{kind}.png" for name in "abd" for kind in ("se", "pred")}
    for again in (run(source, tmp_path / "out"), run(source, tmp_path / "out", retry=True)):
        assert counts(again) == (0, 3, 4, 0)
    assert counts(retry_files(tmp_path / "out", backend=FakeBackend(16))) == (0, 0, 4, 0)
    assert records(tmp_path / "out") == wanted and tree(tmp_path / "out") == made
    assert counts(run(source, tmp_path / "kept", keep_suffix=True)) == (4, 0, 3, 0)
    assert counts(run(source, tmp_path / "based", base=str(tmp_path))) == (4, 0, 3, 0)
    (tmp_path / "in").mkdir()
    for name in ("a.png", "a.jpg"):
        (tmp_path / "in" / name).write_bytes(picture())
    with pytest.raises(UsageError, match="two inputs"):
        plan(tmp_path / "in")


def test_an_output_in_the_place_of_a_folder_costs_that_entry(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(pack([("a.png", picture()), ("a_se.png/b.png", picture())]))
    assert counts(run(tmp_path / "a.tar", tmp_path / "out")) == (1, 0, 1, 0)
    assert records(tmp_path / "out") == {"a.png": "collision"}


def test_links_are_what_they_lead_to(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:

        def add(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", data: bytes = b"") -> None:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, len(data)
            tar.addfile(info, io.BytesIO(data))

        add("x", tarfile.DIRTYPE)
        add("x/early.png", tarfile.SYMTYPE, "../a.png")
        add("a.png", data=picture(1))
        add("hard.png", tarfile.LNKTYPE, "./a.png")
        add("chain.png", tarfile.SYMTYPE, "x/early.png")
        add("gone.png", tarfile.SYMTYPE, "nowhere.png")
        add("outside.png", tarfile.SYMTYPE, "../../etc/passwd")
        add("root.png", tarfile.SYMTYPE, "/a.png")
        add("loop1.png", tarfile.SYMTYPE, "loop2.png")
        add("loop2.png", tarfile.SYMTYPE, "loop1.png")
        add("folder.png", tarfile.SYMTYPE, "x")
        add("pipe.png", tarfile.FIFOTYPE)
        add("device.png", tarfile.CHRTYPE)
        add("../up.png", data=picture(2))
        add("/top.png", data=picture(3))
        add("odd.png", b"Q")
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    assert counts(run(tmp_path / "a.tar", tmp_path / "out")) == (5, 0, 10, 0)
    assert records(tmp_path / "out") == {
        "gone.png": "missing",
        "outside.png": "missing",
        "root.png": "missing",
        "loop1.png": "link_loop",
        "loop2.png": "link_loop",
        "folder.png": "not_a_file",
        "pipe.png": "not_a_file",
        "device.png": "not_a_file",
        "odd.png": "not_a_file",
        "a.tar#14/up.png": "unreadable",
    }
    made = tree(tmp_path / "out")
    assert len({made[f"{name}_se.png"] for name in ("a", "hard", "chain", "x/early")}) == 1
    assert not (tmp_path / "up_se.png").exists()
    assert counts(retry_files(tmp_path / "out", backend=FakeBackend(16))) == (0, 0, 10, 0)


def test_a_sample_s_sidecars_are_skipped_and_a_lone_one_is_an_input(tmp_path: Path) -> None:
    names = ["x/001.jpg", "x/001.json", "x/001.cls", "x/002.seg.PNG", "x/002.txt", "003.json", "y/001.json", "004"]
    found = index(pack([(name, b"x") for name in names]))
    assert list(found.entries) == ["x/001.jpg", "x/002.seg.PNG", "003.json", "y/001.json", "004"] and len(found.sidecars) == 3
    (tmp_path / "a.tar").write_bytes(pack([("1.png", picture()), ("1.json", b"{}"), (".x", b""), ("2.json", b"{}")]))
    assert counts(run(tmp_path / "a.tar", tmp_path / "out")) == (1, 2, 1, 0)


def test_names_of_any_bytes_and_any_length(tmp_path: Path) -> None:
    names = ["a\udcff\udcfe.png", "ü/é.png", "new\nline.png", "d/" * 60 + "deep.png", "l" * 180 + ".png", " .png"]
    inputs = tmp_path / "in"
    for number, name in enumerate(names):
        (inputs / name).parent.mkdir(parents=True, exist_ok=True)
        (inputs / name).write_bytes(picture(number))
    run(inputs, tmp_path / "folder")
    for tar_format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        make_tar(tmp_path / "a.tar", inputs, tar_format=tar_format)
        assert counts(run(tmp_path / "a.tar", tmp_path / f"out{tar_format}")) == (6, 0, 0, 0)
        assert tree(tmp_path / f"out{tar_format}") == tree(tmp_path / "folder")


@given(st.integers(0, len(ARCHIVE) - 1))
@settings(max_examples=60, deadline=None)
def test_an_archive_that_was_cut_anywhere_gives_what_is_whole_and_says_what_is_not(cut: int) -> None:
    found = index(ARCHIVE[:cut])
    whole = [name for (name, data), start in zip(ENTRIES, STARTS, strict=True) if start + 512 + len(data) <= cut]
    assert list(found.entries) == whole
    for name, entry in found.entries.items():
        assert ARCHIVE[entry.offset : entry.offset + entry.size] == dict(ENTRIES)[name]
    end = STARTS[-1] + 512 + -(-len(ENTRIES[-1][1]) // 512) * 512
    if cut < end + 512:
        assert found.damage is not None and found.damage[0] in ("truncated", "empty")
    begun = [name for (name, _), start in zip(ENTRIES, STARTS, strict=True) if start + 512 <= cut]
    assert [bad.path for bad in found.refused] == begun[len(whole) :] and all(bad.reason == "truncated" for bad in found.refused)


@given(st.integers(0, len(ARCHIVE) - 1), st.integers(1, 255), st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_an_archive_that_is_damaged_anywhere_never_loses_an_entry_unsaid(place: int, change: int, length: int) -> None:
    data = bytearray(ARCHIVE)
    for at in range(place, min(place + length, len(data))):
        data[at] ^= change
    found = index(bytes(data))
    assert found.damage is not None or len(found) == len(ENTRIES)


def test_what_is_no_archive_is_one_refusal(tmp_path: Path) -> None:
    import gzip

    for name, data, reason in [
        ("empty", b"", "empty"),
        ("short", b"x" * 100, "truncated"),
        ("text", b"no tar " * 100, "unreadable"),
        ("gzip", gzip.compress(ARCHIVE), "unsupported"),
        ("two", ARCHIVE + ARCHIVE, "unreadable"),
    ]:
        (tmp_path / f"{name}.tar").write_bytes(data)
        found = plan(tmp_path / f"{name}.tar")
        assert [(entry.item.path, entry.reason) for entry in found.refused] == [(f"{name}.tar", reason)]
        assert len(found.items) == (6 if name == "two" else 0)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(ARCHIVE))
    with pytest.raises(UsageError, match="decompress"):
        plan(tmp_path / "a.tar.gz")
    assert not plan(*[tmp_path / "text.tar"] * 2).items


def test_damaged_tars_of_one_name_are_both_accounted_for(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.tar").write_bytes(ARCHIVE[: STARTS[1] + 600])
    source = [tmp_path / "x" / "a.tar", tmp_path / "y" / "a.tar"]
    assert counts(run(source, tmp_path / "out")) == (1, 0, 5, 0)
    full = str(tmp_path / "y" / "a.tar").lstrip("/")
    assert records(tmp_path / "out") == {
        "1.png": "truncated",
        "a.tar": "truncated",
        "a.tar#1/0.png": "collision",
        "a.tar#2/1.png": "truncated",
        full: "truncated",
    }
    again = retry_files(tmp_path / "out", backend=FakeBackend(16))
    assert counts(again) == (0, 0, 5, 0) and len(records(tmp_path / "out")) == 5


def test_a_damaged_archive_that_was_mended_is_done_and_its_own_row_goes(tmp_path: Path) -> None:
    tar = tmp_path / "a.tar"
    tar.write_bytes(ARCHIVE[: STARTS[3] + 600])
    assert counts(run(tar, tmp_path / "out")) == (3, 0, 2, 0)
    assert records(tmp_path / "out") == {"3.png": "truncated", "a.tar": "truncated"}
    assert counts(run(tar, tmp_path / "out")) == (0, 3, 2, 0)
    tar.write_bytes(ARCHIVE)
    os.utime(tar, ns=(1, 1))
    assert counts(retry_files(tmp_path / "out", backend=FakeBackend(16))) == (1, 0, 1, 0)
    assert records(tmp_path / "out") == {"a.tar": "truncated"}  # its other entries have not been seen yet
    assert run(tar, tmp_path / "out").inputs == 6
    assert records(tmp_path / "out") == {} and len(tree(tmp_path / "out")) == 12


def test_a_stop_in_the_middle_of_a_shard_and_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "OUTCOMES_PER_COMMIT", 4)
    inputs = make_inputs(tmp_path / "in", 150)
    make_tar(tmp_path / "in.tar", inputs)
    stops: list[Any] = []
    summary = run(tmp_path / "in.tar", tmp_path / "out", observer=RunObserver(started=stops.append, committed=lambda row: stops[0]()))
    assert summary.left > 0 and summary.done > 0
    run(tmp_path / "in.tar", tmp_path / "out")
    run(inputs, tmp_path / "folder")
    assert tree(tmp_path / "out") == tree(tmp_path / "folder")
