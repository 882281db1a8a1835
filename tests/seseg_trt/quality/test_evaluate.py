"""Scoring a network against true masks: the pairs, the figures, the page, and the command."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seseg_trt.backends.base import FakeBackend
from seseg_trt.cli import main as cli
from seseg_trt.errors import UsageError
from seseg_trt.options import DecodeOptions
from seseg_trt.quality.evaluate import EvaluateOptions, evaluate, find_pairs, subject_of_backend

from .tiny import SIDE, red, save_blob, subject, write_graph

DECODING = DecodeOptions()


def _save_mask(path: Path, marks: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(marks.astype(np.uint8) * 255).save(path)


@pytest.fixture
def data(tmp_path: Path) -> tuple[Path, Path]:
    """Four images of the network's own size, whose red is their truth; two lie in a folder."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    for seed, name in enumerate(["a", "b.c", "sub/a", "sub/d"]):
        _save_mask(masks / f"{name}.png", save_blob(images / f"{name}.png", seed))
    return images, masks


def test_a_perfect_prediction_scores_one(data: tuple[Path, Path]) -> None:
    evaluation = evaluate(subject(red), data)
    found = evaluation.as_dict()
    assert evaluation.iou == found["iou"] == found["iou_mean"] == found["precision"] == found["recall"] == found["f1"] == 1.0
    assert (found["images"], found["empty_in_both"], found["masks_left"]) == (4, 0, 0)
    assert found["calibration"]["ece"] < 0.002  # a level of 0 is half a level from sure


def test_an_empty_prediction_scores_zero(data: tuple[Path, Path]) -> None:
    found = evaluate(subject(lambda images: np.zeros(images.shape[:3])), data).as_dict()
    assert (found["iou"], found["iou_mean"], found["precision"], found["recall"]) == (0.0, 0.0, None, 0.0)


def test_empty_truth_and_empty_mask_count_as_one_and_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _save_mask(tmp_path / "images" / f"{name}.png", np.zeros((5, 7), bool))
        _save_mask(tmp_path / "masks" / f"{name}.png", np.zeros((5, 7), bool))
    found = evaluate(subject(red), (tmp_path / "images", tmp_path / "masks")).as_dict()
    assert (found["iou"], found["iou_mean"], found["iou_mean_where_marked"], found["empty_in_both"]) == (1.0, 1.0, None, 2)


def test_any_backend_can_be_scored(data: tuple[Path, Path]) -> None:
    backend = FakeBackend(SIDE)
    found = evaluate(subject_of_backend(backend, name="fake", sha256=""), data).as_dict()
    image = np.asarray(Image.open(data[0] / "a.png")).astype(int).sum(axis=-1) // 3
    truth = np.asarray(Image.open(data[1] / "a.png")) > 0
    mask = image > 127
    only_a = evaluate(subject_of_backend(backend, name="fake", sha256=""), (data[0], data[1]))
    score = next(image.score for image in only_a.worst if image.score.name == "a.png")
    assert score.iou == (mask & truth).sum() / (mask | truth).sum()
    assert found["images"] == 4


def test_masks_are_compared_at_the_images_size(tmp_path: Path) -> None:
    image = np.zeros((64, 128, 3), np.uint8)
    image[:, :40, 0] = 255
    (tmp_path / "images").mkdir()
    Image.fromarray(image).save(tmp_path / "images" / "a.png")
    _save_mask(tmp_path / "masks" / "a.png", image[..., 0] > 0)
    found = evaluate(subject(red), (tmp_path / "images", tmp_path / "masks")).as_dict()
    assert found["pixels"] == 64 * 128
    assert 0.9 < found["iou"] <= 1.0


def test_masks_may_be_called_as_this_program_calls_them(data: tuple[Path, Path]) -> None:
    images, masks = data
    before = [(pair.image.name, pair.mask.name) for pair in find_pairs(images, masks, DECODING).pairs]
    for path in list(masks.rglob("*.png")):
        (path.with_name(f"{path.stem}_se.png")).write_bytes(path.read_bytes())  # another output of the same run
        path.rename(path.with_name(f"{path.stem}_pred.png"))
    found = [(pair.image.name, pair.mask.name) for pair in find_pairs(images, masks, DECODING).pairs]
    assert found == [(image, f"{mask.removesuffix('.png')}_pred.png") for image, mask in before]


def test_all_that_is_wrong_with_the_masks_is_named_at_once(data: tuple[Path, Path]) -> None:
    images, masks = data
    (masks / "a.png").unlink()
    _save_mask(masks / "b.c.png", np.ones((SIDE, SIDE + 1), bool))
    Image.fromarray(np.eye(SIDE, dtype=np.uint8)).save(masks / "sub" / "a.png")
    (masks / "sub" / "d.png").write_text("damaged")
    save_blob(images / "e.png", 9)
    save_blob(images / "e.bmp", 9)
    _save_mask(masks / "e.png", np.ones((SIDE, SIDE), bool))
    save_blob(images / "f.png", 10)
    _save_mask(masks / "f.png", np.ones((SIDE, SIDE), bool))
    _save_mask(masks / "f.bmp", np.ones((SIDE, SIDE), bool))
    with pytest.raises(UsageError) as caught:
        find_pairs(images, masks, DECODING)
    text = caught.value.message
    for line in (
        "7 of 7 images have no mask that can be used",
        "a.png: there is no mask a.*",
        f"b.c.png is {SIDE} x {SIDE} pixels, its mask b.c.png {SIDE + 1} x {SIDE}",
        "sub/a.png: its mask sub/a.png has no level over 1; marked pixels have 255",
        "sub/d.png: its mask sub/d.png can't be read",
        "e.png: its mask is also that of e.bmp",
        "f.png: it has several masks: f.bmp, f.png",
    ):
        assert line in text


