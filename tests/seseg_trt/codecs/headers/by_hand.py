"""Put files together byte by byte, and say in one line what a header or a refusal is."""

from __future__ import annotations

import struct
import zlib

import pytest

from seseg_trt.codecs import headers
from seseg_trt.codecs.headers.base import Header
from seseg_trt.codecs.headers.kinds import Kind
from seseg_trt.errors import BadImage


def told(header: Header) -> tuple[Kind, int, int, int, int, bool, bool]:
    """Return all that a header says of itself."""
    return header.kind, header.width, header.height, header.orientation, header.pictures, header.regular, header.cut


def refused(data: bytes) -> tuple[str, str]:
    """Return the reason and the message with which a file is refused."""
    with pytest.raises(BadImage) as caught:
        headers.read(data)
    return caught.value.reason, caught.value.message


def refused_later(header: Header) -> tuple[str, str]:
    """Return the reason and the message with which a file is refused when it is stripped."""
    with pytest.raises(BadImage) as caught:
        header.stripped()
    return caught.value.reason, caught.value.message


def exif(orientation: int, *, prefix: bool = False, tag: int = 274, order: str = "<") -> bytes:
    """Return an EXIF block of one SHORT."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    return b"Exif\0\0" * prefix + head + struct.pack(order + "HHHIHHI", 1, tag, 3, 1, orientation, 0, 0)


def chunk(name: bytes, data: bytes = b"", *, flip: int = 0) -> bytes:
    """Return a PNG's chunk, with a wrong checksum if bits of it are to be flipped."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data) ^ flip)


def segment(marker: int, body: bytes = b"", length: int | None = None) -> bytes:
    """Return a JPEG's segment."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2 if length is None else length) + body


def box(name: bytes, *parts: bytes) -> bytes:
    """Return a box of a JPEG 2000, an AVIF or a HEIF."""
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), name) + body


def riff(name: bytes, data: bytes) -> bytes:
    """Return a chunk of a WebP."""
    return name + struct.pack("<I", len(data)) + data + bytes(len(data) & 1)
