"""No run touches the network by itself, or writes outside the folders that were named."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
WATCHED = """
import os, sys
seen = []
NETWORK = ("socket.getaddrinfo", "socket.gethostbyname", "socket.connect", "socket.sendto", "urllib.Request", "http.client.connect", "os.fork")
def hook(event, arguments):
    if event in NETWORK:
        os.write(2, f"NETWORK {event} {arguments!r}\\n".encode())
sys.addaudithook(hook)
"""


def run(code: str, folder: Path, environment: dict[str, str]) -> str:
    """Run Python code with a hook that reports network use, also in the worker processes that it starts; return what was reported."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED + code], capture_output=True, text=True, cwd=folder, env={**environment, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    log = folder / "out" / ".seseg" / "log.txt"
    return done.stderr + (log.read_text() if log.exists() else "")


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "home").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "truth").mkdir()
    for name in ("photo_cat.jpg", "photo_rocket.jpg"):
        shutil.copy(ROOT / "seseg_trt" / "data" / "images" / name, tmp_path / "photos")
        with Image.open(tmp_path / "photos" / name) as image:
            mask = Image.new("L", image.size)
        mask.paste(255, (0, 0, 40, 40))
        mask.save(tmp_path / "truth" / f"{Path(name).stem}_pred.png")
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "OPENBLAS_CORETYPE")}
    return {**kept, "HOME": str(tmp_path / "home")}


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


SEGMENT = """
from seseg_trt import *
from seseg_trt.workers import process
process.BOOT = {watched!r} + process.BOOT
summary = segment_files(["photos"], "out", model="demo", masks=MaskOptions(("mask",), threshold=50), options=RunOptions(processes={processes}))
assert summary.done == 2
"""


@pytest.mark.parametrize("processes", [0, 1])
def test_a_run_asks_nobody_and_writes_where_it_was_told_to(tmp_path: Path, home: dict[str, str], processes: int) -> None:
    before = files(tmp_path)
    reported = run(SEGMENT.format(watched=WATCHED, processes=processes), tmp_path, home)
    assert "NETWORK" not in reported
    new = {name for name in files(tmp_path) - before if not name.startswith("out/")}
    assert not new


@pytest.mark.parametrize(
    "code",
    [
        "import numpy; from seseg_trt import Segmenter; Segmenter('demo').masks([numpy.zeros((32, 32, 3), numpy.uint8)], threshold=50)",
        "from seseg_trt.cli.main import group, run; assert run(group, ['doctor']) in (0, 3)",
        "from seseg_trt.cli.main import group, run\n"
        f"assert run(group, 'verify --reference demo --candidate {ROOT / 'tests/data/fixture.onnx'} --images photos --out c.json --drift-images 0 --quiet'.split()) in (0, 4)",
        "from seseg_trt.cli.main import group, run\n"
        "assert run(group, 'evaluate --model demo --images photos --masks truth --quiet --json'.split()) == 0",
    ],
    ids=["Segmenter", "doctor", "verify", "evaluate"],
)
def test_nothing_else_asks_anybody(tmp_path: Path, home: dict[str, str], code: str) -> None:
    assert "NETWORK" not in run(code, tmp_path, home)
    assert not files(tmp_path / "home")


@pytest.mark.parametrize("verb", ["segment --model demo photos out", "doctor"])
def test_a_user_without_a_home_or_a_name(tmp_path: Path, home: dict[str, str], verb: str) -> None:
    del home["HOME"]
    nameless = (
        "import pwd, sys\n"
        "def nobody(*_): raise KeyError('no such user')\n"
        "pwd.getpwuid = pwd.getpwnam = nobody\n"
        "from seseg_trt.cli.main import group, run\n"
        f"sys.exit(run(group, {verb.split()!r}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", nameless], capture_output=True, text=True, cwd=tmp_path, env={**home, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode in ((0,) if verb.startswith("segment") else (0, 3)), done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "~").exists()


def test_the_hook_sees_what_it_is_for(tmp_path: Path, home: dict[str, str]) -> None:
    assert "NETWORK socket.connect" in run("import socket; socket.socket(socket.AF_INET).connect_ex(('127.0.0.1', 9))", tmp_path, home)
