"""Make random rows of pixels of several kinds for the tests."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

KINDS = ["noise", "flat", "sparse", "runs", "steps", "few"]


def content(kind: str, height: int, width: int, seed: int) -> npt.NDArray[np.uint8]:
    """Return uint8 [height, width]. Once filtered, ``steps`` resembles a photograph, and ``sparse`` and ``runs`` resemble masks."""
    rng = np.random.default_rng(seed)
    shape = height, width
    made = {
        "noise": lambda: rng.integers(0, 256, shape),
        "flat": lambda: np.full(shape, seed % 256),
        "sparse": lambda: (rng.random(shape) < 0.02) * 255,
        "runs": lambda: np.repeat(rng.integers(0, 256, (height, width // 9 + 1)), 9, 1)[:, :width],
        "steps": lambda: np.cumsum(np.minimum(rng.geometric(0.5, shape), 255), 0),
        "few": lambda: 1 << rng.integers(0, 8, shape),
    }[kind]()
    return np.ascontiguousarray(made.astype(np.uint8))
