"""The public API on arrays: :class:`Segmenter`."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, overload

import numpy as np
import numpy.typing as npt

from .errors import UsageError
from .options import MaskOptions, OutputKind

if TYPE_CHECKING:
    from .artifact import Artifact
    from .backends.base import Backend
    from .backends.select import BackendName
    from .cuda_array import DeviceArray
    from .device_images import DeviceSegmenter

    class CudaArray(Protocol):
        """An array on a GPU, of any library. One with DLPack alone is taken as well."""

        @property
        def __cuda_array_interface__(self) -> dict[str, Any]:
            """See https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html."""
            ...

    HostImages = Sequence[npt.NDArray[np.uint8]] | npt.NDArray[np.uint8]
    DeviceImages = Sequence[CudaArray] | CudaArray

Image = npt.NDArray[np.uint8]
DLPACK_CUDA = 2


class Segmenter:
    """The network, ready to mask images that are in memory.

    It may be used from several threads, and closes with ``with``.

    Images may be on the host (NumPy) or, with a GPU, on its device (``__cuda_array_interface__`` or DLPack: CuPy, PyTorch, DALI,
    nvImageCodec). What comes back is where the images are. On the device nothing is copied and nothing waits for the device: the
    work is done in the order of ``stream``, the caller's: a handle, or any library's stream object (``__cuda_stream__``); None is
    CUDA's default stream. Keep the images until the stream has passed.

    Args:
        model: the path of an artifact, the name of a cache entry, ``"demo"``, or None for the cache's default.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; a named one is a promise.
        backend: force one: ``openvino``, ``onnxruntime``, ``tensorrt``, ``rtx``; or pass a ready :class:`Backend` (see :class:`FakeBackend`).
        threads: cores for a CPU backend; None: all.

    Raises:
        ModelError: the model is missing or is not what it must be.
        DeviceError: the device or a library for it is not there.

    Attributes:
        artifact: the model, or None for a ready backend.
        input_size: the side of the network's input, in pixels.
        device: where it runs.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        device: str = "auto",
        *,
        backend: BackendName | Backend | None = None,
        threads: int | None = None,
    ) -> None:
        self.artifact: Artifact | None = None
        self._backend: Backend
        if backend is not None and not isinstance(backend, str):
            self._backend = backend
        else:
            from . import cache
            from .backends.select import create_backend, graph_precision, resolve_device

            self.artifact = cache.find_model(model, precision=graph_precision(resolve_device(device, backend)[0]))
            self._backend = create_backend(self.artifact, backend=backend, device=device, threads=threads)
        self._on_device: DeviceSegmenter | None = None
        self._lock = threading.Lock()
        self.input_size = self._backend.input_size
        self.device = self._backend.device

    def __repr__(self) -> str:
        return f"<Segmenter {self.artifact or 'without an artifact'}, {self._backend.description}>"

    @overload
    def confidence(self, images: HostImages, *, stream: None = None) -> npt.NDArray[np.uint8]: ...

    @overload
    def confidence(self, images: DeviceImages, *, stream: object = None) -> DeviceArray: ...

    def confidence(self, images: Any, *, stream: object = None) -> Any:
        """Return the network's confidence, before it is brought to the images' sizes.

        Args:
            images: uint8 [H, W, 3] RGB each, of any mix of sizes; or one array [N, H, W, 3].
            stream: of images on the device.

        Returns:
            uint8 [N, S, S], 255 p truncated, S = ``input_size``.

        Raises:
            UsageError: an image is not uint8 [H, W, 3].
            DeviceError: the backend failed.
        """
        if _on_device(images):
            return self._device_segmenter().confidence(images, stream)
        from .masks.reference import sample_nearest

        checked = _check(images)
        if not checked:
            return np.zeros((0, self.input_size, self.input_size), np.uint8)
        return self._backend.infer(np.stack([sample_nearest(image, self.input_size) for image in checked]))

    @overload
    def masks(self, images: HostImages, threshold: int | None = None, *, stream: None = None) -> list[npt.NDArray[np.uint8]]: ...

    @overload
    def masks(self, images: DeviceImages, threshold: int | None = None, *, stream: object = None) -> list[DeviceArray]: ...

    def masks(self, images: Any, threshold: int | None = None, *, stream: object = None) -> Any:
        """Return a mask for each image, at its size.

        Args:
            images: as for :meth:`confidence`.
            threshold: 0..100: 255 where the confidence is over it, else 0. None: the confidence as an opacity.
            stream: of images on the device.

        Returns:
            uint8 [H, W] each.

        Raises:
            UsageError: an image is not uint8 [H, W, 3], or the threshold is not within 0 to 100.
        """
        from .masks.host import resize_map
        from .masks.reference import apply_threshold

        options = MaskOptions(("mask",), threshold=threshold)  # checks it
        if _on_device(images):
            return [made["mask"] for made in self._device_segmenter().composite(images, options, stream)]
        checked = _check(images)
        maps = self.confidence(checked)
        return [
            apply_threshold(resize_map(confidence, image.shape[1], image.shape[0]), threshold)
            for image, confidence in zip(checked, maps, strict=True)
        ]

    @overload
    def composite(
        self, images: HostImages, options: MaskOptions | None = None, *, stream: None = None
    ) -> list[dict[OutputKind, Image]]: ...

    @overload
    def composite(
        self, images: DeviceImages, options: MaskOptions | None = None, *, stream: object = None
    ) -> list[dict[OutputKind, DeviceArray]]: ...

    def composite(self, images: Any, options: MaskOptions | None = None, *, stream: object = None) -> Any:
        """Return the outputs that ``options`` names for each image: ``se`` and ``nse`` uint8 [H, W, 3], ``mask`` uint8 [H, W].

        A random colour is keyed by an image's place in ``images``.
        """
        options = options or MaskOptions()
        if _on_device(images):
            return self._device_segmenter().composite(images, options, stream)
        from .masks import host

        checked = _check(images)
        results: list[dict[OutputKind, Image]] = []
        for index, (image, mask) in enumerate(zip(checked, self.masks(checked, options.threshold), strict=True)):
            results.append({kind: host.composite(image, mask, kind, options, str(index).encode()) for kind in options.outputs})
        return results

    def _device_segmenter(self) -> DeviceSegmenter:
        from .backends.base import DeviceBackend
        from .device_images import DeviceSegmenter

        if not isinstance(self._backend, DeviceBackend):
            raise UsageError(
                f"the images are on a GPU, and the network runs on {self.device} by {self._backend.name}",
                "Segmenter(..., device='cuda:0') runs where they are, by TensorRT",
            )
        with self._lock:
            if self._on_device is None:
                self._on_device = DeviceSegmenter(self._backend)
            return self._on_device

    def close(self) -> None:
        """Give back the network and its device."""
        if self._on_device is not None:
            self._on_device.close()
        self._backend.close()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _on_device(images: Any) -> bool:
    """Whether images are arrays on a GPU; it asks the first."""
    if isinstance(images, np.ndarray) or (isinstance(images, Sequence) and not len(images)):
        return False
    one = images[0] if isinstance(images, Sequence) else images
    if hasattr(one, "__cuda_array_interface__"):
        return True
    place = getattr(one, "__dlpack_device__", None)
    return place is not None and int(place()[0]) == DLPACK_CUDA


def _check(images: HostImages) -> list[Image]:
    checked = []
    for index, image in enumerate(images):
        array = np.asarray(image)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
            raise UsageError(
                f"image {index} is {array.dtype} {list(array.shape)}, not uint8 [H, W, 3]",
                "convert it: np.asarray(PIL.Image.open(path).convert('RGB'))",
            )
        checked.append(np.ascontiguousarray(array))
    return checked
