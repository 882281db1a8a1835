"""Bytes to pixels and back by NVIDIA nvImageCodec, which answers for each image of a batch by itself.

On the GPU it encodes JPEG by nvJPEG, without the pixels coming to the host; PNG and WebP are encoded on the host's threads.
Encoders are given pixels alone, so that no metadata of an input can come to an output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import BadImage, DeviceError
from ..options import EncodeOptions, ImageFormat
from .dali import Spares
from .pillow import JPEG_MAX_SIDE, WEBP_MAX_SIDE

CODECS: dict[ImageFormat, str] = {"jpg": "jpeg", "png": "png", "webp": "webp"}
LONGEST_SIDE: dict[ImageFormat, int] = {"jpg": JPEG_MAX_SIDE, "png": 2**31 - 1, "webp": WEBP_MAX_SIDE}


def import_nvimgcodec() -> Any:
    """Return the module ``nvidia.nvimgcodec``; raise DeviceError where it is not installed."""
    try:
        from nvidia import nvimgcodec
    except ImportError as error:
        raise DeviceError(
            f"NVIDIA nvImageCodec can't be imported: {error}", "pip install 'seseg_trt[dali]', or --decoder pillow"
        ) from error
    return nvimgcodec


def _place(library: Any, device: int | None) -> dict[str, Any]:
    if device is not None:
        return {"device_id": device}
    return {"device_id": library.NVIMGCODEC_DEVICE_CPU_ONLY, "backends": [library.Backend(library.BackendKind.CPU_ONLY)]}


class NvimgcodecDecoder:
    """Decodes images to RGB; a :class:`seseg_trt.codecs.batches.ItemDecoder`.

    Args:
        threads: for each calling thread.
        device: the GPU's index, or None: on the CPU.

    Raises:
        DeviceError: nvImageCodec is not installed.
    """

    def __init__(self, threads: int = 1, device: int | None = None) -> None:
        library = import_nvimgcodec()
        self._device = device
        # The orientation is in the bytes only if it is to be applied: see .headers.
        self._parameters = library.DecodeParams(
            apply_exif_orientation=True, color_spec=library.ColorSpec.SRGB, sample_format=library.SampleFormat.I_RGB
        )
        options = ":fancy_upsampling=1" if device is not None else ""
        self._decoders: Spares[Any] = Spares(
            lambda: library.Decoder(max_num_cpu_threads=threads, options=options, **_place(library, device))
        )

    def decode(self, batch: Sequence[bytes], stream: int | None = None) -> list[Any | None]:
        """Decode; on the GPU in the order of ``stream``.

        Returns:
            uint8 [H, W, 3] each, NumPy arrays or nvImageCodec's images on the GPU (``__cuda_array_interface__``); None for what failed.
        """
        decoder = self._decoders.take()
        images = decoder.decode(list(batch), params=self._parameters, cuda_stream=stream or 0)
        self._decoders.put(decoder)
        return [None if image is None else self._array(image) for image in images]

    def _array(self, image: Any) -> Any:
        if self._device is None:
            return np.asarray(image)
        # Formats that only the host's decoders know may come out on the host; what is on the device stays as it is.
        return image.cuda(device_id=self._device)


class NvimgcodecEncoder:
    """Encodes images in one format.

    Args:
        options: format, quality and chroma subsampling. PNG is exact and takes neither.
        threads: for each calling thread.
        device: the GPU's index, or None: on the CPU.

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
        self._encoders: Spares[Any] = Spares(lambda: library.Encoder(max_num_cpu_threads=threads, **_place(library, device)))

    def encode(self, images: Sequence[Any], stream: int | None = None) -> list[bytes | BadImage]:
        """Encode pixels, without metadata, and wait until it is done.

        Args:
            images: uint8 [H, W, 3] RGB each, C-contiguous: NumPy arrays, or arrays on the GPU (``__cuda_array_interface__``, DLPack).
            stream: in whose order arrays on the GPU are ready; None: CUDA's default stream.

        Returns:
            A file's bytes for each, or BadImage: a side is too long for the format, or the encoder failed.
        """
        longest = LONGEST_SIDE[self._options.format]
        fitting = [max(image.shape[:2]) <= longest for image in images]
        encoder = self._encoders.take()
        sources = [self._library.as_image(i, stream or 0) for i, fits in zip(images, fitting, strict=True) if fits]
        codec = CODECS[self._options.format]
        streams = encoder.encode(sources, codec, params=self._parameters, cuda_stream=stream or 0) if sources else []
        files = iter([None if encoded is None else bytes(encoded) for encoded in streams])
        self._encoders.put(encoder)
        return [
            self._failed(image.shape) if not fits or (file := next(files)) is None else file
            for image, fits in zip(images, fitting, strict=True)
        ]

    def _failed(self, shape: tuple[int, ...]) -> BadImage:
        name, longest = self._options.format, LONGEST_SIDE[self._options.format]
        if max(shape[:2]) > longest:
            return BadImage(
                "encode_error",
                f"an image of {shape[1]} x {shape[0]} pixels can't be a {name}: the longest side is {longest}; png takes it",
            )
        return BadImage("encode_error", f"nvImageCodec could not encode {shape[1]} x {shape[0]} pixels as {name}; png takes any size")
