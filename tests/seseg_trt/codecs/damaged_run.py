"""Run the native decoders on damaged files in a separate process, so that a crash does not end the tests. Exits with 0 or the findings."""

from __future__ import annotations

import random
import sys

import numpy as np

from seseg_trt.codecs import pillow
from seseg_trt.codecs.native import native_image
from seseg_trt.codecs.nvimgcodec import NvimgcodecDecoder
from seseg_trt.errors import BadImage
from seseg_trt.options import DecodeOptions
from tests.corpus import make_images

OPTIONS = DecodeOptions(max_pixels=4_000_000)


def mutated(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Return a damaged copy: truncated, bits flipped, head overwritten, bytes removed inside, or spliced with another file."""
    found, kind = bytearray(data), rng.randrange(5)
    if kind == 0:
        return bytes(found[: rng.randrange(1, len(found))])
    if kind == 3:
        start = rng.randrange(len(found))
        del found[start : start + rng.randrange(1, 400)]
    elif kind == 4:
        return bytes(found[: rng.randrange(len(found))]) + other[rng.randrange(len(other)) :]
    else:
        reach = len(found) if kind == 1 else min(300, len(found))
        for _ in range(rng.randrange(1, 6)):
            found[rng.randrange(reach)] = rng.randrange(256)
    return bytes(found)


def main(count: int, seed: int) -> str:
    """Return the difference from Pillow's result, or an empty string."""
    files = [data for data, expected in make_images().values() if expected == "mask" and len(data) < 60_000 and native_image(data, OPTIONS)]
    decoder, compared = NvimgcodecDecoder(), 0
    for turn in range(count):
        rng = random.Random(f"{seed} {turn}")
        damaged = mutated(rng.choice(files), rng.choice(files), rng)
        native = native_image(damaged, OPTIONS)
        if native is None:
            continue
        found = decoder.decode([native.data])[0]
        try:
            expected = np.asarray(pillow.decode(damaged, OPTIONS).image)
        except BadImage:
            continue
        if found is not None:
            compared += 1
            if not np.array_equal(found, expected):
                return f"turn {turn}: not Pillow's pixels"
    return "" if compared > count // 20 else f"only {compared} of {count} were compared"


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])) or 0)
