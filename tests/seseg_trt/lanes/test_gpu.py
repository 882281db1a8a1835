"""Test that the GPU lane, on a fake GPU with the real kernels, writes the same files as the CPU lane."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seseg_trt import FakeBackend, MaskOptions, RunOptions, segment_files
from seseg_trt.backends.tensorrt import TensorRTBackend
from seseg_trt.codecs import pillow
from seseg_trt.codecs.batches import BatchRefused, Decoding
from seseg_trt.codecs.pillow import DecodedImage
from seseg_trt.cuda import device as cuda
from seseg_trt.cuda.array import DevicePool
from seseg_trt.errors import BadImage, UsageError
from seseg_trt.lanes.base import Frame, Source
from seseg_trt.lanes.cpu import CPULane
from seseg_trt.lanes.device_work import DeviceWork, as_device_source
from seseg_trt.lanes.gpu import GPULane, open_gpu_lane
from seseg_trt.lanes.select import open_lane
from seseg_trt.options import DecodeOptions, EncodeOptions, LaneOptions

from ...corpus import make_corpus, make_images
from ...runs import tree
from ..fake_gpu import bytes_at
from .fake_device import IDENTITY, SIZE, ForeignArray, LockedGpu

OPTIONS = DecodeOptions()
IMAGES = {name: (data, expected) for name, (data, expected) in make_images().items() if len(data) < 70_000}
SOURCES = [Source(name.encode(), data) for name, (data, _) in IMAGES.items()]


class DeviceBatches:
    """A batch decoder that uses Pillow and writes to device memory, with some padded rows. It refuses a batch with a bad image."""

    def __init__(self, device: cuda.Device, gpu: LockedGpu) -> None:
        self.device, self.gpu = device, gpu

    def decode(self, batch: Sequence[bytes]) -> list[Any]:
        try:
            return [self._array(data, padding=index % 3) for index, data in enumerate(batch)]
        except BadImage as bad:
            raise BatchRefused from bad

    def _array(self, data: bytes, padding: int = 0) -> ForeignArray:
        array = ForeignArray(self.device, self.gpu, np.asarray(pillow.decode(data, OPTIONS).image), padding=padding)
        array.wait()
        return array


class DeviceItems(DeviceBatches):
    def decode(self, batch: Sequence[bytes]) -> list[Any]:
        found: list[Any] = []
        for data in batch:
            try:
                found.append(self._array(data))
            except BadImage:
                found.append(None)
        return found


class DeviceEncoder:
    """An encoder that uses Pillow on arrays on the device, after waiting for their stream."""

    def __init__(self, gpu: LockedGpu, options: EncodeOptions) -> None:
        self.gpu, self.options = gpu, options

    def encode(self, images: Sequence[Any], stream: int | None = None) -> list[bytes | BadImage]:
        assert stream is not None
        self.gpu.wait(stream, "encoder")
        files: list[bytes | BadImage] = []
        for image in images:
            pixels = bytes_at(image.address, int(np.prod(image.shape))).reshape(image.shape)
            try:
                files.append(pillow.encode_lossy(Image.fromarray(pixels), self.options))
            except BadImage as bad:
                files.append(bad)
        return files


Make = Callable[..., GPULane]


@pytest.fixture
def make_lane(device: cuda.Device, gpu: LockedGpu, backend: TensorRTBackend) -> Iterator[Make]:
    lanes: list[GPULane] = []

    def make(masks: MaskOptions, encoding: EncodeOptions | None = None, *, on_device: bool = True, **more: Any) -> GPULane:
        decoder = Decoding(OPTIONS)
        if on_device:
            decoder = Decoding(OPTIONS, DeviceBatches(device, gpu).decode, lambda: DeviceItems(device, gpu).decode)
        encoding = encoding or EncodeOptions()
        encoder = DeviceEncoder(gpu, encoding) if encoding.format == "jpg" else None
        lanes.append(
            GPULane(
                DeviceWork(device, backend),
                LaneOptions(masks, encoding=encoding, measure=more.pop("measure", None)),
                decoder,
                encoder=encoder,
                **more,
            )
        )
        return lanes[-1]

    yield make
    for lane in lanes:
        lane.close()


def through(lane: Any, sources: Sequence[Source], batch: int) -> list[tuple[dict[str, bytes], Frame] | str]:
    """Run sources through a lane in batches; return the files and the frame of each, or the reason of its failure."""
    results: list[Any] = []
    for start in range(0, len(sources), batch):
        decoded = lane.decode(sources[start : start + batch])
        frames = [frame for frame in decoded if isinstance(frame, Frame)]
        if frames:
            lane.infer(frames)
            lane.composite(frames)
            assert all(frame.image is None for frame in frames)
        files = iter(lane.encode(frames) if frames else [])
        for item in decoded:
            file = next(files) if isinstance(item, Frame) else item
            results.append(file.reason if isinstance(file, BadImage) else (dict(file), item))
    return results


def compare(lane: GPULane, masks: MaskOptions, encoding: EncodeOptions, sources: Sequence[Source], batch: int, measure: Any = None) -> None:
    reference = CPULane(FakeBackend(SIZE), LaneOptions(masks, OPTIONS, encoding, measure))
    for source, one, other in zip(sources, through(reference, sources, 1), through(lane, sources, batch), strict=True):
        if isinstance(one, str) or isinstance(other, str):
            assert one == other, source.identity
            continue
        assert one[0] == other[0], source.identity
        assert one[1].measured == other[1].measured
        for attribute in ("identity", "width", "height"):
            assert getattr(one[1], attribute) == getattr(other[1], attribute)


@pytest.mark.parametrize("threshold", [None, 50])
@pytest.mark.parametrize("color", [(127, 127, 127), "random"])
@pytest.mark.parametrize("on_device", [True, False], ids=["decoded_on_device", "decoded_on_host"])
def test_the_corpus_gives_the_cpu_lanes_files(make_lane: Make, threshold: int | None, color: Any, on_device: bool) -> None:
    masks = MaskOptions(("se", "nse", "mask"), color, threshold, seed=5)
    compare(make_lane(masks, on_device=on_device), masks, EncodeOptions(), SOURCES, 9)


@pytest.mark.parametrize("outputs", [("mask",), ("se",), ("nse", "mask"), ()])
@pytest.mark.parametrize("image_format", ["jpg", "webp"])
def test_any_outputs_in_any_format_are_the_cpu_lanes(make_lane: Make, outputs: Any, image_format: Any) -> None:
    masks, encoding = MaskOptions(outputs, (9, 8, 7), 25), EncodeOptions(image_format, 80)
    compare(make_lane(masks, encoding), masks, encoding, SOURCES[:12], 5)


@pytest.mark.parametrize("threshold", [None, 30])
@pytest.mark.parametrize("outputs", [(), ("mask",)])
def test_what_is_measured_is_the_cpu_lanes(make_lane: Make, threshold: int | None, outputs: Any) -> None:
    masks = MaskOptions(outputs, threshold=threshold)
    compare(make_lane(masks, measure="stats"), masks, EncodeOptions(), SOURCES[:12], 4, "stats")


def test_what_can_not_be_encoded_costs_no_neighbour(make_lane: Make) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 65_536)).save(buffer, "PNG")
    sources = [SOURCES[0], Source(b"long", buffer.getvalue()), SOURCES[1]]
    masks, encoding = MaskOptions(("se", "mask")), EncodeOptions("jpg")
    found = through(make_lane(masks, encoding), sources, 3)
    assert found[1] == "encode_error"
    compare(make_lane(masks, encoding), masks, encoding, sources, 3)


class FixedResampler:
    """A resampler that makes a uniform grey image on the device for each image of a batch, each of another grey."""

    def __init__(self, device: cuda.Device, gpu: LockedGpu) -> None:
        self.device, self.gpu = device, gpu

    def resample(self, images: Sequence[Any]) -> list[Any]:
        arrays = [ForeignArray(self.device, self.gpu, np.full((SIZE, SIZE, 3), 60 * (i + 1), np.uint8)) for i in range(len(images))]
        for array in arrays:
            array.wait()
        return arrays


def test_the_network_sees_what_the_resampler_made(make_lane: Make, device: cuda.Device, gpu: LockedGpu) -> None:
    lane = make_lane(MaskOptions(("mask",)), resampler=FixedResampler(device, gpu))
    for index, result in enumerate(through(lane, SOURCES[:3], 3)):
        assert not isinstance(result, str)
        pixels = np.asarray(Image.open(io.BytesIO(result[0]["mask"])))
        assert pixels.shape == (result[1].height, result[1].width) and (pixels == 60 * (index + 1)).all()


def test_batches_of_different_steps_may_be_under_way_at_once(make_lane: Make) -> None:
    masks = MaskOptions(("se", "mask"), threshold=50)
    lane = make_lane(masks)
    good = [source for source in SOURCES if IMAGES[source.identity.decode()][1] == "mask"]
    first, second = good[:7], good[7:13]
    one = [frame for frame in lane.decode(first) if isinstance(frame, Frame)]
    lane.infer(one)
    two = [frame for frame in lane.decode(second) if isinstance(frame, Frame)]
    lane.composite(one)
    lane.infer(two)
    files = list(lane.encode(one))
    lane.composite(two)
    files += lane.encode(two)
    expected = through(CPULane(FakeBackend(SIZE), LaneOptions(masks, OPTIONS)), good[:13], 1)
    assert [dict(f) for f in files if not isinstance(f, BadImage)] == [e[0] for e in expected if not isinstance(e, str)]


def test_memory_of_the_device_does_not_grow(make_lane: Make, gpu: LockedGpu) -> None:
    lane = make_lane(MaskOptions(("se", "mask"), threshold=50))
    good = [source for source in SOURCES if IMAGES[source.identity.decode()][1] == "mask"][:6]
    held = []
    for _ in range(14):
        through(lane, good, 3)
        assert gpu.pool_bytes == 0, "an image, a map or an output was kept"
        for stream in list(gpu.queues):
            gpu.run(stream)
        held.append(gpu.live)
    assert held[-1] == held[-2] == held[-3] == held[-4], "workspaces grow although each has had the largest batch"


def test_nothing_waits_for_the_device_as_a_whole(make_lane: Make, gpu: LockedGpu) -> None:
    through(make_lane(MaskOptions(("se", "mask"), threshold=50)), SOURCES[:6], 3)
    assert set(gpu.waits) <= {"stream", "event", "encoder"}


def test_whole_runs_are_the_cpu_lanes(tmp_path: Path, backend: TensorRTBackend) -> None:
    expected = make_corpus(tmp_path / "in")
    masks = MaskOptions(("se", "nse", "mask"), "random", 50)
    trees, reasons = [], []
    for name, ready in (("cpu", FakeBackend(SIZE)), ("gpu", backend)):
        summary = segment_files([tmp_path / "in"], tmp_path / name, masks=masks, options=RunOptions(workers=3), backend=ready)
        assert summary.inputs == summary.done + summary.quarantined == len(expected)
        trees.append(tree(tmp_path / name))
        lines = (tmp_path / name / ".seseg" / "quarantine.jsonl").read_text(encoding="ascii").splitlines()
        reasons.append({r["path"]: r["reason"] for r in map(json.loads, lines)})
    assert trees[0] == trees[1] and reasons[0] == reasons[1]


def test_the_lane_is_chosen_by_the_backend(backend: TensorRTBackend) -> None:
    masks, encoding = MaskOptions(), EncodeOptions()
    lane = open_lane(None, LaneOptions(masks, OPTIONS, encoding), backend=backend)
    assert lane.name == "gpu" and lane.batch_size == IDENTITY.max_batch == 6 and lane.input_size == SIZE
    assert open_lane(None, LaneOptions(masks, OPTIONS, encoding), backend=FakeBackend(SIZE)).name == "cpu"
    lane.close()


@pytest.mark.dali
def test_without_a_gpu_dali_says_so(backend: TensorRTBackend) -> None:
    from seseg_trt.cuda import driver
    from seseg_trt.errors import DeviceError

    with contextlib.suppress(DeviceError):
        driver.driver_report()
        pytest.skip("there is a GPU")
    with pytest.raises(DeviceError, match="DALI can't start on cuda:0"):
        open_gpu_lane(backend, LaneOptions(decoding=DecodeOptions(decoder="dali")))


def test_pieces_are_apart_and_aligned(device: cuda.Device) -> None:
    pool, stream = DevicePool(device), device.stream()
    shapes = [(3, 5, 3), (1, 1), (256,), (17, 300)]
    pieces = pool.arrays(shapes, stream.handle)
    assert [piece.shape for piece in pieces] == shapes
    for one, other in itertools.pairwise(pieces):
        assert one.address % 256 == 0 and one.address + np.prod(one.shape) <= other.address
    assert pieces[-1].address + np.prod(shapes[-1]) <= pieces[0].owner.address + pieces[0].owner.nbytes


@pytest.mark.parametrize(
    ("shape", "typestr", "strides"),
    [((4, 4), "|u1", None), ((4, 4, 4), "|u1", None), ((4, 4, 3), "<f4", None), ((4, 4, 3), "|u1", (12, 1, 4)), ((0, 4, 3), "|u1", None)],
)
def test_arrays_that_are_no_images_are_refused(shape: Any, typestr: str, strides: Any) -> None:
    interface = {"shape": shape, "typestr": typestr, "strides": strides, "data": (4096, False), "version": 3}
    with pytest.raises(UsageError, match="on the GPU"):
        as_device_source(types.SimpleNamespace(__cuda_array_interface__=interface))


def test_decoded_images_of_both_kinds_go_together(device: cuda.Device, gpu: LockedGpu, backend: TensorRTBackend) -> None:
    pixels = [np.full((9, 7, 3), value, np.uint8) for value in (10, 20, 30)]

    class Mixed:
        def decode(self, batch: Sequence[bytes]) -> list[DecodedImage | BadImage]:
            there = ForeignArray(device, gpu, pixels[1])
            there.wait()
            return [
                DecodedImage(Image.fromarray(pixels[0]), 7, 9, "pillow"),
                DecodedImage(there, 7, 9, "dali"),
                BadImage("empty", "nothing"),
                DecodedImage(pixels[2], 7, 9, "nvimgcodec"),
            ]

    lane = GPULane(DeviceWork(device, backend), LaneOptions(MaskOptions(("mask",))), Mixed())
    found = through(lane, [Source(b"", b"")] * 4, 4)
    assert found.pop(2) == "empty"
    for value, result in zip((10, 20, 30), found, strict=True):
        assert not isinstance(result, str)
        assert (np.asarray(Image.open(io.BytesIO(result[0]["mask"]))) == value).all()
    lane.close()
