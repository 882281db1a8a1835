"""A corpus of odd and bad inputs, and what becomes of each: a mask, or quarantine with a reason.

:func:`make_images` makes the bytes alone, for tests of decoders; :func:`make_corpus` writes them, together with what only a file
system has (links, names, permissions), for tests of whole runs.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]


def scene(width: int = 120, height: int = 80) -> Pixels:
    """Return a picture with gradients, flat parts and noise: uint8 [height, width, 3]."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), (x + 2 * y) % 256], axis=-1).astype(np.uint8)
    pixels[height // 4 : height // 2, width // 4 : width // 2] = (200, 40, 90)
    noise = np.random.default_rng(7).integers(0, 256, pixels[height // 2 :, width // 2 :].shape)
    pixels[height // 2 :, width // 2 :] = noise
    return pixels


def saved(image: Image.Image, file_format: str, **parameters: Any) -> bytes:
    """Return the image as a file of a format, written by Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **parameters)
    return buffer.getvalue()


def png_of(width: int, height: int, bits: int, color_type: int, rows: bytes, stream: bytes | None = None) -> bytes:
    """Return a PNG with a header of our choice around ``rows`` (each with its filter byte) or a deflated stream, be it true or not."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows) if stream is None else stream)
        + chunk(b"IEND", b"")
    )


def png16_rgb(values: npt.NDArray[np.uint16]) -> bytes:
    """Return uint16 [H, W, 3] as a 16-bit RGB PNG, which Pillow reads but doesn't write."""
    height, width = values.shape[:2]
    rows = values.astype(">u2").reshape(height, -1).view(np.uint8)
    return png_of(width, height, 16, 2, np.pad(rows, ((0, 0), (1, 0))).tobytes())


def with_exif_orientation(orientation: int, file_format: str = "JPEG", **parameters: Any) -> bytes:
    """Return the scene with an EXIF orientation, the pixels not turned."""
    exif = Image.Exif()
    exif[274] = orientation
    return saved(Image.fromarray(scene()), file_format, exif=exif.tobytes(), **parameters)


def make_images() -> dict[str, tuple[bytes, str]]:
    """Return name: (bytes, expected), where expected is ``mask`` or a reason code of :mod:`seseg_trt.errors`."""
    rgb = Image.fromarray(scene())
    turned = rgb.transpose(Image.Transpose.ROTATE_180)
    alpha = Image.fromarray(scene()[..., 2])
    rgba = rgb.copy()
    rgba.putalpha(alpha)
    palette = rgb.quantize(64)
    grey16 = Image.fromarray(scene()[..., 0].astype(np.uint16) * 257)
    jpeg, png, tiff = saved(rgb, "JPEG", quality=90), saved(rgb, "PNG"), saved(rgb, "TIFF", compression="tiff_lzw")
    good: dict[str, bytes] = {
        "good.jpg": jpeg,
        "good_png.png": png,
        "no_suffix": jpeg,
        "png_named.jpg": png,
        "progressive.jpg": saved(rgb, "JPEG", progressive=True),
        "cmyk_jpg.jpg": saved(rgb.convert("CMYK"), "JPEG"),
        "cmyk_tif.tif": saved(rgb.convert("CMYK"), "TIFF"),
        "lab.tif": saved(rgb.convert("LAB"), "TIFF"),
        "grey_jpg.jpg": saved(rgb.convert("L"), "JPEG"),
        "one_bit.png": saved(rgb.convert("1"), "PNG"),
        "one_bit_g4.tif": saved(rgb.convert("1"), "TIFF", compression="group4"),
        "grey16_png.png": saved(grey16, "PNG"),
        "grey16_tif.tif": saved(grey16, "TIFF"),
        "grey16_pgm.pgm": b"P5 120 80 65535\n" + np.asarray(grey16).astype(">u2").tobytes(),
        "rgb16.png": png16_rgb(scene().astype(np.uint16) * 257),
        "float.tif": saved(Image.fromarray(scene()[..., 0].astype(np.float32)), "TIFF"),
        "int32.tif": saved(Image.fromarray(scene()[..., 0].astype(np.int32)), "TIFF"),
        "palette_transparent.png": saved(palette, "PNG", transparency=bytes(range(64))),
        "palette_transparent_gif.gif": saved(palette, "GIF", transparency=3),
        "rgba.png": saved(rgba, "PNG"),
        "grey_alpha.png": saved(rgba.convert("LA"), "PNG"),
        "animated_gif.gif": saved(palette, "GIF", save_all=True, append_images=[turned.quantize(64)], duration=50),
        "animated_webp.webp": saved(rgb, "WEBP", lossless=True, save_all=True, append_images=[turned], duration=50),
        "animated_png.png": saved(rgb, "PNG", save_all=True, append_images=[turned], duration=50),
        "frames_tif.tif": saved(rgb, "TIFF", save_all=True, append_images=[turned], compression="tiff_lzw"),
        "frames_mpo.mpo": saved(rgb, "MPO", save_all=True, append_images=[turned]),
        "photo_webp.webp": saved(rgb, "WEBP"),
        "photo_lzw_tif.tif": tiff,
        "photo_bmp.bmp": saved(rgb, "BMP"),
        "photo_ppm.ppm": saved(rgb, "PPM"),
        "photo_jp2.jp2": saved(rgb, "JPEG2000"),
        "icon.ico": saved(rgb, "ICO", sizes=[(64, 64)]),
        "exif6.jpg": with_exif_orientation(6),
        "exif_damaged.jpg": saved(rgb, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f garbage"),
        "one_pixel.png": saved(rgb.crop((0, 0, 1, 1)), "PNG"),
        "narrow_1x20000.png": saved(Image.fromarray(scene(1, 20_000)), "PNG"),
        "wide_20000x1.png": saved(Image.fromarray(scene(20_000, 1)), "PNG"),
    }
    noise = np.random.default_rng(11).integers(0, 256, 5_000, dtype=np.uint8).tobytes()
    bad: dict[str, tuple[bytes, str]] = {
        "empty.jpg": (b"", "empty"),
        "truncated_jpg.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "truncated_png.png": (png[: len(png) // 2], "truncated"),
        "truncated_gif.gif": (good["palette_transparent_gif.gif"][:2_000], "truncated"),
        "truncated_webp.webp": (good["photo_webp.webp"][:-30], "truncated"),
        "truncated_tif.tif": (tiff[: len(tiff) // 2], "truncated"),
        "truncated_bmp.bmp": (good["photo_bmp.bmp"][:-100], "truncated"),
        "truncated_jp2.jp2": (good["photo_jp2.jp2"][:-100], "truncated"),
        "header_only.jpg": (jpeg[:10], "truncated"),
        "garbage.jpg": (noise, "not_an_image"),
        "text.jpg": (b"This is no image,\nwhatever its name says.\n", "not_an_image"),
        "text_like_bmp.jpg": (b"BMW builds cars, and this is a text.\n" * 4, "not_an_image"),
        "damaged_stream.png": (png_of(120, 80, 8, 2, b"", stream=b"\x78\x9c" + b"\xff" * 40), "decode_error"),
        "damaged.png": (png[:60] + bytes(40) + png[100:], "decode_error"),
        "bomb_png.png": (png_of(60_000, 60_000, 8, 2, bytes(1_000)), "too_large"),
        "bomb_gif.gif": (b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\x80\0\0" + bytes(6) + palette_gif_tail(), "too_large"),
        "drawing_eps.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "unsupported"),
        "document.pdf": (b"%PDF-1.7\n%%EOF\n", "unsupported"),
        "drawing_svg.svg": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>\n', "unsupported"),
        "photo_cr3.cr3": (b"\0\0\0\x18ftypcrx \0\0\0\0isomcrx " + noise, "unsupported"),
    }
    refused = {
        **dict.fromkeys(("animated_gif.gif", "animated_webp.webp", "animated_png.png", "frames_tif.tif"), "several_frames"),
        **dict.fromkeys(("lab.tif", "float.tif", "int32.tif"), "unsupported"),
    }
    return {**{name: (data, refused.get(name, "mask")) for name, data in good.items()}, **bad}


def palette_gif_tail() -> bytes:
    """Return a GIF's first frame of 1 x 1 pixels and its end, to follow a header."""
    return b"," + struct.pack("<HHHH", 0, 0, 1, 1) + b"\0" + b"\x02\x02D\x01\0;"


def hundred_megapixels() -> bytes:
    """Return a JPEG of 12,500 x 8,000 pixels (some seconds of work)."""
    tile = scene(500, 500)
    return saved(Image.fromarray(np.tile(tile, (16, 25, 1))), "JPEG", quality=60)


def make_corpus(folder: Path, *, hundred_megapixel: bool = False) -> dict[str, str]:
    """Write the corpus into ``folder``, which is made.

    No two names differ by their suffix alone, so no two outputs collide. Beside the files of :func:`make_images` there are odd names (not UTF-8, newlines, quotes), links (good, dangling, in a circle),
    a pipe, a file without read permission, and a folder named as an image is (``folder.png``, with one image in it).

    Returns:
        The path relative to ``folder`` (``os.fsdecode``, so a name that is not UTF-8 holds surrogates): ``mask`` or the reason code
        that its quarantine must have. Folders are not listed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    expected: dict[str, str] = {}

    def write(name: str | bytes, data: bytes, outcome: str) -> Path:
        text = os.fsdecode(name)
        path = folder / text
        path.write_bytes(data)
        expected[text] = outcome
        return path

    images = make_images()
    for name, (data, outcome) in images.items():
        write(name, data, outcome)
    good = images["good.jpg"][0]
    write(b"not_utf8_\xff\xfe.jpg", good, "mask")
    write("new\nline.jpg", good, "mask")
    write("quotes_'\"`$(x);.jpg", good, "mask")
    write("ünïcödé 漢字 🖼.jpg", good, "mask")
    write("-starts-with-dash.jpg", good, "mask")
    write("x" * 200 + ".jpg", good, "mask")

    (folder / "folder.png").mkdir(exist_ok=True)
    write("folder.png/inner.png", images["good_png.png"][0], "mask")

    (folder / "link_good.jpg").symlink_to("good.jpg")
    expected["link_good.jpg"] = "mask"
    (folder / "link_dangling.jpg").symlink_to("nowhere.jpg")
    expected["link_dangling.jpg"] = "missing"
    (folder / "link_loop_a.jpg").symlink_to("link_loop_b.jpg")
    (folder / "link_loop_b.jpg").symlink_to("link_loop_a.jpg")
    expected["link_loop_a.jpg"] = expected["link_loop_b.jpg"] = "link_loop"
    os.mkfifo(folder / "pipe.jpg")
    expected["pipe.jpg"] = "not_a_file"

    unreadable = write("unreadable.jpg", good, "unreadable")
    unreadable.chmod(0)
    if os.access(unreadable, os.R_OK):  # permissions don't bind the superuser
        expected["unreadable.jpg"] = "mask"

    if hundred_megapixel:
        write("hundred_megapixels.jpg", hundred_megapixels(), "mask")
    return expected