def test_nothing_runs_before_the_masks_are_checked(data: tuple[Path, Path]) -> None:
    (data[1] / "sub" / "d.png").unlink()

    def never(images: np.ndarray) -> np.ndarray:
        raise AssertionError("the network ran")

    with pytest.raises(UsageError, match="1 of 4 images"):
        evaluate(subject(never), data)


def test_a_turned_image_has_the_size_of_its_turned_mask(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    (tmp_path / "images").mkdir()
    Image.new("RGB", (20, 10)).save(tmp_path / "images" / "a.jpg", exif=exif)
    _save_mask(tmp_path / "masks" / "a.png", np.zeros((20, 10), bool))
    assert len(find_pairs(tmp_path / "images", tmp_path / "masks", DECODING).pairs) == 1
    with pytest.raises(UsageError, match="20 x 10 pixels, its mask"):
        find_pairs(tmp_path / "images", tmp_path / "masks", DecodeOptions(exif_orientation=False))


def test_what_is_no_image_is_listed_and_needs_no_mask(data: tuple[Path, Path]) -> None:
    images, masks = data
    (images / "readme.txt").write_text("text")
    truncated = (images / "a.png").read_bytes()[:-400]
    (images / "a.png").write_bytes(truncated)
    (masks / "left.png").write_bytes((masks / "a.png").read_bytes())
    evaluation = evaluate(subject(red), data, options=EvaluateOptions(batch=1))
    assert {item.name: item.reason for item in evaluation.undecodable} == {"readme.txt": "not_an_image", "a.png": "truncated"}
    assert evaluation.scores.images == 3
    assert evaluation.masks_left == 1


def test_a_folder_that_is_not_there_is_an_error(data: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file or folder"):
        find_pairs(data[0], tmp_path / "none", DECODING)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="there is no image in"):
        find_pairs(tmp_path / "empty", data[1], DECODING)


# The command


def _evaluate(data: tuple[Path, Path], *arguments: object) -> int:
    command = ["evaluate", "--images", data[0], "--masks", data[1], "--threads", "1", *arguments]
    return cli.run(cli.group, [str(part) for part in command], "seseg-trt")


def test_json_is_one_object_alone_on_standard_output(data: tuple[Path, Path], tmp_path: Path) -> None:
    model = write_graph(tmp_path / "m.onnx")
    command = [sys.executable, "-m", "seseg_trt", "evaluate", "--model", model, "--images", data[0], "--masks", data[1], "--json"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["iou"], found["iou_mean"], found["images"], found["threshold"]) == (1.0, 1.0, 4, 50)
    assert found["model"]["backend"].startswith("OpenVINO")
    assert "IoU at threshold 50" in result.stderr


@pytest.mark.ort
def test_another_backend_and_threshold(data: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = write_graph(tmp_path / "m.onnx", weights=(0.0, 0.0, 0.0), bias=0.0)  # p = 0.5 everywhere
    arguments = ["--model", model, "--backend", "onnxruntime", "--json", "--quiet"]
    shares = {}
    for threshold in (49, 50):
        assert _evaluate(data, *arguments, "--threshold", threshold) == 0
        found = json.loads(capfd.readouterr().out)
        shares[threshold] = (found["recall"], found["iou"] == found["true_share"])
        assert found["model"]["backend"].startswith("ONNX Runtime")
    assert shares == {49: (1.0, True), 50: (0.0, False)}


def test_a_row_for_every_image_and_a_page(data: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = write_graph(tmp_path / "m.onnx", weights=(0.0, 0.25, 0.0))  # marks by green, which is noise
    page, table = tmp_path / "page.html", tmp_path / "scores.csv"
    (data[0] / "bad.png").write_text("text")
    assert _evaluate(data, "--model", model, "--page", page, "--per-image", table) == 0
    assert "calibration" in capfd.readouterr().out
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert sorted(row["name"] for row in rows) == ["a.png", "b.c.png", "sub/a.png", "sub/d.png"]
    assert all(0 < float(row["iou"]) < 1 for row in rows)
    html = page.read_text()
    assert html.count("<figure>") == 16
    worst = min(rows, key=lambda row: float(row["iou"]))["name"]
    assert html.index(f"<h3>{worst}:") == min(html.index(f"<h3>{row['name']}:") for row in rows)
    assert "blurred" not in html
    assert _evaluate(data, "--model", model, "--page", page, "--blur", "--quiet") == 0
    assert page.read_text().count("image, blurred") == 8  # as text and as the caption, four times


def test_missing_masks_end_with_exit_code_1(data: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (data[1] / "a.png").unlink()
    assert _evaluate(data, "--model", write_graph(tmp_path / "m.onnx")) == 1
    assert "a.png: there is no mask a.*" in capfd.readouterr().err
