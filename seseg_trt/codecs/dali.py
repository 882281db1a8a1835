"""Decode images with NVIDIA DALI on the CPU or the GPU, and resample them with DALI's filters.

DALI's NEAREST picks other pixels than Pillow's at some sizes. The default resampling therefore gathers the network's input by index
(see :func:`seseg_trt.masks.reference.nearest_index`); DALI's filters are used only if the user names one.

DALI's dynamic executor keeps an output valid for as long as somebody references it, so nothing is copied here. An image that DALI can't
decode fails its batch and makes its pipeline unusable; a new pipeline takes tens of milliseconds to build.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..errors import DeviceError, import_late, install_hint
from ..options import Resample
from .batches import BatchRefused

HARDWARE_SHARE = 0.65
"""The share of a batch's JPEGs that goes to the hardware decoder, on GPUs that have one (A100, H100). CUDA decodes the rest meanwhile."""


class Spares:
    """A thread-safe pool that creates an object when none is free, so it grows to the largest number in use at once."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._spares: list[Any] = []  # its pop and append are atomic

    @contextlib.contextmanager
    def one(self) -> Iterator[Any]:
        """Lend a free object, or a new one. It returns to the pool unless the block raises, which means that it is broken."""
        try:
            thing = self._spares.pop()
        except IndexError:
            thing = self._make()
        yield thing
        self._spares.append(thing)


class _Pipelines:
    """Pipelines of one definition; there is one for each calling thread. The images that they made outlive them.

    Args:
        define: defines the pipeline's output with the module ``nvidia.dali``, by its input, which is named ``images``.
        batch, threads, device: as for :class:`DaliDecoder`.

    Raises:
        DeviceError: DALI is not installed.
    """

    def __init__(self, define: Callable[[Any], Any], batch: int, threads: int, device: int | None) -> None:
        dali = import_late("nvidia.dali", "NVIDIA DALI can't be imported", f"{install_hint('dali')}, or --decoder pillow")
        self._batch = batch
        self._on_gpu = device is not None

        def make() -> Any:
            try:
                pipeline = dali.pipeline.Pipeline(
                    batch_size=batch, num_threads=threads, device_id=device, prefetch_queue_depth=1, exec_dynamic=True
                )
                with pipeline:
                    pipeline.set_outputs(define(dali))
                pipeline.build()
            except RuntimeError as error:
                where = "the CPU" if device is None else f"cuda:{device}"
                reason = str(error).splitlines()[0]
                raise DeviceError(f"DALI can't start on {where}: {reason}", "--decoder pillow decodes without it") from error
            return pipeline

        self._pipelines = Spares(make)

    def _run(self, images: Sequence[Any], stream: int | None) -> list[Any]:
        found: list[Any] = []
        for start in range(0, len(images), self._batch):
            some = list(images[start : start + self._batch])
            with self._pipelines.one() as pipeline:
                # The inputs become ready in the stream's order, and the caller uses the outputs in it.
                pipeline.feed_input("images", some, cuda_stream=stream)
                tensors = pipeline.run(stream)[0]
            found += [GpuImage(tensors[i]) if self._on_gpu else np.asarray(tensors[i]) for i in range(len(some))]
        return found


class DaliDecoder(_Pipelines):
    """A decoder that uses DALI and decodes to full-size RGB (a :data:`seseg_trt.codecs.batches.DecodeBatch`).

    Args:
        batch: the largest batch of a pipeline; larger batches are split.
        threads: CPU threads of each pipeline; there is one pipeline for each calling thread.
        device: the GPU's index, or None for the CPU.

    Raises:
        DeviceError: DALI is not installed, or can't use the device.
    """

    def __init__(self, batch: int, threads: int = 1, device: int | None = None) -> None:
        on_gpu = device is not None

        def define(dali: Any) -> Any:
            # On the GPU DALI may still read the bytes after the caller has released them.
            encoded = dali.fn.external_source(name="images", ndim=1, dtype=dali.types.UINT8, no_copy=not on_gpu)
            # .headers leaves an orientation in the bytes only if it is to be applied.
            options: dict[str, Any] = {"output_type": dali.types.RGB, "adjust_orientation": True}
            if on_gpu:
                # Upsample chroma as libjpeg, and therefore Pillow, does.
                options |= {"jpeg_fancy_upsampling": True, "hw_decoder_load": HARDWARE_SHARE}
            return dali.fn.decoders.image(encoded, device="mixed" if on_gpu else "cpu", **options)

        super().__init__(define, batch, threads, device)
        with self._pipelines.one():
            pass  # report now that DALI can't use the device

    def decode(self, batch: Sequence[bytes], stream: int | None = None) -> list[Any]:
        """Decode a batch of files and wait for the result.

        Args:
            batch: the files' bytes.
            stream: a CUDA stream handle. On the GPU the images are then ready in this stream's order.

        Returns:
            uint8 [H, W, 3] for each file: a NumPy array, or a :class:`GpuImage`.

        Raises:
            BatchRefused: an image can't be decoded. DALI does not say which one.
        """
        try:
            return self._run([np.frombuffer(data, np.uint8) for data in batch], stream)
        except RuntimeError as error:
            raise BatchRefused(str(error)) from error


class DaliResampler(_Pipelines):
    """A resampler that makes the network's input with one of DALI's filters.

    Args:
        size: the side of the network's input, in pixels.
        resample: the filter's name.
        batch, threads, device: as for :class:`DaliDecoder`.

    Raises:
        DeviceError: DALI is not installed.
    """

    def __init__(self, size: int, resample: Resample, batch: int, threads: int = 1, device: int | None = None) -> None:
        kind = "cpu" if device is None else "gpu"

        def define(dali: Any) -> Any:
            images = dali.fn.external_source(name="images", ndim=3, dtype=dali.types.UINT8, layout="HWC", no_copy=True, device=kind)
            return dali.fn.resize(images, size=(size, size), interp_type=getattr(dali.types, f"INTERP_{resample.upper()}"))

        super().__init__(define, batch, threads, device)

    def resample(self, images: Sequence[Any], stream: int | None = None) -> list[Any]:
        """Resample each image to the network's input.

        Args:
            images: uint8 [H, W, 3] each, all on the host or all on the GPU.
            stream: the CUDA stream handle in whose order GPU images are ready and results are used.

        Returns:
            uint8 [size, size, 3] for each image, in the same place.

        Raises:
            DeviceError: DALI failed.
        """
        try:
            return self._run(images, stream)
        except RuntimeError as error:
            raise DeviceError(f"DALI failed to resample: {str(error).splitlines()[0]}") from error


class GpuImage:
    """A DALI tensor on the GPU with the array attributes ``shape`` and ``__cuda_array_interface__``; it keeps the tensor alive."""

    __slots__ = ("__cuda_array_interface__", "_tensor", "shape")

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor
        self.__cuda_array_interface__: dict[str, Any] = tensor.__cuda_array_interface__
        self.shape: tuple[int, ...] = tuple(self.__cuda_array_interface__["shape"])
