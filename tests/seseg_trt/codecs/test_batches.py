"""Test batches with bad images: each image comes out exactly once, and failures carry Pillow's reasons."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seseg_trt.codecs import pillow
from seseg_trt.codecs.batches import BATCHES_UNDER_SUSPICION, BatchRefused, DecodeItems, Decoding
from seseg_trt.codecs.native import native_image
from seseg_trt.codecs.pillow import DecodedImage
from seseg_trt.errors import BadImage
from seseg_trt.options import DecodeOptions

from ...corpus import make_images

OPTIONS = DecodeOptions()
IMAGES = {name: (data, expected) for name, (data, expected) in make_images().items() if len(data) < 70_000}
NATIVE = [name for name, (data, _) in IMAGES.items() if native_image(data, OPTIONS)]


@functools.cache
def decoded(data: bytes) -> np.ndarray:
    return np.asarray(pillow.decode(data, OPTIONS).image)


class FakeBatches:
    """A batch decoder that uses Pillow and refuses a batch if any image fails."""

    def __init__(self) -> None:
        self.calls = self.refusals = 0

    def decode(self, batch: Sequence[bytes]) -> list[np.ndarray]:
        self.calls += 1
        try:
            return [decoded(data) for data in batch]
        except BadImage as bad:
            self.refusals += 1
            raise BatchRefused("one of them") from bad


class FakeItems:
    """An item decoder that uses Pillow; ``fails`` are valid files that it pretends not to decode."""

    def __init__(self, fails: Sequence[bytes] = ()) -> None:
        self.fails = fails

    def decode(self, batch: Sequence[bytes]) -> list[np.ndarray | None]:
        return [self._decode(data) for data in batch]

    def _decode(self, data: bytes) -> np.ndarray | None:
        try:
            return None if data in self.fails else decoded(data)
        except BadImage:
            return None


def check(names: Sequence[str], results: Sequence[DecodedImage | BadImage]) -> None:
    assert len(results) == len(names)
    for name, result in zip(names, results, strict=True):
        data, expected = IMAGES[name]
        if isinstance(result, BadImage):
            assert result.reason == expected
        else:
            assert expected == "mask"
            assert np.array_equal(np.asarray(result.image), decoded(data))
            assert (result.height, result.width) == np.asarray(result.image).shape[:2]


mixes = st.lists(st.lists(st.sampled_from(sorted(IMAGES)), max_size=12), min_size=1, max_size=4)


@settings(deadline=None, max_examples=60)
@given(mixes)
def test_any_mix_gives_what_pillow_gives(batches: list[list[str]]) -> None:
    decoding = Decoding(OPTIONS, FakeBatches().decode, lambda: FakeItems().decode)
    for names in batches:
        results = decoding.decode([IMAGES[name][0] for name in names])
        check(names, results)
        for name, result in zip(names, results, strict=True):
            if isinstance(result, DecodedImage) and name not in NATIVE:
                assert result.decoded_by == "pillow"


def test_each_decoder_has_its_share() -> None:
    names = ["good.jpg", "palette_transparent_gif.gif", "rgba.png"]
    decoding = Decoding(OPTIONS, FakeBatches().decode, lambda: FakeItems().decode)
    found = decoding.decode([IMAGES[name][0] for name in names])
    assert [image.decoded_by for image in found if isinstance(image, DecodedImage)] == ["dali", "pillow", "dali"]


def test_a_refused_batch_goes_to_the_item_decoder_and_its_bad_image_to_pillow() -> None:
    names = ["good.jpg", "damaged_stream.png", "rgba.png", "exif6.jpg"]
    failing = native_image(IMAGES["rgba.png"][0], OPTIONS)
    assert failing is not None
    decoding = Decoding(OPTIONS, FakeBatches().decode, lambda: FakeItems([failing.data]).decode)
    found = decoding.decode([IMAGES[name][0] for name in names])
    check(names, found)
    by = [image.decoded_by if isinstance(image, DecodedImage) else image.reason for image in found]
    assert by == ["nvimgcodec", "decode_error", "pillow", "nvimgcodec"]


def test_after_a_refusal_the_item_decoder_is_asked_first_for_a_while() -> None:
    batches = FakeBatches()
    decoding = Decoding(OPTIONS, batches.decode, lambda: FakeItems().decode)
    good = [IMAGES["good.jpg"][0]]
    decoding.decode([*good, IMAGES["damaged_stream.png"][0]])
    for _ in range(BATCHES_UNDER_SUSPICION):
        assert [image.decoded_by for image in decoding.decode(good) if isinstance(image, DecodedImage)] == ["nvimgcodec"]
    assert [image.decoded_by for image in decoding.decode(good) if isinstance(image, DecodedImage)] == ["dali"]
    assert (batches.calls, batches.refusals) == (2, 1)


def test_no_native_decoder_is_asked_for_what_is_pillows() -> None:
    batches = FakeBatches()

    def make_items() -> DecodeItems:
        pytest.fail("nothing was refused")

    decoding = Decoding(OPTIONS, batches.decode, make_items)
    names = ["empty.jpg", "garbage.jpg", "grey16_png.png", "palette_transparent_gif.gif", "bomb_png.png"]
    check(names, decoding.decode([IMAGES[name][0] for name in names]))
    assert decoding.decode([]) == []
    assert batches.calls == 0


class Liar(FakeBatches):
    """A batch decoder whose images don't have the size in the header."""

    def decode(self, batch: Sequence[bytes]) -> list[np.ndarray]:
        return [np.zeros((5, 7, 3), np.uint8) for _ in batch]


