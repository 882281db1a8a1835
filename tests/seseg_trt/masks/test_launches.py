"""Test the exact plans: grids, records, and the place and size of each part of the workspace."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
import pytest

from seseg_trt.masks.launches import plan_composite, plan_sample
from seseg_trt.masks.records import BATCH, IMAGE, MAX_PIXELS, SAMPLING, SOURCE, DeviceImage, DeviceSource, Launch, Plan

BASE = 1 << 20
GREY = (1, 2, 3)
PIECES = ("columns", "rows", "wide_columns", "wide_rows", "stretched", "shrunk")
PREFIXES = ("table", "stretch", "shrink", "composite", "pack")


def up(value: int, step: int = 256) -> int:
    return ceil(value / step) * step


def written(plan: Plan, base: int = BASE) -> bytes:
    memory = np.zeros(plan.records_nbytes, np.uint8)
    plan.write_records(memory, base)
    return memory.tobytes()


def fields(plan: Plan, base: int = BASE) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, list[int]]]:
    """Return the fields of the batch, those of each image, and the prefix sums; the addresses become offsets in the workspace."""
    memory = written(plan, base)
    batch = dict(zip(BATCH.names or (), np.frombuffer(memory, BATCH, 1)[0].tolist(), strict=True))
    images = []
    for record in np.frombuffer(memory, IMAGE, batch["count"], batch["images"] - base):
        images.append({name: np.asarray(record[name]).tolist() for name in IMAGE.names or ()})
        images[-1].update({name: images[-1][name] - base if images[-1][name] else None for name in PIECES})
    sums = {n: np.frombuffer(memory, np.uint32, batch["count"] + 1, batch[f"{n}_blocks"] - base).tolist() for n in PREFIXES}
    return batch, images, sums


def sized(width: int, height: int, *outputs: str, **more: Any) -> DeviceImage:
    given = {name: 4096 * (index + 2) for index, name in enumerate(outputs)}
    return DeviceImage(width, height, 1024, **{"source": 2048, **given, **more})


def test_one_photograph_by_hand() -> None:
    plan = plan_composite([sized(300, 200, "se")], 256, None, GREY)
    assert plan.launches == (
        Launch("seseg_weights", 2 + 1),
        Launch("seseg_stretch", 3 * 16 // 8),
        Launch("seseg_shrink", 3 * 200 // 8),
        Launch("seseg_opacity_fixed", 15, 8 * (2 * 1536 + 512)),  # 60,000 pixels are 118 runs of 512
    )
    assert plan.records_nbytes == 7 * 256
    batch, (image,), sums = fields(plan)
    assert [batch[f"{name}_blocks"] - BASE for name in PREFIXES] == [512, 768, 1024, 1280, 1536]
    assert batch["images"] == BASE + 256
    assert (batch["count"], batch["size"], batch["limit"], batch["color"]) == (1, 256, 3 << 29, 0x030201)
    assert (batch["runs_per_warp"], batch["scratch"]) == (1, 0)
    assert [image[name] for name in PIECES] == [1792, 6656, None, 9984, 17408, 95232]
    assert plan.workspace_nbytes == 95232 + 60928
    assert sums == {"table": [0, 3], "stretch": [0, 6], "shrink": [0, 75], "composite": [0, 15], "pack": [0, 0]}
    assert (image["pitch"], image["dense"], image["runs"], image["reserved"]) == (304, 1, 118, 0)
    assert image["reciprocal"] == 2**64 // 300 + 1
    assert [image[f"{name}_pitch"] for name in ("source", "color", "mask", "bits")] == [900, 900, 300, 38]
    assert (image["map"], image["source"], image["colored"], image["mask"], image["bits"]) == (1024, 2048, [8192, 0], 0, 0)


MIXED = [
    *(sized(w, h, "se") for w, h in ((1, 1), (1, 300), (300, 1), (256, 256), (255, 257), (257, 255), (128, 3), (129, 4), (16, 5))),
    *(sized(w, h, "nse", "mask", se_key=(1, 2), nse_key=(3, 4)) for w, h in ((512, 1), (513, 1), (31, 33), (1024, 8), (1025, 9))),
    *(sized(w, h, "bits") for w, h in ((7, 7), (8, 16), (256, 16), (257, 17), (2049, 16), (2048, 128), (4, 2))),
    *(sized(w, h, "mask", "bits", mask_pitch=w + 5) for w, h in ((9, 9), (512, 6), (600, 700))),
    *(sized(w, h, "se", source_pitch=3 * w + 1) for w, h in ((511, 3), (1025, 2))),
    *(sized(w, h, "se", "mask", color_pitch=3 * w + 1, bits_pitch=w) for w, h in ((511, 3), (1025, 2))),
    sized(40, 30, "mask", source_pitch=999, color_pitch=999, bits_pitch=999),  # only what is made counts
    sized(40, 30, "se", mask_pitch=999),
    DeviceImage(5, 4, 1024, mask=4096),
]


@pytest.mark.parametrize("size", [8, 100, 256])
@pytest.mark.parametrize("order", [1, -1])
def test_every_part_has_the_size_that_its_image_needs(size: int, order: int) -> None:
    images = MIXED[::order]
    plan = plan_composite(images, size, 30, GREY)
    batch, found, sums = fields(plan)
    at = up(BATCH.itemsize)
    assert batch["images"] - BASE == at
    at += up(IMAGE.itemsize * len(images))
    for name in PREFIXES:
        assert batch[f"{name}_blocks"] - BASE == at
        at += up(4 * len(images) + 4)
    assert plan.records_nbytes == at
    for piece in PIECES:
        for image, record in zip(images, found, strict=True):
            w, h = image.width, image.height
            pitch = up(w, 16)
            needed = {
                "columns": 16 * w * (w >= size),
                "rows": 16 * h,
                "wide_columns": 4 * w * (3 + 2 * ceil(2 * size / w)) * (w < size),
                "wide_rows": 4 * h * (3 + 2 * ceil(2 * size / h)) * (h < size),
                "stretched": size * pitch,
                "shrunk": max(h, 4) * pitch * (h < size),
            }[piece]
            assert record[piece] == (at if needed else None), (piece, w, h)
            at += up(needed)
    assert plan.workspace_nbytes == at
    counts: dict[str, list[int]] = {name: [] for name in PREFIXES}
    for image, record in zip(images, found, strict=True):
        w, h, colored = image.width, image.height, bool(image.se or image.nse)
        padded = colored and (image.source_pitch or 3 * w, image.color_pitch or 3 * w) != (3 * w, 3 * w)
        padded = padded or bool(image.mask and image.mask_pitch not in (0, w))
        runs = ceil(w / 512) * h if padded else ceil(w * h / 512)
        assert (record["dense"], record["runs"], record["pitch"]) == (not padded, runs, up(w, 16)), (w, h)
        assert record["reciprocal"] == ((2**64 - 1) // (ceil(w / 512) if padded else w) + 1) % 2**64
        assert record["keys"] == [list(image.se_key), list(image.nse_key)]
        assert (record["colored"], record["mask"], record["bits"]) == ([image.se, image.nse], image.mask, image.bits)
        assert (record["width"], record["height"], record["map"], record["source"]) == (w, h, image.map, image.source)
        tight = {"source": 3 * w, "color": 3 * w, "mask": w, "bits": ceil(w / 8)}
        assert all(record[f"{name}_pitch"] == (getattr(image, f"{name}_pitch") or least) for name, least in tight.items())
        counts["table"].append(ceil(w / 256) + ceil(h / 256))
        counts["stretch"].append(ceil(ceil(w / 128) * ceil(size / 16) / 8))
        counts["shrink"].append(ceil(ceil(w / 128) * max(h, 4) / 8) if h < size else 0)
        counts["composite"].append(ceil(runs / 8) if colored or image.mask else 0)
        counts["pack"].append(ceil(ceil(w / 256) * ceil(h / 16) / 8) if image.bits else 0)
    for name in PREFIXES:
        assert sums[name] == [0, *np.cumsum(counts[name]).tolist()], name
    assert [launch.blocks for launch in plan.launches] == [sum(counts[name]) for name in PREFIXES]
    names = ("weights", "stretch", "shrink", "threshold_fixed", "pack_bits")
    assert [launch.kernel for launch in plan.launches] == [f"seseg_{name}" for name in names]
    assert [launch.shared for launch in plan.launches] == [0, 0, 0, 8 * 3584, 0]


@pytest.mark.parametrize(
    ("threshold", "limit"), [(None, 3 << 29), (0, 1 << 22), (1, 3 << 22), (50, 128 << 22), (99, 253 << 22), (100, 3 << 29)]
)
def test_the_limit_is_the_lowest_masked_level(threshold: int | None, limit: int) -> None:
    assert fields(plan_composite([sized(9, 9, "mask")], 256, threshold, GREY))[0]["limit"] == limit


def test_the_compositing_kernel_is_chosen_by_threshold_and_colour() -> None:
    for threshold, color, name in ((None, GREY, "opacity_fixed"), (None, "random", "opacity_random"), (0, GREY, "threshold_fixed")):
        assert plan_composite([sized(900, 900, "se")], 256, threshold, color).launches[-1].kernel == f"seseg_{name}"  # type: ignore[arg-type]
    plan = plan_composite([sized(900, 900, "se")], 256, 9, "random")
    assert plan.launches[-1].kernel == "seseg_threshold_random"
    assert fields(plan)[0]["color"] == 0


def test_scratch_is_for_two_outputs_of_an_image_or_a_random_colour() -> None:
    for images, color, scratch in (
        ([sized(9, 9, "se"), sized(9, 9, "nse")], GREY, 0),
        ([sized(9, 9, "mask"), sized(9, 9, "nse", "se")], GREY, 1),
        ([sized(9, 9, "nse", "mask")], "random", 1),
        ([sized(9, 9, "nse", "mask")], "".join(("ran", "dom")), 1),
    ):
        plan = plan_composite(images, 256, None, color)  # type: ignore[arg-type]
        assert fields(plan)[0]["scratch"] == scratch
        assert plan.launches[-1].shared == 8 * (2 * 1536 + 512 + 1536 * scratch)


@pytest.mark.parametrize(("runs", "each"), [(1, 1), (8191, 1), (8192, 1), (16_383, 1), (16_384, 2), (24_576, 3), (65_536, 8), (80_000, 8)])
def test_a_warp_has_several_runs_where_there_are_many(runs: int, each: int) -> None:
    others = [sized(512, 1000, "bits")] * 20  # they are not composited, and so do not count
    plan = plan_composite([*others, sized(512, runs, "se")], 256, 50, GREY)
    batch, _, sums = fields(plan)
    assert batch["runs_per_warp"] == each
    assert sums["composite"][-1] == ceil(runs / (8 * each))
    assert fields(plan_composite(others * 2, 256, 50, GREY))[0]["runs_per_warp"] == 1


def test_what_has_no_blocks_is_not_launched() -> None:
    assert [launch.kernel for launch in plan_composite([sized(600, 600, "bits")], 256, 50, GREY).launches] == [
        *("seseg_weights", "seseg_stretch", "seseg_pack_bits")
    ]


def test_records_move_with_the_workspace() -> None:
    plan = plan_composite(MIXED, 256, 50, GREY)
    one, other = fields(plan, 1 << 30), fields(plan, 256)
    assert one[1:] == other[1:]
    memory = np.full(plan.records_nbytes + 300, 0x5A, np.uint8)
    plan.write_records(memory, 1 << 30)
    assert (memory[plan.records_nbytes :] == 0x5A).all()
    assert memory[:72].tobytes() == written(plan, 1 << 30)[:72] != written(plan, 256)[:72]
    with pytest.raises(ValueError, match=r"a workspace at 0x180 is not aligned to 256 bytes"):
        plan.write_records(memory, 384)
    with pytest.raises(ValueError, match="not aligned"):
        plan.write_records(memory, 257)


@pytest.mark.parametrize("size", [8, 12, 256])
def test_sides_of_maps_that_are_taken(size: int) -> None:
    assert plan_composite([sized(9, 9, "se")], size, None, GREY).launches


@pytest.mark.parametrize(
    "image",
    [
        sized(512, MAX_PIXELS // 512, "mask"),
        sized(1, 1, "se", source_pitch=3, color_pitch=3),
        sized(9, 9, "mask", mask_pitch=9),
        sized(9, 9, "bits", bits_pitch=2),
        DeviceImage(9, 9, 4, mask=8),
        DeviceImage(9, 9, 4, bits=8),
    ],
)
def test_images_at_the_edge_of_what_is_taken(image: DeviceImage) -> None:
    assert plan_composite([image], 256, 0, GREY).launches


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (sized(5, (MAX_PIXELS + 1) // 5, "mask"), "has over 4,294,966,784 pixels"),
        (sized(0, 9, "mask"), "an image of 0 x 9 is empty"),
        (sized(9, 0, "mask"), "is empty"),
        (sized(-1, -1, "mask"), "is empty"),
        *((DeviceImage(9, 9, address, mask=8), "not aligned to 4 bytes") for address in (1025, 1026, 1027)),
        (DeviceImage(9, 9, 4, nse=8), "need the image's pixels"),
        (DeviceImage(9, 9, 4, se=8), "need the image's pixels"),
        (sized(9, 9, nse=2048), "overwrite its source"),
        (sized(9, 9, se=2048), "overwrite its source"),
        (sized(9, 9, "se", source_pitch=26), "a source_pitch is smaller"),
        (sized(9, 9, "se", color_pitch=26), "a color_pitch is smaller"),
        (sized(9, 9, "mask", mask_pitch=8), "a mask_pitch is smaller"),
        (sized(9, 9, "bits", bits_pitch=1), "a bits_pitch is smaller"),
    ],
)
def test_images_that_are_refused(image: DeviceImage, message: str) -> None:
    good = sized(90, 90, "mask")
    for images in ([image], [good, image], [image, good]):
        with pytest.raises(ValueError, match=message):
            plan_composite(images, 256, 0, GREY)
    with pytest.raises(ValueError, match="outside 0 to 100"):
        plan_composite([good], 256, -1, GREY)


@pytest.mark.parametrize(("count", "size"), [(1, 1), (1, 5), (3, 256), (128, 16), (129, 224), (257, 8)])
def test_samplings_are_planned_exactly(count: int, size: int) -> None:
    sources = [DeviceSource(100 + i, 50 + i, 4096 * (i + 1), (3 * (100 + i) + i) * (i % 2)) for i in range(count)]
    plan = plan_sample(sources, size, 1 << 30)
    assert plan.launches == (
        Launch("seseg_indices", ceil(2 * count / 256)),
        Launch("seseg_sample", ceil(count * size / 8), 8 * up(3 * size, 16)),
    )
    assert plan.records_nbytes == 256 + up(24 * count)
    assert plan.workspace_nbytes == plan.records_nbytes + up(8 * size * count)
    memory = written(plan)
    sampling = dict(zip(SAMPLING.names or (), np.frombuffer(memory, SAMPLING, 1)[0].tolist(), strict=True))
    assert sampling == {"sources": BASE + 256, "indices": BASE + plan.records_nbytes, "out": 1 << 30, "count": count, "size": size}
    records = np.frombuffer(memory, SOURCE, count, 256).tolist()
    assert records == [(s.pixels, s.pitch or 3 * s.width, s.width, s.height) for s in sources]


def test_samplings_at_the_edge_of_what_is_taken() -> None:
    one = DeviceSource(2**31 - 1, 1, 256, 3 * (2**31 - 1))
    assert plan_sample([one, DeviceSource(1, 2**31 - 1, 256)], 1, 16).launches
    launch = plan_sample([DeviceSource(1, 1, 256)] * 8, 2**31 - 1, 16).launches[1]
    assert launch.blocks == 2**31 - 1
    with pytest.raises(ValueError, match=r"the batch needs 2,147,483,648 blocks.*use a smaller batch"):
        plan_sample([DeviceSource(1, 1, 256)] * 8, 2**31, 16)


@pytest.mark.parametrize(
    ("sources", "size", "out", "message"),
    [
        ([], 4, 16, "can't sample 0 images"),
        ([DeviceSource(1, 1, 256)], 0, 16, "to 0 pixels a side"),
        ([DeviceSource(1, 1, 256)], 4, 0, "at 0x0"),
        *(([DeviceSource(1, 1, 256)], 4, out, "can't sample 1 images") for out in (17, 24, 31)),
        *(([DeviceSource(*given)], 4, 16, "is empty, has no address") for given in ((0, 1, 256), (1, 0, 256), (1, 1, 0), (-1, -1, 256))),
        *(([DeviceSource(*given)], 4, 16, "a side of 2.31 pixels") for given in ((2**31, 1, 256), (1, 2**31, 256))),
        ([DeviceSource(9, 9, 256), DeviceSource(9, 9, 256, 26)], 4, 16, "a pitch is smaller than a row"),
        ([DeviceSource(9, 9, 256, 1)], 4, 16, "a pitch is smaller than a row"),
    ],
)
def test_samplings_that_are_refused(sources: list[DeviceSource], size: int, out: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_sample(sources, size, out)


def test_a_batch_that_needs_too_many_blocks_is_refused() -> None:
    long = sized(MAX_PIXELS, 1, "mask")
    assert plan_composite([long], 4096, None, GREY).launches[1].blocks < 2**31
    with pytest.raises(ValueError, match="use a smaller batch"):
        plan_composite([long] * 3, 4096, None, GREY)
