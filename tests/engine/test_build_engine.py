"""Test ``build_engine.py`` from its command line: what it writes, what it certifies, what it refuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seseg_trt.models import cache
from seseg_trt.models.certificate import check_certificate
from tests.conftest import DATA, KERAS224

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2]
FIXTURE = str(DATA / "fixture.onnx")
Build = Callable[..., tuple[int, str]]


@pytest.fixture
def build(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Build:
    """Return a function that runs the command, on few images, and returns its exit code and its output."""
    from engine import build_images
    from seseg_trt.cli.main import run

    monkeypatch.setattr(build_images, "SCENES", 4)
    import build_engine

    def call(*arguments: object) -> tuple[int, str]:
        code = run(build_engine.main, [str(a) for a in arguments], name="build_engine.py")
        out, err = capsys.readouterr()
        return code, out + err

    return call


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write enough small images to calibrate on, with one of them twice."""
    from engine.scenes import draw_scene

    folder = tmp_path_factory.mktemp("scenes")
    for index in range(170):
        (folder / f"{index}.jpg").write_bytes(draw_scene(3, index, 64, 64).jpeg())
    (folder / "copy.jpg").write_bytes((folder / "0.jpg").read_bytes())
    return folder


def _recipe(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def _certificate(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_a_checkpoint_becomes_two_certified_graphs_and_the_default_model(tmp_path: Path) -> None:
    """Run the command as make does, in a separate process."""
    home, out = tmp_path / "home", tmp_path / "models"
    command = [sys.executable, ROOT / "build_engine.py", "--checkpoint", KERAS224 / "checkpoint.hdf5", "--out", out, "--store", "original"]
    images = cache.demo_path().parent / "images"
    done = subprocess.run(
        [*map(str, command), "--images", str(images)],
        env={**os.environ, cache.HOME_VARIABLE: str(home)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    entry = home / "models" / "original"
    assert (home / "default").read_text().strip() == "original"
    fp32, fp16 = (_certificate(entry / f"{stem}.certificate.json") for stem in ("model", "model.fp16"))
    assert fp32["reference"]["name"] == "checkpoint.hdf5" and fp32["passed"]
    assert fp16["reference"]["sha256"] == fp32["candidate"]["sha256"]
    for name in ("model.onnx", "model.fp16.onnx"):
        assert check_certificate(entry / name).status == "valid"


def test_the_checkpoint_s_certificate_dies_with_one_weight(build: Build, tmp_path: Path) -> None:
    """Make a graph with a certificate, change one weight, and expect the certificate to be refused."""
    import onnx
    from onnx import numpy_helper

    recipe = _recipe(tmp_path, '[graph]\nprecision = "fp16"\n[gate]\nmin_iou = 0.9\nmin_worst_iou = 0.0\n')
    code, said = build("--graph", FIXTURE, "--recipe", recipe, "--out", tmp_path)
    assert code == 0, said
    path = tmp_path / "model.fp16.onnx"
    assert check_certificate(path).certified
    model = onnx.load(str(path))
    weight = next(c for c in model.graph.initializer if c.name == "stem_conv.weight")
    values = numpy_helper.to_array(weight).copy()
    values.reshape(-1)[0] *= 2
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, str(path))
    check = check_certificate(path)
    assert check.status == "artifact_changed" and not check.certified


def test_int8_is_calibrated_and_certified_on_different_images(build: Build, tmp_path: Path, scenes: Path) -> None:
    recipe = _recipe(tmp_path, '[graph]\nprecision = "int8"\n[gate]\nmin_iou = 0.0\nmin_worst_iou = 0.0\n')
    code, said = build("--graph", FIXTURE, "--recipe", recipe, "--out", tmp_path, "--images", scenes)
    assert code == 0, said
    assert re.search(r"only \d+ images to calibrate on; \d+ or more are better", said)
    from seseg_trt.models.artifact import load_artifact

    artifact = load_artifact(tmp_path / "model.int8.onnx")
    certificate = _certificate(tmp_path / "model.int8.certificate.json")
    calibrated = int(artifact.metadata["calibration_images"])
    assert calibrated >= 64 and calibrated + certificate["images"] == 171
    assert artifact.metadata["calibration_sha256"] != certificate["images_sha256"]
    assert {"pooled", "worst"} <= certificate["iou"].keys()
    assert certificate["candidate"]["sha256"] == artifact.sha256
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_copies_of_an_image_go_into_one_set(scenes: Path) -> None:
    from engine.build_images import image_sets

    sets = image_sets(scenes, quantised=True)
    of_first = [[e.name for e in entries if e.name in ("0.jpg", "copy.jpg")] for entries in (sets.calibration, sets.certificate)]
    assert sorted(map(len, of_first)) == [0, 2]


def test_a_gate_that_can_t_be_met_ends_with_4_and_leaves_no_graph(
    build: Build, tmp_path: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine import sensitive
    from engine.qdq import points_of

    monkeypatch.setattr(sensitive, "sensitivity", lambda model, *_: [point.name for point in points_of(model)])
    monkeypatch.setattr(sensitive, "_counts", lambda layers: iter([0, 1]))
    recipe = _recipe(tmp_path, '[graph]\nprecision = "int8"\n[gate]\nmin_iou = 1.0\n')
    code, said = build("--graph", FIXTURE, "--recipe", recipe, "--out", tmp_path, "--images", scenes)
    assert code == 4
    assert "0 layers kept: IoU 0." in said and "kept last: stem_conv" in said
    assert not (tmp_path / "model.int8.onnx").exists()


def test_int8_without_images_is_refused(build: Build, tmp_path: Path) -> None:
    code, said = build("--graph", FIXTURE, "--recipe", ROOT / "engine" / "recipes" / "int8.toml", "--out", tmp_path / "out")
    assert code == 1 and "--images" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        ([], 1, "give one of --checkpoint"),
        (["--graph", "demo", "--random-weights", "1"], 1, "give one of --checkpoint"),
        (["--graph", "demo", "--recipe", "none.toml"], 1, "none.toml"),
        (["--graph", "none.onnx"], 3, "none.onnx"),
        (["--checkpoint", "none.hdf5"], 3, "none.hdf5"),
        (["--random-weights", "1", "--network", "vgg"], 1, "seresnet152"),
    ],
    ids=str,
)
def test_what_can_t_be_done_says_why(arguments: list[str], code: int, named: str, build: Build, tmp_path: Path) -> None:
    found, said = build(*arguments, "--out", tmp_path)
    assert found == code and named in said


def test_random_weights_give_maps_with_edges_and_say_what_they_are(build: Build, tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, '[graph]\nprecision = "fp32"\n')
    code, said = build("--random-weights", 5, "--network", "seresnet20", "--recipe", recipe, "--out", tmp_path)
    assert code == 0, said
    from engine.scenes import draw_scene
    from seseg_trt import Segmenter
    from seseg_trt.models.artifact import load_artifact

    assert load_artifact(tmp_path / "model.onnx").metadata["checkpoint_sha256"] == "random:5"
    maps = Segmenter(tmp_path / "model.onnx", threads=1).confidence([draw_scene(5, index).image for index in range(3)])
    assert all(0.02 < (m > 127).mean() < 0.9 and len(set(m.ravel().tolist())) > 100 for m in maps)


@pytest.mark.rtx
def test_a_recipe_with_a_plan_makes_it(build: Build, tmp_path: Path) -> None:
    text = '[graph]\nprecision = "fp16"\n[gate]\nmin_iou = 0.0\nmin_worst_iou = 0.0\n[plan]\nruntime = "rtx"\ntargets = ["sm86"]\nbatches = ["1:1:2"]\n'
    code, said = build("--graph", FIXTURE, "--recipe", _recipe(tmp_path, text), "--out", tmp_path)
    assert code == 0, said
    assert (tmp_path / "model.fp16.rtx.sm86.plan").stat().st_size > 100_000
