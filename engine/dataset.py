"""Find, check, split and augment pairs of images and masks, and make training batches of them.

All randomness is a function of a seed, the epoch and the position in it, so a resumed training run gets the same batches as an
uninterrupted one.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from seseg_trt.errors import UsageError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
SHOWN_PROBLEMS = 20
SUBJECT = 127  # mask values above this are subject
CACHE_BYTES = 3 << 30

Image = NDArray[np.uint8]
Pair = tuple[Image, Image]


class Source(Protocol):
    """An indexed collection of pairs: an image, uint8 [H, W, 3] (RGB), and its mask, uint8 [H, W] (255 on the subject, else 0)."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> Pair:
        """Return pair `index`, from 0."""
        ...


@dataclasses.dataclass(frozen=True)
class PairFiles:
    """An image file and its mask file; ``name`` is the image's path relative to the folder of images, with forward slashes."""

    name: str
    image: Path
    mask: Path


def find_pairs(images: Path, masks: Path) -> list[PairFiles]:
    """Pair the images of a folder and its subfolders with the masks of another: ``a/b.jpg`` with ``a/b.png``.

    Every pair is read and checked.

    Raises:
        UsageError: a folder is missing, there are no images, or a pair can't be used; the message lists the first 20 problems and the
            number of the others.
    """
    for folder in (images, masks):
        if not folder.is_dir():
            raise UsageError(f"there is no folder {folder}")
    found = sorted(p for p in images.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file() and not p.name.startswith("."))
    if not found:
        raise UsageError(f"there is no image in {images}", f"images end in {', '.join(sorted(IMAGE_SUFFIXES))}")
    by_stem = defaultdict(list)
    for path in sorted(masks.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            by_stem[path.relative_to(masks).with_suffix("")].append(path)
    owners = defaultdict(list)
    for path in found:
        owners[path.relative_to(images).with_suffix("")].append(path)
    problems, pairs = [], []
    for stem, paths in owners.items():
        candidates = by_stem.get(stem, [])
        if len(paths) > 1:
            problems.append(f"{', '.join(str(p) for p in paths)}: images that would share one mask")
        elif not candidates:
            problems.append(f"{paths[0]}: no mask {masks / stem}.png")
        elif len(candidates) > 1:
            problems.append(f"{paths[0]}: several masks: {', '.join(str(c) for c in candidates)}")
        else:
            pair = PairFiles(paths[0].relative_to(images).as_posix(), paths[0], candidates[0])
            problem = _problem_of(pair)
            problems += [problem] if problem else []
            pairs.append(pair)
    if problems:
        shown = "\n  ".join(problems[:SHOWN_PROBLEMS])
        more = f"\n  and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
        raise UsageError(
            f"{len(problems)} of {len(owners)} images can't be used:\n  {shown}{more}",
            "each image needs one mask of its own size, at the same place in --masks: greyscale, 255 on the subject, else 0",
        )
    return pairs


def _problem_of(pair: PairFiles) -> str:
    try:
        image, mask = load_pair(pair)
    except OSError as error:
        return f"{pair.image} or its mask {pair.mask} can't be read: {error}"
    if image.shape[:2] != mask.shape:
        (height, width), (mask_height, mask_width) = image.shape[:2], mask.shape
        return f"{pair.image} is {width} x {height}, its mask {pair.mask} {mask_width} x {mask_height}"
    if 0 < int(mask.max()) <= SUBJECT:
        return f"{pair.mask}: its largest value is {int(mask.max())}; the subject must be 255"
    return ""


def load_pair(pair: PairFiles) -> Pair:
    """Read an image and its mask.

    Returns:
        The image as RGB, rotated by its EXIF orientation, uint8 [H, W, 3]; the mask as greyscale with its values unchanged, uint8 [H, W].

    Raises:
        OSError: one of them can't be read (Pillow's UnidentifiedImageError is a subclass).
    """
    from PIL import Image as Pillow
    from PIL import ImageOps

    with Pillow.open(pair.image) as file:
        image = np.asarray(ImageOps.exif_transpose(file).convert("RGB"), np.uint8)
    with Pillow.open(pair.mask) as file:
        mask = np.asarray(file.convert("L"), np.uint8)
    return image, mask


def in_validation(name: str, share: float) -> bool:
    """Return whether a pair is held out: its name's SHA-256 alone decides, so adding files never moves another pair."""
    head = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8]
    return int.from_bytes(head, "big") < share * 2**64


