"""Match images with their true masks, and check the masks before the network runs."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..codecs import pillow
from ..errors import BadImage, UsageError
from ..options import OUTPUT_SUFFIX, DecodeOptions
from ..outputs.naming import Naming
from .images import WAY_OUT, Decoded, Entry, Undecodable, decode, entries_in, map_ahead

Marks = npt.NDArray[np.bool_]

MARKED_OVER = 127
SHOWN_PROBLEMS = 100
WHAT_A_MASK_IS = (
    "each image needs one mask of the same relative path in --masks (the suffix may differ): greyscale, of the image's size, 255 where "
    "it is marked and 0 elsewhere"
)


@dataclasses.dataclass(frozen=True)
class LabelledImage:
    """An image and its true mask."""

    image: Entry
    mask: Entry


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Images with their masks.

    Attributes:
        pairs: each image with its mask.
        undecodable: images that can't be read or decoded. They need no mask.
        masks_left: the number of masks without an image.
    """

    pairs: list[LabelledImage]
    undecodable: list[Undecodable]
    masks_left: int


def find_pairs(images: str | os.PathLike[str], masks: str | os.PathLike[str], options: DecodeOptions) -> Pairs:
    """Match images with masks by their relative paths without the last suffix, and check every mask.

    A mask may also be called as this program calls it: ``NAME_pred.png``.

    Args:
        images: a folder, a glob, a tar or an address of an object store.
        masks: the same. It may be of another kind.
        options: how bytes become pixels. The headers of images are decoded, and all of the masks.

    Raises:
        UsageError: there are no images or no masks; or masks are missing, ambiguous, damaged, of another size or without the level 255.
            The message names all of them (the first 100, and how many more).
        StoppedError: an object store can't be listed.
    """
    found, undecodable = entries_in([images], options)
    mask_files, refused_masks = entries_in([masks], options)
    check = functools.partial(_check, images_of=_by_stem(found), masks_of=_by_stem(mask_files), options=options)
    pairs, problems = [], []
    for entry, checked in zip(found, map_ahead(check, found), strict=True):
        if isinstance(checked, Undecodable):
            undecodable.append(checked)
        elif isinstance(checked, str):
            problems.append(checked)
        else:
            pairs.append(LabelledImage(entry, checked))
    if problems:
        raise _refusal(problems, len(pairs) + len(problems), refused_masks)
    if not pairs:
        raise UsageError(f"none of {len(undecodable)} images can be decoded; {undecodable[0].name}: {undecodable[0].message}", WAY_OUT)
    return Pairs(pairs, undecodable, len(mask_files) - len(pairs))


def _stem(entry: Entry) -> str:
    return Naming().stem(entry.name)


def _by_stem(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        found[_stem(entry)].append(entry)
    return found


def _check(
    image: Entry, images_of: dict[str, list[Entry]], masks_of: dict[str, list[Entry]], options: DecodeOptions
) -> Entry | Undecodable | str:
    """Return an image's mask, or why the image can't be decoded, or a sentence about what is wrong with its mask."""
    try:
        data = image.load()
        assert isinstance(data, bytes)
        size = pillow.probe_size(data, options)
    except BadImage as bad:
        return Undecodable(image.name, bad.reason, bad.message)
    rivals = images_of[_stem(image)]
    stems = dict.fromkeys((_stem(image), f"{_stem(image)}_{OUTPUT_SUFFIX['mask']}", f"{image.name}_{OUTPUT_SUFFIX['mask']}"))
    masks = [mask for stem in stems for mask in masks_of.get(stem, [])]
    if not masks:
        return f"{image.name}: there is no mask {_stem(image)}.*"
    if len(rivals) > 1:
        return f"{image.name}: its mask is also that of {', '.join(r.name for r in rivals if r is not image)}"
    if len(masks) > 1:
        return f"{image.name}: it has several masks: {', '.join(mask.name for mask in masks)}"
    return _problem(image, size, masks[0], options) or masks[0]


def _problem(image: Entry, size: tuple[int, int], mask: Entry, options: DecodeOptions) -> str:
    decoded = decode(mask, options)
    if isinstance(decoded, Undecodable):
        return f"{image.name}: its mask {mask.name} can't be read: {decoded.message}"
    if decoded.image.size != size:
        wide, high = decoded.image.size
        return f"{image.name} is {size[0]} x {size[1]} pixels, its mask {mask.name} {wide} x {high}"
    highest = decoded.image.convert("L").getextrema()[1]
    assert isinstance(highest, (int, float))
    if 0 < highest <= MARKED_OVER:
        return f"{image.name}: its mask {mask.name} has no level over {highest:.0f}; marked pixels have 255"
    return ""


def _refusal(problems: Sequence[str], images: int, refused_masks: Sequence[Undecodable]) -> UsageError:
    lines = [*problems, *(f"the mask {mask.name} can't be read: {mask.message}" for mask in refused_masks)]
    shown = [problem.encode("utf-8", "backslashreplace").decode() for problem in lines[:SHOWN_PROBLEMS]]
    if len(lines) > SHOWN_PROBLEMS:
        shown.append(f"and {len(lines) - SHOWN_PROBLEMS} more")
    text = "\n    ".join(shown)
    return UsageError(f"{len(problems)} of {images} images have no mask that can be used:\n    {text}", WHAT_A_MASK_IS)


def read_truth(mask: Entry, options: DecodeOptions) -> tuple[Marks, bytes] | Undecodable:
    """Read a true mask. Return bool [H, W], True where its grey level is over 127, and its SHA-256."""
    decoded = decode(mask, options)
    if not isinstance(decoded, Decoded):
        return decoded
    return np.asarray(decoded.image.convert("L")) > MARKED_OVER, decoded.sha256
