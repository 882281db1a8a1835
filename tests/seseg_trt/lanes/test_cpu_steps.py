"""Test the steps of the CPU lane one by one, with decoders and networks that note what they are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seseg_trt import FakeBackend
from seseg_trt.codecs.batches import Decoding
from seseg_trt.codecs.pillow import DecodedImage
from seseg_trt.errors import BadImage
from seseg_trt.lanes import cpu
from seseg_trt.lanes.base import Frame, Source
from seseg_trt.lanes.cpu import CPULane
from seseg_trt.masks import host, reference
from seseg_trt.masks.measure import measure_mask
from seseg_trt.options import DecodeOptions, EncodeOptions, LaneOptions, MaskOptions

from ...corpus import saved, scene


class Network(FakeBackend):
    """A network that counts, and may lose maps."""

    def __init__(self, lost: int = 0) -> None:
        super().__init__(16)
        self.concurrency, self.lost, self.closed = 3, lost, 0
        self.batches: list[tuple[int, ...]] = []

    def infer(self, images: Any) -> Any:
        self.batches.append(images.shape)
        return super().infer(images)[self.lost :]

    def close(self) -> None:
        self.closed += 1


def frame(width: int = 40, height: int = 30, seed: int = 0) -> Frame:
    rng = np.random.default_rng(seed)
    made = Frame(b"a/b", width, height, "pillow", Image.fromarray(scene(width, height)), rng.integers(0, 256, (16, 16, 3), np.uint8))
    made.confidence = rng.integers(0, 256, (16, 16), np.uint8)
    return made


def test_a_lane_takes_single_images_from_as_many_threads_as_its_network_wants() -> None:
    network = Network()
    lane = CPULane(network, LaneOptions())
    assert (lane.name, lane.batch_size, lane.infer_workers, lane.input_size) == ("cpu", 1, 3, 16)
    assert lane.description == network.description
    lane.close()
    assert network.closed == 1


@pytest.mark.parametrize("decoder", ["pillow", "dali", "".join(("da", "li"))])
def test_dali_decodes_eight_at_once(decoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []

    def open_decoders(*arguments: Any) -> Any:
        opened.append(arguments)
        return Decoding(DecodeOptions()), None

    monkeypatch.setattr(cpu, "open_decoders", open_decoders)
    decoding = DecodeOptions(decoder=decoder)
    lane = CPULane(FakeBackend(16), LaneOptions(decoding=decoding))
    assert opened == [(decoding, 16, 8)]
    assert lane.batch_size == (1 if decoder == "pillow" else 8)
    assert lane.description.endswith(", DALI decodes") is (decoder == "dali")


def test_images_are_held_as_pillows_and_sampled() -> None:
    data = saved(Image.fromarray(scene(70, 50)), "PNG")
    (found,) = CPULane(FakeBackend(16), LaneOptions()).decode([Source(b"a", data)])
    assert isinstance(found, Frame) and isinstance(found.image, Image.Image)
    assert np.array_equal(found.network_input, reference.sample_nearest(scene(70, 50), 16))


class Arrays:
    """A decoder that gives an array which is not contiguous, and a Pillow image."""

    def decode(self, batch: Sequence[bytes]) -> list[DecodedImage | BadImage]:
        turned = scene(50, 70).transpose(1, 0, 2)
        return [DecodedImage(turned, 70, 50, "dali"), DecodedImage(Image.fromarray(scene(9, 8)), 9, 8, "pillow")]


class Resampler:
    """A resampler that needs contiguous arrays, and may lose images."""

    def __init__(self, lost: int = 0) -> None:
        self.lost = lost

    def resample(self, images: Sequence[Any]) -> list[Any]:
        assert all(isinstance(image, np.ndarray) and image.flags.c_contiguous for image in images)
        return [image[:1, :1] for image in images][self.lost :]


def lane_with(resampler: Any, monkeypatch: pytest.MonkeyPatch) -> CPULane:
    monkeypatch.setattr(cpu, "open_decoders", lambda *arguments: (Arrays(), resampler))
    return CPULane(FakeBackend(16), LaneOptions())


@pytest.mark.parametrize("resampler", [None, Resampler()])
def test_decoded_arrays_become_images(resampler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    turned = scene(50, 70).transpose(1, 0, 2)
    one, other = lane_with(resampler, monkeypatch).decode([Source(b"a", b"")] * 2)
    assert isinstance(one, Frame) and isinstance(other, Frame)
    for found, pixels in ((one, turned), (other, scene(9, 8))):
        assert isinstance(found.image, Image.Image) and np.array_equal(np.asarray(found.image), pixels)
        expected = pixels[:1, :1] if resampler else reference.sample_nearest(pixels, 16)
        assert np.array_equal(found.network_input, expected)


def test_a_resampler_that_loses_an_image_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="zip"):
        lane_with(Resampler(1), monkeypatch).decode([Source(b"a", b"")] * 2)


def test_each_frame_has_its_own_map() -> None:
    network, frames = Network(), [frame(seed=seed) for seed in range(3)]
    inputs = np.stack([one.network_input for one in frames])
    CPULane(network, LaneOptions()).infer(frames)
    assert network.batches == [(3, 16, 16, 3)]
    for one, expected in zip(frames, FakeBackend(16).infer(inputs), strict=True):
        assert np.array_equal(one.confidence, expected) and one.network_input is None


def test_a_network_that_loses_a_map_is_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        CPULane(Network(lost=1), LaneOptions()).infer([frame(), frame()])


@pytest.mark.parametrize("threshold", [None, 40])
@pytest.mark.parametrize("measure", [None, "stats", "rle"])
@pytest.mark.parametrize("outputs", [(), ("se",), ("mask", "nse")])
def test_outputs_and_measurements_are_those_asked_for(outputs: Any, measure: Any, threshold: int | None) -> None:
    if measure == "rle":
        pytest.importorskip("pycocotools.mask")
    masks = MaskOptions(outputs, (1, 2, 3), threshold)
    one, image = frame(), Image.fromarray(scene(40, 30))
    opacity = host.resize_map(one.confidence, 40, 30)
    CPULane(FakeBackend(16), LaneOptions(masks, measure=measure)).composite([one])
    assert one.image is None and list(one.rendered) == list(outputs)
    for kind in outputs:
        expected = reference.composite(image, reference.apply_threshold(opacity, threshold), kind, masks, b"a/b")
        assert np.array_equal(one.rendered[kind], expected)
    assert one.measured == (measure_mask(opacity, threshold, rle=measure == "rle") if measure else None)
    assert measure is None or one.measured is None or ("rle" in one.measured) is (measure == "rle")


def test_without_outputs_and_measurements_no_map_is_resized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(host, "resize_map")
    one = frame()
    CPULane(FakeBackend(16), LaneOptions(MaskOptions(()))).composite([one])
    assert one.image is None and one.rendered == {}


def test_what_can_not_be_encoded_costs_no_neighbour() -> None:
    lane = CPULane(FakeBackend(16), LaneOptions(encoding=EncodeOptions("jpg")))
    frames = [frame(), frame(), frame()]
    for one in frames:
        one.rendered = {"se": scene(9, 8), "mask": scene(9, 8)[..., 0].copy()}
    frames[1].rendered["se"] = np.zeros((65_536, 2, 3), np.uint8)
    first, bad, last = lane.encode(frames)
    assert isinstance(bad, BadImage) and bad.reason == "encode_error"
    assert first == last and not isinstance(first, BadImage) and set(first) == {"se", "mask"}
    assert frames[0].rendered == frames[2].rendered == {}
