"""Agreement of masks and of confidences."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from seseg_trt.quality.agreement import Agreement, Deltas, Overlap, Worst, count_overlap


def _mask(rows: list[str]) -> np.ndarray:
    return np.array([[255 * (c == "#") for c in row] for row in rows], np.uint8)


def test_a_pair_is_counted_by_hand() -> None:
    overlap = count_overlap(_mask(["##..", "##.."]), _mask([".##.", "...."]))
    assert overlap == Overlap(intersection=1, union=5, pixels=8)
    assert (overlap.iou, overlap.flipped) == (0.2, 4)


def test_two_empty_masks_agree_and_are_counted_apart() -> None:
    agreement = Agreement()
    agreement.add(count_overlap(_mask(["..."]), _mask(["..."])))
    agreement.add(count_overlap(_mask(["##."]), _mask(["#.."])))
    assert (agreement.images, agreement.empty_in_both) == (2, 1)
    assert (agreement.pooled, agreement.mean, agreement.mean_where_marked) == (0.5, 0.75, 0.5)


def test_one_empty_mask_is_no_agreement() -> None:
    assert count_overlap(_mask(["##."]), _mask(["..."])).iou == 0.0


def test_pooled_weighs_pixels_and_mean_weighs_images() -> None:
    agreement = Agreement()
    agreement.add(Overlap(intersection=900, union=1000, pixels=5000))
    agreement.add(Overlap(intersection=0, union=10, pixels=5000))
    assert agreement.pooled == 900 / 1010
    assert agreement.mean == 0.45
    assert agreement.worst == 0.0
    assert agreement.flip_rate == 110 / 10_000


def test_the_first_percentile_is_an_images_own_value() -> None:
    agreement = Agreement()
    for hundredth in range(201):
        agreement.add(Overlap(hundredth, 200, 400))
    assert agreement.p01 == 2 / 200
    assert agreement.worst == 0.0


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=300), st.sampled_from([0.5, 0.9, 0.999, 1.0]))
def test_a_quantile_is_within_its_stated_error(values: list[float], share: float) -> None:
    deltas = Deltas()
    for chunk in np.array_split(np.array(values, np.float32), 3):
        deltas.add(chunk, np.zeros_like(chunk))
    exact = float(np.sort(np.array(values, np.float32))[int(np.ceil(share * len(values))) - 1])
    found = deltas.quantile(share)
    assert found is not None
    assert deltas.largest == max(np.array(values, np.float32))
    assert exact * (1 - 1e-7) <= found + 1e-38 and found <= exact * (1 + 2**-11) + 1e-38


def test_what_is_no_number_is_counted_and_not_hidden() -> None:
    deltas = Deltas()
    deltas.add(np.array([0.5, np.nan, 0.25, np.inf], np.float32), np.array([0.5, 0.5, 0.5, np.inf], np.float32))
    assert deltas.not_finite == 2
    assert deltas.largest == 0.25
    nothing = Deltas()
    nothing.add(np.array([np.nan], np.float32), np.array([0], np.float32))
    assert nothing.as_dict("p") == {"max": None, "p999": None, "not_finite": 1, "source": "p"}


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=30), st.integers(0, 6))
def test_the_worst_are_kept(offered: list[tuple[int, int]], count: int) -> None:
    worst = Worst(count)
    for index, (score, weight) in enumerate(offered):
        worst.add(score, weight, index)
    ranked = sorted(range(len(offered)), key=lambda i: (offered[i][0], -offered[i][1], i))
    assert list(worst.items()) == ranked[:count]


def test_a_mask_against_itself_needs_no_second_look() -> None:
    mask = _mask(["##.."])
    assert count_overlap(mask, mask) == count_overlap(mask, mask.copy()) == Overlap(2, 2, 4)


def test_sums_outgrow_64_bits() -> None:
    agreement = Agreement()
    for _ in range(3):
        agreement.add(Overlap(2**62, 2**63, 2**63))
    assert agreement.pooled == 0.5
    assert agreement.pixels == 3 * 2**63
