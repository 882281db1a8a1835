"""What a lane is: the four steps from bytes to bytes, on batches, on one kind of hardware."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import BadImage
from ..options import OutputKind

Measure = Literal["stats", "rle"] | None
"""What of each mask is measured: nothing, its figures, or these and its run lengths."""


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """One input's encoded bytes. ``identity`` is its relative path (``/`` between parts, as bytes): it keys the random colour."""

    identity: bytes
    data: bytes


@dataclasses.dataclass(slots=True)
class Frame:
    """One image on its way through a lane. What the untyped fields hold is the lane's own business.

    Attributes:
        identity: of its source.
        width, height: of the image, in pixels, orientation applied.
        decoded_by: the library that decoded it.
        image: the decoded pixels.
        network_input: uint8 [S, S, 3].
        confidence: uint8 [S, S], once inferred.
        rendered: the outputs' pixels, once composited.
        measured: figures of the mask, if they were asked for, once composited: see :mod:`seseg_trt.masks.measure`.
    """

    identity: bytes
    width: int
    height: int
    decoded_by: str
    image: Any
    network_input: Any
    confidence: npt.NDArray[np.uint8] | None = None
    rendered: dict[OutputKind, Any] = dataclasses.field(default_factory=dict)
    measured: dict[str, Any] | None = None


class Lane(Protocol):
    """Decode, infer, composite and encode. Each step takes a batch and may run in a thread of its own, on another batch.

    A step answers for each item by itself: one bad image never costs its neighbours.

    Attributes:
        name: ``cpu`` or ``gpu``.
        description: one line for people: device, backend, versions.
        input_size: the side of the network's input, in pixels.
        batch_size: how many images ``infer`` wants at once.
        infer_workers: how many threads should call ``infer`` at once.
    """

    name: str
    description: str
    input_size: int
    batch_size: int
    infer_workers: int

    def pixels(self, source: Source) -> int:
        """Return how many pixels a source will have, read from its header; 0 where that can't be told."""
        ...

    def decode(self, batch: Sequence[Source]) -> list[Frame | BadImage]:
        """Turn encoded bytes to frames with their network input."""
        ...

    def infer(self, batch: Sequence[Frame]) -> None:
        """Run the network and set each frame's ``confidence``. Raises DeviceError."""
        ...

    def composite(self, batch: Sequence[Frame]) -> None:
        """Make each frame's outputs and set its ``rendered``; its ``image`` is given up."""
        ...

    def encode(self, batch: Sequence[Frame]) -> list[Mapping[OutputKind, bytes] | BadImage]:
        """Turn each frame's rendered outputs to the bytes of files."""
        ...

    def close(self) -> None:
        """Give back the device and the network."""
        ...
