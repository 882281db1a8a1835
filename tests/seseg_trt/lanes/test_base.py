"""Test what all lanes share: frames, the decoding of a batch, the files of outputs, and the choice of decoders."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seseg_trt import FakeBackend
from seseg_trt.codecs import dali, nvimgcodec, pillow
from seseg_trt.codecs.batches import Decoding
from seseg_trt.codecs.pillow import DecodedImage
from seseg_trt.errors import BadImage
from seseg_trt.lanes.base import Frame, Lane, Source, open_decoders
from seseg_trt.options import DecodeOptions, EncodeOptions, LaneOptions, MaskOptions, OutputKind

from ...corpus import saved, scene


class Still(Lane):
    """A lane that holds images and does nothing with them."""

    def _held(self, images: Sequence[DecodedImage]) -> list[tuple[Any, Any]]:
        return [(("held", image.image), ("input", image.image)) for image in images]

    def infer(self, batch: Sequence[Frame]) -> None: ...

    def composite(self, batch: Sequence[Frame]) -> None: ...

    def encode(self, batch: Sequence[Frame]) -> list[Mapping[OutputKind, bytes] | BadImage]:
        return []

    def close(self) -> None: ...


class Given:
    """A decoder that gives what it was given."""

    def __init__(self, *results: DecodedImage | BadImage) -> None:
        self.results = list(results)

    def decode(self, batch: Sequence[bytes]) -> list[DecodedImage | BadImage]:
        return self.results


def still(decoder: Any = None, encoding: EncodeOptions | None = None) -> Still:
    return Still(FakeBackend(32), LaneOptions(MaskOptions(), encoding=encoding or EncodeOptions()), decoder, None)


def test_a_source_is_frozen_and_a_frame_is_not() -> None:
    source, frame = Source(b"a", b"data"), Frame(b"a", 3, 2, "pillow", "image", "input")
    with pytest.raises(dataclasses.FrozenInstanceError):
        source.data = b""  # type: ignore[misc]
    frame.confidence = 1
    assert not hasattr(source, "__dict__") and not hasattr(frame, "__dict__")
    assert (frame.measured, frame.rendered) == (None, {})
    assert frame.rendered is not Frame(b"a", 3, 2, "pillow", "image", "input").rendered


def test_frames_are_their_sources_in_order() -> None:
    images = [DecodedImage(name, 3 + index, 2 + index, "pillow") for index, name in enumerate("abc")]  # type: ignore[arg-type]
    bad = BadImage("empty", "nothing"), BadImage("truncated", "half")
    lane = still(Given(bad[0], images[0], images[1], bad[1], images[2]))
    found = lane.decode([Source(bytes([65 + index]), b"") for index in range(5)])
    assert (found[0], found[3]) == bad
    frames = [frame for frame in found if isinstance(frame, Frame)]
    assert [(f.identity, f.width, f.height, f.decoded_by, f.image, f.network_input, f.confidence) for f in frames] == [
        (b"B", 3, 2, "pillow", ("held", "a"), ("input", "a"), None),
        (b"C", 4, 3, "pillow", ("held", "b"), ("input", "b"), None),
        (b"E", 5, 4, "pillow", ("held", "c"), ("input", "c"), None),
    ]


@pytest.mark.parametrize("count", [1, 3])
def test_a_decoder_that_gives_another_number_of_images_is_an_error(count: int) -> None:
    lane = still(Given(*[BadImage("empty", "nothing")] * count))
    with pytest.raises(ValueError, match="zip"):
        lane.decode([Source(b"", b"")] * 2)


def test_pixels_are_counted_from_the_header() -> None:
    lane = still()
    assert lane.pixels(Source(b"a", saved(Image.fromarray(scene(70, 50)), "PNG"))) == 3500
    assert lane.pixels(Source(b"a", b"no image")) == 0


def test_a_lane_has_the_size_and_description_of_its_backend() -> None:
    assert still().input_size == 32 and still().description == FakeBackend(32).description


def test_a_lane_loads_the_plugins_of_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[bool] = []
    monkeypatch.setattr(pillow, "load_plugins", lambda: loaded.append(True))
    still()
    assert loaded == [True]


@pytest.mark.parametrize("kind", ["se", "nse", "mask"])
@pytest.mark.parametrize("image_format", ["png", "jpg", "webp"])
def test_masks_are_png_in_every_format(kind: Any, image_format: Any) -> None:
    lane = still(encoding=EncodeOptions("".join(list(image_format)), 77))  # type: ignore[arg-type]
    pixels = scene(70, 50)[..., 0] if kind == "mask" else scene(70, 50)
    data = lane._file(np.ascontiguousarray(pixels), "".join(list(kind)))  # type: ignore[arg-type]
    image = Image.open(io.BytesIO(data))
    expected = "png" if kind == "mask" else image_format
    assert image.format == {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}[expected]
    if expected == "png":
        assert np.array_equal(np.asarray(image), pixels)
    else:
        assert data == pillow.encode_lossy(Image.fromarray(pixels), EncodeOptions(image_format, 77))


class Made:
    """Notes with what a decoder or resampler was made."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def decode(self, *arguments: Any) -> Any: ...


@pytest.fixture
def makers(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((dali, "DaliDecoder"), (dali, "DaliResampler"), (nvimgcodec, "NvimgcodecDecoder")):
        monkeypatch.setattr(module, name, type(name, (Made,), {}))


@pytest.mark.parametrize("spelled", ["pillow", "".join(("pil", "low"))])
def test_pillow_decodes_alone(spelled: Any, makers: None) -> None:
    options = DecodeOptions(decoder=spelled)
    decoder, resampler = open_decoders(options, 64, 8)
    assert type(decoder) is Decoding and (decoder._by_dali, decoder._make_by_items, resampler) == (None, None, None)
    assert decoder._options is options


@pytest.mark.parametrize("spelled", ["dali", "".join(("da", "li"))])
def test_dali_decodes_with_one_thread_on_the_host_unless_told(spelled: Any, makers: None) -> None:
    options = DecodeOptions(decoder=spelled, resample="".join(("near", "est")))  # type: ignore[arg-type]
    decoder, resampler = open_decoders(options, 64, 8)
    assert resampler is None and decoder._options is options
    assert decoder._by_dali.__self__.arguments == (8, 1, None)  # type: ignore[union-attr]
    assert decoder._make_by_items is not None
    items = decoder._make_by_items().__self__  # type: ignore[attr-defined]
    assert type(items).__name__ == "NvimgcodecDecoder" and items.arguments == ()


@pytest.mark.parametrize("name", ["linear", "cubic", "lanczos3", "triangular", "gaussian"])
def test_a_filter_has_a_resampler_beside_the_decoder(name: Any, makers: None) -> None:
    def items() -> Any: ...

    decoder, resampler = open_decoders(DecodeOptions(decoder="dali", resample=name), 64, 8, 3, 1, items)
    assert decoder._by_dali.__self__.arguments == (8, 3, 1)  # type: ignore[union-attr]
    assert resampler.arguments == (64, name, 8, 3, 1)  # type: ignore[union-attr]
    assert decoder._make_by_items is items
