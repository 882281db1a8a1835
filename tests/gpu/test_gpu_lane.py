"""What only a GPU can show of the lane: its masks against the CPU lane's, decoder drift apart; exact compositing; bad files; nvJPEG."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seseg_trt import MaskOptions, RunOptions, Segmenter, segment_files
from seseg_trt.backends.openvino import OpenVINOBackend
from seseg_trt.backends.tensorrt import TensorRTBackend
from seseg_trt.backends.tensorrt_build import build_plan
from seseg_trt.codecs import pillow
from seseg_trt.cuda import device as cuda
from seseg_trt.errors import BadImage
from seseg_trt.lanes.base import Frame, Source
from seseg_trt.lanes.cpu import CPULane
from seseg_trt.lanes.gpu import GPULane, open_gpu_lane
from seseg_trt.models.artifact import load_artifact
from seseg_trt.models.plan_identity import BuildOptions, Runtime
from seseg_trt.options import DecodeOptions, Decoder, EncodeOptions, LaneOptions

from ..conftest import KERAS224
from ..corpus import make_corpus, make_images, saved, scene
from ..runs import tree
from ..seseg_trt.backends.test_tensorrt_build import DEMO, to_fp16

pytestmark = [pytest.mark.gpu, pytest.mark.dali, pytest.mark.ort]

PHOTOGRAPHS = sorted(DEMO.parent.glob("images/photo_*.jpg")) + sorted((KERAS224 / "inputs").iterdir())
PILLOW, DALI = DecodeOptions(), DecodeOptions(decoder="dali")
Record = Callable[[str, object], None]


@pytest.fixture(params=["fp32", "fp16"])
def graph(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return DEMO if request.param == "fp32" else to_fp16(DEMO, tmp_path / "demo.fp16.onnx")


def open_plan(graph: Path, folder: Path) -> TensorRTBackend:
    build_plan(graph, folder / "lane.plan", BuildOptions(profiles=((1, 1, 1), (1, 16, 64))))
    return TensorRTBackend(folder / "lane.plan")


@pytest.fixture
def backend(need_runtime: Callable[[Runtime], None], tmp_path: Path) -> Iterator[TensorRTBackend]:
    need_runtime("tensorrt")
    backend = open_plan(DEMO, tmp_path)
    yield backend
    backend.close()


def sources() -> list[Source]:
    return [Source(path.name.encode(), path.read_bytes()) for path in PHOTOGRAPHS]


def decoded(lane: GPULane | CPULane, some: list[Source]) -> list[Frame]:
    frames = lane.decode(some)
    assert all(isinstance(frame, Frame) for frame in frames)
    return [frame for frame in frames if isinstance(frame, Frame)]


def on_host(address: int, shape: tuple[int, ...]) -> np.ndarray:
    device = cuda.open_device(0)
    found = np.empty(shape, np.uint8)
    with device.active():
        device.pycuda.memcpy_dtoh(found, address)
    return found


def image_of(frame: Frame) -> np.ndarray:
    """Bring a frame's pixels from the device, without the padding of its rows."""
    source = frame.image.source
    pitch = source.pitch or 3 * source.width
    return on_host(source.pixels, (source.height, pitch))[:, : 3 * source.width].reshape(source.height, source.width, 3)


def masks_of(lane: GPULane | CPULane, some: list[Source]) -> list[np.ndarray]:
    frames = decoded(lane, some)
    lane.infer(frames)
    lane.composite(frames)
    files = lane.encode(frames)
    return [np.asarray(Image.open(io.BytesIO(file["mask"]))) for file in files if not isinstance(file, BadImage)]


def test_certificate_against_the_cpu_lane(
    need_runtime: Callable[[Runtime], None], graph: Path, tmp_path: Path, record_property: Record
) -> None:
    need_runtime("tensorrt")
    masks, encoding, some = MaskOptions(("mask",), threshold=50), EncodeOptions(), sources()
    reference = CPULane(OpenVINOBackend(load_artifact(DEMO)), LaneOptions(masks, PILLOW, encoding))
    expected = masks_of(reference, some)
    for decoding, least in ((PILLOW, 0.9999 if graph == DEMO else 0.999), (DALI, 0.98)):
        lane = open_gpu_lane(open_plan(graph, tmp_path), LaneOptions(masks, decoding, encoding))
        found = masks_of(lane, some)
        lane.close()
        pairs = [(one > 0, other > 0) for one, other in zip(expected, found, strict=True)]
        intersection, union = (sum(int(f(a, b).sum()) for a, b in pairs) for f in (np.logical_and, np.logical_or))
        # With Pillow's pixels it is the network alone; with DALI's the decoders' difference comes on top.
        record_property(f"iou_{decoding.decoder}", round(intersection / union, 6))
        assert intersection / union >= least, decoding.decoder
    reference.close()


def test_decoder_drift(backend: TensorRTBackend, record_property: Record) -> None:
    lane = open_gpu_lane(backend, LaneOptions(decoding=DALI))
    worst, shares = 0, []
    for source, frame in zip(sources(), decoded(lane, sources()), strict=True):
        expected = np.asarray(pillow.decode(source.data, PILLOW).image)
        found = image_of(frame)
        assert found.shape == expected.shape, source.identity
        difference = np.abs(found.astype(np.int16) - expected)
        if not source.data.startswith(b"\xff\xd8"):
            assert not difference.any(), f"{source.identity!r} is lossless"
        worst, shares = max(worst, int(difference.max())), [*shares, float((difference > 2).mean())]
    record_property("worst_level", worst)
    record_property("share_over_2_levels", round(max(shares), 5))
    assert max(shares) < 0.05