def split(pairs: Sequence[PairFiles], share: float) -> tuple[list[PairFiles], list[PairFiles]]:
    """Split pairs into those to train on and those held out.

    Args:
        pairs: all pairs.
        share: about how many to hold out, 0..1; see :func:`in_validation`.

    Raises:
        UsageError: one of the two sets is empty.
    """
    held_out = [p for p in pairs if in_validation(p.name, share)]
    kept = [p for p in pairs if not in_validation(p.name, share)]
    if not kept or not held_out:
        raise UsageError(
            f"of {len(pairs)} images {len(kept)} are left to train on and {len(held_out)} held out; each set needs at least one",
            "give more images, or another --validation share",
        )
    return kept, held_out


class Folder:
    """A source that reads pairs from files."""

    def __init__(self, pairs: Sequence[PairFiles]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def load(self, index: int) -> Pair:
        """Read pair `index` from its files; the mask gets 255 on the subject, else 0."""
        image, mask = load_pair(self.pairs[index])
        return image, np.where(mask > SUBJECT, 255, 0).astype(np.uint8)


class Scenes:
    """A source that draws the procedural scenes of one seed: three in four are 256 x 256, the fourth is larger."""

    SIZES = ((256, 256), (256, 256), (256, 256), (340, 256), (256, 256), (256, 256), (256, 256), (320, 320))

    def __init__(self, seed: int, count: int, sizes: Sequence[tuple[int, int]] = SIZES) -> None:
        self.seed, self.count, self.sizes = seed, count, sizes

    def __len__(self) -> int:
        return self.count

    def load(self, index: int) -> Pair:
        """Draw scene `index`; its image has been through JPEG."""
        from .scenes import draw_scene

        scene = draw_scene(self.seed, index, *self.sizes[index % len(self.sizes)])
        return scene.after_jpeg(), scene.mask


class Cached:
    """A source that keeps the pairs of another source in memory, up to a number of bytes."""

    def __init__(self, source: Source, limit: int = CACHE_BYTES) -> None:
        self.source, self.left = source, limit
        self.kept: dict[int, Pair] = {}

    def __len__(self) -> int:
        return len(self.source)

    def load(self, index: int) -> Pair:
        """Return pair `index`, from memory if it is kept."""
        if index in self.kept:
            return self.kept[index]
        pair = self.source.load(index)
        size = pair[0].nbytes + pair[1].nbytes
        if size <= self.left:
            self.left -= size
            self.kept[index] = pair
        return pair


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How training images are augmented.

    Attributes:
        flip: mirror each image from left to right with probability 1/2.
        crop: the least share of the area that a random crop keeps; 1 turns cropping off. The crop's aspect ratio is between 3/4 and 4/3 of
            the image's.
        colour: the strength of random changes of brightness, contrast, saturation and (a quarter as strong) hue, 0..1; 0 turns them off.
    """

    flip: bool = True
    crop: float = 0.5
    colour: float = 0.2


def sample(pair: Pair, size: int) -> Pair:
    """Resize a pair to `size` x `size` by NEAREST, as the network's input is: uint8 [S, S, 3] and [S, S]."""
    from PIL import Image as Pillow

    image, mask = (np.asarray(Pillow.fromarray(part).resize((size, size), Pillow.Resampling.NEAREST)) for part in pair)
    return image, mask


def augment(pair: Pair, size: int, how: Augmentation, key: Sequence[int]) -> Pair:
    """Augment a pair and resize it to `size` x `size`, with TensorFlow's stateless image operations.

    The mask is handled as a fourth channel of the image, so that both get the same crop, flip and NEAREST resize. Only the image's
    colours change.

    Args:
        pair: image and mask, uint8 [H, W, 3] and [H, W].
        size: S, in pixels.
        how: what is varied, and how much.
        key: the random seed; the same key gives the same result.

    Returns:
        The image, uint8 [S, S, 3], and the mask, uint8 [S, S].
    """
    import tensorflow as tf

    seeds = np.random.SeedSequence(list(key)).generate_state(12).astype(np.int64).astype(np.int32).reshape(6, 2)
    stack = np.concatenate([pair[0], pair[1][:, :, None]], axis=2)
    with tf.device("/CPU:0"):
        if how.crop < 1:
            stack = _crop(stack, how.crop, seeds[0])
        stack = tf.image.resize(stack, (size, size), method="nearest")
        if how.flip:
            stack = tf.image.stateless_random_flip_left_right(stack, seeds[1])
        image, mask = stack[:, :, :3], stack[:, :, 3]
        if how.colour > 0:
            image = tf.cast(image, tf.float32) / 255.0
            image = tf.image.stateless_random_brightness(image, how.colour, seeds[2])
            image = tf.image.stateless_random_contrast(image, 1 - how.colour, 1 + how.colour, seeds[3])
            image = tf.clip_by_value(image, 0.0, 1.0)
            image = tf.image.stateless_random_saturation(image, 1 - how.colour, 1 + how.colour, seeds[4])
            image = tf.image.stateless_random_hue(image, how.colour / 4, seeds[5])
            image = tf.cast(tf.clip_by_value(image * 255.0 + 0.5, 0.0, 255.0), tf.uint8)
        return image.numpy(), mask.numpy()


def _crop(stack: Image, least: float, seed: NDArray[np.int32]) -> Any:
    import tensorflow as tf

    height, width = stack.shape[:2]
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        [height, width, 4],
        tf.zeros((1, 0, 4)),
        seed,
        min_object_covered=0.0,
        aspect_ratio_range=(0.75 * width / height, width / height / 0.75),
        area_range=(least, 1.0),
        use_image_if_no_bounding_boxes=True,
    )
    return tf.slice(stack, begin, extent)


