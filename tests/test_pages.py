"""Every command and every line of Python in README.md and docs/ is run as written, and every link of theirs leads somewhere.

A block of ``sh`` or ``python`` may have a note before it, ``<!-- test: WORDS -->``. ``exit 2``: its commands end with that code. ``engine``,
``ort``, ``rtx``, ``scale``, ``store``, ``unshare``: it needs that extra or server, and is run apart from the page's other blocks. ``gpu``: it is run by
tests/gpu/test_embedding_gpu.py.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import pytest
from PIL import Image

from seseg_trt.errors import ReasonCode
from tests.conftest import KERAS224
from tests.runs import needs_scale
from tests.stores import Bucket, s3_server

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
LINKED = [*PAGES, "CHANGELOG.md", "benchmarks/README.md", "benchmarks/RESULTS.md", "engine/README.md"]
BLOCK = re.compile(r"(?:^<!-- test: (?P<note>[^\n]*) -->\n)?^```(?P<kind>sh|python)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


def has_namespaces() -> bool:
    """Tell whether a user may have a network of his own here, with nobody in it."""
    try:
        return subprocess.run(["unshare", "--user", "--map-root-user", "--net", "true"], capture_output=True).returncode == 0
    except OSError:
        return False


LEFT_TO_CI = {"make test"}  # it would run this very test
# Added to a command that starts so: the same path through the program, in less time.
SMALLER = {"python -m engine.scenes": "--count 170 --width 256 --height 192"}
NEEDS = {
    "": (),
    "engine": (pytest.mark.engine,),
    "ort": (pytest.mark.ort,),
    "rtx": (pytest.mark.rtx,),
    "scale": (needs_scale,),
    "store": (needs_scale,),
    "unshare": (pytest.mark.skipif(not has_namespaces(), reason="this machine gives nobody a network namespace"),),
}


class Block(NamedTuple):
    """A block of a page: ``sh`` or ``python``, its text, what it needs, and the code that its commands end with."""

    kind: str
    body: str
    needs: str
    code: int


def blocks(page: str) -> list[Block]:
    """Return what is to be run of a page, in its order."""
    found = []
    for match in BLOCK.finditer((ROOT / page).read_text(encoding="utf-8")):
        note = (match["note"] or "").split()
        code = int(note[note.index("exit") + 1]) if "exit" in note else 0
        needs = note[0] if note and note[0] != "exit" else ""
        assert needs in NEEDS or needs == "gpu", match["note"]
        found.append(Block(match["kind"], match["body"], needs, code))
    return found


def _runs() -> list[object]:
    return [
        pytest.param(page, needs, marks=marks, id=f"{page} {needs}".rstrip())
        for page in PAGES
        for needs, marks in NEEDS.items()
        if any(block.needs == needs for block in blocks(page))
    ]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of links, with a user's photographs and true masks beside it, so that nothing is written to the real one."""
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and path.name not in ("demo-output", "models"):
            (tmp_path / path.name).symlink_to(path)
    for name in ("photos/2019", "truth/2019"):
        (tmp_path / name).mkdir(parents=True)
    for index, picture in enumerate(sorted((ROOT / "seseg_trt/data/images").glob("photo_*.jpg"))):
        place = f"{'2019/' if index % 2 else ''}{picture.name}"
        shutil.copy(picture, tmp_path / "photos" / place)
        with Image.open(picture) as image:
            true = np.zeros((image.height, image.width), np.uint8)
        true[true.shape[0] // 4 : true.shape[0] // 2, true.shape[1] // 4 : true.shape[1] // 2] = 255
        Image.fromarray(true).save((tmp_path / "truth" / place).with_suffix(".png"))
    shutil.copy(picture, tmp_path / "photo.jpg")
    return tmp_path


@pytest.fixture
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
        "SESEG_HOME": str(tmp_path_factory.mktemp("home")),
        "http_proxy": unreachable,
        "https_proxy": unreachable,
    }


