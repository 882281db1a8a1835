"""Test that the kernels, compiled for the host, give exactly Pillow's bytes."""

from __future__ import annotations

import ctypes
import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from seseg_trt.masks import reference
from seseg_trt.masks.launches import plan_composite, plan_sample
from seseg_trt.masks.records import RUN, DeviceImage, DeviceSource

from .kernel_host import Case, Host, aligned, expected, make_case, sizes

THRESHOLDS = (None, 0, 1, 25, 50, 99, 100)


def differing(host: Host, cases: list[Case], threshold: int | None, color: object, size: int = 256, in_reverse: bool = False) -> int:
    """Run a batch; return how many bytes of outputs and padding differ from the expected ones."""
    plan = plan_composite([c.image for c in cases], size, threshold, color)
    host.run(plan, in_reverse)
    wrong = 0
    for case in cases:
        wanted = expected(case, threshold, color, np.array([case.image.se_key, case.image.nse_key], np.uint64))
        wrong += sum(int((case.outputs[name] != wanted[name]).sum()) for name in case.outputs)
        wrong += not case.untouched_padding()
    return wrong


def test_sizes_are_over_400() -> None:
    assert len(set(sizes())) >= 400


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_batches_of_every_size_equal_pillow(host: Host, threshold: int | None) -> None:
    rng = np.random.default_rng(1 + (threshold or 0))
    # Each threshold is tested with all sizes in one batch. The outputs vary from image to image.
    wanted = list(itertools.chain.from_iterable(itertools.combinations(("se", "nse", "mask", "bits"), n) for n in (1, 2, 4)))
    if threshold is None:
        wanted = [o for o in wanted if "bits" not in o] + [("se", "nse", "mask")]
    every = sizes()
    order = rng.permutation(len(every))
    for part in np.array_split(order, 4):
        cases = [make_case(rng, *every[i], outputs=wanted[int(i) % len(wanted)]) for i in part]
        assert differing(host, cases, threshold, tuple(rng.integers(0, 256, 3).tolist())) == 0


@pytest.mark.parametrize("threshold", [None, 50])
def test_random_colour_equals_numpys_philox(host: Host, threshold: int | None) -> None:
    rng = np.random.default_rng(7)
    outputs = ("se", "nse") if threshold is None else ("nse", "bits", "mask")
    words = rng.integers(0, 2**64, (2, 2), dtype=np.uint64).tolist()
    keys = (tuple(words[0]), tuple(words[1]))
    cases = [make_case(rng, w, h, outputs=outputs, keys=keys) for w, h in sizes()[::9]]
    cases.append(make_case(rng, 777, 33, outputs=outputs, keys=keys, padding=5))
    assert differing(host, cases, threshold, "random") == 0


def test_random_colour_equals_the_reference(host: Host) -> None:
    rng = np.random.default_rng(8)
    keys = tuple(reference.random_key(3, b"folder/name.jpg", kind) for kind in ("se", "nse"))
    case = make_case(rng, 301, 211, outputs=("nse",), keys=keys, confidence=np.full((256, 256), 255, np.uint8))
    host.run(plan_composite([case.image], 256, None, "random"))
    wanted = reference.random_color(301, 211, 3, b"folder/name.jpg", "nse")
    assert np.array_equal(case.outputs["nse"].reshape(wanted.shape), wanted)


