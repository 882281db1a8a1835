"""Which worker runs where: its device, its cores, its share of the memory."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from ..cores import usable_cores
from ..errors import DeviceError
from ..options import split_devices
from ..run.spec import RunSpec

NODES = Path("/sys/devices/system/node")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a worker runs.

    Attributes:
        number: counts workers from 1.
        device: as the user named it; what messages say.
        spec: the run's, with this worker's device, cores, threads and memory.
        environment: what to add to its environment.
    """

    number: int
    device: str
    spec: RunSpec
    environment: dict[str, str]


def every_device(text: str) -> list[str]:
    """Return the devices that a text names, with ``cuda`` as every GPU of this machine.

    Raises:
        UsageError: see :func:`seseg_trt.options.split_devices`.
    """
    if text != "cuda":
        return split_devices(text)
    from ..cuda.driver import driver_report

    try:
        count = len(driver_report().gpus)
    except DeviceError:
        count = 1  # making the lane says what is missing
    return [f"cuda:{index}" for index in range(count)] if count > 1 else ["cuda"]


def place_workers(spec: RunSpec, devices: Sequence[str], processes: int) -> list[Place]:
    """Give each of ``processes`` workers for each device its share of this machine.

    A worker sees no GPU but its own (CUDA_VISIBLE_DEVICES), under the name ``cuda:0``. Where there is one worker, it has all cores.
    """
    count = len(devices) * processes
    names = [device for device in devices for _ in range(processes)]
    most = max(1, usable_cores() // count)
    shares = _core_shares(sorted(os.sched_getaffinity(0)), count)
    places = []
    for index, device in enumerate(names):
        cores = shares[index]
        inside, environment = _visible(device)
        stream = dataclasses.replace(spec.stream, memory=max(1, spec.stream.memory // count))
        if count > 1:
            stream = dataclasses.replace(stream, workers=min(stream.workers, len(cores), most))
        own = dataclasses.replace(
            spec,
            device=inside,
            stream=stream,
            threads=spec.threads or (min(len(cores), most) if count > 1 else None),
            cores=tuple(cores) if count > 1 else (),
        )
        places.append(Place(index + 1, device, own, environment))
    return places


def _visible(device: str) -> tuple[str, dict[str, str]]:
    """Return a GPU's name in a process that sees no other, and the environment that makes it so."""
    kind, _, index = device.partition(":")
    if kind != "cuda" or not index:
        return device, {}
    visible = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    if visible and int(index) >= len(visible):
        return device, {}  # there is no such GPU: opening it says so
    return "cuda:0", {"CUDA_VISIBLE_DEVICES": visible[int(index)] if visible else index}


def _core_shares(cores: Sequence[int], count: int, nodes: Path = NODES) -> list[list[int]]:
    """Part cores between workers: as equal as they come, those of one NUMA node together. With too few cores, workers share."""
    node_of = {core: number for number, node in enumerate(_nodes(nodes)) for core in node}
    ordered = sorted(cores, key=lambda core: (node_of.get(core, 0), core))
    if count >= len(ordered):
        return [[ordered[index % len(ordered)]] for index in range(count)]
    return [list(ordered[index * len(ordered) // count : (index + 1) * len(ordered) // count]) for index in range(count)]


def _nodes(folder: Path) -> list[set[int]]:
    """Return the cores of each NUMA node; nothing where the kernel does not tell."""
    found = []
    for path in sorted(folder.glob("node[0-9]*/cpulist"), key=lambda path: int(path.parent.name[4:])):
        cores: set[int] = set()
        for part in path.read_text().strip().split(","):
            first, _, last = part.partition("-")
            if first:
                cores.update(range(int(first), int(last or first) + 1))
        found.append(cores)
    return found