@pytest.fixture
def store(checkout: Path, environment: dict[str, str]) -> Iterator[Bucket]:
    """A user's buckets, to which the environment leads. One has the photographs in it."""
    with s3_server() as found, pytest.MonkeyPatch.context() as patch:
        found = {**found, "no_proxy": "127.0.0.1"}
        environment |= found
        for name, value in found.items():
            patch.setenv(name, value)
        bucket = Bucket("s3")
        for name in ("photos", "masked"):
            bucket.store.mkdir(name)
        bucket.put_tree(checkout / "photos", "photos")
        yield bucket


@pytest.mark.skipif(sys.prefix == sys.base_prefix, reason="the commands are for a virtual environment")
@pytest.mark.parametrize(("page", "needs"), _runs())
def test_a_page_works_as_written(
    page: str, needs: str, checkout: Path, environment: dict[str, str], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = request.getfixturevalue("store") if needs == "store" else None
    if needs == "engine":
        shutil.copy(KERAS224 / "checkpoint.hdf5", checkout)
    monkeypatch.chdir(checkout)
    names: dict[str, object] = {}
    for block in blocks(page):
        if block.needs != needs:
            continue
        if block.kind == "python":
            exec(compile(block.body, page, "exec"), names)
            continue
        for command in block.body.splitlines():
            if command and command not in LEFT_TO_CI:
                _run(command, block.code, checkout, environment)
    if bucket is not None:
        assert len(bucket.contents("masked/2019")) == 2 * len(bucket.contents("photos/2019"))


def _run(command: str, code: int, folder: Path, environment: dict[str, str]) -> None:
    whole = command + next((f" {more}" for start, more in SMALLER.items() if command.startswith(start)), "")
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", whole], cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )
    assert result.returncode == code, f"{command}\n{result.stdout}{result.stderr}"


def test_a_newcomer_s_first_screen() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 140
    assert lines.index("```sh") < 30
    assert blocks("README.md")[0].body.splitlines() == ["make demo", "make test"]
    table = "\n".join(lines).partition("<!-- benchmarks:begin -->")[2].partition("<!-- benchmarks:end -->")[0]
    assert 3 <= table.count("\n|") - 2 <= 6
    assert (ROOT / "docs" / "demo.webp").stat().st_size < 200_000


@pytest.mark.parametrize("page", LINKED)
def test_every_link_leads_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", text):
        if "://" in target:
            continue
        there = (ROOT / page).parent / target if target else ROOT / page
        assert there.exists(), target
        assert not anchor or anchor in _anchors(there), f"{target}#{anchor}"


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_page_of_the_command_line_has_every_option_and_no_other() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    verbs = re.findall(r"^\| \[`(\w+)`\]", page, re.MULTILINE)
    assert set(verbs) == set(re.findall(r"^  (\w+)  ", _help().partition("Commands:")[2], re.MULTILINE))
    known = {"--help"}
    for verb in verbs:
        options = _options("\n".join(re.findall(r"^  -.*$", _help(verb), re.MULTILINE)))
        assert options - _options(page.partition(f"\n## {verb}\n")[2].partition("\n## ")[0]) <= {"--help"}, verb
        known |= options
    assert _options(page) <= known


def _options(text: str) -> set[str]:
    """Return the options in a text, those of the original program spelt as all others are."""
    return {option.replace("_", "-") for option in re.findall(r"(?<![\w-])--[a-z][a-z_-]+", text)}


def _help(*verb: str) -> str:
    return subprocess.run([sys.executable, "-m", "seseg_trt", *verb, "--help"], capture_output=True, text=True, check=True).stdout


def test_every_reason_is_on_the_page_of_inputs() -> None:
    text = (ROOT / "docs" / "inputs-and-outputs.md").read_text(encoding="utf-8")
    section = text.partition("\n## Quarantine\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == list(get_args(ReasonCode))


def test_the_messages_of_the_page_of_troubles_are_the_program_s() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    symptoms = re.findall(r"^### `(.+)`$", text, re.MULTILINE)
    assert len(symptoms) >= 15
    said = "\n".join(message for path in (ROOT / "seseg_trt").rglob("*.py") for message in _messages(path))
    assert [symptom for symptom in symptoms if symptom not in said] == []


def _messages(path: Path) -> Iterator[str]:
    """Yield the strings of a module, with … for each value that is put into one."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
