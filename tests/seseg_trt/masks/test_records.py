"""Test the values that describe images and launches."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from seseg_trt.masks import records
from seseg_trt.masks.records import DeviceImage, DeviceSource, Launch


@pytest.mark.parametrize("value", [DeviceImage(3, 2, 256), DeviceSource(3, 2, 256), Launch("seseg_weights", 3)])
def test_descriptions_are_frozen_and_have_no_other_attributes(value: Any) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, dataclasses.fields(value)[0].name, 7)
    assert not hasattr(value, "__dict__")
    assert value == dataclasses.replace(value) and hash(value) == hash(dataclasses.replace(value))


def test_what_is_not_given_is_not_made() -> None:
    absent = dict.fromkeys(("source", "se", "nse", "mask", "bits", "source_pitch", "color_pitch", "mask_pitch", "bits_pitch"), 0)
    known = {"width": 3, "height": 2, "map": 256, "se_key": (0, 0), "nse_key": (0, 0)}
    assert dataclasses.asdict(DeviceImage(3, 2, 256)) == known | absent
    assert DeviceSource(3, 2, 256).pitch == 0
    assert Launch("seseg_weights", 3).shared == 0


def test_a_plan_is_frozen() -> None:
    plan = records.Plan((), 0, 0, (), ())
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.records_nbytes = 1  # type: ignore[misc]


def test_limits_of_the_kernels() -> None:
    assert records.MAX_PIXELS == 4_294_966_784
    assert records.TABLE == 256
    assert (records.ALIGNMENT, int(records.NULL)) == (256, 0xFFFF_FFFF_FFFF_FFFF)
