"""What outputs are called."""

from __future__ import annotations

import dataclasses
import os

from ..options import OUTPUT_SUFFIX, ImageFormat, OutputKind


@dataclasses.dataclass(frozen=True)
class Naming:
    """How an output is called.

    Attributes:
        outputs: the kinds to write.
        format: of ``se`` and ``nse``; a mask is always PNG.
        keep_suffix: the input's suffix stays in the name (``a.jpg_se.png``), so that ``a.jpg`` and ``a.png`` don't collide.
    """

    outputs: tuple[OutputKind, ...] = ("se",)
    format: ImageFormat = "png"
    keep_suffix: bool = False

    def stem(self, path: str) -> str:
        """Return what the outputs of the input ``path`` have in common: its path without the last suffix."""
        return path if self.keep_suffix else os.path.splitext(path)[0]

    def names(self, path: str) -> dict[OutputKind, str]:
        """Return the outputs of the input ``path``, relative to the output folder."""
        stem = self.stem(path)
        return {kind: f"{stem}_{OUTPUT_SUFFIX[kind]}.{'png' if kind == 'mask' else self.format}" for kind in self.outputs}
