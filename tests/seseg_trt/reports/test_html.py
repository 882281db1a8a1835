"""What all three pages share: one skeleton, one escape, one blur."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seseg_trt import FakeBackend, MaskOptions, RunObserver, segment_files
from seseg_trt.models.certificate import Gate
from seseg_trt.quality.evaluate import evaluate
from seseg_trt.quality.verify import compare, make_certificate
from seseg_trt.reports.certificate_page import certificate_page
from seseg_trt.reports.charts import bar_chart
from seseg_trt.reports.evaluation_page import evaluation_page
from seseg_trt.reports.html import render
from seseg_trt.reports.pictures import thumbnail
from seseg_trt.reports.run_page import Collector, make_page
from tests.seseg_trt.quality.tiny import red, save_blob, subject

ODD_NAME = os.fsdecode(b"<img onerror=alert(1)>&\"'\xff.png")


def _run_page(images: Path, target: Path) -> str:
    collector = Collector()
    observer = RunObserver(committed=collector.add)
    summary = segment_files([str(images)], str(target), masks=MaskOptions(), backend=FakeBackend(16), observer=observer)
    return make_page(summary, collector, "blurred")


def _certificate_page(images: Path, target: Path) -> str:
    comparison = compare(subject(red), subject(lambda batch: red(batch) * 0), images)
    return certificate_page(make_certificate(comparison, Gate()), comparison, blur=True)


def _evaluation_page(images: Path, target: Path) -> str:
    return evaluation_page(evaluate(subject(red), (images, images)), blur=True)


@pytest.mark.parametrize("make", [_run_page, _certificate_page, _evaluation_page])
def test_every_page_escapes_names_and_may_load_nothing(make: Callable[[Path, Path], str], tmp_path: Path) -> None:
    save_blob(tmp_path / "in" / ODD_NAME, 0)
    save_blob(tmp_path / "in" / "plain.png", 1)
    html = make(tmp_path / "in", tmp_path / "out")
    assert "&lt;img onerror=alert(1)&gt;&amp;&#34;&#39;\\udcff.png" in html
    assert "<img onerror" not in html and html.encode("utf-8")
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert html.startswith("<!doctype html>") and f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in html
    assert "color-scheme: light dark" in html and not re.search(r"https?://|<script|<link|[{}][%{}]", html)
    assert len(re.findall("<h3>", html)) == 2 and html.count("data:image/jpeg;base64,") >= 2


def test_a_value_that_a_template_lacks_is_an_error() -> None:
    from jinja2 import UndefinedError

    with pytest.raises(UndefinedError, match="'subjects' is undefined"):
        render("certificate.html", title="Certificate")


def test_a_chart_escapes_its_labels() -> None:
    chart = bar_chart([1, 2], ["<a>", "b&"], "<up>", "along")
    assert "&lt;a&gt;" in chart and "b&amp;" in chart and "&lt;up&gt;" in chart
    assert not re.search("<(a|up)>", chart) and chart.count("<rect ") == 2


def test_two_images_that_differ_in_detail_alone_have_one_blurred_picture() -> None:
    checks = (np.indices((240, 120)).sum(axis=0) % 2 * 255).astype(np.uint8)
    pictures = [thumbnail(Image.fromarray(pixels).convert("RGB"), blur=True) for pixels in (checks, 255 - checks)]
    assert pictures[0].size == (120, 240)
    assert pictures[0].tobytes() == pictures[1].tobytes()
