"""How a run over files goes: what the user chose, checked once."""

from __future__ import annotations

import dataclasses
import math
import os

from .backends.select import BackendName
from .errors import UsageError
from .lanes.base import Measure
from .run.devices import split_devices
from .run.resume import Choices, OnChange, Overwrite
from .run.stream import StreamOptions

READERS_OF_A_STORE = 16
"""Threads that read from and write to an object store, where each access takes long and costs no core."""


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How a run over files goes; none of it changes an output's bytes.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``, or several with commas between (``cuda:0,1``): a process each.
        backend: force one; None: the artifact and the device decide.
        threads: cores for a CPU backend; None: all.
        workers: threads each for decoding, compositing and encoding; None: as many as cores, 4 at most.
        memory: bytes of images in flight, at most.
        keep_suffix: the input's suffix stays in the outputs' names.
        base: what names are relative to; None: see the README's section on inputs.
        state_dir: where the journal is kept; None: ``OUTPUT_DIR/.seseg``.
        on_change: inputs done with other options or another model: ``refuse`` or ``redo``.
        overwrite: outputs that no journal knows: None refuses, ``skip``, ``redo``.
        durable: flush every output to the disk.
        retry: try all that was quarantined again.
        max_failures: stop when more inputs than this fail; a float is a share of all inputs.
        timeout: seconds that each step may take for one image; None: for ever.
        shard: (i, n): do only the inputs of shard i of 1..n.
        results: a Parquet file to write, a row an input; None: none.
        tar_entries: inputs for each tar, where the output is a row of tars; None: 10000.
        rle: with ``results``: run lengths of each mask as well.
        require_certificate: refuse an INT8 or FP8 model without a certificate.
    """

    device: str = "auto"
    backend: BackendName | None = None
    threads: int | None = None
    workers: int | None = None
    memory: int = 1 << 30
    keep_suffix: bool = False
    base: str | None = None
    state_dir: str | None = None
    on_change: OnChange = "refuse"
    overwrite: Overwrite | None = None
    durable: bool = False
    retry: bool = False
    max_failures: int | float | None = None
    timeout: float | None = 300.0
    shard: tuple[int, int] | None = None
    results: str | None = None
    tar_entries: int | None = None
    rle: bool = False
    require_certificate: bool = False

    def __post_init__(self) -> None:
        split_devices(self.device)
        for name in ("threads", "workers", "memory", "tar_entries"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} can't be {value}", "give 1 or more")
        if self.timeout is not None and not self.timeout > 0:
            raise UsageError(f"a timeout of {self.timeout} seconds lets nothing through", "give more than 0, or None for no limit")
        if self.shard is not None and not 1 <= self.shard[0] <= self.shard[1]:
            raise UsageError(f"there is no shard {self.shard[0]}/{self.shard[1]}", "shards are 1/n to n/n")
        if self.rle and self.results is None:
            raise UsageError("run lengths go into the results, and no file for these was named", "add --results results.parquet")

    @property
    def measure(self) -> Measure:
        """What of each mask is measured."""
        if self.results is None:
            return None
        return "rle" if self.rle else "stats"

    @property
    def choices(self) -> Choices:
        """What is done where there is something already."""
        return Choices(self.on_change, self.overwrite, self.retry, self.measure)

    def stream(self, max_pixels: int, inputs: int, *, remote: bool) -> StreamOptions:
        """Return how hard a stream runs over so many inputs."""
        limit = self.max_failures
        return StreamOptions(
            workers=self.workers or min(4, len(os.sched_getaffinity(0))),
            memory=self.memory,
            # the largest honest file: 16-bit RGBA, uncompressed, with room for its metadata
            max_file_bytes=max_pixels * 8 + (64 << 20),
            max_failures=math.floor(limit * inputs) if isinstance(limit, float) else limit,
            timeout=self.timeout,
            readers=READERS_OF_A_STORE if remote else 1,
        )
