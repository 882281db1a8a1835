"""Decode and encode images with NVIDIA nvImageCodec, which reports a failure for each image of a batch separately.

On the GPU nvJPEG encodes JPEG without copying the pixels to the host. PNG and WebP are encoded by CPU threads. Encoders get pixels
alone, so an output holds no metadata of its input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import BadImage, import_late, install_hint
from ..options import EncodeOptions, ImageFormat
from .dali import Spares
from .pillow import too_long

CODECS: dict[ImageFormat, str] = {"jpg": "jpeg", "png": "png", "webp": "webp"}


def import_nvimgcodec() -> Any:
    """Import and return the module ``nvidia.nvimgcodec``.

    Raises:
        DeviceError: nvImageCodec is not installed.
    """
    hint = f"{install_hint('dali')}, or --decoder pillow"
    return import_late("nvidia.nvimgcodec", "NVIDIA nvImageCodec can't be imported", hint)


def _place(library: Any, device: int | None) -> dict[str, Any]:
    if device is not None:
        return {"device_id": device}
    return {"device_id": library.NVIMGCODEC_DEVICE_CPU_ONLY, "backends": [library.Backend(library.BackendKind.CPU_ONLY)]}


class NvimgcodecDecoder:
    """A :class:`seseg_trt.codecs.batches.ItemDecoder` that uses nvImageCodec and decodes to RGB.

    Args:
        threads: CPU threads for each calling thread.
        device: the GPU's index, or None for the CPU.

    Raises:
        DeviceError: nvImageCodec is not installed.
    """

    def __init__(self, threads: int = 1, device: int | None = None) -> None:
        library = import_nvimgcodec()
        self._device = device
        # .headers leaves an orientation in the bytes only if it is to be applied.
        self._parameters = library.DecodeParams(
            apply_exif_orientation=True, color_spec=library.ColorSpec.SRGB, sample_format=library.SampleFormat.I_RGB
        )
        options = ":fancy_upsampling=1" if device is not None else ""
        self._decoders = Spares(lambda: library.Decoder(max_num_cpu_threads=threads, options=options, **_place(library, device)))

    def decode(self, batch: Sequence[bytes], stream: int | None = None) -> list[Any | None]:
        """Decode a batch of files.

        Args:
            batch: the files' bytes.
            stream: on the GPU, the CUDA stream handle in whose order the images are ready; None for the default stream.

        Returns:
            uint8 [H, W, 3] for each file: a NumPy array, or an nvImageCodec image on the GPU (``__cuda_array_interface__``). None where
            decoding failed.
        """
        with self._decoders.one() as decoder:
            images = decoder.decode(list(batch), params=self._parameters, cuda_stream=stream or 0)
        if self._device is None:
            return [None if image is None else np.asarray(image) for image in images]
        # Formats without a GPU decoder come out on the host. cuda() leaves an image that is on the device where it is.
        return [None if image is None else image.cuda(device_id=self._device) for image in images]


class NvimgcodecEncoder:
    """An encoder for images in one format.

    Args:
        options: format, quality and chroma subsampling. PNG is lossless and ignores the last two.
        threads: CPU threads for each calling thread.
        device: the GPU's index, or None for the CPU.

    Raises:
        DeviceError: nvImageCodec is not installed.
    """

    def __init__(self, options: EncodeOptions, threads: int = 1, device: int | None = None) -> None:
        library = import_nvimgcodec()
        self._options = options
        self._library = library
        parameters: dict[str, Any] = {}
        if options.format != "png":
            parameters |= {"quality_type": library.QualityType.QUALITY, "quality_value": options.quality}
        if options.format == "jpg":
            parameters["chroma_subsampling"] = getattr(library.ChromaSubsampling, f"CSS_{options.subsampling}")
        self._parameters = library.EncodeParams(**parameters)
        self._encoders = Spares(lambda: library.Encoder(max_num_cpu_threads=threads, **_place(library, device)))

    def encode(self, images: Sequence[Any], stream: int | None = None) -> list[bytes | BadImage]:
        """Encode images without metadata and wait for the result.

        Args:
            images: uint8 [H, W, 3] RGB each, C-contiguous: NumPy arrays, or arrays on the GPU (``__cuda_array_interface__``, DLPack).
            stream: the CUDA stream handle in whose order GPU arrays are ready; None for the default stream.

        Returns:
            The file's bytes for each image, or a BadImage (``encode_error``): a side is too long for the format, or the encoder failed.
        """
        name = self._options.format
        refused = {index: bad for index, image in enumerate(images) if (bad := too_long(image.shape[1], image.shape[0], name))}
        with self._encoders.one() as encoder:
            sources = [self._library.as_image(image, stream or 0) for index, image in enumerate(images) if index not in refused]
            streams = encoder.encode(sources, CODECS[name], params=self._parameters, cuda_stream=stream or 0) if sources else []
            files = iter([None if encoded is None else bytes(encoded) for encoded in streams])
        failure = "nvImageCodec could not encode {1} x {0} pixels as {2}; png takes any size"
        return [
            refused.get(index) or next(files) or BadImage("encode_error", failure.format(*image.shape[:2], name))
            for index, image in enumerate(images)
        ]
