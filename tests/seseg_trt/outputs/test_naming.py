"""What outputs are called."""

from __future__ import annotations

import dataclasses

import pytest

from seseg_trt.options import ImageFormat
from seseg_trt.outputs.naming import Naming


def test_outputs_are_called_as_the_original_program_calls_them() -> None:
    assert Naming().names("sub/a.jpg") == {"se": "sub/a_se.png"}
    every = Naming(("se", "nse", "mask"))
    assert every.names("sub/a.jpg") == {"se": "sub/a_se.png", "nse": "sub/a_nse.png", "mask": "sub/a_pred.png"}
    assert list(Naming(("mask", "se")).names("a.jpg")) == ["mask", "se"]


@pytest.mark.parametrize("image_format", ["png", "jpg", "webp"])
def test_a_mask_is_a_png_whatever_the_others_are(image_format: ImageFormat) -> None:
    names = Naming(("mask", "nse", "se"), image_format).names("a.b.JPEG")
    assert names == {"mask": "a.b_pred.png", "nse": f"a.b_nse.{image_format}", "se": f"a.b_se.{image_format}"}


@pytest.mark.parametrize(
    ("path", "stem"),
    [
        ("a.jpg", "a"),
        ("a", "a"),
        ("x.y/a", "x.y/a"),
        ("x/a.tar.gz", "x/a.tar"),
        (".a", ".a"),
        ("x/.a.png", "x/.a"),
        ("a\udcff.png", "a\udcff"),
    ],
)
def test_the_last_suffix_goes_unless_it_is_kept(path: str, stem: str) -> None:
    assert Naming().stem(path) == stem and Naming(keep_suffix=True).stem(path) == path
    assert Naming(keep_suffix=True).names(path) == {"se": f"{path}_se.png"}


def test_a_naming_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Naming().keep_suffix = True  # type: ignore[misc]
