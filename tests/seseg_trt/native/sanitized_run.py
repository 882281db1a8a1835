"""Run every function of the extension at unusual sizes, with a build that has the sanitizers. Started by test_sanitized."""

from __future__ import annotations

import importlib.util
import sys
import zlib
from typing import Any

import numpy as np
from PIL import Image

from .content import KINDS, content


def load(path: str) -> Any:
    """Import the extension module from a file."""
    spec = importlib.util.spec_from_file_location("seseg_trt.native._native", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(path: str) -> None:
    """Run all functions once. A sanitizer aborts the process at an out-of-bounds access."""
    module = load(path)
    for kind in KINDS:
        for height, width in ((1, 1), (1, 9), (7, 1), (5, 333), (300, 1000), (1, (1 << 18) + 3)):
            rows = content(kind, height, width, 5)
            assert len(zlib.decompress(module.compress_rows(rows))) == height * (width + 1)
    rng = np.random.default_rng(0)
    for size in (1, 2, 8, 224, 256):
        for height, width in ((1, 1), (1, 300), (2, 3), (300, 1), (63, 65), (size, size), (257, 1025)):
            confidence = rng.integers(0, 256, (size, size), np.uint8)
            mask = np.empty((height, width), np.uint8)
            module.resize_map(confidence, mask)
            image, result = rng.integers(0, 256, (height, width, 3), np.uint8), np.empty((height, width, 3), np.uint8)
            module.cover(image, mask, (1, 2, 255), True, result)
            module.cover(image, mask, (1, 2, 255), False, result)
            module.cover(Image.fromarray(image).__arrow_c_array__()[1], mask, (1, 2, 255), True, result)
    print("clean")


if __name__ == "__main__":
    main(sys.argv[1])
