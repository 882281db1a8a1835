"""Every command and every line of Python in the README is run, as it is written there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from seseg_trt import cache
from tests.conftest import DATA, KERAS224
from tests.runs import needs_scale
from tests.stores import Bucket, s3_server

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"(?:<!-- test: (?P<note>[^\n]*) -->\n)?^```(?P<kind>sh|python)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
LEFT_TO_CI = {"make test"}  # it would run this very test
# Added to a command that starts so: the same path through the program, in less time.
SMALLER = {"python -m engine.scenes": "--count 170 --width 256 --height 192"}


def _blocks(kind: str) -> list[tuple[str, str]]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [(match["note"] or "", match["body"]) for match in BLOCK.finditer(text) if match["kind"] == kind]


def _commands() -> list[object]:
    commands: list[object] = []
    for note, body in _blocks("sh"):
        marks: list[pytest.MarkDecorator] = [pytest.mark.engine] if "engine" in note else []
        marks += [needs_scale] if "store" in note else []
        code = 3 if "exit 3" in note else 0
        commands += [pytest.param(line, code, marks=marks, id=line) for line in body.splitlines() if line and line not in LEFT_TO_CI]
    return commands


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of links, with a user's photographs and checkpoint beside it, so that nothing is written to the real one."""
    folder = tmp_path_factory.mktemp("checkout")
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and path.name not in ("demo-output", "models"):
            (folder / path.name).symlink_to(path)
    (folder / "photos" / "2019").mkdir(parents=True)
    for index, picture in enumerate(sorted(cache.demo_path().parent.glob("images/photo_*.jpg"))):
        shutil.copy(picture, folder / "photos" / ("2019" if index % 2 else "") / picture.name)
    shutil.copy(picture, folder / "photo.jpg")
    shutil.copy(KERAS224 / "checkpoint.hdf5", folder / "checkpoint.hdf5")
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """This very environment, which make would otherwise make anew, with a cache of its own and no way to the network."""
    prefix = Path(sys.prefix)
    if sys.prefix != sys.base_prefix:
        for extras in ("core", "engine"):
            (prefix / f".installed-{extras}").touch()
    unreachable = "http://127.0.0.1:9"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}  # of a `make test`
    return {
        **inherited,
        "VENV": str(prefix),
        "PATH": f"{prefix / 'bin'}:{os.environ['PATH']}",
        cache.HOME_VARIABLE: str(tmp_path_factory.mktemp("home")),
        "http_proxy": unreachable,
        "https_proxy": unreachable,
    }


@pytest.fixture(scope="module")
def store(checkout: Path) -> Iterator[dict[str, str]]:
    """A user's buckets: the environment that leads to them. One has the photographs in it."""
    with s3_server() as found, pytest.MonkeyPatch.context() as patch:
        found = {**found, "no_proxy": "127.0.0.1"}
        for name, value in found.items():
            patch.setenv(name, value)
        bucket = Bucket("s3")
        for name in ("photos", "masked"):
            bucket.store.mkdir(name)
        bucket.put_tree(checkout / "photos", "photos")
        yield found
        assert len(bucket.contents("masked/2019")) == 2 * len(bucket.contents("photos/2019"))


@pytest.mark.skipif(sys.prefix == sys.base_prefix, reason="the README's commands are for a virtual environment")
@pytest.mark.parametrize(("command", "code"), _commands())
def test_the_readme_s_commands_work_as_written(
    command: str, code: int, checkout: Path, environment: dict[str, str], request: pytest.FixtureRequest
) -> None:
    command += next((f" {more}" for start, more in SMALLER.items() if command.startswith(start)), "")
    if "s3://" in command:
        environment = {**environment, **request.getfixturevalue("store")}
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=checkout, env=environment, capture_output=True, text=True, timeout=240
    )
    assert result.returncode == code, result.stdout + result.stderr


def test_the_readme_s_python_works_as_written(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout)
    names: dict[str, object] = {}
    for _, body in _blocks("python"):
        exec(body, names)
    assert names["mask"].shape == names["image"].shape[:2]  # type: ignore[attr-defined]
    assert names["summary"].done == 4  # type: ignore[attr-defined]


def test_the_readme_s_first_lines_are_there_to_be_run() -> None:
    assert _blocks("sh")[0][1].splitlines() == ["make demo", "make test"]
    assert (DATA / "fixture.onnx").exists()


def test_every_link_of_the_readme_leads_to_a_file() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / target).exists(), target
