from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from seseg_trt.errors import UsageError
from seseg_trt.inputs.item import describe_os_error
from seseg_trt.inputs.scan import Scan


def scan(*arguments: object, output: object = "/nowhere/out", base: str | None = None, listed: list[str] | None = None) -> Scan:
    found = Scan(str(output), str(output) + "/.seseg", base)
    for argument in arguments:
        found.add(str(argument))
    if listed is not None:
        found.add_group(listed)
    return found


def paths(found: Scan) -> list[str]:
    return [item.path for item in found.items]


def reasons(found: Scan) -> dict[str, str]:
    return {entry.item.path: entry.reason for entry in found.refused}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    top = tmp_path / "in"
    for name in ("b.jpg", "a.jpg", "sub/c", "sub/deep/d.png", ".hidden", "sub/.git/x.jpg", "Thumbs.db", "sub/DESKTOP.INI"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(b"x")
    return top


def test_a_folder_gives_every_regular_file_whatever_its_suffix_in_the_order_of_names(folder: Path) -> None:
    found = scan(folder)
    assert paths(found) == ["a.jpg", "b.jpg", "sub/c", "sub/deep/d.png"]
    assert found.ignored == 4
    assert not found.refused
    assert found.items[2].source == f"{folder}/sub/c"


def test_a_file_gives_its_base_name(folder: Path) -> None:
    assert paths(scan(folder / "sub/deep/d.png", folder / "a.jpg")) == ["d.png", "a.jpg"]


def test_a_glob_and_a_list_are_relative_to_their_common_parent(folder: Path) -> None:
    assert paths(scan(f"{folder}/**/*.*g")) == ["a.jpg", "b.jpg", "sub/deep/d.png"]
    assert paths(scan(listed=[f"{folder}/sub/deep/d.png", f"{folder}/sub/c"])) == ["deep/d.png", "c"]
    assert paths(scan(listed=[f"{folder}/sub", f"{folder}/a.jpg"])) == ["sub/c", "sub/deep/d.png", "a.jpg"]


def test_base_rules_all_names(folder: Path) -> None:
    base = str(folder.parent)
    assert paths(scan(folder / "sub", folder / "a.jpg", base=base)) == ["in/sub/c", "in/sub/deep/d.png", "in/a.jpg"]
    with pytest.raises(UsageError, match="not under the base"):
        scan(folder / "a.jpg", base=str(folder / "sub"))


def test_a_name_that_names_nothing_is_an_error_but_a_stale_line_of_a_list_is_not(folder: Path) -> None:
    with pytest.raises(UsageError, match="no file or folder"):
        scan(folder / "nothing.jpg")
    with pytest.raises(UsageError, match="nothing matches"):
        scan(f"{folder}/*.bmp")
    assert reasons(scan(listed=[f"{folder}/nothing.jpg", f"{folder}/a.jpg"])) == {"nothing.jpg": "missing"}


def test_a_list_that_was_split_wrongly_is_explained(folder: Path) -> None:
    with pytest.raises(UsageError, match="--null"):
        scan(listed=[f"{folder}/a.jpg\0{folder}/b.jpg"])


def test_what_is_no_regular_file_is_refused_with_its_kind(folder: Path) -> None:
    os.mkfifo(folder / "pipe.jpg")
    (folder / "dangling.jpg").symlink_to("gone.jpg")
    (folder / "loop1.jpg").symlink_to("loop2.jpg")
    (folder / "loop2.jpg").symlink_to("loop1.jpg")
    here = os.getcwd()
    os.chdir(folder)  # a socket's path has little room
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket.jpg")
            found = scan(folder)
    finally:
        os.chdir(here)
    assert reasons(found) == {
        "pipe.jpg": "not_a_file",
        "socket.jpg": "not_a_file",
        "dangling.jpg": "missing",
        "loop1.jpg": "link_loop",
        "loop2.jpg": "link_loop",
    }
    assert paths(found) == ["a.jpg", "b.jpg", "sub/c", "sub/deep/d.png"]


def test_links_to_folders_are_followed_but_never_in_a_circle(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "e.jpg").write_bytes(b"x")
    (folder / "linked").symlink_to(other)
    (folder / "sub" / "up").symlink_to(folder)
    found = scan(folder)
    assert "linked/e.jpg" in paths(found)
    assert reasons(found) == {"sub/up": "link_loop"}
    assert len(paths(found)) == 5


def test_an_unreadable_folder_is_one_refusal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def scandir(path: str) -> object:
        if path.endswith("/deep"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = scan(folder)
    assert reasons(found) == {"sub/deep": "unreadable"}
    assert "Permission denied" in found.refused[0].message


def test_very_deep_folders_do_not_exhaust_the_stack(tmp_path: Path) -> None:
    here = os.getcwd()
    top = tmp_path / "deep"
    top.mkdir()
    os.chdir(top)
    try:
        for _ in range(1200):
            os.mkdir("d")
            os.chdir("d")
        Path("x.jpg").write_bytes(b"x")
        found = scan(top)
        os.remove("x.jpg")
        for _ in range(1200):  # pytest removes old folders recursively, and would exhaust the stack
            os.chdir("..")
            os.rmdir("d")
    finally:
        os.chdir(here)
    assert len(found.items) + len(found.refused) == 1


def test_the_output_folder_inside_the_input_is_never_read(folder: Path) -> None:
    output = folder / "masked"
    (output / "sub").mkdir(parents=True)
    (output / "sub" / "a_se.png").write_bytes(b"x")
    (folder / "link_to_output").symlink_to(output / "sub")
    (folder / "link_to_file.png").symlink_to(output / "sub" / "a_se.png")
    assert paths(scan(folder, output=output)) == ["a.jpg", "b.jpg", "sub/c", "sub/deep/d.png"]
    assert paths(scan(f"{folder}/**/*.png", output=output)) == ["sub/deep/d.png"]
    with pytest.raises(UsageError, match="lies in the output folder"):
        scan(output / "sub" / "a_se.png", output=output, base=str(folder))


@pytest.mark.parametrize("argument", ["", "a.jpg", "*.jpg"])
def test_an_output_folder_that_is_the_input_folder_is_refused(folder: Path, argument: str) -> None:
    with pytest.raises(UsageError, match="output folder is the input folder"):
        scan(folder / argument, output=folder)


def test_an_input_folder_inside_the_output_folder_is_read(folder: Path) -> None:
    assert paths(scan(folder / "sub", output=folder)) == ["c", "deep/d.png"]


def test_what_the_operating_system_says_becomes_a_reason() -> None:
    assert describe_os_error(OSError(5, "Input/output error"))[0] == "unreadable"
    assert describe_os_error(IsADirectoryError(21, "x"))[0] == "not_a_file"
