"""What verify and evaluate read beside folders: tars and object stores, by the rules and with the reasons of segment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from seseg_trt.cli import main as cli
from seseg_trt.errors import UsageError
from seseg_trt.options import DecodeOptions
from seseg_trt.quality.evaluate import find_pairs
from seseg_trt.quality.images import Undecodable, entries_in, sample
from tests.runs import make_tar, needs_scale
from tests.stores import Bucket, s3_server

from .store_run import certificate, evaluation
from .tiny import SIDE, save_blob, write_graph

ROOT = Path(__file__).parents[3]


@pytest.fixture
def data(tmp_path: Path) -> tuple[Path, Path]:
    """Images in two folders with their masks; one file is no image and one is empty."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    for seed, (name, size) in enumerate({"a": (SIDE, SIDE), "sub/a": (50, 41), "sub/b.c": (17, 60)}.items()):
        marks = save_blob(images / f"{name}.png", seed, *size)
        (masks / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(marks.astype(np.uint8) * 255).save(masks / f"{name}.png")
    (images / "notes.jpg").write_text("no image")
    (images / "sub" / "empty.png").write_bytes(b"")
    return images, masks


def test_a_tar_gives_the_figures_of_the_folder(data: tuple[Path, Path], tmp_path: Path) -> None:
    images, masks = data
    tar, masks_tar = make_tar(tmp_path / "images.tar", images), make_tar(tmp_path / "masks.tar", masks)
    expected = certificate(str(images))
    assert [item["name"] for item in expected["undecodable"]] == ["notes.jpg", "sub/empty.png"]  # type: ignore[attr-defined]
    assert expected["images"] == 3 and 0 < expected["iou"]["pooled"] < 1  # type: ignore[index]
    assert certificate(str(tar)) == expected
    scores = evaluation(str(images), str(masks))
    assert scores["images"] == 3 and scores["masks_left"] == 0
    assert evaluation(str(tar), str(masks_tar)) == evaluation(str(tar), str(masks)) == scores


@needs_scale
def test_a_store_gives_the_figures_of_the_folder(data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, masks = data
    with s3_server() as environment:
        for name, value in {**environment, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}.items():
            monkeypatch.setenv(name, value)
        bucket = Bucket("s3")
        bucket.store.mkdir("photos")
        bucket.put_tree(images, "photos/images")
        bucket.put_tree(masks, "photos/masks")
        bucket.put("photos/images.tar", make_tar(tmp_path / "images.tar", images).read_bytes())
        bucket.put("photos/going/a.png", (images / "a.png").read_bytes())
        addresses = [bucket.address(f"photos/{name}") for name in ("images", "images.tar", "masks", "going/a.png")]
        command = [sys.executable, "-m", "tests.seseg_trt.quality.store_run", *addresses]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    expected = json.loads(json.dumps([certificate(str(images)), evaluation(str(images), str(masks))]))
    assert found["certificates"] == [expected[0]] * 2
    assert found["evaluations"] == [expected[1]] * 2
    assert (found["gone"]["name"], found["gone"]["reason"]) == ("a.png", "missing")


def test_the_commands_take_tars(data: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    images, masks = make_tar(tmp_path / "images.tar", data[0]), make_tar(tmp_path / "masks.tar", data[1])
    model = write_graph(tmp_path / "m.onnx")
    other = tmp_path / "other.onnx"
    graph = onnx.load(str(model))
    graph.doc_string = "the same network in another file"
    onnx.save(graph, str(other))
    pages = tmp_path / "verify.html", tmp_path / "evaluate.html"
    for command in (
        ["verify", "--reference", model, "--candidate", other, "--images", images, "--drift-images", 0, "--page", pages[0]],
        ["evaluate", "--model", model, "--images", images, "--masks", masks, "--page", pages[1]],
    ):
        assert cli.run(cli.group, [*map(str, command), "--threads", "1", "--json", "--quiet"], "seseg-trt") == 0
        found = json.loads(capfd.readouterr().out)
        assert found["images"] == 3 and len(found["undecodable"]) == 2
    assert all("notes.jpg" in page.read_text() for page in pages)
    assert pages[1].read_text().count("<figure>") == 12  # read from the tar again


def test_an_entry_that_leads_nowhere_or_goes_away_keeps_its_reason(data: tuple[Path, Path], tmp_path: Path) -> None:
    images, _ = data
    os.symlink("nowhere.png", images / "link.png")
    tar = make_tar(tmp_path / "images.tar", images, [*images.rglob("*.png")])
    entries, refused = entries_in([tar])
    assert [(item.name, item.reason) for item in refused] == [("link.png", "missing")]
    assert {entry.name for entry in entries} == {"a.png", "sub/a.png", "sub/b.c.png", "sub/empty.png"}
    (images / "a.png").unlink()
    make_tar(tar, images, [*images.rglob("*.png")])
    (gone,) = (sample(entry, DecodeOptions(), SIDE) for entry in entries if entry.name == "a.png")
    assert isinstance(gone, Undecodable) and gone.reason == "missing"


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    options = DecodeOptions(max_pixels=1)
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(options.max_file_bytes + 1)
    (entry,), _ = entries_in([tmp_path], options)
    large = sample(entry, options, SIDE)
    assert isinstance(large, Undecodable) and large.reason == "too_large"


def test_a_mask_that_cant_be_opened_is_named_with_the_reason(data: tuple[Path, Path], tmp_path: Path) -> None:
    images, masks = data
    (masks / "a.png").unlink()
    os.symlink("nowhere.png", masks / "a.png")
    with pytest.raises(UsageError) as caught:
        find_pairs(images, make_tar(tmp_path / "masks.tar", masks, [*masks.rglob("*.png")]), DecodeOptions())
    assert "1 of 3 images" in caught.value.message and "a.png: there is no mask a.*" in caught.value.message
    assert "the mask a.png can't be read: it is a link that leads to nothing in the tar" in caught.value.message


def test_images_that_are_all_damaged_are_refused_with_the_first_reason(data: tuple[Path, Path], tmp_path: Path) -> None:
    notes = make_tar(tmp_path / "notes.tar", data[0], [data[0] / "notes.jpg"])
    with pytest.raises(UsageError, match=r"none of 1 images can be decoded; notes\.jpg: no decoder knows what it is"):
        find_pairs(notes, data[1], DecodeOptions())


def test_a_tar_without_an_image_is_refused_with_its_damage(tmp_path: Path) -> None:
    (tmp_path / "images.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(UsageError, match=r"there is no image in .*images\.tar; images\.tar: it is no tar"):
        entries_in([tmp_path / "images.tar"])
