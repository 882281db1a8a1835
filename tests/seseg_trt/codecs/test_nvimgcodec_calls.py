"""What nvImageCodec is asked for, seen by a stand-in for it: on the GPU too, which no test machine needs to have."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from seseg_trt.codecs import nvimgcodec as module
from seseg_trt.codecs.nvimgcodec import NvimgcodecDecoder, NvimgcodecEncoder, import_nvimgcodec
from seseg_trt.errors import BadImage, DeviceError, install_hint
from seseg_trt.options import EncodeOptions, ImageFormat


class Named:
    """Keeps what it was called with."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.arguments, self.named = arguments, named


class Library:
    """A stand-in for the module ``nvidia.nvimgcodec``; a file that begins with ``bad`` is not decoded, nor is an image of zeros encoded."""

    NVIMGCODEC_DEVICE_CPU_ONLY = -99999
    ColorSpec = SimpleNamespace(SRGB="srgb")
    SampleFormat = SimpleNamespace(I_RGB="i_rgb")
    QualityType = SimpleNamespace(QUALITY="quality")
    ChromaSubsampling = SimpleNamespace(CSS_444="css444", CSS_422="css422", CSS_420="css420")
    BackendKind = SimpleNamespace(CPU_ONLY="cpu_only")
    DecodeParams = EncodeParams = Backend = Named

    def __init__(self) -> None:
        self.made: list[dict[str, Any]] = []
        self.calls: list[tuple[Any, ...]] = []
        self.wrapped: list[int] = []

    def Decoder(self, **named: Any) -> Any:
        self.made.append(named)

        def decode(files: list[bytes], params: Named, cuda_stream: int) -> list[Any]:
            self.calls.append((files, params, cuda_stream))
            return [None if data.startswith(b"bad") else Decoded(data) for data in files]

        return SimpleNamespace(decode=decode)

    def as_image(self, image: Any, stream: int) -> Any:
        self.wrapped.append(stream)
        return image

    def Encoder(self, **named: Any) -> Any:
        self.made.append(named)

        def encode(images: list[Any], codec: str, params: Named, cuda_stream: int) -> list[Any]:
            self.calls.append((len(images), codec, params, cuda_stream))
            return [bytearray(image.tobytes()[:4]) if image.any() else None for image in images]

        return SimpleNamespace(encode=encode)


class Decoded:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.frombuffer(self.data, np.uint8)

    def cuda(self, device_id: int) -> tuple[str, int, bytes]:
        return "on the GPU", device_id, self.data


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    found = Library()
    monkeypatch.setattr(module, "import_nvimgcodec", lambda: found)
    return found


def backends(named: dict[str, Any]) -> Any:
    return [backend.arguments for backend in named["backends"]]


def test_on_the_cpu_no_gpu_is_asked_for(library: Library) -> None:
    decoder = NvimgcodecDecoder(3)
    assert library.made == []
    found = decoder.decode([b"12", b"bad", b"3"])
    assert [None if image is None else image.tolist() for image in found] == [[49, 50], None, [51]]
    (named,) = library.made
    assert (named["max_num_cpu_threads"], named["options"], named["device_id"], backends(named)) == (3, "", -99999, [("cpu_only",)])
    files, params, stream = library.calls[0]
    assert files == [b"12", b"bad", b"3"] and stream == 0
    assert params.named == {"apply_exif_orientation": True, "color_spec": "srgb", "sample_format": "i_rgb"}
    decoder.decode([b"1"])
    assert len(library.made) == 1 and NvimgcodecDecoder().decode([b"1"]) and library.made[1]["max_num_cpu_threads"] == 1


@pytest.mark.parametrize("device", [0, 2])
def test_on_the_gpu_images_stay_there(library: Library, device: int) -> None:
    found = NvimgcodecDecoder(device=device).decode((b"12", b"bad", b"3"), 7)
    assert found == [("on the GPU", device, b"12"), None, ("on the GPU", device, b"3")]
    assert library.made == [{"max_num_cpu_threads": 1, "options": ":fancy_upsampling=1", "device_id": device}]
    assert library.calls[0][2] == 7


@pytest.mark.parametrize(
    ("image_format", "codec", "parameters"),
    [
        ("png", "png", {}),
        ("webp", "webp", {"quality_type": "quality", "quality_value": 42}),
        ("jpg", "jpeg", {"quality_type": "quality", "quality_value": 42, "chroma_subsampling": "css422"}),
    ],
)
def test_each_format_has_its_parameters(library: Library, image_format: ImageFormat, codec: str, parameters: dict[str, Any]) -> None:
    encoder = NvimgcodecEncoder(EncodeOptions(image_format, 42, "422"), 3)
    images = [np.full((2, 3, 3), number, np.uint8) for number in (1, 2)]
    assert encoder.encode(images) == [b"\1" * 4, b"\2" * 4]
    count, name, params, stream = library.calls[0]
    assert (count, name, params.named, stream) == (2, codec, parameters, 0) and library.wrapped == [0, 0]
    assert library.made[0]["max_num_cpu_threads"] == 3 and backends(library.made[0]) == [("cpu_only",)]


def test_images_of_the_gpu_are_encoded_in_their_streams_order(library: Library) -> None:
    encoder = NvimgcodecEncoder(EncodeOptions("jpg"), device=0)
    encoder.encode([np.ones((2, 3, 3), np.uint8)], 7)
    assert library.wrapped == [7] and library.calls[0][3] == 7
    assert library.made == [{"max_num_cpu_threads": 1, "device_id": 0}]
    encoder.encode([np.ones((2, 3, 3), np.uint8)])
    assert len(library.made) == 1


def test_what_cannot_be_encoded_is_refused_in_its_place(library: Library) -> None:
    long, high = (np.ones(shape, np.uint8) for shape in ((1, 16_384, 3), (16_384, 1, 3)))
    images = [long, np.ones((2, 3, 3), np.uint8), np.zeros((2, 3, 3), np.uint8), high, np.full((1, 2, 3), 5, np.uint8)]
    found = NvimgcodecEncoder(EncodeOptions("webp")).encode(images)
    assert found[1] == b"\1" * 4 and found[4] == b"\5" * 4
    messages = [bad.message for bad in found if isinstance(bad, BadImage) and bad.reason == "encode_error"]
    assert len(messages) == 3 and "16384 x 1 pixels" in messages[0] and "1 x 16384 pixels" in messages[2]
    assert messages[1] == "nvImageCodec could not encode 3 x 2 pixels as webp; png takes any size"
    assert library.calls[0][0] == 3 and len(library.wrapped) == 3


def test_nothing_is_encoded_where_nothing_is_left(library: Library) -> None:
    encoder = NvimgcodecEncoder(EncodeOptions("webp"))
    assert encoder.encode([]) == []
    assert [type(found) for found in encoder.encode([np.ones((1, 16_384, 3), np.uint8)])] == [BadImage]
    assert library.calls == []
    longest = np.ones((1, 16_383, 3), np.uint8)
    assert encoder.encode([longest]) == [b"\1" * 4]


def test_without_the_library_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", None)
    with pytest.raises(DeviceError, match="NVIDIA nvImageCodec can't be imported: ") as caught:
        import_nvimgcodec()
    assert caught.value.hint == f"{install_hint('dali')}, or --decoder pillow"
