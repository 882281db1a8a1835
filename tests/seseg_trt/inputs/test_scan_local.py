"""Odd corners of a disk: what is left out, what is refused and in which words, and where names begin."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from seseg_trt.errors import UsageError
from seseg_trt.inputs import scan as module
from seseg_trt.inputs.item import InputItem
from seseg_trt.inputs.scan import Scan
from seseg_trt.storage.base import Stat
from tests.seseg_trt.inputs.tars import ARCHIVE, pack
from tests.seseg_trt.inputs.test_scan import paths, reasons, scan


def fill(top: Path, *names: str) -> Path:
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(b"x")
    return top


def messages(found: Scan) -> dict[str, str]:
    return {entry.item.path: entry.message for entry in found.refused}


def test_only_the_names_of_file_managers_and_dot_files_are_left_out(tmp_path: Path) -> None:
    top = fill(tmp_path / "in", "THUMBS.DB", "Desktop.ini", "xthumbs.db", "thumbs.db.jpg", "a.b", "sub/thumbs.db", "s.ub/..x/c.jpg", "d./e")
    found = scan(top)
    assert paths(found) == ["a.b", "d./e", "thumbs.db.jpg", "xthumbs.db"] and found.ignored == 4


def test_what_is_left_out_is_counted_once_also_where_it_could_not_be_opened(tmp_path: Path) -> None:
    top = fill(tmp_path / "in", "a.jpg")
    (top / ".gone").symlink_to("nowhere")
    assert scan(top).ignored == 1
    os.mkfifo(top / ".pipe")
    found = scan(top)
    assert found.ignored == 2 and not found.refused and paths(found) == ["a.jpg"]


def test_a_tar_of_a_dot_name_is_left_out_unread(tmp_path: Path) -> None:
    (tmp_path / ".a.tar").write_bytes(b"no tar")
    found = scan(tmp_path / ".a.tar")
    assert (found.ignored, found.items, found.refused) == (1, [], [])
    found.add(str(tmp_path / ".a.tar"))
    assert found.ignored == 1


def test_what_is_no_regular_file_is_named(tmp_path: Path) -> None:
    top = fill(tmp_path / "in", "a.jpg")
    os.mkfifo(top / "pipe")
    assert messages(scan(top / "pipe")) == {"pipe": "it is a pipe, not a regular file"}
    assert messages(scan(top))["pipe"] == "it is a pipe, not a regular file"
    assert messages(scan("/dev/null")) == {"null": "it is a device, not a regular file"}
    os.mkfifo(top / "p.tar")
    assert messages(scan(top / "p.tar")) == {"p.tar": "it is a pipe, not a regular file"}


@pytest.mark.parametrize(("mode", "words"), [(0o040000, "a folder"), (0o140000, "a socket"), (0o060000, "a device"), (0, "something else")])
def test_each_kind_of_file_has_its_word(mode: int, words: str) -> None:
    found = scan()
    found._take(InputItem("/in", "a.jpg"), mode)
    assert reasons(found) == {"a.jpg": "not_a_file"} and messages(found) == {"a.jpg": f"it is {words}, not a regular file"}


def test_a_link_to_a_file_is_that_file(tmp_path: Path) -> None:
    top = fill(tmp_path / "in", "a.jpg")
    (top / "b.jpg").symlink_to("a.jpg")
    found = scan(top)
    assert paths(found) == ["a.jpg", "b.jpg"] and paths(scan(top / "b.jpg")) == ["b.jpg"]


def test_a_link_to_a_folder_that_is_named_is_walked(tmp_path: Path) -> None:
    fill(tmp_path / "in", "sub/a.jpg", "b.jpg")
    (tmp_path / "link").symlink_to("in")
    found = scan(tmp_path / "link")
    assert paths(found) == ["b.jpg", "sub/a.jpg"] and found.items[0].root == f"{tmp_path}/link"


def test_a_folder_is_walked_twice_where_two_links_lead_to_it(tmp_path: Path) -> None:
    top = fill(tmp_path / "in", "sub/a.jpg", "z.jpg")
    (top / "again").symlink_to("sub")
    found = scan(top)
    assert paths(found) == ["again/a.jpg", "sub/a.jpg", "z.jpg"] and not found.refused
    (top / "sub" / "self").symlink_to(".")
    assert messages(scan(top)) == dict.fromkeys(("again/self", "sub/self"), "symbolic links lead in a circle")


def test_the_order_is_that_of_the_names_bytes(tmp_path: Path) -> None:
    top = fill(tmp_path / "in", "\udcff", "ü", "b/x", "a", "B", "b-c")
    assert paths(scan(top)) == ["B", "a", "b/x", "b-c", "ü", "\udcff"]


def test_links_into_the_closed_folders_are_passed_over_and_what_follows_is_read(tmp_path: Path) -> None:
    top = fill(tmp_path / "in", "m.jpg", "z.jpg", "masked/a_se.png", "masked/.seseg/x")
    for name, target in (("a", "masked"), ("n.png", "masked/a_se.png"), ("o", "masked/.seseg")):
        (top / name).symlink_to(target)
    found = scan(top, output=top / "masked")
    assert paths(found) == ["m.jpg", "z.jpg"] and (found.ignored, found.refused) == (0, [])


def test_the_state_folder_is_closed_wherever_the_outputs_go(tmp_path: Path) -> None:
    top = fill(tmp_path / "in", "state/journal", "state2/a.jpg", "b.jpg")
    (top / "link").symlink_to("state")
    found = Scan("/nowhere/out", str(top / "state"), None)
    found.add(str(top))
    assert paths(found) == ["b.jpg", "state2/a.jpg"]
    with pytest.raises(UsageError) as caught:
        found.add(str(top / "state"))
    assert str(caught.value) == f"the input folder {top}/state lies in the output folder\n  choose another output folder"
    with pytest.raises(UsageError) as caught:
        found.add(str(top / "state" / "journal"))
    assert caught.value.message == f"the input {top}/state/journal lies in the output folder"


def test_an_output_folder_that_is_not_made_yet_closes_nothing(tmp_path: Path) -> None:
    top = fill(tmp_path / "in", "a.jpg", "masked2/b.jpg", "mask/c.jpg")
    assert paths(scan(top, output=top / "masked")) == ["a.jpg", "mask/c.jpg", "masked2/b.jpg"]


def test_a_list_leaves_out_what_lies_in_the_output_folder(tmp_path: Path) -> None:
    top = fill(tmp_path / "in", "a.jpg", "masked/a_se.png", "z.jpg")
    found = scan(output=top / "masked", listed=[f"{top}/a.jpg", f"{top}/masked/a_se.png", f"{top}/masked", f"{top}/z.jpg"])
    assert paths(found) == ["a.jpg", "z.jpg"] and not found.refused


def test_output_tars_are_no_inputs_but_other_tars_are(tmp_path: Path) -> None:
    top = fill(tmp_path / "in", "m-01.tar", "m-1.tar", "sub/m-01.tar", "n.jpg", "m-02.tar.jpg")
    (top / "link.tar").symlink_to("m-01.tar")
    found = scan(top, output=top / "m-%02d.tar")
    assert paths(found) == ["m-02.tar.jpg", "m-1.tar", "n.jpg", "sub/m-01.tar"]
    assert len(paths(scan(top, output=tmp_path / "m-%02d.tar"))) == 6
    with pytest.raises(UsageError, match=r"the input .*m-01\.tar lies in the output folder"):
        scan(top / "m-01.tar", output=top / "m-%02d.tar")


def test_names_begin_at_the_base(tmp_path: Path) -> None:
    top = fill(tmp_path / "in", "a.jpg", "..b/c.jpg", "sub/d.jpg")
    found = scan(top / "a.jpg", base="/")
    assert paths(found) == [f"{top}/a.jpg"[1:]] and found.items[0].source == f"{top}/a.jpg"
    assert paths(scan(top, base=str(top))) == ["a.jpg", "sub/d.jpg"]  # a name with two dots is a dot file
    assert scan(top / "..b", base=str(top)).ignored == 1
    for outside in (tmp_path, tmp_path / "in2"):
        fill(tmp_path / "in2", "e.jpg")
        with pytest.raises(UsageError) as caught:
            scan(outside, base=str(top))
        assert str(caught.value) == f"{outside} is not under the base folder {top}\n  choose a --base that holds all inputs"


def test_names_are_relative_where_the_argument_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "in", "a.jpg", "sub/b.jpg")
    monkeypatch.chdir(tmp_path / "in")
    for argument in (".", "./", "../in"):
        assert paths(scan(argument)) == ["a.jpg", "sub/b.jpg"]
    assert scan("a.jpg").items == [InputItem(f"{tmp_path}/in", "a.jpg")]
    assert paths(scan("sub/b.jpg", base=".")) == ["sub/b.jpg"]


def test_a_glob_that_matches_folders_gives_what_lies_in_them(tmp_path: Path) -> None:
    top = fill(tmp_path / "in", "s1/a.jpg", "s2/b.jpg", "s3.jpg", "t/c.jpg")
    assert paths(scan(f"{top}/s*")) == ["s1/a.jpg", "s2/b.jpg", "s3.jpg"]
    assert paths(scan(f"{top}/**")) == ["s1/a.jpg", "s2/b.jpg", "s3.jpg", "t/c.jpg"]
    with pytest.raises(UsageError) as caught:
        scan(f"{top}/x*")
    assert str(caught.value) == f"nothing matches '{top}/x*'\n  quote the pattern; ** matches folders at any depth"


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    top = fill(tmp_path / "in", "a[1].jpg", "a1.jpg", "d-{0..1}.tar/x.jpg", "e.tar.gz/y.jpg")
    assert paths(scan(top / "a[1].jpg")) == ["a[1].jpg"]
    assert paths(scan(top / "d-{0..1}.tar")) == ["x.jpg"]
    assert paths(scan(top / "e.tar.gz")) == ["y.jpg"]


def test_a_name_that_names_nothing_is_said_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        scan(tmp_path / "nothing")
    assert str(caught.value) == f"there is no file or folder '{tmp_path}/nothing'\n  check the path"
    (tmp_path / "d-0.tar").write_bytes(ARCHIVE)
    with pytest.raises(UsageError) as caught:
        scan(tmp_path / "d-{0..1}.tar")
    name = f"{tmp_path}/d-{{0..1}}.tar"
    assert str(caught.value) == f"there is no file '{tmp_path}/d-1.tar', which is of the range {name}\n  check the range"
    with pytest.raises(UsageError) as caught:
        scan(tmp_path / "a.tgz")
    assert caught.value.hint == "decompress it first"
    for add in (scan().add, lambda path: scan().add_group([path])):
        with pytest.raises(UsageError) as caught:
            add("a" * 99 + "\0" + "b" * 99)
        assert str(caught.value).startswith(f"'{'a' * 99}\\x00' holds a NUL byte")


def test_the_output_folder_as_input_folder_is_said_with_the_way_out(tmp_path: Path) -> None:
    top = fill(tmp_path / "in", "a.jpg")
    (tmp_path / "link").symlink_to("in")
    with pytest.raises(UsageError) as caught:
        scan(tmp_path / "link", output=top)
    assert str(caught.value) == (
        f"the output folder is the input folder: {tmp_path}/link\n  choose another output folder; it may lie inside the input folder"
    )


def test_a_link_that_leads_nowhere_is_refused_where_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "gone.tar").symlink_to("nowhere")
    assert reasons(scan(tmp_path / "gone.jpg", tmp_path / "gone.tar")) == {"gone.jpg": "missing", "gone.tar": "missing"}


def test_an_entry_that_cannot_be_asked_is_one_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = fill(tmp_path / "in", "a.jpg", "c.jpg")
    (top / "b.jpg").symlink_to("a.jpg")

    def refuse(self: object, root: str, path: str) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Scan, "_is_closed", lambda self, root, path: path != str(top) and refuse(self, root, path))
    found = scan(top)
    assert paths(found) == ["a.jpg", "c.jpg"] and reasons(found) == {"b.jpg": "unreadable"}


def test_a_folder_that_goes_while_it_is_walked_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = fill(tmp_path / "in", "sub/a.jpg", "b.jpg")
    real = module._key

    def key(folder: str) -> tuple[int, int]:
        if folder.endswith("/sub"):
            raise FileNotFoundError(2, "No such file or directory")
        return real(folder)

    monkeypatch.setattr(module, "_key", key)
    found = scan(top)
    assert paths(found) == ["b.jpg"] and reasons(found) == {"sub": "missing"}


def test_a_tar_says_what_is_refused_and_left_out(tmp_path: Path) -> None:
    bad = [("a.jpg", b"1"), ("a.jpg", b"2"), ("../b.jpg", b"3"), ("a.json", b"4"), ("c/.d.jpg", b"5"), ("e.cls", b"6")]
    (tmp_path / "x.tar").write_bytes(pack(bad))
    found = scan(tmp_path / "x.tar")
    assert paths(found) == ["a.jpg", "e.cls"] and found.ignored == 2
    assert reasons(found) == {"x.tar#2/a.jpg": "collision", "x.tar#3/b.jpg": "unreadable"}
    assert {entry.item.root for entry in found.refused} == {str(tmp_path)}
    stat = os.stat(tmp_path / "x.tar")
    assert found.items[0] == InputItem(f"{tmp_path}/x.tar", "a.jpg", Stat(1, stat.st_mtime_ns), 512)
    based = scan(tmp_path / "x.tar", base=str(tmp_path))
    assert [(item.root, item.path) for item in based.items] == [(str(tmp_path), "x.tar/a.jpg"), (str(tmp_path), "x.tar/e.cls")]
    (tmp_path / "y.tar").write_bytes(ARCHIVE[:700])
    cut = scan(tmp_path / "y.tar", base=str(tmp_path))
    assert reasons(cut) == {"y.tar/0.png": "truncated", "y.tar": "truncated"} and cut.ignored == 0


def test_a_tar_that_cannot_be_read_is_one_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.tar").write_bytes(ARCHIVE)

    def refuse(name: str, stat: Stat) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module, "index_of", refuse)
    found = scan(tmp_path / "x.tar")
    assert messages(found) == {"x.tar": "it can't be read: Permission denied"} and not found.items


@pytest.mark.parametrize(
    ("path", "folder", "within"),
    [
        ("/a", "/a", True),
        ("/a/b", "/a", True),
        ("/ab", "/a", False),
        ("/a", "/a/b", False),
        ("/a", "/", True),
        ("/", "/", True),
        ("/b", "/a", False),
    ],
)
def test_a_path_is_within_a_folder_by_its_parts(path: str, folder: str, within: bool) -> None:
    assert module._is_within(path, folder) is within
