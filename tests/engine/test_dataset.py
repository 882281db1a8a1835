"""Test that pairs are found, checked, split reproducibly, and augmented consistently."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.dataset import Augmentation, Batches, Cached, Folder, PairFiles, Scenes, augment, find_pairs, in_validation, sample, split
from seseg_trt.errors import UsageError


def put(path: Path, size: tuple[int, int], value: int = 255, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value, 0, 0)).save(path)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    images, masks = tmp_path / "images", tmp_path / "masks"
    for name in ("a.jpg", "sub/a.jpg", "sub/b.png"):
        put(images / name, (30, 20), mode="RGB")
        put((masks / name).with_suffix(".png"), (30, 20))
    return images, masks


def test_pairs_by_path(folders: tuple[Path, Path]) -> None:
    images, masks = folders
    put(masks / "unused.png", (1, 1))
    pairs = find_pairs(images, masks)
    assert [(p.name, p.mask.relative_to(masks).as_posix()) for p in pairs] == [
        ("a.jpg", "a.png"),
        ("sub/a.jpg", "sub/a.png"),
        ("sub/b.png", "sub/b.png"),
    ]


def test_every_problem_is_reported_at_once(folders: tuple[Path, Path]) -> None:
    images, masks = folders
    put(images / "alone.jpg", (8, 8), mode="RGB")
    put(images / "small.jpg", (8, 8), mode="RGB")
    put(masks / "small.png", (4, 8))
    put(images / "ones.jpg", (8, 8), mode="RGB")
    put(masks / "ones.png", (8, 8), 1)
    put(images / "two.jpg", (8, 8), mode="RGB")
    put(images / "two.png", (8, 8), mode="RGB")
    (images / "broken.jpg").write_bytes(b"no image")
    put(masks / "broken.png", (8, 8))
    put(images / "many.jpg", (8, 8), mode="RGB")
    put(masks / "many.png", (8, 8))
    put(masks / "many.bmp", (8, 8))
    with pytest.raises(UsageError) as caught:
        find_pairs(images, masks)
    text = str(caught.value)
    assert text.startswith("6 of 9 images can't be used")
    for part in (
        "alone.jpg: no mask",
        "small.jpg is 8 x 8, its mask",
        "4 x 8",
        "its largest value is 1;",
        "share one mask",
        "broken.jpg",
        "several masks",
    ):
        assert part in text


def test_a_long_list_of_problems_is_cut(tmp_path: Path) -> None:
    for i in range(30):
        put(tmp_path / "images" / f"{i}.png", (2, 2))
    (tmp_path / "masks").mkdir()
    with pytest.raises(UsageError, match="and 10 more"):
        find_pairs(tmp_path / "images", tmp_path / "masks")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        find_pairs(tmp_path / "no", tmp_path)
    with pytest.raises(UsageError, match="there is no image in"):
        find_pairs(tmp_path, tmp_path)


def test_a_turned_photograph_fits_its_upright_mask(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "images" / "a.jpg", exif=exif)
    put(tmp_path / "masks" / "a.png", (20, 30))
    image, mask = Folder(find_pairs(tmp_path / "images", tmp_path / "masks")).load(0)
    assert image.shape[:2] == mask.shape == (30, 20)


def test_grey_levels_of_a_mask_are_decided_in_the_middle(tmp_path: Path) -> None:
    put(tmp_path / "i.png", (3, 1), mode="RGB")
    Image.fromarray(np.array([[100, 127, 128]], np.uint8)).save(tmp_path / "m.png")
    _, mask = Folder([PairFiles("i.png", tmp_path / "i.png", tmp_path / "m.png")]).load(0)
    assert mask.tolist() == [[0, 0, 255]]


def test_split_is_stable_when_files_are_added() -> None:
    pairs = [PairFiles(f"folder/{i}.jpg", Path(), Path()) for i in range(1000)]
    kept, held_out = split(pairs[::2], 0.2)
    more_kept, more_held_out = split(pairs, 0.2)
    assert set(held_out) <= set(more_held_out)
    assert set(kept) <= set(more_kept)
    assert 150 < len(more_held_out) < 250
    # The rule: the first eight bytes of the name's SHA-256 as a share of 2**64. The SHA-256 of "a.jpg" starts with 509b, and
    # 0x509b / 0x10000 is 0.315.
    assert not in_validation("a.jpg", 0.314)
    assert in_validation("a.jpg", 0.316)


def test_a_split_with_an_empty_side_is_refused() -> None:
    with pytest.raises(UsageError, match="1 are left to train on and 0 held out"):
        split([PairFiles("a.jpg", Path(), Path())], 0.1)


def test_sampling_is_nearest() -> None:
    image = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    small, mask = sample((image, image[:, :, 0]), 4)
    assert np.array_equal(small, image[1::2, 1::2])
    assert np.array_equal(mask, image[1::2, 1::2, 0])


def test_cached_source_loads_once() -> None:
    class Counting(Scenes):
        loads = 0

        def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            self.loads += 1
            return super().load(index)

    source = Counting(0, 2, [(16, 16)])
    cached = Cached(source, limit=16 * 16 * 4)
    first = cached.load(0)
    assert cached.load(0) is first
    cached.load(1)
    cached.load(1)
    assert source.loads == 3  # the second no longer fits


@pytest.mark.engine
def test_image_and_mask_get_the_same_geometry() -> None:
    """Augment an image whose red channel is its mask; they must stay equal, and the results must differ from each other."""
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    results = []
    for i in range(12):
        varied, mask = augment((image, image[:, :, 0].copy()), 32, Augmentation(flip=True, crop=0.3, colour=0.0), (1, 2, i))
        assert varied.shape == (32, 32, 3)
        assert np.array_equal(varied[:, :, 0], mask)
        assert set(mask.ravel()) <= set(image[:, :, 0].ravel())
        results.append(mask.tobytes())
    assert len(set(results)) == 12


@pytest.mark.engine
def test_colour_changes_the_image_alone() -> None:
    image, mask = np.full((32, 32, 3), (200, 100, 50), np.uint8), np.eye(32, dtype=np.uint8) * 255
    varied, same = augment((image, mask), 32, Augmentation(flip=False, crop=1.0, colour=0.3), (0, 0, 0))
    assert np.array_equal(same, mask)
    assert not np.array_equal(varied, image)


@pytest.mark.engine
def test_augmentation_can_be_turned_off_and_depends_on_its_key_alone() -> None:
    scene = Scenes(0, 1, [(32, 32)]).load(0)
    plain = augment(scene, 32, Augmentation(flip=False, crop=1.0, colour=0.0), (0,))
    assert np.array_equal(plain[0], scene[0])
    assert np.array_equal(plain[1], scene[1])
    one, again = (augment(scene, 32, Augmentation(), (5, 6, 7)) for _ in range(2))
    assert np.array_equal(one[0], again[0])
    assert not np.array_equal(one[0], augment(scene, 32, Augmentation(), (5, 6, 8))[0])


@pytest.mark.engine
def test_batches_are_a_function_of_their_number() -> None:
    batches = Batches(Cached(Scenes(0, 7, [(32, 32)])), 32, 3, 9, Augmentation())
    assert batches.in_epoch == 2
    whole = list(batches.from_step(0, 5))
    rest = list(batches.from_step(3, 5))
    assert len(whole) == 5
    for (images, truths), (images_again, truths_again) in zip(whole[3:], rest, strict=True):
        assert np.array_equal(images, images_again)
        assert np.array_equal(truths, truths_again)
    assert whole[0][0].shape == (3, 32, 32, 3)
    assert whole[0][0].max() > 1
    assert set(np.unique(whole[0][1])) <= {0, 1}
    assert not np.array_equal(whole[0][0], whole[2][0])  # another epoch, another order


@pytest.mark.engine
def test_an_epoch_takes_no_pair_twice() -> None:
    class Numbered:
        def __len__(self) -> int:
            return 8

        def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            return np.full((32, 32, 3), index, np.uint8), np.zeros((32, 32), np.uint8)

    batches = Batches(Numbered(), 32, 4, 0, Augmentation(flip=True, crop=0.5, colour=0.0))
    seen = [int(value) for images, _ in batches.from_step(0, 2) for value in images[:, 0, 0, 0]]
    assert sorted(seen) == list(range(8))