def test_an_image_of_another_size_than_its_header_says_is_pillows() -> None:
    found = Decoding(OPTIONS, Liar().decode, lambda: FakeItems().decode).decode([IMAGES["good.jpg"][0]])
    check(["good.jpg"], found)
    assert isinstance(found[0], DecodedImage) and found[0].decoded_by == "pillow"


class Shaped(FakeBatches):
    """A batch decoder whose images have any shape."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def decode(self, batch: Sequence[bytes]) -> list[np.ndarray]:
        return [np.zeros(self.shape, np.uint8) for _ in batch]


@pytest.mark.parametrize(
    ("shape", "by"),
    [
        ((80, 120, 3), "dali"),
        ((120, 80, 3), "dali"),  # an orientation was applied
        ((80, 120, 4), "pillow"),
        ((80, 120, 1), "pillow"),
        ((80, 80, 3), "pillow"),
        ((120, 120, 3), "pillow"),
        ((80, 121, 3), "pillow"),
    ],
)
def test_an_image_is_taken_with_its_size_or_its_turned_size_and_three_channels(shape: tuple[int, ...], by: str) -> None:
    (found,) = Decoding(OPTIONS, Shaped(*shape).decode, lambda: FakeItems().decode).decode([IMAGES["good.jpg"][0]])
    assert isinstance(found, DecodedImage) and found.decoded_by == by
    if by == "dali":
        assert (found.height, found.width) == shape[:2] and type(found.width) is int


def test_a_decoder_that_loses_an_image_is_an_error() -> None:
    good = [IMAGES["good.jpg"][0]] * 3

    def lose(batch: Sequence[bytes]) -> list[np.ndarray]:
        return FakeBatches().decode(batch)[1:]

    def refuse(batch: Sequence[bytes]) -> list[np.ndarray]:
        raise BatchRefused("all of them")

    with pytest.raises(ValueError, match="shorter"):
        Decoding(OPTIONS, lose, lambda: FakeItems().decode).decode(good)
    with pytest.raises(ValueError, match="shorter"):
        Decoding(OPTIONS, refuse, lambda: lambda batch: FakeItems().decode(batch)[1:]).decode(good)


def test_a_decoder_that_adds_an_image_is_an_error() -> None:
    good = [IMAGES["good.jpg"][0]] * 2

    def add(batch: Sequence[bytes]) -> list[np.ndarray]:
        return FakeBatches().decode([*batch, batch[0]])

    def refuse(batch: Sequence[bytes]) -> list[np.ndarray]:
        raise BatchRefused("all of them")

    with pytest.raises(ValueError, match="longer"):
        Decoding(OPTIONS, add, lambda: FakeItems().decode).decode(good)
    with pytest.raises(ValueError, match="longer"):
        Decoding(OPTIONS, refuse, lambda: lambda batch: FakeItems().decode([*batch, batch[0]])).decode(good)


def test_without_dali_all_is_pillows() -> None:
    found = Decoding(OPTIONS).decode([IMAGES["good.jpg"][0], IMAGES["empty.jpg"][0]])
    assert isinstance(found[0], DecodedImage) and found[0].decoded_by == "pillow"
    assert isinstance(found[1], BadImage) and found[1].reason == "empty"


def test_the_item_decoder_is_made_once_and_only_after_a_refusal() -> None:
    made: list[int] = []

    def make() -> DecodeItems:
        made.append(1)
        return FakeItems().decode

    decoding = Decoding(OPTIONS, FakeBatches().decode, make)
    good, bad = IMAGES["good.jpg"][0], IMAGES["damaged_stream.png"][0]
    decoding.decode([good])
    assert made == []
    for _ in range(3):
        decoding.decode([good, bad])
    assert made == [1]


def test_a_refusal_under_suspicion_does_not_happen_and_a_later_one_begins_anew() -> None:
    batches = FakeBatches()
    decoding = Decoding(OPTIONS, batches.decode, lambda: FakeItems().decode)
    both = [IMAGES["good.jpg"][0], IMAGES["damaged_stream.png"][0]]
    for _ in range(2 * (BATCHES_UNDER_SUSPICION + 1)):
        decoding.decode(both)
    assert (batches.calls, batches.refusals) == (2, 2)
    for _ in range(3):
        decoding.decode(both[:1])
    assert (batches.calls, batches.refusals) == (5, 2)


def test_another_error_of_a_decoder_passes() -> None:
    def fail(batch: Sequence[bytes]) -> list[np.ndarray]:
        raise RuntimeError("ours")

    with pytest.raises(RuntimeError, match="ours"):
        Decoding(OPTIONS, fail, lambda: FakeItems().decode).decode([IMAGES["good.jpg"][0]])