@dataclasses.dataclass(frozen=True)
class Batches:
    """The endless sequence of training batches; batch k depends only on k and these attributes.

    Attributes:
        source: where pairs come from.
        size: the side of the network's input, in pixels.
        batch: images in a batch; a smaller source gives smaller batches.
        seed: the seed of the order and of the augmentation.
        augmentation: how images are augmented.
        workers: threads that prepare batches in advance.
    """

    source: Source
    size: int
    batch: int
    seed: int
    augmentation: Augmentation
    workers: int = 2

    @property
    def in_epoch(self) -> int:
        """The number of batches in an epoch; the images of a last, incomplete batch are left out of that epoch."""
        return max(len(self.source) // self.batch, 1)

    def make(self, step: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Make batch `step`, from 0: images, float32 [N, S, S, 3], 0..255, and masks, float32 [N, S, S, 1], 0 or 1."""
        epoch, place = divmod(step, self.in_epoch)
        order = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, epoch]))).permutation(len(self.source))
        chosen = order[place * self.batch : (place + 1) * self.batch]
        pairs = [augment(self.source.load(int(i)), self.size, self.augmentation, (self.seed, epoch, int(i))) for i in chosen]
        return to_arrays(pairs)

    def from_step(self, first: int, last: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Yield batches `first` to `last` - 1, prepared in advance by threads."""
        with concurrent.futures.ThreadPoolExecutor(self.workers) as pool:
            ahead = 2 * self.workers
            pending = [pool.submit(self.make, step) for step in range(first, min(first + ahead, last))]
            for step in range(first, last):
                batch = pending.pop(0).result()
                if step + ahead < last:
                    pending.append(pool.submit(self.make, step + ahead))
                yield batch


def to_arrays(pairs: Sequence[Pair]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Stack pairs of one size into images, float32 [N, S, S, 3], 0..255, and masks, float32 [N, S, S, 1], 0 or 1."""
    images = np.stack([image for image, _ in pairs]).astype(np.float32)
    truths = (np.stack([mask for _, mask in pairs])[..., None] > SUBJECT).astype(np.float32)
    return images, truths
