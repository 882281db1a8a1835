"""What the GPU lane and :class:`seseg_trt.Segmenter` do with images that are on the device: sample, infer, composite.

Work is enqueued on a room's stream. Nothing here waits for the device, but for one thing: a room that is taken again is first waited
for, since the host writes into its page-locked records.
"""

from __future__ import annotations

import contextlib
import dataclasses
import queue
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..backends.base import DeviceBackend
from ..cuda import Device, Event, Stream
from ..cuda_array import DeviceArray, DevicePool
from ..errors import UsageError
from ..masks.kernels import DeviceImage, DeviceSource, Kernels, Workspace
from ..masks.reference import random_key
from ..options import MaskOptions, OutputKind

ROOMS = 8
"""Of two threads that decode, composite and encode at once, and one that infers, none waits for a room; a thread that hangs keeps one."""
ALIGNMENT = 256
COLORED: tuple[OutputKind, OutputKind] = ("se", "nse")


class Room:
    """A stream with workspaces; one thread at a time works in it, and samples and composites once, before it is waited for.

    There are two workspaces because a second plan would write over the records of the first before the device has read them.
    """

    def __init__(self, device: Device, kernels: Kernels) -> None:
        self.stream: Stream = device.stream()
        self.sampling: Workspace = kernels.workspace()
        self.compositing: Workspace = kernels.workspace()
        self.done = Event(device)

    def close(self) -> None:
        """Give back its memory, after its work."""
        self.stream.synchronize()
        self.sampling.close()
        self.compositing.close()
        self.done.close()
        self.stream.close()


@dataclasses.dataclass(frozen=True, slots=True)
class Picture:
    """An image on the device, and what is made of it.

    Attributes:
        source: its pixels.
        confidence: the address of its map, uint8 [S, S].
        identity: what keys the random colour.
        se, nse: addresses of uint8 [H, W, 3]; 0: not wanted.
        mask: the address of uint8 [H, W]; 0: not wanted.
        bits: the address of uint8 [H, ceil(W / 8)], a mask of 1 bit; 0: not wanted.
    """

    source: DeviceSource
    confidence: int
    identity: bytes = b""
    se: int = 0
    nse: int = 0
    mask: int = 0
    bits: int = 0


class DeviceWork:
    """The kernels, the network and memory of one device.

    Args:
        device: which.
        backend: the network, on that device; its owner closes it.

    Raises:
        DeviceError: there are no kernels for this GPU.
    """

    def __init__(self, device: Device, backend: DeviceBackend) -> None:
        self.device = device
        self.backend = backend
        self.size = backend.input_size
        self.pool = DevicePool(device)
        kernels = self._kernels = Kernels(device)
        self._rooms = [Room(device, kernels) for _ in range(ROOMS)]
        self._free: queue.SimpleQueue[Room] = queue.SimpleQueue()
        for room in self._rooms:
            self._free.put(room)

    @contextlib.contextmanager
    def room(self) -> Iterator[Room]:
        """Take a room. It is free again when what was enqueued in it is done."""
        room = self._free.get()
        try:
            room.done.synchronize()
            yield room
        finally:
            room.done.record(room.stream)
            self._free.put(room)

    def infer(self, sources: Sequence[DeviceSource], room: Room, out: DeviceArray | None = None) -> DeviceArray:
        """Sample the network's inputs and run the network: uint8 [N, S, S], in the order of the room's stream."""
        inputs = self.pool.array((len(sources), self.size, self.size, 3), room.stream.handle)
        self._kernels.sample(sources, self.size, inputs.address, room.sampling, room.stream)
        return self.backend.infer_device(inputs, room.stream, out)

    def composite(self, pictures: Sequence[Picture], options: MaskOptions, room: Room) -> None:
        """Make the outputs of each picture, in the order of the room's stream."""
        images = []
        for picture in pictures:
            source = picture.source
            keys = [random_key(options.seed, picture.identity, kind) if options.color == "random" else (0, 0) for kind in COLORED]
            images.append(
                DeviceImage(
                    width=source.width,
                    height=source.height,
                    map=picture.confidence,
                    source=source.pixels,
                    source_pitch=source.pitch,
                    se=picture.se,
                    nse=picture.nse,
                    mask=picture.mask,
                    bits=picture.bits,
                    se_key=keys[0],
                    nse_key=keys[1],
                )
            )
        self._kernels.composite(images, self.size, options.threshold, options.color, room.compositing, room.stream)

    def close(self) -> None:
        """Give back rooms and memory; a room in which a thread hangs stays."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._free.get_nowait().close()
        self.pool.close()


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """A part of device memory, uint8 of any shape, C-contiguous. ``owner`` keeps it alive."""

    address: int
    shape: tuple[int, ...]
    owner: DeviceArray

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": "|u1",
            "data": (self.address, False),
            "strides": None,
            "stream": self.owner.stream,
            "version": 3,
        }


def cut(slab_of: Any, shapes: Sequence[tuple[int, ...]]) -> list[Piece]:
    """Allocate once for many arrays; each begins at a multiple of 256.

    Args:
        slab_of: called with the number of bytes; returns a :class:`DeviceArray`.
        shapes: of the arrays.
    """
    sizes = [-(-int(np.prod(shape, dtype=np.int64)) // ALIGNMENT) * ALIGNMENT for shape in shapes]
    slab = slab_of(sum(sizes))
    starts = np.cumsum([0, *sizes[:-1]]).tolist() if sizes else []
    return [Piece(slab.address + start, tuple(shape), slab) for start, shape in zip(starts, shapes, strict=True)]


def look(image: Any) -> DeviceSource:
    """Return where the pixels of an array of the device are: uint8 [H, W, 3], rows padded or not.

    Raises:
        UsageError: it is no such array.
    """
    interface = image.__cuda_array_interface__
    shape, strides = tuple(interface["shape"]), interface.get("strides")
    if len(shape) != 3 or shape[2] != 3 or 0 in shape or np.dtype(interface["typestr"]) != np.uint8:
        raise UsageError(f"an image on the GPU is {interface['typestr']} {list(shape)}, not uint8 [H, W, 3]")
    if strides is not None and tuple(strides[1:]) != (3, 1):
        raise UsageError("an image on the GPU has gaps between its pixels", "make it contiguous")
    pitch = 0 if strides is None else int(strides[0])
    return DeviceSource(int(shape[1]), int(shape[0]), int(interface["data"][0]), pitch)
