"""The network that ships does what it was trained for, and its papers are in order."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from engine.scenes import draw_scene
from engine.train import DEMO_TRAIN_SEED, DEMO_VALIDATION_SEED
from seseg_trt import Segmenter
from seseg_trt.models.cache import demo_path

HELD_OUT_SEED = 9000


def pooled_iou(indices: range) -> float:
    """The IoU at threshold 50 over all pixels of scenes that no training has seen, through the CPU lane."""
    both = either = 0
    with Segmenter("demo", device="cpu") as segmenter:
        for index in indices:
            scene = draw_scene(HELD_OUT_SEED, index)
            mask = segmenter.masks([scene.after_jpeg()], threshold=50)[0] > 0
            both += int((mask & (scene.mask > 0)).sum())
            either += int((mask | (scene.mask > 0)).sum())
    return both / either


def test_it_finds_the_subject() -> None:
    assert pooled_iou(range(40)) > 0.87


@pytest.mark.slow
def test_it_finds_the_subject_in_500_scenes() -> None:
    assert pooled_iou(range(500)) >= 0.90


def test_its_papers() -> None:
    graph = demo_path().read_bytes()
    papers = json.loads(demo_path().with_suffix(".json").read_text(encoding="utf-8"))
    assert len(graph) <= 4_000_000
    assert papers["sha256"] == hashlib.sha256(graph).hexdigest()
    assert papers["held_out"]["iou"] >= 0.90
    assert papers["held_out"] == {**papers["held_out"], "seed": HELD_OUT_SEED, "count": 500, "threshold": 50}
    assert papers["training"]["data"]["scenes"]["seed"] == DEMO_TRAIN_SEED != HELD_OUT_SEED
    assert papers["training"]["data"]["held_out"]["seed"] == DEMO_VALIDATION_SEED != HELD_OUT_SEED
    assert papers["command"] == "python -m engine.train --demo --out demo-run"
    assert len(papers["commit"]) == 40
    assert np.isfinite(papers["training"]["cpu_seconds"])
