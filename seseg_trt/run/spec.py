"""What a run makes and how: plain values that the parent, its workers, the journal and a later retry share."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..options import BackendName, DecodeOptions, EncodeOptions, LaneOptions, MaskOptions, StreamOptions
from ..outputs.naming import Naming


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """Everything that decides a run's outputs, and what a worker process needs to make them.

    Attributes:
        model: the artifact's path; None with a ready backend.
        identity: the artifact's SHA-256, or the backend's name.
        lane: what is made of an image.
        keep_suffix: the input's suffix stays in the outputs' names.
        target: the output: a folder, an address, a tar or a row of tars.
        state: the state folder.
        durable: flush every output to the disk.
        device, backend, threads: see :func:`seseg_trt.lanes.select.open_lane`.
        stream: how hard a process runs.
        cores: the cores that a worker is bound to; none: any.
    """

    model: str | None
    identity: str
    lane: LaneOptions
    keep_suffix: bool
    target: str
    state: str
    durable: bool
    device: str
    backend: BackendName | None
    threads: int | None
    stream: StreamOptions
    cores: tuple[int, ...] = ()

    @property
    def naming(self) -> Naming:
        """What the outputs are called."""
        return Naming(self.lane.masks.outputs, self.lane.encoding.format, self.keep_suffix)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> RunSpec:
        """Return the spec that :meth:`to_json` was of."""
        return cls(
            **{**found, "lane": lane_from_json(found["lane"]), "stream": StreamOptions(**found["stream"]), "cores": tuple(found["cores"])}
        )


def lane_from_json(found: dict[str, Any]) -> LaneOptions:
    """Return lane options from their JSON: lists become tuples again."""
    masks = dict(found["masks"])
    masks["outputs"] = tuple(masks["outputs"])
    masks["color"] = masks["color"] if masks["color"] == "random" else tuple(masks["color"])
    return LaneOptions(MaskOptions(**masks), DecodeOptions(**found["decoding"]), EncodeOptions(**found["encoding"]), found["measure"])
