"""Images and their true masks, matched and checked before anything runs."""

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
from ..options import DecodeOptions
from ..run.plan import Naming
from .images import Decoded, Entry, Undecodable, decode, entries_in, overlapped

Marks = npt.NDArray[np.bool_]

MARKED_OVER = 127
SHOWN_PROBLEMS = 100
WHAT_A_MASK_IS = (
    "each image needs one mask at the same place in --masks, whatever its suffix: of the image's size, greyscale, 255 on what is to be "
    "marked and 0 elsewhere"
)


@dataclasses.dataclass(frozen=True)
class Pair:
    """An image and its true mask."""

    image: Entry
    mask: Entry


@dataclasses.dataclass(frozen=True)
class Pairs:
    """What two folders hold.

    Attributes:
        pairs: images with their masks.
        undecodable: files among the images that are none, or are damaged; whether they have a mask is not asked.
        masks_left: masks that belong to no image.
    """

    pairs: list[Pair]
    undecodable: list[Undecodable]
    masks_left: int


def find_pairs(images: str | os.PathLike[str], masks: str | os.PathLike[str], options: DecodeOptions) -> Pairs:
    """Match images with masks by their relative paths without the last suffix, and check every mask.

    Of the images the headers are read, of the masks all.

    Raises:
        UsageError: a folder is not there; or masks are missing, ambiguous, damaged, of another size or without the level 255. The
            message names all of them (the first 100, and how many more).
    """
    found, undecodable = _files(images)
    mask_files, _ = _files(masks)
    masks_of: dict[str, list[Entry]] = defaultdict(list)
    for entry in mask_files:
        masks_of[_stem(entry)].append(entry)
    images_of: dict[str, list[Entry]] = defaultdict(list)
    for entry in found:
        images_of[_stem(entry)].append(entry)
    check = functools.partial(_check, images_of=images_of, masks_of=masks_of, options=options)
    pairs, problems = [], []
    for entry, checked in zip(found, overlapped(check, found), strict=True):
        if isinstance(checked, Undecodable):
            undecodable.append(checked)
        elif isinstance(checked, str):
            problems.append(checked)
        else:
            pairs.append(Pair(entry, checked))
    if problems:
        raise _refusal(problems, len(pairs) + len(problems))
    if not pairs:
        raise UsageError(f"there is no image in {os.fspath(images)}", "give --images a folder of images")
    return Pairs(pairs, undecodable, len(mask_files) - len(pairs))


def _files(folder: str | os.PathLike[str]) -> tuple[list[Entry], list[Undecodable]]:
    if not os.path.isdir(folder):
        raise UsageError(f"there is no folder {os.fspath(folder)}", "give --images and --masks a folder each")
    return entries_in([folder])


def _stem(entry: Entry) -> str:
    return Naming().stem(entry.name)


def _check(
    image: Entry, images_of: dict[str, list[Entry]], masks_of: dict[str, list[Entry]], options: DecodeOptions
) -> Entry | Undecodable | str:
    """Return an image's mask, or what is wrong with the image, or a sentence on what is wrong with its mask."""
    try:
        data = image.load()
        assert isinstance(data, bytes)
        size = pillow.probe_size(data, options)
    except BadImage as bad:
        return Undecodable(image.name, bad.reason, bad.message)
    rivals = images_of[_stem(image)]
    masks = masks_of.get(_stem(image), [])
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
        return f"{image.name}: the levels of its mask {mask.name} end at {highest:.0f}, and what is marked has 255"
    return ""


def _refusal(problems: Sequence[str], images: int) -> UsageError:
    shown = [problem.encode("utf-8", "backslashreplace").decode() for problem in problems[:SHOWN_PROBLEMS]]
    if len(problems) > SHOWN_PROBLEMS:
        shown.append(f"and {len(problems) - SHOWN_PROBLEMS} more")
    lines = "\n    ".join(shown)
    return UsageError(f"{len(problems)} of {images} images have no mask that can be used:\n    {lines}", WHAT_A_MASK_IS)


def read_truth(mask: Entry, options: DecodeOptions) -> tuple[Marks, bytes] | Undecodable:
    """Read a true mask: bool [H, W], True where its grey is over 127; and its SHA-256."""
    decoded = decode(mask, options)
    if not isinstance(decoded, Decoded):
        return decoded
    return np.asarray(decoded.image.convert("L")) > MARKED_OVER, decoded.sha256
