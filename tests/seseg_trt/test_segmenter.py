"""Test the public API for arrays against the original program's outputs."""

from __future__ import annotations

import os
import pickle
import select
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seseg_trt import FakeBackend, MaskOptions, Segmenter, UsageError
from seseg_trt.segmenter import _Gate
from tests.conftest import DATA

FIXTURE_GRAPH = DATA / "fixture.onnx"
NAMES = [
    "a_coffee_rgb",
    "b_synth_tall",
    "c_rocket_gray",
    "d_astronaut_rgba",
    "e_chelsea_cmyk",
    "f_exif6",
    "g_synth256",
    "h_tiny_palette",
]


@pytest.fixture(scope="module", params=["openvino", pytest.param("onnxruntime", marks=pytest.mark.ort)])
def segmenter(request: pytest.FixtureRequest) -> Segmenter:
    return Segmenter(FIXTURE_GRAPH, device="cpu", backend=request.param)


@pytest.fixture(scope="module")
def decoded(keras224: Path) -> list[np.ndarray]:
    stored = np.load(keras224 / "reference.npz")
    return [stored[f"{name}__rgb"] for name in NAMES]


def test_end_to_end_from_the_same_pixels_the_masks_are_the_originals(
    segmenter: Segmenter, decoded: list[np.ndarray], keras224: Path
) -> None:
    intersection = union = 0
    for name, mask in zip(NAMES, segmenter.masks(decoded, threshold=50), strict=True):
        original = np.asarray(Image.open(keras224 / "t50" / f"{name}_pred.png")) > 0
        assert mask.shape == original.shape
        intersection += np.sum((mask > 0) & original)
        union += np.sum((mask > 0) | original)
    assert intersection / union >= 0.9999


def test_end_to_end_the_opacity_maps_are_the_originals_within_one(segmenter: Segmenter, decoded: list[np.ndarray], keras224: Path) -> None:
    differences = np.concatenate(
        [
            np.abs(mask.astype(int) - np.asarray(Image.open(keras224 / "none" / f"{name}_pred.png")).astype(int)).ravel()
            for name, mask in zip(NAMES, segmenter.masks(decoded), strict=True)
        ]
    )
    assert np.mean(differences <= 1) >= 0.999


def test_confidence_is_the_network_s_own(segmenter: Segmenter, decoded: list[np.ndarray], keras224: Path) -> None:
    stored = np.load(keras224 / "reference.npz")
    maps = segmenter.confidence(decoded)
    assert maps.shape == (len(NAMES), 256, 256) and maps.dtype == np.uint8
    expected = np.stack([np.uint8(stored[f"{name}__pred"] * 255) for name in NAMES])
    assert np.mean(np.abs(maps.astype(int) - expected) <= 1) >= 0.999


def test_one_array_of_many_images_is_taken_too() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    with Segmenter(backend=FakeBackend(16)) as segmenter:
        masks = segmenter.masks(images)
        assert [mask.shape for mask in masks] == [(20, 30)] * 3
        assert np.array_equal(masks[1], segmenter.masks([images[1]])[0])


def test_no_images_give_no_masks() -> None:
    segmenter = Segmenter(backend=FakeBackend(16))
    assert segmenter.masks([]) == []
    assert segmenter.confidence([]).shape == (0, 16, 16)


def test_composite_covers_what_it_says() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, 8:] = 255  # the fake backend's confidence is the image's brightness
    made = Segmenter(backend=FakeBackend(16)).composite([image], MaskOptions(("se", "nse", "mask"), (1, 2, 3), 50))[0]
    assert np.array_equal(made["mask"][0], [0] * 8 + [255] * 8)
    assert np.array_equal(made["nse"][0, 15], [1, 2, 3]) and np.array_equal(made["nse"][0, 0], [0, 0, 0])
    assert np.array_equal(made["se"][0, 0], [1, 2, 3]) and np.array_equal(made["se"][0, 15], [255, 255, 255])


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_no_rgb_image_is_refused_by_its_place(image: np.ndarray) -> None:
    good = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(UsageError, match="image 1 is"):
        Segmenter(backend=FakeBackend(16)).masks([good, image])


