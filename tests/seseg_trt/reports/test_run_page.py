from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import seseg_trt
from seseg_trt.cli import main as cli
from tests.runs import make_inputs


class Page(HTMLParser):
    """Collects the text, the pictures and every address that a page names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words = ""
        self.pictures: dict[str, list[Image.Image]] = {}
        self.addresses: list[str] = []
        self.bars = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.bars += tag == "rect"
        for name in ("src", "href"):
            value = found.get(name) or ""
            if value.startswith("data:image/jpeg;base64,"):
                image = Image.open(io.BytesIO(base64.b64decode(value.partition(",")[2])))
                image.load()
                self.pictures.setdefault(found["alt"] or "", []).append(image)
            elif value:
                self.addresses.append(value)

    def handle_data(self, data: str) -> None:
        self.words += data + "\n"


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = make_inputs(tmp_path / "in", 20, bad_every=5)
    (folder / "gone.jpg").symlink_to("nowhere")
    (folder / "<b>&amp;.png").write_bytes((folder / "image00000.png").read_bytes())
    checks = np.indices((160, 200)).sum(axis=0) // 4 % 2 * np.uint8(255)  # fine black and white squares: all detail
    Image.fromarray(checks.astype(np.uint8)).save(folder / "detail.png")
    return folder


def report(inputs: Path, tmp_path: Path, *flags: str) -> Page:
    code = cli.run(
        cli.group,
        [
            "segment",
            "--model",
            "demo",
            "--output_type",
            "se,mask",
            "--report",
            f"{tmp_path}/report.html",
            *flags,
            str(inputs),
            f"{tmp_path}/out",
        ],
    )
    assert code == 2
    return Page((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_the_page_holds_the_runs_figures_and_fetches_nothing(inputs: Path, tmp_path: Path) -> None:
    page = report(inputs, tmp_path)
    words = re.sub(r"\s+", " ", page.words)
    assert "23 inputs" in words and "18 done" in words and "5 quarantined" in words
    assert "not_an_image 4" in words and "missing 1" in words
    assert "sub1/image00004.png" in words and "gone.jpg" in words  # quarantined files under their reasons
    for fact in ("date 20", f"version seseg_trt {seseg_trt.__version__}", "command seseg-trt", "outputs ('se', 'mask')", "threshold None"):
        assert fact in words, fact
    assert "explicit share of the image, in steps of 5%" in words
    assert "images committed a second" in words and "infer" in words and page.bars > 10
    assert page.addresses == []
    assert {kind: len(found) for kind, found in page.pictures.items()} == {"input": 8, "se": 8, "pred": 8}
    assert not list(tmp_path.glob(".report*"))


def test_the_sample_is_blurred_unless_it_is_asked_for_clear(tmp_path: Path) -> None:
    inputs = tmp_path / "in"
    inputs.mkdir()
    checks = (np.indices((160, 200)).sum(axis=0) // 8 % 2 * 255).astype(np.uint8)
    Image.fromarray(checks).save(inputs / "detail.png")
    (inputs / "bad.png").write_bytes(b"x")
    blurred = report(inputs, tmp_path)
    (tmp_path / "out").rename(tmp_path / "first")
    clear = report(inputs, tmp_path, "--report-images", "clear")
    assert "sample (blurred)" in blurred.words and "sample (blurred)" not in clear.words
    contrast = [float(np.asarray(page.pictures["input"][0].convert("L"))[40:-40, 40:-40].std()) for page in (blurred, clear)]
    assert contrast[0] < 3 and contrast[1] > 60


def test_a_run_with_nothing_to_do_has_a_page_too(inputs: Path, tmp_path: Path) -> None:
    report(inputs, tmp_path)
    page = report(inputs, tmp_path)
    words = re.sub(r"\s+", " ", page.words)
    assert "18 skipped" in words and page.pictures == {}
    assert "not_an_image 4" in words and "sub1/image00004.png" in words  # what an earlier run quarantined counts too


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not on this machine")
def test_a_browser_shows_it(inputs: Path, tmp_path: Path) -> None:
    report(inputs, tmp_path)
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={tmp_path}/profile"]
    picture = tmp_path / "page.png"
    command = [*browser, "--window-size=1000,2400", f"--screenshot={picture}", f"file://{tmp_path}/report.html"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    shown = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    bars = (abs(shown - (0x3B, 0x6E, 0xA5)).sum(axis=-1) < 12).sum()
    bottleneck = (abs(shown - (0xB3, 0x54, 0x1E)).sum(axis=-1) < 12).sum()
    assert bars > 10_000 and bottleneck > 500
    assert (shown[-600:] < 200).any()  # the sample, at the end, was drawn
