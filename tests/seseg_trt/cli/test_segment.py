"""``seseg-trt segment`` as its users call it, with the demonstration network."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from seseg_trt.cli import main as cli
from tests.corpus import make_corpus
from tests.faults import in_workers
from tests.runs import how_many, make_inputs, make_tar, picture, tree

COMMAND = [sys.executable, "-m", "seseg_trt"]


class Result(SimpleNamespace):
    code: int
    out: str
    err: str


@pytest.fixture
def seseg(capfd: pytest.CaptureFixture[str]) -> Any:
    """Run the command in this process (starting Python anew takes a second each time)."""

    def call(*arguments: object) -> Result:
        capfd.readouterr()
        code = cli.run(cli.group, [os.fspath(a) if isinstance(a, Path) else str(a) for a in arguments], "seseg-trt")
        captured = capfd.readouterr()
        return Result(code=code, out=captured.out, err=captured.err)

    return call


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_inputs(tmp_path / "photos", 4)


def summary(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.out)
    assert found["inputs"] == found["done"] + found["skipped"] + found["quarantined"]
    assert found["exit_code"] == result.code
    return found


@pytest.mark.parametrize("hyphens", [False, True])
def test_the_original_programs_command_word_for_word(seseg: Any, photos: Path, tmp_path: Path, hyphens: bool) -> None:
    flags = ["--input_dir", photos, "--output_dir", tmp_path / "out", "--output_type", "se,nse,mask", "--mask_color", "255,0,0"]
    flags += ["--threshold", "50", "--model", "demo"]
    result = seseg("segment", *(str(f).replace("_", "-") if hyphens and str(f).startswith("--") else f for f in flags))
    assert result.code == 0, result.err
    assert set(tree(tmp_path / "out")) == {
        f"{folder}image0000{n}_{kind}.png" for n, folder in enumerate(("", "sub1/", "sub2/", "")) for kind in ("se", "nse", "pred")
    }
    assert "4 inputs = 4 done + 0 skipped + 0 quarantined" in result.err and result.out == ""


def test_json_is_one_object_alone_and_native_words_go_to_the_log(photos: Path, tmp_path: Path) -> None:
    # a native library that writes to both descriptors while the network runs
    code = in_workers(
        "import os, sys, seseg_trt.backends.openvino as o\n"
        "run = o.OpenVINOBackend.infer\n"
        "def infer(self, images):\n"
        "    os.write(1, b'native words on 1\\n'); os.write(2, b'native words on 2\\n')\n"
        "    return run(self, images)\n"
        "o.OpenVINOBackend.infer = infer\n"
    )
    arguments = ["segment", "--model", "demo", "--json", photos, tmp_path / "out"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    assert found["inputs"] == found["done"] == 4 and found["decoded_by"] == {"pillow": 4} and found["seconds"] > 0
    assert "native words" not in done.stderr
    log = (tmp_path / "out" / ".seseg" / "log.txt").read_text()
    assert "native words on 1" in log and "native words on 2" in log


def test_the_corpus_reconciles_with_exit_code_2(seseg: Any, tmp_path: Path) -> None:
    expected = make_corpus(tmp_path / "in")
    (tmp_path / "in" / ".dot").write_bytes(b"")
    result = seseg("segment", "--model", "demo", "--output_type", "mask", "--keep_suffix", "--json", tmp_path / "in", tmp_path / "out")
    found = summary(result)
    masks = sum(outcome == "mask" for outcome in expected.values())
    assert (result.code, found["done"], found["skipped"], found["quarantined"]) == (2, masks, 1, len(expected) - masks)
    for name, outcome in expected.items():
        assert (tmp_path / "out" / f"{name}_pred.png").exists() == (outcome == "mask")


def test_dry_run_shows_the_work_plan_and_writes_nothing(seseg: Any, photos: Path, tmp_path: Path) -> None:
    (photos / "new\nline.png").write_bytes(picture())
    (photos / os.fsdecode(b"\xff.png")).write_bytes(picture())
    (photos / "gone.jpg").symlink_to("nowhere")
    result = seseg("segment", "--dry-run", photos, tmp_path / "out")
    assert result.code == 0
    assert f"{photos}/image00000.png -> {tmp_path}/out/image00000_se.png" in result.out.splitlines()
    assert len(result.out.splitlines()) == 7 and "gone.jpg -> quarantine: missing" in result.out
    found = json.loads(seseg("segment", "--dry-run", "--json", photos, tmp_path / "out").out)
    assert found["inputs"] == 7 and {os.fsencode(i["input"]) for i in found["items"]} >= {os.fsencode(photos) + b"/\xff.png"}
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("null", [False, True])
@pytest.mark.parametrize("standard_input", [False, True])
def test_a_list_from_a_file_or_from_standard_input(
    seseg: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, null: bool, standard_input: bool
) -> None:
    odd = photos / os.fsdecode(b"odd \xff'\".png")
    odd.write_bytes(picture())
    listed = [photos / "image00000.png", photos / "sub1" / "image00001.png", odd, *([photos / "new\nline.png"] if null else [])]
    (photos / "new\nline.png").write_bytes(picture())
    data = (b"\0" if null else b"\r\n").join(os.fsencode(path) for path in listed) + b"\n" * (not null)
    if standard_input:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    else:
        (tmp_path / "list").write_bytes(data)
    flags = ["--files-from", "-" if standard_input else tmp_path / "list", *(["-0"] if null else [])]
    result = seseg("segment", "--model", "demo", "--json", *flags, tmp_path / "out")
    assert summary(result)["done"] == len(listed)
    assert set(tree(tmp_path / "out")) == {f"{p.relative_to(photos).with_suffix('')}_se.png" for p in listed}


def test_globs_and_base(seseg: Any, photos: Path, tmp_path: Path) -> None:
    glob = f"{photos}/**/*[12].png"
    assert summary(seseg("segment", "--model", "demo", "--json", "--base", photos.parent, glob, tmp_path / "out"))["done"] == 2
    assert set(tree(tmp_path / "out")) == {"photos/sub1/image00001_se.png", "photos/sub2/image00002_se.png"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["photos"], "no input was named"),
        ([], "no output folder"),
        (["nothing", "out"], "no file or folder"),
        (["photos", "photos"], "output folder is the input folder"),
        (["--threshold", "101", "photos", "out"], "percentage"),
        (["--threshold", "half", "photos", "out"], "whole number"),
        (["--output_type", "sea", "photos", "out"], "no output type"),
        (["--mask_color", "1,2", "photos", "out"], "no colour"),
        (["--mask_color", "red", "photos", "out"], "no colour"),
        (["--max-failures", "x%", "photos", "out"], "neither a number nor a percentage"),
        (["--shard", "5", "photos", "out"], "no shard"),
        (["--shard", "5/4", "photos", "out"], "no shard"),
        (["--rle", "photos", "out"], "file for the results"),
        (["--device", "tpu", "photos", "out"], "no device"),
        (["--frobnicate", "photos", "out"], "No such option"),
        (["--files-from", "nothing.txt", "out"], "can't be read"),
    ],
)
def test_what_cannot_be_meant_is_exit_code_1_with_the_way_out(
    seseg: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = seseg("segment", *arguments)
    assert result.code == 1 and words in result.err and result.out == "" and "Traceback" not in result.err
    assert not (tmp_path / "out").exists()


def test_collisions_are_refused_and_keep_suffix_resolves_them(seseg: Any, photos: Path, tmp_path: Path) -> None:
    (photos / "image00000.jpg").write_bytes(picture(7, file_format="JPEG"))
    result = seseg("segment", "--model", "demo", photos, tmp_path / "out")
    assert result.code == 1 and "image00000.jpg" in result.err and "image00000.png" in result.err and "--keep_suffix" in result.err
    assert seseg("segment", "--model", "demo", "--keep-suffix", photos, tmp_path / "out").code == 0
    assert {"image00000.jpg_se.png", "image00000.png_se.png"} <= set(tree(tmp_path / "out"))


def test_without_a_model_exit_code_3_and_the_commands_that_get_one(
    seseg: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SESEG_HOME", str(tmp_path / "home"))
    result = seseg("segment", photos, tmp_path / "out")
    assert result.code == 3 and "seseg-trt fetch" in result.err and "make engine" in result.err
    (tmp_path / "c.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    result = seseg("segment", "--model", tmp_path / "c.hdf5", photos, tmp_path / "out")
    assert result.code == 3 and f"make engine CHECKPOINT={tmp_path}/c.hdf5" in result.err


def test_state_overwrite_and_on_change(seseg: Any, photos: Path, tmp_path: Path) -> None:
    common = ["segment", "--model", "demo", "--json", "--state", tmp_path / "state", photos, tmp_path / "out"]
    assert summary(seseg(*common))["done"] == 4
    assert not (tmp_path / "out" / ".seseg").exists() and (tmp_path / "state" / "journal.sqlite").exists()
    assert summary(seseg(*common))["skipped"] == 4
    assert seseg(*common, "--threshold", "50").code == 1
    assert summary(seseg(*common, "--threshold", "50", "--on-change", "redo"))["done"] == 4
    elsewhere = ["segment", "--model", "demo", "--json", photos, tmp_path / "out"]
    result = seseg(*elsewhere)
    assert result.code == 1 and "no journal knows" in result.err
    assert summary(seseg(*elsewhere, "--overwrite", "skip"))["skipped"] == 4
    assert summary(seseg(*elsewhere[:-1], tmp_path / "out2"))["done"] == 4


def test_too_many_failures_are_exit_code_5(seseg: Any, tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", 6, bad_every=2)
    result = seseg("segment", "--model", "demo", "--max-failures", "10%", tmp_path / "in", tmp_path / "out")
    assert result.code == 5 and "--max-failures" in result.err


def test_a_read_only_output_folder_is_one_clear_error(seseg: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")  # permissions don't bind the superuser; a file in the folder's place does
    result = seseg("segment", "--model", "demo", photos, tmp_path / "file" / "out")
    assert result.code == 5 and "--state" in result.err and "Traceback" not in result.err
    result = seseg("segment", "--model", "demo", "--state", tmp_path / "state", photos, tmp_path / "file" / "out")
    assert result.code == 5 and "can't be written" in result.err


def test_status_and_retry(seseg: Any, tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 6, bad_every=3)
    for index in (1, 2):
        arguments = ["--shard", f"{index}/2", "--state", tmp_path / f"state{index}"]
        seseg("segment", "--model", "demo", *arguments, inputs, tmp_path / "out")
    found = json.loads(seseg("status", "--json", tmp_path / "state1", tmp_path / "state2").out)
    assert (found["inputs"], found["done"], found["quarantined"], found["reasons"]) == (6, 4, 2, {"not_an_image": 2})
    text = seseg("status", tmp_path / "state1", tmp_path / "state2").out
    assert "6 inputs = 4 done + 0 skipped + 2 quarantined" in text and "not_an_image" in text
    seseg("segment", "--model", "demo", inputs, tmp_path / "out2")
    for path in inputs.rglob("*.png"):
        if path.read_bytes() == b"no picture":
            path.write_bytes(picture())
    result = seseg("retry", "--json", tmp_path / "out2")
    assert result.code == 0 and summary(result)["done"] == 2
    assert json.loads(seseg("status", "--json", tmp_path / "out2").out)["done"] == 6
    assert seseg("status", tmp_path / "nothing").code == 1
    assert seseg("retry", tmp_path / "nothing").code == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_what_is_in_flight_and_says_how_to_go_on(tmp_path: Path, number: int, code: int) -> None:
    inputs = make_inputs(tmp_path / "in", 1500)
    command = [*COMMAND, "segment", "--model", "demo", str(inputs), str(tmp_path / "out")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for_outputs(process, tmp_path / "out")
    process.send_signal(number)
    _, words = process.communicate(timeout=60)
    assert process.returncode == code, words
    assert "the same command goes on" in words and "Traceback" not in words
    made = tree(tmp_path / "out")
    assert 0 < len(made) < 1500
    found = json.loads(subprocess.run([*COMMAND, "status", "--json", str(tmp_path / "out")], capture_output=True, text=True).stdout)
    assert found["done"] == len(made) and found["left"] == 1500 - len(made)


def test_a_second_signal_stops_at_once_and_what_is_committed_stays(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 1500)
    code = in_workers(  # the network hangs when it has seen some images, so that finishing what is in flight would take for ever
        "import time, seseg_trt.backends.openvino as o\n"
        "run, count = o.OpenVINOBackend.infer, iter(range(10**6))\n"
        "o.OpenVINOBackend.infer = lambda self, images: run(self, images) if next(count) < 20 else time.sleep(1000)\n"
    )
    command = [sys.executable, "-c", code, "segment", "--model", "demo", str(inputs), str(tmp_path / "out")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for_outputs(process, tmp_path / "out", 20)
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143
    process.communicate()
    assert len(tree(tmp_path / "out")) == 20


def wait_for_outputs(process: subprocess.Popen[str], folder: Path, count: int = 1) -> None:
    while process.poll() is None and how_many(folder) < count:
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()


def test_tars_in_and_out_and_what_is_said_of_them(seseg: Any, photos: Path, tmp_path: Path) -> None:
    (photos / "bad.png").write_bytes(b"no picture")
    shard, target = make_tar(tmp_path / "in.tar", photos), tmp_path / "m-%03d.tar"
    dry = json.loads(seseg("segment", "--dry-run", "--json", shard, target).out)
    assert [item["input"] for item in dry["items"]][:2] == [f"{shard}/bad.png", f"{shard}/image00000.png"] and not dry["refused"]
    found = summary(seseg("segment", "--model", "demo", "--json", "--tar-entries", 2, shard, target))
    assert (found["done"], found["quarantined"], found["unpacked"]) == (4, 1, 0)
    assert sorted(path.name for path in tmp_path.glob("*.tar")) == ["in.tar", "m-000.tar", "m-001.tar", "m-002.tar"]
    assert json.loads(seseg("status", "--json", target).out)["reasons"] == {"not_an_image": 1}
    again = seseg("retry", target)
    assert again.code == 2 and "1 inputs = 0 done + 0 skipped + 1 quarantined" in again.err
    assert seseg("segment", "--tar-entries", 2, shard, tmp_path / "m.tar").code == 1


SHOWN = "the outputs SHOW the explicit part"


@pytest.mark.parametrize(
    ("flags", "said"), [([], True), (["--output_type", "nse"], False), (["--threshold", "50"], False), (["--quiet"], False)]
)
def test_who_gives_neither_type_nor_threshold_is_told_what_shows(
    seseg: Any, photos: Path, tmp_path: Path, flags: list[str], said: bool
) -> None:
    result = seseg("segment", "--model", "demo", *flags, photos, tmp_path / "out")
    assert result.code == 0 and result.err.count(SHOWN) == said and ("--output_type nse --threshold 50" in result.err) == said
    assert "driver" not in result.err  # doctor says that


def test_patterns_choose_inputs(seseg: Any, photos: Path, tmp_path: Path) -> None:
    (photos / "sub1" / "B.PNG").write_bytes(picture(7))
    found = summary(seseg("segment", "--model", "demo", "--json", "--include", "*.png", "--exclude", "sub1/*", photos, tmp_path / "out"))
    assert found["done"] == 3 and found["skipped"] == 2 and not list((tmp_path / "out").glob("sub1/*"))
    result = seseg("segment", "--model", "demo", "--include", "*.jpg", photos, tmp_path / "out2")
    assert result.code == 1 and "none of 5 inputs" in result.err and "*.jpg" in result.err


def test_what_cannot_be_written_at_the_end_is_refused_before_the_run(seseg: Any, photos: Path, tmp_path: Path) -> None:
    for flags in (["--report", tmp_path / "nowhere" / "r.html"], ["--report", tmp_path], ["--results", tmp_path / "r.csv"]):
        result = seseg("segment", "--model", "demo", *flags, photos, tmp_path / "out")
        assert result.code == 1 and str(flags[1]) in result.err and not (tmp_path / "out").exists()


def test_changed_options_are_named_with_both_values(seseg: Any, photos: Path, tmp_path: Path) -> None:
    assert seseg("segment", "--model", "demo", "--threshold", "50", photos, tmp_path / "out").code == 0
    result = seseg("segment", "--model", "demo", "--threshold", "60", "--format", "webp", "--overwrite", "redo", photos, tmp_path / "out")
    assert result.code == 1 and "threshold 50 then, 60 now" in result.err and "format png then, webp now" in result.err


def test_the_end_has_counts_by_reason_and_the_paths_of_what_was_written(seseg: Any, photos: Path, tmp_path: Path) -> None:
    (photos / "bad.png").write_bytes(b"")
    (photos / "worse.png").write_bytes(b"no picture")
    result = seseg("segment", "--model", "demo", "--report", tmp_path / "r.html", photos, tmp_path / "out")
    assert result.code == 2 and "quarantined: 1 empty, 1 not_an_image" in result.err and f"report: {tmp_path / 'r.html'}" in result.err


def piped(data: bytes, *flags: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COMMAND, "segment", "-", "-", "--model", "demo", *flags], input=data, capture_output=True, timeout=120)


def test_one_image_goes_from_stream_to_stream(seseg: Any, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(picture(3))
    flags = ["--output_type", "nse", "--threshold", "50"]
    assert seseg("segment", "--model", "demo", *flags, tmp_path / "in", tmp_path / "out").code == 0
    done = piped(picture(3), *flags)
    assert (done.returncode, done.stderr) == (0, b"") and done.stdout == (tmp_path / "out" / "a_nse.png").read_bytes()


@pytest.mark.parametrize(
    ("data", "flags", "code", "words"),
    [
        (b"", (), 2, b"0 bytes"),
        (b"no picture", (), 2, b"no decoder knows"),
        (picture(1), ("--output_type", "se,mask"), 1, b"not one kind"),
        (picture(1), ("--report", "r.html"), 1, b"no report"),
        (picture(1), ("--json",), 1, b"no report"),
        (picture(1), ("--model", "nothing.onnx"), 3, b"nothing.onnx"),
    ],
)
def test_a_stream_that_is_no_image_gives_one_error_and_no_output(data: bytes, flags: tuple[str, ...], code: int, words: bytes) -> None:
    done = piped(data, *flags)
    assert (done.returncode, done.stdout) == (code, b"") and words in done.stderr and b"Traceback" not in done.stderr


def test_a_stream_without_options_is_told_what_shows_and_a_closed_one_is_refused(tmp_path: Path) -> None:
    done = piped(picture(3))
    assert done.returncode == 0 and SHOWN.encode() in done.stderr and done.stdout.startswith(b"\x89PNG")
    (tmp_path / "a.png").write_bytes(picture(3))
    script = f"{sys.executable} -m seseg_trt segment - - --model demo --threshold 50 <{tmp_path}/a.png >&-"
    closed = subprocess.run(["bash", "-c", script], capture_output=True, timeout=120)
    assert closed.returncode == 1 and b"standard output" in closed.stderr


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_list_as_editors_of_windows_write_it(seseg: Any, photos: Path, tmp_path: Path, encoding: str) -> None:
    names = [str(photos / "image00000.png"), str(photos / "sub1" / "image00001.png")]
    (tmp_path / "list.txt").write_text("".join(f"{name}\r\n" for name in names), encoding=encoding, newline="")
    found = summary(seseg("segment", "--model", "demo", "--json", "--files-from", tmp_path / "list.txt", tmp_path / "out"))
    assert found["done"] == 2


STREAMS = {
    "stdout closed": (">&-", 0),
    "stderr closed": ("2>&-", 0),
    "all closed": ("<&- >&- 2>&-", 0),
    "stderr full": ("2>/dev/full", 0),
    "reader of stderr gone": ("2>&3", 0),
    "stdout full": ("--json >/dev/full", 5),
    "stdin closed": ("--files-from - <&-", 1),
}


@pytest.mark.parametrize("name", STREAMS)
def test_standard_streams_that_are_closed_or_full(photos: Path, tmp_path: Path, name: str) -> None:
    redirection, code = STREAMS[name]
    given = "" if "files-from" in redirection else '"$0"'
    reader, writer = os.pipe()
    os.close(reader)
    script = f'exec 3>&{writer}; exec {sys.executable} -m seseg_trt segment --model demo {given} "$1" {redirection}'
    done = subprocess.run(
        ["bash", "-c", script, str(photos), str(tmp_path / "out")],
        capture_output=True,
        pass_fds=(writer,),
        timeout=120,
    )
    os.close(writer)
    assert done.returncode == code and b"Traceback" not in done.stderr + done.stdout
    assert len(list((tmp_path / "out").rglob("*_se.png"))) == (4 if code != 1 else 0)


def test_a_tar_in_a_locale_that_lacks_its_names(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        entry = tarfile.TarInfo("\u00fc\u6f22.png")
        entry.size = len(picture(1))
        tar.addfile(entry, io.BytesIO(picture(1)))
    legacy = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for target in ("out", "out.tar"):
        done = subprocess.run(
            [*COMMAND, "segment", "--model", "demo", "a.tar", target], capture_output=True, cwd=tmp_path, env=legacy, timeout=120
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "\u00fc\u6f22_se.png").is_file()
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert tar.getnames() == ["\u00fc\u6f22_se.png"]
