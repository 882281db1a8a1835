"""The public API for images in memory: :class:`Segmenter`."""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, overload

import numpy as np
import numpy.typing as npt

from .errors import DeviceError, UsageError
from .options import MaskOptions, OutputKind

if TYPE_CHECKING:
    from .backends.base import Backend
    from .cuda.array import DeviceArray
    from .lanes.device_images import DeviceSegmenter
    from .models.artifact import Artifact
    from .options import BackendName

    class CudaArray(Protocol):
        """A GPU array of any library. Arrays with DLPack alone are accepted too."""

        @property
        def __cuda_array_interface__(self) -> dict[str, Any]:
            """The array's description: https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html."""
            ...

    HostImages = Sequence[npt.NDArray[np.uint8]] | npt.NDArray[np.uint8]
    DeviceImages = Sequence[CudaArray] | CudaArray

Image = npt.NDArray[np.uint8]
DLPACK_CUDA = 2


class Segmenter:
    """The network, loaded and ready to mask images in memory. Thread-safe; a context manager.

    Images are NumPy arrays on the host or, with a GPU, arrays on its device (``__cuda_array_interface__`` or DLPack: CuPy, PyTorch, DALI,
    nvImageCodec). Results are in the same place as the images. Images on the device are not copied, and calls don't wait for the device:
    the work runs in the order of ``stream``, a handle or a stream object of any library (``__cuda_stream__``), or None for CUDA's default
    stream. Keep the images until the stream's work has completed.

    It can't be used in a process that was forked after it was opened. It pickles by its arguments, and what is unpickled opens anew.

    Args:
        model: the path of an artifact, the name of a cache entry, ``"demo"``, or None for the cache's default entry.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. There is no fallback from a named device.
        backend: ``openvino``, ``onnxruntime``, ``tensorrt`` or ``rtx``; a :class:`Backend` object (such as :class:`FakeBackend`), which
            :meth:`close` closes; or None to choose by model and device.
        threads: cores for a CPU backend; None for all.

    Raises:
        UsageError: the backend or device does not exist, or they exclude each other.
        ModelError: the model is missing, or is not a model of this network.
        DeviceError: the device or a library for it is missing.

    Attributes:
        artifact: the model, or None if ``backend`` is an object.
        input_size: S, the side of the network's input, in pixels.
        device: the device that runs the network.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        device: str = "auto",
        *,
        backend: BackendName | Backend | None = None,
        threads: int | None = None,
    ) -> None:
        self._arguments = {"model": model, "device": device, "backend": backend, "threads": threads}
        self._process = os.getpid()
        self.artifact: Artifact | None = None
        self._backend: Backend
        if backend is not None and not isinstance(backend, str):
            self._backend = backend
        else:
            from .backends.select import create_backend, graph_precision, resolve_device
            from .models import cache

            self.artifact = cache.find_model(model, precision=graph_precision(resolve_device(device, backend)[0]))
            with _GATE:
                self._backend = create_backend(self.artifact, backend=backend, device=device, threads=threads)
        self._on_device: DeviceSegmenter | None = None
        self._lock = threading.Lock()
        self.input_size = self._backend.input_size
        self.device = self._backend.device
        _OPEN.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments: what is unpickled, perhaps in another process, opens the network anew."""
        return _reopened, (self._arguments,)

    def _usable(self) -> Backend:
        """Return the backend, or raise DeviceError in a process that was forked from the one that opened it."""
        if os.getpid() != self._process:
            raise DeviceError(
                f"this Segmenter was opened by process {self._process}, and this process is a fork of it: threads and devices don't fork",
                "open a Segmenter after the fork, in the process that uses it; start that process by 'spawn' where other threads are at work",
            )
        return self._backend

    def __repr__(self) -> str:
        return f"<Segmenter {self.artifact or 'without an artifact'}, {self._backend.description}>"

    @overload
    def confidence(self, images: HostImages, *, stream: None = None) -> npt.NDArray[np.uint8]: ...

    @overload
    def confidence(self, images: DeviceImages, *, stream: object = None) -> DeviceArray: ...

    def confidence(self, images: Any, *, stream: object = None) -> Any:
        """Run the network; return the confidence maps at the network's size.

        Args:
            images: a sequence of RGB images, uint8 [H, W, 3] of any sizes; or one array, uint8 [N, H, W, 3].
            stream: for images on the device, the CUDA stream in whose order they are ready.

        Returns:
            uint8 [N, S, S]: floor(255 p) for a confidence p of 0..1, with S = ``input_size``.

        Raises:
            UsageError: an image is not uint8 [H, W, 3], or is on a GPU that the network does not run on.
            DeviceError: the backend failed.
        """
        if _on_device(images):
            return self._device_segmenter().confidence(images, stream)
        from .masks.reference import sample_nearest

        backend = self._usable()
        checked = _check(images)
        if not checked:
            return np.zeros((0, self.input_size, self.input_size), np.uint8)
        with _GATE:
            return backend.infer(np.stack([sample_nearest(image, self.input_size) for image in checked]))

    @overload
    def masks(self, images: HostImages, threshold: int | None = None, *, stream: None = None) -> list[npt.NDArray[np.uint8]]: ...

    @overload
    def masks(self, images: DeviceImages, threshold: int | None = None, *, stream: object = None) -> list[DeviceArray]: ...

    def masks(self, images: Any, threshold: int | None = None, *, stream: object = None) -> Any:
        """Return each image's mask at the image's size.

        Args:
            images: as for :meth:`confidence`.
            threshold: a percentage, 0..100: the mask is 255 where the confidence is higher, else 0. None: the mask is an opacity map, the
                confidence itself.
            stream: as for :meth:`confidence`.

        Returns:
            uint8 [H, W] for each image.

        Raises:
            UsageError: as :meth:`confidence`; or the threshold is outside 0..100.
            DeviceError: the backend failed.
        """
        return [made["mask"] for made in self.composite(images, MaskOptions(("mask",), threshold=threshold), stream=stream)]

    @overload
    def composite(
        self, images: HostImages, options: MaskOptions | None = None, *, stream: None = None
    ) -> list[dict[OutputKind, Image]]: ...

    @overload
    def composite(
        self, images: DeviceImages, options: MaskOptions | None = None, *, stream: object = None
    ) -> list[dict[OutputKind, DeviceArray]]: ...

    def composite(self, images: Any, options: MaskOptions | None = None, *, stream: object = None) -> Any:
        """Return each image's outputs.

        Args:
            images: as for :meth:`confidence`.
            options: the outputs, threshold and mask colour. The key of a random colour is the image's index in ``images``.
            stream: as for :meth:`confidence`.

        Returns:
            For each image a dictionary with the outputs that ``options`` names: ``se`` and ``nse`` are uint8 [H, W, 3], ``mask`` is
            uint8 [H, W].

        Raises:
            UsageError: as :meth:`confidence`.
            DeviceError: the backend failed.
        """
        options = options or MaskOptions()
        if _on_device(images):
            return self._device_segmenter().composite(images, options, stream)
        from .masks import host
        from .masks.reference import apply_threshold

        checked = _check(images)
        results: list[dict[OutputKind, Image]] = []
        for index, (image, confidence) in enumerate(zip(checked, self.confidence(checked), strict=True)):
            mask = apply_threshold(host.resize_map(confidence, image.shape[1], image.shape[0]), options.threshold)
            key = str(index).encode()
            results.append({k: mask if k == "mask" else host.composite(image, mask, k, options, key) for k in options.outputs})
        return results

    def _device_segmenter(self) -> DeviceSegmenter:
        from .backends.base import DeviceBackend
        from .lanes.device_images import DeviceSegmenter

        backend = self._usable()
        if not isinstance(backend, DeviceBackend):
            raise UsageError(
                f"the images are on a GPU, and the network runs on {self.device} by {self._backend.name}",
                "Segmenter(..., device='cuda:0') runs where they are, by TensorRT",
            )
        with self._lock:
            if self._on_device is None:
                self._on_device = DeviceSegmenter(backend)
            return self._on_device

    def close(self) -> None:
        """Release the network and its device. The object can't be used afterwards. In a fork it does nothing."""
        if os.getpid() != self._process:
            return
        if self._on_device is not None:
            self._on_device.close()
        self._backend.close()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Gate:
    """Lets a fork wait until no network is being opened or run. A lock inside a library that another thread held would stay held in it."""

    SECONDS = 5.0

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew, with nobody inside."""
        self._changed = threading.Condition()
        self._inside = 0
        self._forking = False

    def __enter__(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._forking, self.SECONDS)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    def before_fork(self) -> None:
        """Keep others out, and wait until nobody is inside, but not for ever."""
        with self._changed:
            self._forking = True
            self._changed.wait_for(lambda: self._inside == 0, self.SECONDS)

    def after_fork(self) -> None:
        """Let others in again; in the parent."""
        with self._changed:
            self._forking = False
            self._changed.notify_all()


_GATE = _Gate()
_OPEN: weakref.WeakSet[Segmenter] = weakref.WeakSet()


def _abandon() -> None:
    """Never end, in a fork, what its parent opened: a library that ends would wait for threads that were not forked."""
    for segmenter in list(_OPEN):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(segmenter._backend))
    _GATE.reset()  # a thread that was not forked may hold its lock


os.register_at_fork(before=_GATE.before_fork, after_in_parent=_GATE.after_fork, after_in_child=_abandon)


def _reopened(arguments: dict[str, Any]) -> Segmenter:
    return Segmenter(**arguments)


def _on_device(images: Any) -> bool:
    """Return whether the images are arrays on a GPU, judging by the first."""
    if isinstance(images, np.ndarray) or (isinstance(images, Sequence) and not len(images)):
        return False
    one = images[0] if isinstance(images, Sequence) else images
    if hasattr(one, "__cuda_array_interface__"):
        return True
    place = getattr(one, "__dlpack_device__", None)
    return place is not None and int(place()[0]) == DLPACK_CUDA


def _check(images: HostImages) -> list[Image]:
    one = getattr(images, "ndim", None) == 3 or not isinstance(images, Sequence | np.ndarray)
    if one or isinstance(images, str | bytes):
        what = "one image" if one and not isinstance(images, os.PathLike) else "a path"
        raise UsageError(
            f"the images are {what} ({type(images).__name__}), not a sequence of arrays",
            "give a list, masks([image]); files are for segment_files" if what == "one image" else "segment_files masks files",
        )
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
