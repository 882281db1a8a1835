"""Test with what decoders, encoders and batches the GPU lane is opened, and what its steps do with those that fail."""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from seseg_trt.backends.tensorrt import TensorRTBackend
from seseg_trt.codecs import nvimgcodec
from seseg_trt.codecs.batches import Decoding
from seseg_trt.codecs.pillow import DecodedImage
from seseg_trt.cuda import device as cuda
from seseg_trt.errors import BadImage
from seseg_trt.lanes import gpu as lanes
from seseg_trt.lanes.base import Frame, Source
from seseg_trt.lanes.device_work import DeviceWork
from seseg_trt.lanes.gpu import GPULane, open_gpu_lane
from seseg_trt.masks.measure import measure_mask
from seseg_trt.masks.reference import resize_map
from seseg_trt.options import DecodeOptions, EncodeOptions, LaneOptions, MaskOptions

from .fake_device import SIZE, ForeignArray, LockedGpu


class Opened:
    """What was opened while a lane was."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.decoders: list[Any] = []
        self.encoders: list[Any] = []
        self.cores = 16

        def open_decoders(*arguments: Any) -> Any:
            self.decoders.append(arguments)
            return Decoding(DecodeOptions()), None

        monkeypatch.setattr(lanes, "open_decoders", open_decoders)
        monkeypatch.setattr(lanes, "usable_cores", lambda: self.cores)
        monkeypatch.setattr(nvimgcodec, "NvimgcodecEncoder", lambda *arguments: self.encoders.append(arguments) or "the encoder")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, backend: TensorRTBackend) -> Iterator[Opened]:
    yield Opened(monkeypatch)


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (16, 8), (33, 16)])
def test_half_of_the_cores_decode(cores: int, threads: int, opened: Opened, backend: TensorRTBackend) -> None:
    opened.cores = cores
    decoding = DecodeOptions(max_pixels=77)
    lane = open_gpu_lane(backend, LaneOptions(decoding=decoding))
    (arguments,) = opened.decoders
    assert arguments[:5] == (decoding, SIZE, 6, threads, 0)
    assert (lane.name, lane.batch_size, lane.infer_workers, lane.input_size) == ("gpu", 6, 1, SIZE)
    assert lane.description == backend.description
    lane.close()


@pytest.mark.parametrize(("identity", "batch"), [(1, 1), (63, 63), (64, 64), (65, 64), (200, 64), (None, 64), ("none", 64)])
def test_batches_have_what_the_network_takes_and_at_most_64(
    identity: Any, batch: int, opened: Opened, backend: TensorRTBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = types.SimpleNamespace(**({} if identity == "none" else {"max_batch": identity}))
    monkeypatch.setattr(backend, "identity", None if identity is None else known)
    lane = open_gpu_lane(backend, LaneOptions())
    assert lane.batch_size == opened.decoders[0][2] == batch
    lane.close()


@pytest.mark.parametrize("image_format", ["jpg", "".join(("j", "pg")), "png", "webp"])
@pytest.mark.parametrize("outputs", [(), ("mask",), ("se",), ("mask", "nse"), ("se", "nse", "mask")])
def test_jpegs_of_images_are_encoded_on_the_device(image_format: Any, outputs: Any, opened: Opened, backend: TensorRTBackend) -> None:
    encoding = EncodeOptions(image_format, 66)
    lane = open_gpu_lane(backend, LaneOptions(MaskOptions(outputs), encoding=encoding))
    wanted = image_format == "jpg" and outputs not in ((), ("mask",))
    assert opened.encoders == ([(encoding, 1, 0)] if wanted else [])
    assert lane._encoder == ("the encoder" if wanted else None)  # type: ignore[comparison-overlap]
    lane.close()


def test_what_is_decoded_one_by_one_is_ready_for_any_stream(
    opened: Opened, backend: TensorRTBackend, gpu: LockedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    produced: list[int] = []

    class Decoder:
        def __init__(self, *arguments: Any) -> None:
            made.append(arguments)

        def decode(self, batch: Sequence[bytes], stream: int) -> list[Any]:
            gpu.enqueue(stream, lambda: produced.append(stream))
            return [data.decode() for data in batch]

    monkeypatch.setattr(nvimgcodec, "NvimgcodecDecoder", Decoder)
    lane = open_gpu_lane(backend, LaneOptions())
    assert made == [], "a decoder that may never be needed was made"
    decode = opened.decoders[0][5]()
    assert made == [(8, 0)]
    assert decode([b"a", b"b"]) == ["a", "b"] and len(produced) == 1
    lane.close()


def test_a_lane_has_no_encoder_and_batches_of_64_unless_told(device: cuda.Device, backend: TensorRTBackend) -> None:
    lane = GPULane(DeviceWork(device, backend), LaneOptions(), Decoding(DecodeOptions()))
    assert (lane.batch_size, lane.infer_workers, lane._encoder, lane._resampler) == (64, 1, None, None)
    lane.close()


class Fixed:
    """A decoder of images on the host, and a resampler that loses one of them."""

    def decode(self, batch: Sequence[bytes]) -> list[DecodedImage | BadImage]:
        return [DecodedImage(np.full((9, 7, 3), 10 * len(data), np.uint8), 7, 9, "pillow") for data in batch]

    def resample(self, images: Sequence[Any]) -> list[Any]:
        return list(images[1:])


def test_a_resampler_that_loses_an_image_is_an_error(device: cuda.Device, backend: TensorRTBackend) -> None:
    lane = GPULane(DeviceWork(device, backend), LaneOptions(), Fixed(), Fixed())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="zip"):
        list(lane.decode([Source(b"a", b"1"), Source(b"b", b"22")]))
    lane.close()


class NoneTwice(Fixed):
    """A decoder that finds no image, and a resampler that must not be asked for none."""

    def decode(self, batch: Sequence[bytes]) -> list[DecodedImage | BadImage]:
        return [BadImage("empty", "nothing")] * len(batch)

    def resample(self, images: Sequence[Any]) -> list[Any]:
        raise AssertionError("asked to resample nothing")


def test_a_batch_without_images_is_not_resampled(device: cuda.Device, backend: TensorRTBackend) -> None:
    lane = GPULane(DeviceWork(device, backend), LaneOptions(), NoneTwice(), NoneTwice())  # type: ignore[arg-type]
    assert all(isinstance(found, BadImage) for found in lane.decode([Source(b"a", b""), Source(b"b", b"")]))
    lane.close()


@pytest.mark.parametrize("measure", ["stats", "rle", None])
@pytest.mark.parametrize("outputs", [(), ("mask",)])
def test_masks_are_measured_as_asked(outputs: Any, measure: Any, device: cuda.Device, gpu: LockedGpu, backend: TensorRTBackend) -> None:
    if measure == "rle":
        pytest.importorskip("pycocotools.mask")
    pixels = [np.random.default_rng(seed).integers(0, 256, (9 + seed, 20, 3), np.uint8) for seed in range(3)]

    class There(Fixed):
        def decode(self, batch: Sequence[bytes]) -> list[DecodedImage | BadImage]:
            arrays = [ForeignArray(device, gpu, one, padding=index) for index, one in enumerate(pixels)]
            for array in arrays:
                array.wait()
            return [DecodedImage(array, 20, len(one), "dali") for one, array in zip(pixels, arrays, strict=True)]

    options = LaneOptions(MaskOptions(outputs, threshold=45), measure=measure)
    lane = GPULane(DeviceWork(device, backend), options, There())
    frames = [frame for frame in lane.decode([Source(b"a", b"")] * 3) if isinstance(frame, Frame)]
    lane.infer(frames)
    maps = lane._to_host([frame.confidence for frame in frames], device.stream())
    lane.composite(frames)
    for frame, confidence in zip(frames, maps, strict=True):
        opacity = resize_map(confidence, frame.width, frame.height)
        assert frame.measured == (measure_mask(opacity, 45, rle=measure == "rle") if measure else None)
        assert (frame.image, frame.confidence, frame.network_input) == (None, None, None)
        assert list(frame.rendered) == list(outputs)
    lane.close()


class Encoder:
    """An encoder on the device that refuses some images."""

    def __init__(self, bad: int) -> None:
        self.bad, self.asked = bad, 0

    def encode(self, images: Sequence[Any], stream: int | None = None) -> list[bytes | BadImage]:
        self.asked += 1
        assert images, "asked to encode nothing"
        return [BadImage("encode_error", "refused") if index == self.bad else b"%d" % index for index in range(len(images))]


@pytest.mark.parametrize("outputs", [("se", "nse"), ("mask",)])
def test_what_the_encoder_refuses_costs_no_neighbour(outputs: Any, device: cuda.Device, backend: TensorRTBackend) -> None:
    encoder = Encoder(bad=2)
    options = LaneOptions(MaskOptions(outputs), encoding=EncodeOptions("jpg"))
    lane = GPULane(DeviceWork(device, backend), options, Fixed(), encoder=encoder)  # type: ignore[arg-type]
    frames = [frame for frame in lane.decode([Source(b"a", b"1" * n) for n in (1, 2, 3)]) if isinstance(frame, Frame)]
    lane.infer(frames)
    lane.composite(frames)
    found = lane.encode(frames)
    assert encoder.asked == ("se" in outputs)
    if "se" in outputs:
        assert [found[0], found[2]] == [{"se": b"0", "nse": b"1"}, {"se": b"4", "nse": b"5"}]
        assert isinstance(found[1], BadImage) and found[1].reason == "encode_error"
    else:
        assert all(not isinstance(files, BadImage) and list(files) == ["mask"] for files in found)
    assert all(frame.rendered == {} for frame in frames)
    lane.close()


def test_what_the_host_can_not_encode_costs_no_neighbour(device: cuda.Device, backend: TensorRTBackend) -> None:
    class Tall(Fixed):
        def decode(self, batch: Sequence[bytes]) -> list[DecodedImage | BadImage]:
            heights = [9, 65_536, 9]  # more rows than a JPEG can have
            return [DecodedImage(np.zeros((height, 2, 3), np.uint8), 2, height, "pillow") for height in heights]

    lane = GPULane(DeviceWork(device, backend), LaneOptions(MaskOptions(("mask", "se")), encoding=EncodeOptions("jpg")), Tall())
    frames = [frame for frame in lane.decode([Source(b"a", b"")] * 3) if isinstance(frame, Frame)]
    lane.infer(frames)
    lane.composite(frames)
    first, bad, last = lane.encode(frames)
    assert isinstance(bad, BadImage) and bad.reason == "encode_error"
    assert first == last and not isinstance(first, BadImage) and list(first) == ["mask", "se"]
    lane.close()
