"""Bytes to pixels by NVIDIA DALI, on the CPU or on the GPU; and its resampling filters, for the network's input.

The contract's NEAREST is not DALI's at every size: the network's input is gathered elsewhere by the contract's index table, and
DALI's own filters are for those who ask for one by name.

A pipeline keeps what it returns valid for as long as somebody holds it (DALI's dynamic executor), so that nothing is copied here.
One image that DALI can't decode fails its batch and ends its pipeline: a new one is made, which takes tens of milliseconds.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from ..errors import DeviceError
from ..options import Resample
from .batches import BatchRefused

T = TypeVar("T")

HARDWARE_SHARE = 0.65
"""Of a batch's JPEGs, for GPUs with a hardware decoder (A100, H100 and their like); the others are decoded by CUDA at the same time."""


def import_dali() -> Any:
    """Return the module ``nvidia.dali``; raise DeviceError where it is not installed."""
    try:
        import nvidia.dali
        import nvidia.dali.fn
        import nvidia.dali.pipeline
        import nvidia.dali.types
    except ImportError as error:
        raise DeviceError(f"NVIDIA DALI can't be imported: {error}", "pip install 'seseg_trt[dali]', or --decoder pillow") from error
    return nvidia.dali


class Spares(Generic[T]):
    """Things of which a thread takes one at a time; there are as many as were ever in use at once."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._spares: queue.LifoQueue[T] = queue.LifoQueue()

    def take(self) -> T:
        """Return a spare one, or a new one."""
        try:
            return self._spares.get_nowait()
        except queue.Empty:
            return self._make()

    def put(self, thing: T) -> None:
        """Give one back. What is broken is not given back."""
        self._spares.put(thing)

    def clear(self) -> list[T]:
        """Forget all that are spare, and return them."""
        found: list[T] = []
        while True:
            try:
                found.append(self._spares.get_nowait())
            except queue.Empty:
                return found


class DaliDecoder:
    """Decodes encoded images to full-size RGB; a :class:`seseg_trt.codecs.batches.BatchDecoder`.

    Args:
        batch: the most images of one run of a pipeline; larger batches are cut.
        threads: of each pipeline; there is one pipeline for each calling thread.
        device: the GPU's index, or None: on the CPU.

    Raises:
        DeviceError: DALI is not installed, or can't use the device.
    """

    def __init__(self, batch: int, threads: int = 1, device: int | None = None) -> None:
        dali = import_dali()
        self._batch = batch
        self._on_gpu = device is not None

        def make() -> Any:
            def define() -> Any:
                # On the GPU the bytes may still be read when the caller has them no more.
                encoded = dali.fn.external_source(name="encoded", ndim=1, dtype=dali.types.UINT8, no_copy=not self._on_gpu)
                # The orientation is in the bytes only if it is to be applied: see .headers.
                options: dict[str, Any] = {"output_type": dali.types.RGB, "adjust_orientation": True}
                if self._on_gpu:
                    # Of nvJPEG's ways to enlarge the chroma planes the one that libjpeg, and so Pillow, takes.
                    options |= {"jpeg_fancy_upsampling": True, "hw_decoder_load": HARDWARE_SHARE}
                return dali.fn.decoders.image(encoded, device="mixed" if self._on_gpu else "cpu", **options)

            return _pipeline(dali, define, batch, threads, device)

        self._pipelines = Spares(make)
        self._pipelines.put(make())

    def decode(self, batch: Sequence[bytes], stream: int | None = None) -> list[Any]:
        """Decode, and wait until it is done; on the GPU it is done in the order of ``stream``, if one is given.

        Returns:
            uint8 [H, W, 3] each: NumPy arrays, or :class:`GpuImage`.

        Raises:
            BatchRefused: an image can't be decoded; it is not known which.
        """
        found: list[Any] = []
        for start in range(0, len(batch), self._batch):
            encoded = [np.frombuffer(data, np.uint8) for data in batch[start : start + self._batch]]
            pipeline = self._pipelines.take()
            try:
                tensors = _run(pipeline, "encoded", encoded, stream)
            except RuntimeError as error:
                raise BatchRefused(str(error)) from error
            self._pipelines.put(pipeline)
            found += _arrays(tensors, len(encoded), self._on_gpu)
        return found

    def close(self) -> None:
        """Give back the pipelines; images that somebody holds stay."""
        self._pipelines.clear()


class DaliResampler:
    """Makes the network's input by one of DALI's filters.

    Args:
        size: the side of the input, in pixels.
        resample: the filter's name.
        batch, threads, device: as for :class:`DaliDecoder`.
    """

    def __init__(self, size: int, resample: Resample, batch: int, threads: int = 1, device: int | None = None) -> None:
        dali = import_dali()
        self._batch = batch
        self._on_gpu = device is not None
        kind = "gpu" if self._on_gpu else "cpu"
        filters = {
            "linear": dali.types.INTERP_LINEAR,
            "cubic": dali.types.INTERP_CUBIC,
            "lanczos3": dali.types.INTERP_LANCZOS3,
            "triangular": dali.types.INTERP_TRIANGULAR,
            "gaussian": dali.types.INTERP_GAUSSIAN,
        }

        def define() -> Any:
            images = dali.fn.external_source(name="images", ndim=3, dtype=dali.types.UINT8, layout="HWC", no_copy=True, device=kind)
            return dali.fn.resize(images, size=(size, size), interp_type=filters[resample])

        self._pipelines = Spares(lambda: _pipeline(dali, define, batch, threads, device))

    def resample(self, images: Sequence[Any], stream: int | None = None) -> list[Any]:
        """Return uint8 [size, size, 3] for each image, which is uint8 [H, W, 3], all on the host or all on the GPU."""
        found: list[Any] = []
        for start in range(0, len(images), self._batch):
            some = list(images[start : start + self._batch])
            pipeline = self._pipelines.take()
            try:
                tensors = _run(pipeline, "images", some, stream)
            except RuntimeError as error:
                raise DeviceError(f"DALI failed to resample: {str(error).splitlines()[0]}") from error
            self._pipelines.put(pipeline)
            found += _arrays(tensors, len(some), self._on_gpu)
        return found

    def close(self) -> None:
        """Give back the pipelines."""
        self._pipelines.clear()


class GpuImage:
    """A tensor of DALI on the GPU, with the attributes that arrays have elsewhere; it keeps the tensor's memory."""

    __slots__ = ("__cuda_array_interface__", "_tensor", "shape")

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor
        self.__cuda_array_interface__: dict[str, Any] = tensor.__cuda_array_interface__
        self.shape: tuple[int, ...] = tuple(self.__cuda_array_interface__["shape"])


def _arrays(tensors: Any, count: int, on_gpu: bool) -> list[Any]:
    return [GpuImage(tensors[i]) if on_gpu else np.asarray(tensors[i]) for i in range(count)]


def _pipeline(dali: Any, define: Callable[[], Any], batch: int, threads: int, device: int | None) -> Any:
    try:
        pipeline = dali.pipeline.Pipeline(
            batch_size=batch, num_threads=threads, device_id=device, prefetch_queue_depth=1, exec_dynamic=True
        )
        with pipeline:
            pipeline.set_outputs(define())
        pipeline.build()
    except RuntimeError as error:
        where = "the CPU" if device is None else f"cuda:{device}"
        raise DeviceError(f"DALI can't start on {where}: {str(error).splitlines()[0]}", "--decoder pillow decodes without it") from error
    return pipeline


def _run(pipeline: Any, name: str, batch: list[Any], stream: int | None) -> Any:
    if stream is None:
        pipeline.feed_input(name, batch)
        return pipeline.run()[0]
    # The images were made in the stream's order, and the results will be used in it.
    pipeline.feed_input(name, batch, cuda_stream=stream)
    return pipeline.run(stream)[0]