@pytest.mark.parametrize("threshold", [None, 50])
@pytest.mark.parametrize("color", [(127, 127, 127), "random"])
def test_given_the_same_map_and_pixels_no_byte_differs(backend: TensorRTBackend, threshold: int | None, color: object) -> None:
    masks = MaskOptions(("se", "nse", "mask"), color, threshold, seed=3)  # type: ignore[arg-type]
    lane, encoding = open_gpu_lane(backend, LaneOptions(masks, DALI)), EncodeOptions()
    reference = CPULane(OpenVINOBackend(load_artifact(DEMO)), LaneOptions(masks, PILLOW, encoding))
    frames, size = decoded(lane, sources()), lane.input_size
    lane.infer(frames)
    twins = [
        Frame(f.identity, f.width, f.height, "", Image.fromarray(image_of(f)), None, on_host(f.confidence.address, (size, size)))
        for f in frames
    ]
    lane.composite(frames)
    reference.composite(twins)
    assert lane.encode(frames) == reference.encode(twins)


def test_the_networks_input_is_the_contracts(backend: TensorRTBackend) -> None:
    lane = open_gpu_lane(backend, LaneOptions(MaskOptions(("mask",)), PILLOW))
    with Segmenter(backend=backend) as segmenter:
        frames = decoded(lane, sources())
        lane.infer(frames)
        expected = segmenter.confidence([np.asarray(pillow.decode(s.data, PILLOW).image) for s in sources()])
        for frame, confidence in zip(frames, expected, strict=True):
            found = on_host(frame.confidence.address, confidence.shape)
            assert np.abs(found.astype(np.int16) - confidence).max() <= 1  # another batch size may take other kernels


@pytest.mark.parametrize("decoder", ["pillow", "dali"])
def test_the_corpus_is_quarantined_as_on_the_cpu(backend: TensorRTBackend, tmp_path: Path, decoder: Decoder) -> None:
    expected = make_corpus(tmp_path / "in")
    masks, decoding = MaskOptions(("se", "mask"), threshold=50), DecodeOptions(decoder=decoder)
    summary = segment_files([tmp_path / "in"], tmp_path / "out", masks=masks, decoding=decoding, options=RunOptions(), backend=backend)
    assert summary.inputs == summary.done + summary.quarantined == len(expected)
    lines = (tmp_path / "out" / ".seseg" / "quarantine.jsonl").read_text(encoding="ascii").splitlines()
    reasons = [(record["path"], record["reason"]) for record in map(json.loads, lines)]
    assert len(set(reasons)) == len(reasons)
    assert dict(reasons) == {path: reason for path, reason in expected.items() if reason != "mask"}
    assert len(tree(tmp_path / "out")) == 2 * summary.done
    assert sum(summary.decoded_by.values()) == summary.done and (decoder == "pillow") == (set(summary.decoded_by) == {"pillow"})


def test_a_damaged_image_costs_no_neighbour(backend: TensorRTBackend) -> None:
    lane = open_gpu_lane(backend, LaneOptions(decoding=DALI))
    images = make_images()
    names = ["good.jpg", "damaged_stream.png", "rgba.png", "truncated_jpg.jpg", "exif6.jpg", "palette_transparent_gif.gif"] * 3
    found = lane.decode([Source(name.encode(), images[name][0]) for name in names])
    for name, frame in zip(names, found, strict=True):
        if isinstance(frame, BadImage):
            assert frame.reason == images[name][1]
        else:
            assert images[name][1] == "mask" and (frame.width, frame.height) == ((80, 120) if name == "exif6.jpg" else (120, 80))


@pytest.mark.parametrize("subsampling", ["444", "422", "420"])
def test_nvjpeg_files(backend: TensorRTBackend, subsampling: str) -> None:
    encoding = EncodeOptions("jpg", 90, subsampling)  # type: ignore[arg-type]
    lane = open_gpu_lane(backend, LaneOptions(MaskOptions(("se",), threshold=50), DALI, encoding))
    exact = open_gpu_lane(backend, LaneOptions(MaskOptions(("se",), threshold=50), DALI))
    exif = Image.Exif()
    exif[274], exif[270] = 6, "a secret"
    smooth = Image.fromarray(scene(640, 480)).resize((319, 241), Image.Resampling.BOX)
    some = [*sources(), Source(b"turned", saved(smooth, "JPEG", exif=exif.tobytes()))]
    files = []
    for one in (lane, exact):
        frames = decoded(one, some)
        one.infer(frames)
        one.composite(frames)
        files.append([file["se"] for file in one.encode(frames) if not isinstance(file, BadImage)])
    for lossy, png in zip(*files, strict=True):
        image, pixels = Image.open(io.BytesIO(lossy)), np.asarray(Image.open(io.BytesIO(png)))
        assert image.format == "JPEG" and not image.getexif() and b"secret" not in lossy
        assert image.layer[0][1:3] == {"444": (1, 1), "422": (2, 1), "420": (2, 2)}[subsampling]  # type: ignore[attr-defined]
        pillows = Image.open(io.BytesIO(pillow.encode_lossy(Image.fromarray(pixels), encoding)))
        errors = [np.abs(np.asarray(i).astype(np.int16) - pixels).mean() for i in (image, pillows)]
        assert errors[0] <= 1.2 * errors[1] + 0.5
