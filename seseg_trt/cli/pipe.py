"""Mask one image between standard input and standard output: ``seseg-trt segment - -``."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from ..errors import BadImage, UsageError
from ..options import LaneOptions, RunOptions
from .terminal import CLOSED

NAME = b"-"
"""The image's name: the key of a random colour."""


def segment_stream(model: str | None, options: LaneOptions, run: RunOptions) -> int:
    """Read an image, write its output, and return 0. Nothing is written where it can't be masked.

    Raises:
        UsageError: standard input is closed, a terminal, or not one output was asked for.
        BadImage: it can't be masked.
        ModelError, DeviceError: the network can't be run.
    """
    if len(options.masks.outputs) != 1:
        raise UsageError(
            "one image is written to standard output, and not one kind of it was asked for", "give --output_type se, nse or mask"
        )
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("standard input is no image", "redirect one: seseg-trt segment - - <photo.jpg >masked.png")
    if sys.stdout.isatty() or "stdout" in CLOSED:
        raise UsageError("standard output is a terminal, or closed", "redirect it: seseg-trt segment - - <photo.jpg >masked.png")
    most = options.decoding.max_file_bytes
    data = sys.stdin.buffer.read(most + 1)
    if len(data) > most:
        raise BadImage("too_large", f"the image has over {most} bytes, more than max_pixels admits")
    sys.stdout.flush()
    sys.stdout.buffer.write(_masked(data, model, options, run))
    sys.stdout.buffer.flush()
    return 0


def _masked(data: bytes, model: str | None, options: LaneOptions, run: RunOptions) -> bytes:
    from ..backends.select import graph_precision, resolve_device
    from ..lanes.base import Source
    from ..lanes.select import open_lane
    from ..models import cache
    from ..models.certificate import require_certificate
    from .console import everything_to

    if not data:
        raise BadImage("empty", "standard input has 0 bytes")
    artifact = cache.find_model(model, precision=graph_precision(resolve_device(run.device, run.backend)[0]))
    if run.require_certificate:
        require_certificate(artifact)
    with everything_to(Path(os.devnull)):
        lane = open_lane(artifact, options, device=run.device, backend=run.backend, threads=run.threads)
        with contextlib.closing(lane):
            (frame,) = lane.decode([Source(NAME, data)])
            if isinstance(frame, BadImage):
                raise frame
            lane.infer([frame])
            lane.composite([frame])
            (encoded,) = lane.encode([frame])
            if isinstance(encoded, BadImage):
                raise encoded
            return encoded[options.masks.outputs[0]]
