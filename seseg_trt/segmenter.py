"""The public API on arrays: :class:`Segmenter`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .errors import UsageError
from .options import MaskOptions, OutputKind

if TYPE_CHECKING:
    from .artifact import Artifact
    from .backends.base import Backend
    from .backends.select import BackendName

Image = npt.NDArray[np.uint8]


class Segmenter:
    """The network, ready to mask images that are in memory.

    It may be used from several threads, and closes with ``with``.

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
            from .backends.select import create_backend

            self.artifact = cache.find_model(model)
            self._backend = create_backend(self.artifact, backend=backend, device=device, threads=threads)
        self.input_size = self._backend.input_size
        self.device = self._backend.device

    def __repr__(self) -> str:
        return f"<Segmenter {self.artifact or 'without an artifact'}, {self._backend.description}>"

    def confidence(self, images: Sequence[Image] | Image) -> npt.NDArray[np.uint8]:
        """Return the network's confidence, before it is brought to the images' sizes.

        Args:
            images: uint8 [H, W, 3] RGB each, of any mix of sizes; or one array [N, H, W, 3].

        Returns:
            uint8 [N, S, S], 255 p truncated, S = ``input_size``.

        Raises:
            UsageError: an image is not uint8 [H, W, 3].
            DeviceError: the backend failed.
        """
        from .masks.reference import sample_nearest

        checked = _check(images)
        if not checked:
            return np.zeros((0, self.input_size, self.input_size), np.uint8)
        return self._backend.infer(np.stack([sample_nearest(image, self.input_size) for image in checked]))

    def masks(self, images: Sequence[Image] | Image, threshold: int | None = None) -> list[npt.NDArray[np.uint8]]:
        """Return a mask for each image, at its size.

        Args:
            images: as for :meth:`confidence`.
            threshold: 0..100: 255 where the confidence is over it, else 0. None: the confidence as an opacity.

        Returns:
            uint8 [H, W] each.

        Raises:
            UsageError: an image is not uint8 [H, W, 3], or the threshold is not within 0 to 100.
        """
        from .masks.reference import apply_threshold, resize_map

        MaskOptions(threshold=threshold)  # checks it
        checked = _check(images)
        maps = self.confidence(checked)
        return [
            apply_threshold(resize_map(confidence, image.shape[1], image.shape[0]), threshold)
            for image, confidence in zip(checked, maps, strict=True)
        ]

    def composite(self, images: Sequence[Image] | Image, options: MaskOptions | None = None) -> list[dict[OutputKind, Image]]:
        """Return the outputs that ``options`` names for each image: ``se`` and ``nse`` uint8 [H, W, 3], ``mask`` uint8 [H, W].

        A random colour is keyed by an image's place in ``images``.
        """
        from PIL import Image as PILImage

        from .masks import reference

        options = options or MaskOptions()
        checked = _check(images)
        results: list[dict[OutputKind, Image]] = []
        for index, (image, mask) in enumerate(zip(checked, self.masks(checked, options.threshold), strict=True)):
            picture = PILImage.fromarray(image)
            results.append({kind: reference.composite(picture, mask, kind, options, str(index).encode()) for kind in options.outputs})
        return results

    def close(self) -> None:
        """Give back the network and its device."""
        self._backend.close()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _check(images: Sequence[Image] | Image) -> list[Image]:
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
