"""Comparing two networks: the figures, the gate, the page, and the command."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seseg_trt.cli import main as cli
from seseg_trt.errors import ModelError, UsageError
from seseg_trt.masks.reference import apply_threshold, resize_map, sample_nearest
from seseg_trt.models.certificate import Gate, certificate_path, check_certificate
from seseg_trt.quality.verify import Entry, Subject, VerifyOptions, certify, compare, make_certificate
from seseg_trt.reports.certificate_page import certificate_page
from seseg_trt.reports.html import write_page

from .tiny import SIDE, alter_one_weight, red, save_blob, subject, write_graph

NO_DRIFT = VerifyOptions(drift_images=0)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for seed, size in enumerate([(SIDE, SIDE), (100, 41), (17, 90), (300, 200), (1, 1)]):
        save_blob(folder / f"sub{seed % 2}" / f"{seed}.png", seed, *size)
    return folder


def _shifted(images: np.ndarray) -> np.ndarray:
    return np.roll(red(images), 1, axis=2)


def test_a_network_agrees_with_itself(photos: Path) -> None:
    certificate = certify(subject(red), subject(red), photos, options=NO_DRIFT)
    data = certificate.data
    assert certificate.passed and certificate.intact
    assert {data["iou"][key] for key in ("pooled", "mean", "p01", "worst")} == {1.0}
    assert (data["flip_rate"], data["dp"]["max"], data["dp"]["p999"], data["images"]) == (0.0, 0.0, 0.0, 5)
    assert data["worst_images"] == []


def test_the_figures_are_those_of_the_masks_at_the_images_sizes(photos: Path) -> None:
    data = certify(subject(red), subject(_shifted, "shifted"), photos, options=NO_DRIFT).data
    intersections, unions, ious, pixels, deltas = [], [], [], 0, []
    for path in sorted(photos.rglob("*.png")):
        image = np.asarray(Image.open(path))
        network_input = sample_nearest(image, SIDE)[np.newaxis]
        one, other = red(network_input)[0], _shifted(network_input)[0]
        masks = [
            apply_threshold(resize_map(np.floor(p * 255).astype(np.uint8), image.shape[1], image.shape[0]), 50) > 0 for p in (one, other)
        ]
        intersections.append((masks[0] & masks[1]).sum())
        unions.append((masks[0] | masks[1]).sum())
        ious.append(intersections[-1] / unions[-1] if unions[-1] else 1.0)
        pixels += masks[0].size
        deltas.append(np.abs(one - other))
    assert data["iou"]["pooled"] == sum(intersections) / sum(unions) < 1
    assert data["iou"]["mean"] == pytest.approx(np.mean(ious), abs=1e-12)
    assert data["iou"]["worst"] == data["iou"]["p01"] == min(ious)
    assert data["flip_rate"] == (sum(unions) - sum(intersections)) / pixels
    assert data["flipped_pixels"] == sum(unions) - sum(intersections)
    assert data["dp"]["max"] == np.max(deltas)
    assert data["worst_images"][0]["iou"] == min(iou for iou in ious)
    assert data["network_iou"]["pooled"] < 1


def test_the_gate_counts_the_pool_and_the_worst_image_apart(photos: Path) -> None:
    one, other = subject(red), subject(_shifted)
    data = certify(one, other, photos, options=NO_DRIFT).data
    assert not data["passed"] and len(data["gate"]["failures"]) == 2
    pooled, worst = data["iou"]["pooled"], data["iou"]["worst"]
    assert certify(one, other, photos, options=NO_DRIFT, gate=Gate(pooled, worst)).passed
    above = float(np.nextafter(worst, 1))
    assert certify(one, other, photos, options=NO_DRIFT, gate=Gate(pooled, above)).failures()[0].startswith("the worst image")
    above = float(np.nextafter(pooled, 1))
    assert certify(one, other, photos, options=NO_DRIFT, gate=Gate(above, worst)).failures()[0].startswith("the pooled IoU")


def test_images_without_any_mask_certify_nothing(photos: Path) -> None:
    nothing = subject(lambda images: np.zeros(images.shape[:3]), "dead")
    certificate = certify(nothing, nothing, photos, options=NO_DRIFT)
    assert certificate.iou["pooled"] == 1.0
    assert certificate.iou["empty_in_both"] == 5
    assert certificate.iou["mean_where_marked"] is None
    assert not certificate.passed and "nothing was compared" in certificate.failures()[0]


def test_a_confidence_that_is_no_number_never_passes(photos: Path) -> None:
    def overflowing(images: np.ndarray) -> np.ndarray:
        p = red(images)
        p[:, 0, 0] = np.nan
        return p

    certificate = certify(subject(red), subject(overflowing), photos, options=NO_DRIFT, gate=Gate(0, 0))
    assert not certificate.passed
    assert certificate.data["dp"]["not_finite"] == 5
    assert certificate.to_json()  # JSON has no word for what is no number


def test_maps_stand_in_for_p_and_are_named_so(photos: Path) -> None:
    half_level = subject(lambda images: np.minimum(red(images) + 0.4 / 255, 1), "half a level", floats=False)
    data = certify(subject(red), half_level, photos, options=NO_DRIFT).data
    assert data["dp"] == {"max": 0.0, "p999": 0.0, "not_finite": 0, "source": "|dmap|/255"}
    with_floats = subject(lambda images: np.minimum(red(images) + 0.4 / 255, 1), "half a level")
    data = certify(subject(red), with_floats, photos, options=NO_DRIFT).data
    assert data["dp"]["source"] == "p"
    assert data["dp"]["max"] == pytest.approx(0.4 / 255, rel=1e-4)


def test_what_cant_be_decoded_is_listed_and_the_rest_compared(photos: Path) -> None:
    (photos / "notes.jpg").write_text("no image")
    (photos / "empty.png").write_bytes(b"")
    (photos / "gone.png").symlink_to(photos / "nowhere.png")
    seen: list[str] = []
    certificate = certify(
        subject(red), subject(red), photos, options=NO_DRIFT, progress=lambda bad: seen.append(bad.name if bad else "compared")
    )
    listed = {item["name"]: item["reason"] for item in certificate.data["undecodable"]}
    assert listed == {"notes.jpg": "not_an_image", "empty.png": "empty", "gone.png": "missing"}
    assert certificate.data["images"] == 5
    assert sorted(seen) == ["compared"] * 5 + ["empty.png", "notes.jpg"]


def test_the_set_is_known_by_content_and_not_by_names(photos: Path) -> None:
    one = certify(subject(red), subject(red), photos, options=NO_DRIFT).data["images_sha256"]
    os.rename(photos / "sub0" / "0.png", photos / "zzz.png")
    assert certify(subject(red), subject(red), photos, options=NO_DRIFT).data["images_sha256"] == one
    save_blob(photos / "zzz.png", seed=99)
    assert certify(subject(red), subject(red), photos, options=NO_DRIFT).data["images_sha256"] != one


def test_images_are_not_held_in_memory() -> None:
    """Each image is made when it is wanted; no more are read ahead than a batch and a few."""
    read, run = 0, 0

    def load() -> np.ndarray:
        nonlocal read
        read += 1
        assert read - run <= 8, "images are read long before the network takes them"
        return np.full((8, 8, 3), 255, np.uint8)

    def counting(images: np.ndarray) -> np.ndarray:
        nonlocal run
        assert len(images) <= 4
        run += len(images)
        return red(images)

    entries = [Entry(f"scene {i}", load) for i in range(40)]
    data = certify(subject(red), subject(counting), entries, options=VerifyOptions(batch=4, drift_images=0)).data
    assert data["images"] == read == run == 40


def test_pixels_that_were_never_a_file_can_be_compared() -> None:
    entries = [Entry("scene", lambda: np.full((5, 9, 3), 255, np.uint8))]
    data = certify(subject(red), subject(red), entries).data
    assert data["passed"] and data["pixels"] == 45
    assert "never encoded" in data["drift"]["decoder"]["why"]
    assert data["drift"]["resize"]["images"] == 1


@pytest.mark.parametrize("make", [lambda folder: folder, lambda folder: []])
def test_no_image_is_an_error(tmp_path: Path, make: Callable[[Path], object]) -> None:
    with pytest.raises(UsageError, match="there is no image"):
        certify(subject(red), subject(red), make(tmp_path))  # type: ignore[arg-type]


def test_no_image_that_can_be_decoded_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(UsageError, match=r"none of 1 images could be decoded; a\.txt"):
        certify(subject(red), subject(red), tmp_path)


def test_networks_of_different_sizes_are_refused(photos: Path) -> None:
    with pytest.raises(ModelError, match="not two forms of one network"):
        certify(subject(red), subject(red, side=16), photos)


def test_a_file_that_changes_meanwhile_is_noticed(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"before")
    changing = Subject("m.onnx", "0" * 64, SIDE, "NumPy", subject(red).run, path=path)
    with pytest.raises(ModelError, match="has changed while it was measured"):
        certify(subject(red), changing, photos, options=NO_DRIFT)


def test_the_drift_of_another_resize_is_measured(photos: Path) -> None:
    drift = certify(subject(red), subject(red), photos).data["drift"]["resize"]
    assert drift["measured"] and drift["images"] == 5
    # 32 x 32 and 1 x 1 look alike to both filters; the others lose their hard edges
    assert drift["same_network_input"] == 2
    assert drift["iou"]["worst"] < 1


def test_no_second_decoder_is_said_and_not_hidden(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seseg_trt.quality.drift.find_other_decoder", lambda: None)
    drift = certify(subject(red), subject(red), photos).data["drift"]["decoder"]
    assert drift == {"measured": False, "why": "no second decoder is installed (DALI or OpenCV)"}


def test_another_decoders_pixels_are_compared(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Inverting:
        name = "inverting"

        def decode(self, data: bytes) -> np.ndarray | None:
            image = np.asarray(Image.open(io.BytesIO(data)))
            return None if image.shape == (1, 1, 3) else 255 - image

    monkeypatch.setattr("seseg_trt.quality.drift.find_other_decoder", Inverting)
    drift = certify(subject(red), subject(red), photos).data["drift"]["decoder"]
    assert (drift["images"], drift["not_decoded"], drift["max_level"]) == (4, 1, 255)
    assert drift["iou"]["pooled"] < 0.01 and drift["flip_rate"] > 0.98  # both mark the pixels on the edges of some


@pytest.mark.dali
def test_dali_decodes_the_same_files(keras224: Path) -> None:
    from seseg_trt.quality.drift import find_other_decoder

    decoder = find_other_decoder()
    assert decoder is not None and decoder.name.startswith("DALI")
    path = keras224 / "inputs" / "f_exif6.jpg"
    assert decoder.decode(b"no image at all") is None
    pixels = decoder.decode(path.read_bytes())
    with Image.open(path) as image:
        assert pixels is not None and pixels.shape == (image.height, image.width, 3)


def _pictures(html: str) -> list[np.ndarray]:
    return [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(code))).convert("RGB"))
        for code in re.findall(r'src="data:image/\w+;base64,([^"]+)"', html)
    ]


def test_the_page_marks_what_flipped_and_shows_nothing_clearly(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    image[..., 0] = 0
    image[4:20, 4:20, 0] = 255

    def losing_one(images: np.ndarray) -> np.ndarray:
        p = red(images)
        p[:, 4, 4] = 0
        p[:, 0, 0] = 1
        return p

    entries = [Entry("<b>&name", lambda: image)]
    page = tmp_path / "out" / "page.html"
    comparison = compare(subject(red), subject(losing_one), entries, options=NO_DRIFT)
    certificate = make_certificate(comparison, Gate())
    write_page(page, certificate_page(certificate, comparison, blur=True))
    html = page.read_text()
    assert "&lt;b&gt;&amp;name" in html and "<b>" not in html
    assert not re.search(r"https?://|<script|<link", html)
    picture, reference, candidate, flips = _pictures(html)
    assert tuple(flips[4, 4]) == (224, 32, 32) and tuple(flips[0, 0]) == (32, 96, 240)
    assert tuple(flips[5, 5]) == (235, 235, 235) and tuple(flips[30, 30]) == (40, 40, 40)
    assert (reference[4, 4].tolist(), candidate[4, 4].tolist()) == ([255] * 3, [0] * 3)
    # a blurred picture has nothing between its few pixels: neighbours differ by little, where noise differs by much
    assert np.abs(np.diff(picture[..., 1].astype(int), axis=1)).mean() < 15
    clear = _pictures(certificate_page(certificate, comparison, blur=False))[0]
    assert np.abs(np.diff(clear[..., 1].astype(int), axis=1)).mean() > 30


def test_a_single_flipped_pixel_of_a_large_image_can_be_seen() -> None:
    from seseg_trt.reports.pictures import LOST, difference_picture

    reference = np.zeros((1500, 2111), np.uint8)
    reference[777, 1234] = 255
    picture = np.asarray(difference_picture(reference, np.zeros_like(reference)))
    assert max(picture.shape) == 288
    assert (picture == LOST).all(axis=-1).sum() == 1


def test_compare_gives_numbers_without_a_verdict(photos: Path) -> None:
    comparison = compare(subject(red), subject(_shifted), photos, options=NO_DRIFT)
    assert comparison.at_image_size.images == 5
    assert [image.overlap.iou for image in comparison.worst] == sorted(image.overlap.iou for image in comparison.worst)


# The command


def _verify(*arguments: object) -> int:
    return cli.run(cli.group, ["verify", "--drift-images", "0", "--threads", "1", *map(str, arguments)], "seseg-trt")


def test_the_command_certifies_and_an_altered_weight_voids_it(photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    reference, candidate = write_graph(tmp_path / "a.onnx"), write_graph(tmp_path / "b.onnx", quantised=True)
    assert _verify("--reference", reference, "--candidate", candidate, "--images", photos) == 0
    assert "IoU at threshold 50, pooled  1.0000" in (text := capfd.readouterr().out) and "\npassed\n" in text
    data = json.loads(certificate_path(candidate).read_text())
    assert data["passed"] and data["candidate"]["sha256"] != data["reference"]["sha256"]
    assert data["dp"]["source"] == "p"
    assert data["candidate"]["backend"].startswith("OpenVINO")
    assert {"python", "numpy", "pillow", "openvino"} <= data["versions"].keys() and data["machine"]["cpu"]
    assert check_certificate(candidate).certified
    alter_one_weight(candidate)
    assert check_certificate(candidate).status == "artifact_changed"


@pytest.mark.ort
def test_two_backends_of_one_artifact_are_compared_and_certify_nothing(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_graph(tmp_path / "a.onnx")
    arguments = ["--reference", path, "--candidate", path, "--images", photos]
    backends = ["--candidate-backend", "onnxruntime"]
    for refused in ([], ["--out", tmp_path / "c.json"], [*backends, "--out", tmp_path / "c.json"]):
        assert _verify(*arguments, *refused) == 1
        assert "certify itself" in capfd.readouterr().err
    assert _verify(*arguments, *backends, "--json", "--quiet") == 0
    data = json.loads(capfd.readouterr().out)
    assert data["candidate"]["backend"].startswith("ONNX Runtime") and data["reference"]["backend"].startswith("OpenVINO")
    assert data["dp"]["max"] < 1e-5
    assert not certificate_path(path).exists()


def test_nothing_is_written_into_the_installed_program(photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from seseg_trt.models import cache

    before = certificate_path(cache.demo_path()).read_bytes()
    reference = write_graph(tmp_path / "a.onnx")
    assert _verify("--reference", reference, "--candidate", "demo", "--images", photos) == 1
    assert "installed program" in capfd.readouterr().err and certificate_path(cache.demo_path()).read_bytes() == before


def test_under_the_gate_the_exit_code_is_4_and_the_certificate_says_so(photos: Path, tmp_path: Path) -> None:
    reference = write_graph(tmp_path / "a.onnx")
    candidate = write_graph(tmp_path / "b.onnx", weights=(0.0, 0.25, 0.0))
    command = [sys.executable, "-m", "seseg_trt", "verify", "--reference", reference, "--candidate", candidate, "--images", photos]
    result = subprocess.run([*command, "--drift-images", "0", "--json"], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 4, result.stderr
    assert "under 0.999" in result.stderr
    data = json.loads(result.stdout)
    assert data["passed"] is False and data == json.loads(certificate_path(candidate).read_text())


def test_a_wrong_argument_is_an_error_of_usage(photos: Path, tmp_path: Path) -> None:
    path = write_graph(tmp_path / "a.onnx")
    assert _verify("--reference", path, "--candidate", path, "--images", tmp_path / "none") == 1
    assert _verify("--reference", path, "--candidate", tmp_path / "none.onnx", "--images", photos) == 3
    assert _verify("--reference", path, "--candidate", path) == 1
    assert not certificate_path(path).exists()