@pytest.mark.parametrize("threshold", [-1, 101])
def test_a_threshold_out_of_range_is_refused(threshold: int) -> None:
    with pytest.raises(UsageError, match="threshold"):
        Segmenter(backend=FakeBackend(16)).masks([np.zeros((4, 4, 3), np.uint8)], threshold=threshold)


def in_a_fork(work: Callable[[], object]) -> str:
    """Return what ``work`` raises in a forked process: its class and its first line; an empty text if nothing."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        said = ""
        try:
            work()
        except BaseException as error:
            said = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        ready, _, _ = select.select([file], [], [], 30)
        said = file.read().decode() if ready else "hangs"
    if not ready:
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return said


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_fork_gets_an_error_and_no_lock_to_wait_for() -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    with Segmenter(FIXTURE_GRAPH, device="cpu") as segmenter:
        at_work = threading.Event()
        ended = threading.Event()

        def work() -> None:
            while not ended.is_set():
                segmenter.masks([image])
                at_work.set()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        assert at_work.wait(60)
        try:
            for use in (segmenter.masks, segmenter.confidence, segmenter.composite):
                for _ in range(3):
                    assert in_a_fork(lambda use=use: use([image])).startswith("DeviceError: this Segmenter was opened by process")
            assert in_a_fork(segmenter.close) == ""
        finally:
            ended.set()
            thread.join()
        assert segmenter.masks([image])[0].shape == (20, 30)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_after_a_fork_it_opens_anew() -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    with Segmenter(backend=FakeBackend(16)) as segmenter:
        segmenter.masks([image])
        assert in_a_fork(lambda: Segmenter(backend=FakeBackend(16)).masks([image])) == ""


def test_a_fork_waits_for_who_is_inside_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = _Gate()
    events: list[str] = []
    with gate:
        forks = threading.Thread(target=lambda: (gate.before_fork(), events.append("fork"), gate.after_fork()), daemon=True)
        forks.start()
        forks.join(0.05)
        events.append("out")
    forks.join(10)
    assert events == ["out", "fork"]
    monkeypatch.setattr(_Gate, "SECONDS", 0.01)
    with gate:
        gate.before_fork()
        gate.after_fork()


def test_it_pickles_by_its_arguments(keras224: Path) -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    with Segmenter(FIXTURE_GRAPH, device="cpu", threads=1) as segmenter:
        with pickle.loads(pickle.dumps(segmenter)) as again:
            assert np.array_equal(again.masks([image])[0], segmenter.masks([image])[0])
            assert again.artifact is not None and segmenter.artifact is not None and again.artifact.sha256 == segmenter.artifact.sha256


@pytest.mark.parametrize("images", [np.zeros((4, 4, 3), np.uint8), Image.new("RGB", (4, 4)), "photo.jpg", Path("photo.jpg"), b"bytes"])
def test_what_is_no_sequence_of_images_is_named(images: object) -> None:
    with pytest.raises(UsageError, match="not a sequence of arrays") as caught:
        Segmenter(backend=FakeBackend(16)).masks(images)  # type: ignore[call-overload]
    assert "masks([image])" in str(caught.value) or "segment_files" in str(caught.value)


@pytest.mark.parametrize("threshold", [0.5, 50.0, True, "50"])
def test_a_threshold_that_is_no_percentage_is_named(threshold: object) -> None:
    with pytest.raises(UsageError, match="not a whole number"):
        Segmenter(backend=FakeBackend(16)).masks([np.zeros((4, 4, 3), np.uint8)], threshold=threshold)  # type: ignore[call-overload]
    assert Segmenter(backend=FakeBackend(16)).masks([np.zeros((4, 4, 3), np.uint8)], threshold=np.int64(50))[0].shape == (4, 4)