@pytest.mark.parametrize("kind", ["zeros", "ones", "steps", "blob"])
def test_maps_that_overshoot_equal_pillow(host: Host, kind: str) -> None:
    y, x = np.mgrid[:256, :256]
    levels = {"zeros": 0 * x, "ones": 0 * x + 255, "steps": 255 * ((x // 5 + y // 7) % 2), "blob": 254 * (np.hypot(x - 99, y - 31) < 40)}
    confidence = levels[kind].astype(np.uint8)
    rng = np.random.default_rng(3)
    for threshold in (None, 99, 100, 0):
        outputs = ("se", "mask") if threshold is None else ("nse", "mask", "bits")
        cases = [make_case(rng, w, h, outputs=outputs, confidence=confidence) for w, h in [(700, 500), (90, 70), (257, 3), (3, 600)]]
        assert differing(host, cases, threshold, (255, 0, 1)) == 0


@pytest.mark.parametrize(("padding", "offset"), [(1, 0), (16, 0), (0, 4), (0, 3), (7, 9), (61, 1), (32, 12)])
def test_padded_rows_and_any_address_equal_pillow(host: Host, padding: int, offset: int) -> None:
    rng = np.random.default_rng(4)
    for outputs in (("se", "nse", "mask", "bits"), ("nse",)):
        shapes = [(1, 1), (1, 70), (130, 90), (1600, 20), (513, 300), (17, 5), (64, 600)]
        cases = [make_case(rng, w, h, outputs=outputs, padding=padding, offset=offset) for w, h in shapes]
        assert differing(host, cases, 50, (9, 99, 199)) == 0


@pytest.mark.parametrize("size", [8, 32, 100, 224, 512])
def test_other_networks_equal_pillow(host: Host, size: int) -> None:
    rng = np.random.default_rng(size)
    shapes = [(1, 1), (7, 3), (size, size), (size - 1, size + 1), (3 * size + 1, 2 * size - 1), (600, 40)]
    assert differing(host, [make_case(rng, w, h, size=size) for w, h in shapes], 25, (1, 2, 3), size=size) == 0


def test_a_large_batch_gives_each_warp_several_runs(host: Host) -> None:
    rng = np.random.default_rng(11)
    cases = [make_case(rng, 2003, 1499, outputs=o) for o in (("se",), ("nse",), ("se", "mask"))]
    cases += [make_case(rng, 40, 40)]
    runs = sum(-(-c.image.width * c.image.height // RUN) for c in cases)
    assert runs > 2 * 8192, "the plan would give each warp one run"
    assert differing(host, cases, 50, (127, 127, 127)) == 0


def test_the_order_of_lanes_warps_and_blocks_does_not_matter(host: Host) -> None:
    # If a barrier is missing, a lane reads a value too early, and the result depends on the order of the lanes.
    shapes = [(640, 480), (90, 130), (1031, 61), (257, 2), (3, 1999)]
    for color, threshold, padding in itertools.product(((5, 6, 7), "random"), (None, 50), (0, 3)):
        rng = np.random.default_rng(12)
        outputs = ("se", "nse", "mask") if threshold is None else ("se", "nse", "mask", "bits")
        cases = [make_case(rng, w, h, outputs=outputs, padding=padding) for w, h in shapes]
        assert differing(host, cases, threshold, color, in_reverse=True) == 0


def test_the_paste_is_exact_for_every_pixel_colour_and_share(host: Host) -> None:
    assert [host.library.wrong_blends(rest) for rest in (0, 1)] == [0, 0]


def test_philox_equals_numpys(host: Host) -> None:
    rng = np.random.default_rng(13)
    host.library.philox_bytes.argtypes = [ctypes.c_uint64] * 3 + [ctypes.c_void_p]
    for key in rng.integers(0, 2**64, (20, 2), dtype=np.uint64):
        generator = np.random.Philox(key=key)
        for block in (0, 1, 2, 1000, 2**40):
            out = np.empty(4, np.uint64)
            host.library.philox_bytes(int(key[0]), int(key[1]), block, out.ctypes.data)
            assert np.array_equal(out, np.random.Philox(key=key).advance(block).random_raw(4))
        assert generator.random_raw() == np.random.Philox(key=key, counter=0).random_raw()


def pillows_weights(source: int, target: int) -> npt.NDArray[np.int32]:
    """Return Pillow's fixed-point weights of an axis, [target, source], computed in doubles as in Resample.c."""
    scale = source / target
    filter_scale = max(scale, 1.0)
    support = 2.0 * filter_scale
    center = (np.arange(target) + 0.5) * scale
    first = np.maximum((center - support + 0.5).astype(np.int64), 0)
    last = np.minimum((center + support + 0.5).astype(np.int64), source)
    tap = np.arange(source)
    x = np.abs((tap[None, :] - center[:, None] + 0.5) * (1.0 / filter_scale))
    weight = np.where(x < 1, ((-0.5 + 2.0) * x - (-0.5 + 3.0)) * x * x + 1, np.where(x < 2, (((x - 5) * x + 8) * x - 4) * -0.5, 0.0))
    weight[(tap < first[:, None]) | (tap >= last[:, None])] = 0.0
    total = np.cumsum(weight, axis=1)[:, -1:]  # cumsum adds in sequence, as Pillow does; zeros outside the taps change nothing
    weight /= total
    return (weight * (1 << 22) + np.where(weight < 0, -0.5, 0.5)).astype(np.int32)


def test_weights_equal_pillows_and_upscaling_never_needs_a_fifth_tap(host: Host) -> None:
    for target in (*range(1, 600), 777, 999, 1000, 1024, 1920, 2003, 3000, 4000, 6000, 8000, 8191, 16384, 30011):
        out = np.zeros((target, 256), np.int32)
        most = host.library.weight_matrix(256, target, ctypes.c_void_p(out.ctypes.data))
        wanted = pillows_weights(256, target)
        assert np.array_equal(out, wanted), target
        assert most == np.count_nonzero(wanted, axis=1).max() or target < 256
        # convolve() and the packed mask rely on this: sums don't overflow 32 bits and don't reach NEVER.
        positive = np.where(wanted > 0, wanted, 0).sum(axis=1, dtype=np.int64).max()
        assert 255 * positive + 2**21 < 3 << 29


def test_sampling_equals_pillow_and_the_reference(host: Host) -> None:
    rng = np.random.default_rng(14)
    for size in (256, 224, 100):
        shapes = [(1, 1), (256, 256), (933, 700), (255, 257), (3, 5), (8000, 2), (2, 5000), (1021, 509), (300, 77), (4032, 30)]
        shapes += [(int(w), int(h)) for w, h in rng.integers(1, 900, (20, 2))]
        pitches = [0 if i % 3 else 3 * w + i for i, (w, _) in enumerate(shapes)]
        wholes = [rng.integers(0, 256, (h, p or 3 * w), dtype=np.uint8) for (w, h), p in zip(shapes, pitches, strict=True)]
        images = [np.ascontiguousarray(a[:, : 3 * w]).reshape(h, w, 3) for a, (w, h) in zip(wholes, shapes, strict=True)]
        out, address = aligned(len(shapes) * size * size * 3, 16)
        sources = [DeviceSource(w, h, a.ctypes.data, p) for a, (w, h), p in zip(wholes, shapes, pitches, strict=True)]
        host.run(plan_sample(sources, size, address), in_reverse=size == 224)
        for image, sampled in zip(images, out.reshape(-1, size, size, 3), strict=True):
            assert np.array_equal(sampled, reference.sample_nearest(image, size)), image.shape
            assert np.array_equal(sampled, np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.NEAREST)))


def test_kernels_equal_the_original_programs_files(host: Host, keras224: Path) -> None:
    stored = np.load(keras224 / "reference.npz")
    compared = 0
    for folder, threshold, color in (("none", None, (127, 127, 127)), ("t50", 50, (127, 127, 127)), ("t25_red", 25, (255, 0, 0))):
        for name in sorted({key.split("__")[0] for key in stored.files}):
            rgb, p = stored[f"{name}__rgb"], np.squeeze(stored[f"{name}__pred"])
            confidence = (p * np.float32(255)).astype(np.uint8)
            height, width, _ = rgb.shape
            case = make_case(np.random.default_rng(0), width, height, 256, ("se", "nse", "mask"), confidence=confidence)
            case.source[...] = rgb
            host.run(plan_composite([case.image], 256, threshold, color))
            for output, suffix in (("se", "se"), ("nse", "nse"), ("mask", "pred")):
                path = keras224 / folder / f"{name}_{suffix}.png"
                assert np.array_equal(case.outputs[output].reshape(height, -1), np.asarray(Image.open(path)).reshape(height, -1)), path
                compared += 1
    assert compared >= 60


def test_what_the_kernels_cannot_take_is_refused() -> None:
    good = {"width": 8, "height": 8, "map": 256, "source": 512, "mask": 1024}
    for wrong, message in (
        ({"width": 0}, "is empty"),
        ({"width": 2**17, "height": 2**16}, "is empty, or has over"),
        ({"map": 258}, "not aligned"),
        ({"map": 0}, "is null"),
        ({"source": 0, "se": 64}, "need the image's pixels"),
        ({"se": 512}, "overwrite its source"),
        ({"bits": 64}, "needs a threshold"),
        ({"mask_pitch": 7}, "smaller than a row"),
    ):
        with pytest.raises(ValueError, match=message):
            plan_composite([DeviceImage(**{**good, **wrong})], 256, None, (1, 2, 3))
    for size in (6, 4, 250):
        with pytest.raises(ValueError, match="multiple of 4"):
            plan_composite([DeviceImage(**good)], size, None, (1, 2, 3))
    with pytest.raises(ValueError, match="at least one"):
        plan_composite([], 256, None, (1, 2, 3))
    with pytest.raises(ValueError, match="threshold 101"):
        plan_composite([DeviceImage(**good)], 256, 101, (1, 2, 3))
    with pytest.raises(ValueError, match="can't sample"):
        plan_sample([DeviceSource(4, 4, 256)], 256, 8)


def test_images_beyond_2_gigabytes_are_addressed_in_64_bits() -> None:
    image = DeviceImage(width=60_000, height=60_000, map=256, source=2**40, se=2**41, mask=2**42)
    plan = plan_composite([image], 256, 50, (1, 2, 3))
    records = np.empty(plan.records_nbytes, np.uint8)
    plan.write_records(records, 2**44)
    assert sum(launch.blocks for launch in plan.launches) < 2**31
    assert plan.workspace_nbytes > 256 * 60_000
